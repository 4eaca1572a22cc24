package issuer

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// condemned returns the serial numbers on the CRL of a CA, each with its reason.
func (w *world) condemned(t testing.TB, ca string) map[string]int {
	t.Helper()
	doc, err := bucket[fleet.RevocationList](t, w, bus.Authority).Get(t.Context(), fleet.ListKey(ca))
	must(t, err)
	list, err := x509.ParseRevocationList(doc.Value.DER)
	must(t, err)
	all := map[string]int{}
	for _, e := range list.RevokedCertificateEntries {
		all[e.SerialNumber.Text(16)] = e.ReasonCode
	}
	return all
}

// A CA that is compromised is replaced without proof. What it has signed goes on
// its CRL as soon as nobody needs it any more, and all of it when the operator says
// that it goes; its CRL is kept for those who have not heard of that.
func TestTaint(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms, csi)
	w.prove(t, s, 2, kms) // generation 1 was replaced before anybody knew
	serial := func(key fleet.ClientKey, generation int) string {
		return w.record(t, key).Find(generation).Certificate.Serial
	}
	old := w.swap(t, s, "r1", true)
	doc := w.authority(t)
	if phasesOf(doc) != "outgoing active" || doc.CAs[0].TaintedAt.IsZero() || !doc.CAs[1].TaintedAt.IsZero() {
		t.Fatalf("%s: %+v", phasesOf(doc), doc.CAs)
	}
	if got := w.condemned(t, old); len(got) != 1 || got[serial(kms, 1)] != fleet.CACompromise.Code() {
		t.Errorf("at once: %v", got)
	}
	w.prove(t, s, 3, kms)
	if got := w.condemned(t, old); len(got) != 2 || got[serial(kms, 2)] != fleet.CACompromise.Code() {
		t.Errorf("when it is replaced: %v", got)
	}
	// csi has not come: it keeps the old one, until an operator says otherwise.
	retire := event.PhaseCommand{Move: fleet.MoveRetire, ID: old, From: old}
	must(t, s.phase(t.Context(), phaseEvent(t, retire)))
	if got := w.refused(t); phasesOf(w.authority(t)) != "outgoing active" || !strings.Contains(got, "edge-01/csi") {
		t.Fatalf("refused: %q", got)
	}
	retire.Tainted = true
	must(t, s.phase(t.Context(), phaseEvent(t, retire)))
	doc = w.authority(t)
	if phasesOf(doc) != "retired active" || len(doc.Bundle.Certificates) != 1 {
		t.Fatalf("%s; %s", phasesOf(doc), w.refused(t))
	}
	if got := w.condemned(t, old); len(got) != 3 || got[serial(csi, 1)] != fleet.CACompromise.Code() {
		t.Errorf("when it goes: %v", got)
	}
	// Its list is signed on, and the new CA has a list of its own.
	_, err := s.lists.refresh(t.Context(), nil, false)
	must(t, err)
	current, err := s.authority.current(t.Context())
	must(t, err)
	if current.listers[old] == nil || current.cas[old] != nil {
		t.Error("its CRL is not kept, or it may sign")
	}
	if got := w.condemned(t, doc.CAs[1].ID); len(got) != 0 {
		t.Errorf("on the list of the new one: %v", got)
	}
}

// The old CA of a rotation turns out to be compromised when the new one signs: it is
// marked, what it has signed goes on its CRL, and no bridge leads to it. Killed
// anywhere, the repeat goes on; with no rotation at all it is marked too, once it is
// trusted by nobody.
func TestTaintInTheMiddle(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	old := w.swap(t, s, "r1", false)
	next := w.authority(t).CAs[1].ID
	w.prove(t, s, 2, kms)
	if got := w.condemned(t, old); len(got) != 0 {
		t.Fatalf("before anybody said so: %v", got)
	}
	e := phaseEvent(t, event.PhaseCommand{Rollout: "r1", Move: fleet.MoveTaint, ID: old, From: old, Compromised: []string{old}})
	for at := 1; ; at++ {
		mortal, k := *s, &killer{at: at}
		mortal.mover = mortalMover(s.mover, k)
		err := mortal.phase(t.Context(), e)
		if k.writes < at {
			must(t, err)
			break
		}
	}
	doc := w.authority(t)
	if phasesOf(doc) != "outgoing active" || doc.CAs[0].TaintedAt.IsZero() || doc.Bridge(old, next) != nil || doc.Bridge(next, old) == nil || doc.Bundle.Version != 4 {
		t.Fatalf("%s: %+v, bridges %+v, bundle %d", phasesOf(doc), doc.CAs, doc.Bridges, doc.Bundle.Version)
	}
	first := w.record(t, kms).Find(1).Certificate.Serial
	if got := w.condemned(t, old); len(got) != 1 || got[first] != fleet.CACompromise.Code() {
		t.Errorf("on its list: %v", got)
	}
	if got := w.condemned(t, next); len(got) != 1 {
		t.Errorf("the bridge, on the list of the new one: %v", got)
	}
	var actions []string
	for _, e := range w.entries(t) {
		actions = append(actions, e.Action+" "+e.Details["compromised"])
	}
	if got := strings.Join(actions, ", "); !strings.HasSuffix(got, ", authority.taint "+old) || strings.Count(got, "taint") != 1 {
		t.Errorf("ledger: %s", got)
	}
	// The new one is stolen too: a third signs, and both go.
	w.swap(t, s, "r2", true)
	for _, id := range []string{old, next} {
		must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Rollout: "r2", Move: fleet.MoveRetire, ID: id, From: next, Compromised: []string{old, next}, Except: []string{"edge-01"}})))
	}
	if doc = w.authority(t); phasesOf(doc) != "retired retired active" || doc.CAs[1].TaintedAt.IsZero() {
		t.Fatalf("%s: %s", phasesOf(doc), w.refused(t))
	}
	if got := w.condemned(t, next); got[w.record(t, kms).Find(2).Certificate.Serial] != fleet.CACompromise.Code() {
		t.Errorf("on its list: %v", got)
	}
}

// A CA that went by itself turns out to have been stolen: its list is made again.
func TestTaintOfWhatIsRetired(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	old := w.swap(t, s, "r1", false)
	w.prove(t, s, 2, kms)
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Rollout: "r1", Move: fleet.MoveRetire, ID: old, From: old})))
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Rollout: "r1", Move: fleet.MoveTaint, ID: old, From: old})))
	if doc := w.authority(t); phasesOf(doc) != "retired active" || doc.CAs[0].TaintedAt.IsZero() {
		t.Fatalf("%s: %s", phasesOf(doc), w.refused(t))
	}
	if got := w.condemned(t, old); got[w.record(t, kms).Find(1).Certificate.Serial] != fleet.CACompromise.Code() {
		t.Errorf("on its list: %v", got)
	}
}

// A bridge to a CA that is trusted no more is on the CRL of the one that has
// signed it: with the key of the old CA, stolen years later, it would still lead to
// the new one. The bridge from the old CA serves those who have not heard, and stays.
func TestBridgesAreSeveredWithTheirCA(t *testing.T) {
	for reason, tainted := range map[fleet.CRLReason]bool{fleet.CessationOfOperation: false, fleet.CACompromise: true} {
		t.Run(string(reason), func(t *testing.T) {
			w := newWorld(t)
			s := w.service(t)
			old := w.swap(t, s, "r1", false)
			doc := w.authority(t)
			next := doc.CAs[1].ID
			back := doc.Bridge(old, next)
			if back == nil || doc.Bridge(next, old) == nil {
				t.Fatalf("bridges: %+v", doc.Bridges)
			}
			block, _ := pem.Decode(back.Certificate)
			bridge, err := x509.ParseCertificate(block.Bytes)
			must(t, err)
			if got := w.condemned(t, next); len(got) != 0 {
				t.Errorf("while both are trusted: %v", got)
			}
			for range 2 { // a repeat changes nothing
				must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MoveRetire, ID: old, From: old, Tainted: tainted})))
			}
			if doc = w.authority(t); len(doc.Bridges) != 0 || doc.CAs[0].Phase != fleet.PhaseRetired {
				t.Fatalf("%s, bridges %+v", phasesOf(doc), doc.Bridges)
			}
			if got := w.condemned(t, next); len(got) != 1 || got[bridge.SerialNumber.Text(16)] != reason.Code() {
				t.Errorf("on the list of the new CA: %v, want %x for %s", got, bridge.SerialNumber, reason)
			}
			_, err = w.service2(t).lists.refresh(t.Context(), nil, true)
			must(t, err)
			if got := w.condemned(t, next); len(got) != 1 {
				t.Errorf("after a restart: %v", got)
			}
		})
	}
}

// What was replaced before an issuer ended is found by the next at its start.
func TestTaintIsFoundAtTheStart(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	old := w.swap(t, s, "r1", true)
	w.file(t, 2, kms)
	must(t, s.issue(t.Context(), w.order(t, "second", 2, kms)))
	proof := w.report(t, event.CredentialProven, 2, kms)
	k := &killer{at: 2} // before the fact of what was superseded, and so before the CRL
	_ = mortally(s, k).step(t.Context(), proof)
	if w.record(t, kms).Find(1).Step != fleet.StepSuperseded {
		t.Fatal("killed too early")
	}
	first := w.record(t, kms).Find(1).Certificate.Serial
	next := w.service2(t)
	revoked, err := next.lists.collect(t.Context(), next.mover.records)
	must(t, err)
	if !slices.ContainsFunc(revoked, func(f fleet.Former) bool { return f.Serial == first }) {
		t.Fatalf("%+v", revoked)
	}
	_, err = next.lists.refresh(t.Context(), revoked, true)
	must(t, err)
	if got := w.condemned(t, old); got[first] != fleet.CACompromise.Code() {
		t.Errorf("%v", got)
	}
}
