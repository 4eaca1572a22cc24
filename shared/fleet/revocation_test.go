package fleet

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func recordOf(generations ...Generation) *Record {
	r := &Record{}
	for i, g := range generations {
		if g.Number == 0 {
			g.Number = i + 1
		}
		n := g.Number
		g.Certificate = Certificate{Serial: fmt.Sprintf("s%d", n), Issuer: "ca", NotBefore: began, NotAfter: began.Add(time.Duration(90+n) * Day)}
		g.Token = Token{ID: fmt.Sprintf("t%d", n), NotBefore: began, ExpiresAt: began.Add(time.Duration(90+n) * Day)}
		r.Generations = append(r.Generations, g)
	}
	return r
}

func serials(all []Former) string {
	var names []string
	for _, f := range all {
		names = append(names, fmt.Sprintf("%s:%s", f.Serial, f.Revoked.Reason))
	}
	return strings.Join(names, " ")
}

func TestCRLReasons(t *testing.T) {
	// RFC 5280, 5.3.1.
	codes := map[CRLReason]int{
		"unspecified": 0, "key-compromise": 1, "ca-compromise": 2, "affiliation-changed": 3, "superseded": 4,
		"cessation-of-operation": 5, "certificate-hold": 6, "privilege-withdrawn": 9, "aa-compromise": 10,
	}
	if len(CRLReasons()) != len(codes) {
		t.Error(CRLReasons())
	}
	for reason, code := range codes {
		if got, err := ParseCRLReason(string(reason)); err != nil || got.Code() != code {
			t.Errorf("%s: %v %d", reason, err, got.Code())
		}
	}
	for _, wrong := range []string{"", "keyCompromise", "remove-from-crl", "KEY-COMPROMISE"} {
		_, err := ParseCRLReason(wrong)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "privilege-withdrawn") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

// What falls out of a record is remembered until it has ended, and revoked with
// the rest.
func TestTrimRemembers(t *testing.T) {
	r := recordOf(Generation{Step: StepSuperseded}, Generation{Step: StepSuperseded}, Generation{Step: StepSuperseded}, Generation{Step: StepProven}, Generation{Step: StepIssued})
	r.Trim(began)
	if len(r.Generations) != MaxGenerations || len(r.Former) != 2 || r.Former[0].Serial != "s1" || r.Former[1].TokenID != "t2" {
		t.Fatalf("%+v", r)
	}
	if len(r.Barred(began)) > 0 {
		t.Error("nothing is revoked")
	}
	r.Revoked = &Revocation{Reason: KeyCompromise}
	if got := serials(r.Barred(began)); got != "s1:key-compromise s2:key-compromise s3:key-compromise s4:key-compromise s5:key-compromise" {
		t.Error(got)
	}
	end := r.Former[0].NotAfter
	for now, want := range map[time.Time]int{end: 5, end.Add(time.Nanosecond): 4} {
		if got := len(r.Barred(now)); got != want {
			t.Errorf("%s: %d, want %d", now, got, want)
		}
	}
	r.Trim(end.Add(time.Second))
	if len(r.Former) != 1 {
		t.Errorf("%+v", r.Former)
	}
}

func TestFormerIsBounded(t *testing.T) {
	r := recordOf()
	for n := 1; n <= MaxFormer+MaxGenerations+10; n++ {
		r.Generations = append(r.Generations, recordOf(Generation{Number: n, Step: StepProven}).Generations[0])
		r.Trim(began)
	}
	if len(r.Former) != MaxFormer || r.Former[0].Number != 11 {
		t.Errorf("%d, from %d on", len(r.Former), r.Former[0].Number)
	}
}

// A reinstatement leaves what was before revoked, and skips a number, so that the
// next key is a new one.
func TestReinstate(t *testing.T) {
	r := recordOf(Generation{Step: StepSuperseded, ProvenAt: began}, Generation{Step: StepProven, ProvenAt: began})
	r.Reinstate(Reinstatement{Operation: "none"})
	if r.Reinstated != nil || r.Floor != 0 {
		t.Errorf("it was not revoked: %+v", r)
	}
	r.Revoked = &Revocation{Reason: CertificateHold, Operation: "1"}
	if StateOf(r, began) != StateRevoked || r.Believed(r.Newest()) {
		t.Error("not revoked")
	}
	r.Reinstate(Reinstatement{At: began, Operation: "2"})
	if StateOf(r, began) != StatePending || r.InUse() != nil || r.Next(Request{}) != 4 || r.Reinstated.Lifted.Operation != "1" {
		t.Errorf("%s, next %d: %+v", StateOf(r, began), r.Next(Request{}), r)
	}
	if r.Believed(r.Newest()) || r.Believed(&r.Generations[0]) {
		t.Error("what was revoked is believed again")
	}
	r.Generations = append(r.Generations, recordOf(Generation{Number: 4, Step: StepProven, ProvenAt: began}).Generations[0])
	r.Generations[2].RenewAt = began.Add(45 * Day)
	if StateOf(r, began) != StateHealthy || !r.Believed(r.Newest()) || serials(r.Barred(began)) != "s1:certificate-hold s2:certificate-hold" {
		t.Errorf("%s: %s", StateOf(r, began), serials(r.Barred(began)))
	}
	r.Revoked = &Revocation{Reason: KeyCompromise, Operation: "3"}
	if got := serials(r.Barred(began)); got != "s1:certificate-hold s2:certificate-hold s4:key-compromise" {
		t.Errorf("the first reason stays: %s", got)
	}
	for _, operation := range []string{"1", "3"} {
		if got := r.Revocation(operation); got == nil || got.Operation != operation {
			t.Errorf("revocation %s: %+v", operation, got)
		}
	}
	if r.Revocation("2") != nil {
		t.Error("2 was no revocation")
	}
}

func TestBelieved(t *testing.T) {
	r := recordOf(
		Generation{Step: StepSuperseded, ProvenAt: began}, Generation{Step: StepSuperseded}, Generation{Step: StepSuperseded, ProvenAt: began},
		Generation{Step: StepProven, ProvenAt: began}, Generation{Step: StepDelivered},
	)
	var believed []int
	for i := range r.Generations {
		if r.Believed(&r.Generations[i]) {
			believed = append(believed, r.Generations[i].Number)
		}
	}
	if !slices.Equal(believed, []int{3, 4, 5}) {
		t.Errorf("%v", believed)
	}
	r.Generations[3].Reason = ReasonRecovery
	if r.Believed(&r.Generations[2]) || !r.Believed(&r.Generations[3]) {
		t.Error("a recovery ends what was before")
	}
	if r.Believed(nil) || (*Record)(nil).Believed(&r.Generations[3]) || r.Token("t4") != &r.Generations[3] || r.Token("x") != nil {
		t.Error("nothing is believed")
	}
	if got := serials(r.Barred(began)); got != "s1:superseded s2:superseded s3:superseded" {
		t.Errorf("a recovery revokes what was before: %s", got)
	}
	r.Trim(began)
	if got := serials(r.Barred(began)); got != "s1:superseded s2:superseded s3:superseded" {
		t.Errorf("remembered: %s", got)
	}
}
