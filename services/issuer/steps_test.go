package issuer

import (
	"reflect"
	"slices"
	"testing"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Reports in any order and number lead to the same record.
func TestStepsInAnyOrder(t *testing.T) {
	t.Parallel()
	delivered, installed, proven := event.CredentialDelivered, event.CredentialInstalled, event.CredentialProven
	for _, test := range []struct {
		name    string
		reports []event.Kind[event.Credentials]
		want    fleet.Step
	}{
		{"none", nil, fleet.StepIssued},
		{"in order", []event.Kind[event.Credentials]{delivered, installed, proven}, fleet.StepProven},
		{"in reverse", []event.Kind[event.Credentials]{proven, installed, delivered}, fleet.StepProven},
		{"repeated", []event.Kind[event.Credentials]{delivered, delivered, installed, delivered}, fleet.StepInstalled},
		{"one left out", []event.Kind[event.Credentials]{installed}, fleet.StepInstalled},
	} {
		w := newWorld(t)
		s := w.service(t)
		w.file(t, 1, kms)
		must(t, s.issue(t.Context(), w.order(t, "1", 1, kms)))
		for _, kind := range test.reports {
			must(t, s.step(t.Context(), w.report(t, kind, 1, kms)))
		}
		if g := w.record(t, kms).Newest(); g.Step != test.want || g.ProvenAt.IsZero() == (test.want == fleet.StepProven) {
			t.Errorf("%s: %s, proven at %s", test.name, g.Step, g.ProvenAt)
		}
		if _, waits := w.pickup(t, kms); waits == (test.want == fleet.StepProven) {
			t.Errorf("%s: pick-up waits: %v", test.name, waits)
		}
	}
}

// A report about what is not on record, or about another certificate of the
// same number, changes nothing.
func TestStepsOfTheUnknown(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	must(t, s.step(t.Context(), w.report(t, event.CredentialProven, 1, kms))) // no document at all
	w.file(t, 1, kms)
	must(t, s.issue(t.Context(), w.order(t, "1", 1, kms)))
	revision := w.revision(t)
	must(t, s.step(t.Context(), w.report(t, event.CredentialProven, 2, kms)))
	must(t, s.step(t.Context(), w.report(t, event.CredentialProven, 1, csi)))
	for _, c := range []event.Client{{Client: kms, Generation: 1, Serial: "abc"}, {Client: kms, Generation: 1, TokenID: "abc"}} {
		e, err := event.CredentialProven.New(event.Meta{Source: "gateway", Cluster: cluster}, event.Credentials{Clients: []event.Client{c}})
		must(t, err)
		must(t, s.step(t.Context(), e))
	}
	if w.revision(t) != revision {
		t.Error("something was written")
	}
	if n := len(bustest.Stored(t, w.Server, event.CredentialSuperseded)); n != 0 {
		t.Errorf("%d facts", n)
	}
	if err := s.step(t.Context(), w.report(t, event.CredentialDue, 1, kms)); !bus.IsPermanent(err) {
		t.Errorf("a fact that reports no step: %v", err)
	}
}

// Failing anywhere before the proof leaves the generation before untouched.
func TestF18_IssuedIsNoSuccess(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	before := *w.record(t, kms).Find(1)
	w.file(t, 2, kms)
	must(t, s.issue(t.Context(), w.order(t, "2", 2, kms)))
	must(t, s.step(t.Context(), w.report(t, event.CredentialDelivered, 2, kms)))
	must(t, s.step(t.Context(), w.report(t, event.CredentialInstalled, 2, kms)))
	if after := *w.record(t, kms).Find(1); !reflect.DeepEqual(after, before) {
		t.Errorf("generation 1 changed: %+v", after)
	}
}

// Each generation is told of as superseded once, by the proof that replaced it.
func TestSupersededOnce(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	for n := 1; n <= 4; n++ {
		w.prove(t, s, n, kms)
	}
	w.file(t, 5, kms)
	must(t, s.issue(t.Context(), w.order(t, "5", 5, kms)))
	w.file(t, 6, kms)
	must(t, s.issue(t.Context(), w.order(t, "6", 6, kms)))
	must(t, s.step(t.Context(), w.report(t, event.CredentialProven, 6, kms)))
	must(t, s.step(t.Context(), w.report(t, event.CredentialProven, 5, kms))) // too late
	var told []int
	for _, fact := range bustest.Stored(t, w.Server, event.CredentialSuperseded) {
		for _, c := range fact.Clients {
			told = append(told, c.Generation)
		}
	}
	if !slices.Equal(told, []int{1, 2, 3, 4, 5}) {
		t.Errorf("told of %v", told)
	}
	if g := w.record(t, kms).Find(5); g != nil && g.Step != fleet.StepSuperseded {
		t.Errorf("a proof that came too late made generation 5 %s", g.Step)
	}
}

// The pick-up of a later generation survives the proof of the one before.
func TestProofLeavesTheNextPickup(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.file(t, 1, kms)
	must(t, s.issue(t.Context(), w.order(t, "1", 1, kms)))
	w.file(t, 2, kms)
	must(t, s.issue(t.Context(), w.order(t, "2", 2, kms)))
	must(t, s.step(t.Context(), w.report(t, event.CredentialProven, 1, kms)))
	if p, waits := w.pickup(t, kms); !waits || p.Generation != 2 {
		t.Errorf("pick-up of generation 2 waits: %v, %d", waits, p.Generation)
	}
	// And a late repeat of the command for 1 does not replace it.
	must(t, s.issue(t.Context(), w.order(t, "1", 1, kms)))
	if p, _ := w.pickup(t, kms); p.Generation != 2 {
		t.Errorf("pick-up went back to generation %d", p.Generation)
	}
}
