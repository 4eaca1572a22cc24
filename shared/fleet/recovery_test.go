package fleet

import (
	"strings"
	"testing"
	"time"
)

var recoverAt = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// pair returns a record with one proven generation whose credentials end then.
func pair(certificate, token time.Time) *Record {
	return &Record{Generations: []Generation{{
		Number: 1, Step: StepProven, At: recoverAt, RenewAt: recoverAt.Add(50 * Day), ProvenAt: recoverAt,
		Certificate: Certificate{NotBefore: recoverAt, NotAfter: certificate}, Token: Token{NotBefore: recoverAt, ExpiresAt: token},
	}}}
}

// F26, F27: expired, superseded and revoked are three states; only the first can
// come back, and from the moment at which the last credential has ended.
func TestF27_LockoutCountsFromTheLastCredential(t *testing.T) {
	key, operator := ClientKey{Kind: "kms"}, Policy{Recovery: RecoveryOperator}.Over(DefaultPolicy())
	late := recoverAt.Add(95 * Day)
	r := pair(recoverAt.Add(90*Day), late)
	if _, out := LockoutOf(r, key, nil, operator, late.Add(-time.Second)); out {
		t.Error("locked out while the token is valid")
	}
	l, out := LockoutOf(r, key, nil, operator, late)
	if !out || !l.Since.Equal(late) || !strings.Contains(l.Why("edge-01", key), late.Format(time.RFC3339)) {
		t.Errorf("%+v, %v", l, out)
	}
	coming := Generation{Number: 2, Step: StepDelivered, Reason: ReasonRecovery, Certificate: Certificate{NotAfter: late.Add(90 * Day)}, Token: Token{ExpiresAt: late.Add(80 * Day)}}
	r.Generations = append(r.Generations, coming)
	for now, barred := range map[time.Time]bool{late: false, late.Add(80 * Day).Add(-time.Second): false, late.Add(80 * Day): true} {
		if l, out := LockoutOf(r, key, nil, operator, now); !out || (l.Bar != "") != barred {
			t.Errorf("with a generation of a recovery, at %s: %+v, %v", now, l, out)
		}
	}
	r.Generations = r.Generations[:1]
	r.Revoked = &Revocation{At: late}
	if _, out := LockoutOf(r, key, nil, operator, late); out {
		t.Error("revoked counts as locked out")
	}
	if _, out := LockoutOf(nil, key, nil, operator, late); out {
		t.Error("a client without a record counts as locked out")
	}
}

// After a recovery nothing of before signs in, however long it is valid.
func TestF21_RecoveryEndsEarlierGenerations(t *testing.T) {
	r := pair(recoverAt.Add(90*Day), recoverAt.Add(90*Day))
	for number, reason := range map[int]Reason{2: ReasonRenewal, 3: ReasonRecovery} {
		r.Generations = append(r.Generations, Generation{Number: number, Reason: reason})
	}
	for number, want := range map[int]bool{1: false, 2: false, 3: true, 4: true} {
		if r.Usable(number) != want {
			t.Errorf("generation %d: usable %v", number, !want)
		}
	}
	if (*Record)(nil).Usable(1) {
		t.Error("usable without a record")
	}
	r.Generations = r.Generations[:1]
	r.Generations = append(r.Generations, Generation{Number: 2, Reason: ReasonRenewal})
	if !r.Usable(1) {
		t.Error("a renewal ends the generation in use")
	}
}
