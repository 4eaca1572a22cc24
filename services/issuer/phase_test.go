package issuer

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// phaseEvent returns the command of the scheduler for one change of phase.
func phaseEvent(t testing.TB, c event.PhaseCommand) event.Event {
	t.Helper()
	if c.Rollout == "" {
		c.Rollout = "r1"
	}
	if c.Kind == "" {
		c.Kind = fleet.RolloutCA
	}
	if c.At.IsZero() {
		c.At = clock.Wall()
	}
	e, err := event.Phase.New(event.Meta{
		Source: "scheduler", Cluster: event.FleetWide, Key: []string{c.Rollout, string(c.Move), c.ID, c.At.String()}, Time: c.At,
	}, c)
	must(t, err)
	return e
}

// facts returns the ids of CAs and token keys, by their numbers, of which facts of
// a kind have told, in their order.
func (w *world) told(t testing.TB, kind event.Kind[event.Authority]) string {
	t.Helper()
	doc := w.authority(t)
	var all []string
	for _, f := range bustest.Stored(t, w.Server, kind) {
		number := 0
		if c := doc.FindCA(f.ID); c != nil {
			number = c.Number
		} else if k := doc.FindKey(f.ID); k != nil {
			number = k.Number
		}
		all = append(all, fmt.Sprintf("%s %d", f.What, number))
	}
	return strings.Join(all, ", ")
}

// actions returns what the ledger has.
func (w *world) actions(t testing.TB) string {
	t.Helper()
	var all []string
	for _, e := range w.entries(t) {
		all = append(all, e.Action)
	}
	return strings.Join(all, ", ")
}

// refused returns why the last move was refused.
func (w *world) refused(t testing.TB) string {
	t.Helper()
	if r := w.authority(t).Refused; r != nil {
		return string(r.Move) + ": " + r.Why
	}
	return ""
}

// A whole rotation of the CA: the new one is trusted before it signs, signs only
// after the proof, and the old one goes only when nobody uses it.
func TestRolloutOfTheCA(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	first := w.authority(t).CAs[0]
	prepare := event.PhaseCommand{Move: fleet.MovePrepare, From: first.ID, Life: fleet.Duration(100 * fleet.Day), By: "admin"}
	must(t, s.phase(t.Context(), phaseEvent(t, prepare)))
	must(t, s.phase(t.Context(), phaseEvent(t, prepare))) // by another command, once more
	doc := w.authority(t)
	if phasesOf(doc) != "active incoming" || doc.Bundle.Version != 2 || len(doc.Bundle.Certificates) != 2 || doc.CAs[1].Rollout != "r1" || doc.CAs[1].Bundle != 2 {
		t.Fatalf("%s, bundle %d: %+v", phasesOf(doc), doc.Bundle.Version, doc.CAs[1])
	}
	w.pool(t)
	second := doc.CAs[1]
	if life := second.NotAfter.Sub(second.PreparedAt()); life != 100*fleet.Day {
		t.Errorf("life %s", life)
	}
	// It signs nothing yet.
	w.prove(t, s, 2, kms)
	if g := w.record(t, kms).Newest(); g.Certificate.Issuer != first.ID {
		t.Errorf("generation 2 by %s", g.Certificate.Issuer)
	}
	activate := event.PhaseCommand{Move: fleet.MoveActivate, ID: second.ID, From: first.ID, Bundle: 1}
	must(t, s.phase(t.Context(), phaseEvent(t, activate)))
	if got := w.refused(t); !strings.Contains(got, "activate: activate: trust was proven on version 1") {
		t.Errorf("refused: %q", got)
	}
	revision, err := bucket[fleet.Authority](t, w, bus.Authority).Get(t.Context(), fleet.AuthorityKey)
	must(t, err)
	must(t, s.phase(t.Context(), phaseEvent(t, activate)))
	if again, err := bucket[fleet.Authority](t, w, bus.Authority).Get(t.Context(), fleet.AuthorityKey); err != nil || again.Revision != revision.Revision {
		t.Errorf("the same refusal was written again, %v", err)
	}
	activate.Bundle = 2
	must(t, s.phase(t.Context(), phaseEvent(t, activate)))
	doc = w.authority(t)
	if phasesOf(doc) != "outgoing active" || doc.Bundle.Version != 3 || doc.Refused != nil {
		t.Fatalf("%s, bundle %d, refused %+v", phasesOf(doc), doc.Bundle.Version, doc.Refused)
	}
	retire := event.PhaseCommand{Move: fleet.MoveRetire, ID: first.ID, From: first.ID}
	must(t, s.phase(t.Context(), phaseEvent(t, retire)))
	if got := w.refused(t); !strings.Contains(got, "1 clients, such as edge-01/kms") {
		t.Errorf("refused: %q", got)
	}
	// Issued is not yet in use: the certificate of the old one still is.
	w.file(t, 3, kms)
	must(t, s.issue(t.Context(), w.order(t, "third", 3, kms)))
	must(t, s.phase(t.Context(), phaseEvent(t, retire)))
	if phasesOf(w.authority(t)) != "outgoing active" {
		t.Fatal("retired while a client has nothing else on its disk")
	}
	must(t, s.step(t.Context(), w.report(t, event.CredentialProven, 3, kms)))
	must(t, s.phase(t.Context(), phaseEvent(t, retire)))
	must(t, w.service2(t).phase(t.Context(), phaseEvent(t, retire)))
	doc = w.authority(t)
	if phasesOf(doc) != "retired active" || doc.Bundle.Version != 4 || len(doc.Bundle.Certificates) != 1 || doc.Refused != nil {
		t.Fatalf("%s, bundle %d", phasesOf(doc), doc.Bundle.Version)
	}
	p := w.record(t, kms).Newest()
	if p.Certificate.Issuer != second.ID {
		t.Errorf("by %s", p.Certificate.Issuer)
	}
	for kind, want := range map[event.Kind[event.Authority]]string{
		event.AuthorityPrepared: "ca 2", event.AuthorityActivated: "ca 1, token 1, ca 2", event.AuthorityRetired: "ca 1", event.AuthorityWithdrawn: "",
	} {
		if got := w.told(t, kind); got != want {
			t.Errorf("%s: %s; want %s", kind.Type(), got, want)
		}
	}
	if got := w.actions(t); got != "authority.prepare, authority.activate, authority.retire" {
		t.Errorf("ledger: %s", got)
	}
	if f := bustest.Stored(t, w.Server, event.AuthorityRetired)[0]; f.Rollout != "" {
		t.Errorf("%+v: the first CA belongs to no rollout", f)
	}
}

// Clusters that are excluded, and clients that are revoked, keep nobody.
func TestRetireWithout(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	from := w.swap(t, s, "r1", false)
	retire := event.PhaseCommand{Move: fleet.MoveRetire, ID: from, From: from, Except: []string{"other"}}
	must(t, s.phase(t.Context(), phaseEvent(t, retire)))
	if phasesOf(w.authority(t)) != "outgoing active" {
		t.Fatal("retired")
	}
	retire.Except = append(retire.Except, cluster)
	must(t, s.phase(t.Context(), phaseEvent(t, retire)))
	if phasesOf(w.authority(t)) != "retired active" {
		t.Fatal(w.refused(t))
	}
}

// swap prepares and activates a new CA, and returns the id of the old one.
func (w *world) swap(t testing.TB, s *service, rollout string, tainted bool) string {
	t.Helper()
	doc := w.authority(t)
	from := doc.ActiveCA().ID
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Rollout: rollout, Move: fleet.MovePrepare, From: from, Tainted: tainted})))
	doc = w.authority(t)
	incoming := doc.IncomingCA()
	if incoming == nil {
		t.Fatal(w.refused(t))
	}
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{
		Rollout: rollout, Move: fleet.MoveActivate, ID: incoming.ID, From: from, Bundle: doc.Bundle.Version, Tainted: tainted,
	})))
	if doc = w.authority(t); doc.ActiveCA().ID != incoming.ID {
		t.Fatal(w.refused(t))
	}
	return from
}

// The way back, before and after the new one has signed; the old one signs again,
// and that is told of as what it is: another happening.
func TestWayBack(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	old := w.authority(t).CAs[0].ID
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MovePrepare, From: old})))
	doc := w.authority(t)
	own := doc.IncomingCA().ID
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MoveWithdraw, ID: own, From: old})))
	if doc := w.authority(t); phasesOf(doc) != "active retired" || len(doc.Bundle.Certificates) != 1 || doc.Bundle.Version != 3 {
		t.Fatalf("%s, bundle %d", phasesOf(doc), doc.Bundle.Version)
	}
	w.swap(t, s, "r2", false)
	w.prove(t, s, 1, kms) // of the new one
	doc = w.authority(t)
	own = doc.ActiveCA().ID
	restore := event.PhaseCommand{Rollout: "r2", Move: fleet.MoveRestore, ID: old, From: old}
	must(t, s.phase(t.Context(), phaseEvent(t, restore)))
	must(t, s.phase(t.Context(), phaseEvent(t, restore)))
	if doc := w.authority(t); phasesOf(doc) != "active retired outgoing" || doc.Bundle.Version != 6 || len(doc.Bundle.Certificates) != 2 {
		t.Fatalf("%s, bundle %d: %s", phasesOf(doc), doc.Bundle.Version, w.refused(t))
	}
	withdraw := event.PhaseCommand{Rollout: "r2", Move: fleet.MoveWithdraw, ID: own, From: old}
	must(t, s.phase(t.Context(), phaseEvent(t, withdraw)))
	if got := w.refused(t); !strings.Contains(got, "in use") {
		t.Fatalf("refused: %q", got)
	}
	w.prove(t, s, 2, kms)
	must(t, s.phase(t.Context(), phaseEvent(t, withdraw)))
	if doc := w.authority(t); phasesOf(doc) != "active retired retired" || len(doc.Bundle.Certificates) != 1 {
		t.Fatalf("%s: %s", phasesOf(doc), w.refused(t))
	}
	if activated := w.told(t, event.AuthorityActivated); activated != "ca 1, token 1, ca 3, ca 1" {
		t.Errorf("activated: %s", activated)
	}
	if withdrawn := w.told(t, event.AuthorityWithdrawn); withdrawn != "ca 2, ca 3" {
		t.Errorf("withdrawn: %s", withdrawn)
	}
	must(t, w.start(t)) // tells nothing again
	if activated := w.told(t, event.AuthorityActivated); activated != "ca 1, token 1, ca 3, ca 1" {
		t.Errorf("activated after a restart: %s", activated)
	}
}

// Killed before or after each write of each move and run again by another process,
// a rotation ends the same: no move twice, each told of once, one entry each.
func TestPhaseKilledAnywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.service(t)
	rotations := 0
	for at := 1; ; at++ {
		k := &killer{}
		for _, after := range []bool{false, true} {
			rotations++
			k = &killer{at: at, after: after}
			mortal := *s
			mortal.mover = mortalMover(s.mover, k)
			killed := w.rotateKilled(t, &mortal, s, fmt.Sprintf("r%d", rotations))
			w.checkRotations(t, fmt.Sprintf("write %d, after %v", at, after), rotations)
			if k.writes < at {
				break // there is no such write
			}
			if killed != 1 {
				t.Fatalf("write %d: killed %d times", at, killed)
			}
		}
		if k.writes < at {
			if at != 17 {
				t.Errorf("a rotation has %d writes, want a key, the entries of its certificate and of two bridges, and of three moves two entries, document and fact", at-1)
			}
			return
		}
	}
}

// checkRotations demands that there were so many whole rotations, each told of and
// written down once.
func (w *world) checkRotations(t *testing.T, name string, rotations int) {
	t.Helper()
	doc := w.authority(t)
	if want := strings.Repeat("retired ", rotations) + "active"; phasesOf(doc) != want || doc.Bundle.Version != 1+3*rotations {
		t.Fatalf("%s: %s, bundle %d: %s", name, phasesOf(doc), doc.Bundle.Version, w.refused(t))
	}
	w.pool(t)
	last := fmt.Sprintf("authority.prepare %[1]s, authority.activate %[1]s, authority.retire %[2]s", doc.CAs[rotations].ID, doc.CAs[rotations-1].ID)
	var entries []string
	for _, e := range w.entries(t) {
		entries = append(entries, e.Action+" "+e.Details["id"])
	}
	if len(entries) != 3*rotations || strings.Join(entries[3*rotations-3:], ", ") != last {
		t.Errorf("%s: ledger: %s", name, entries)
	}
	for kind, want := range map[event.Kind[event.Authority]]int{
		event.AuthorityPrepared: rotations, event.AuthorityActivated: rotations + 2, event.AuthorityRetired: rotations, event.AuthorityWithdrawn: 0,
	} {
		if told := bustest.Stored(t, w.Server, kind); len(told) != want {
			t.Errorf("%s: %s told %d times, want %d", name, kind.Type(), len(told), want)
		}
	}
}

// rotateKilled takes a rotation through its moves by an issuer that may be killed,
// each once more by one that is not, and returns how often it was.
func (w *world) rotateKilled(t *testing.T, mortal, s *service, rollout string) (killed int) {
	t.Helper()
	doc := w.authority(t)
	old := doc.ActiveCA().ID
	do := func(c event.PhaseCommand) {
		c.Rollout = rollout
		e := phaseEvent(t, c)
		if err := mortal.phase(t.Context(), e); errors.Is(err, errKilled) {
			killed++
			must(t, s.phase(t.Context(), e))
		} else {
			must(t, err)
		}
	}
	do(event.PhaseCommand{Move: fleet.MovePrepare, From: old})
	doc = w.authority(t)
	do(event.PhaseCommand{Move: fleet.MoveActivate, ID: doc.CAs[len(doc.CAs)-1].ID, From: old, Bundle: doc.Bundle.Version})
	do(event.PhaseCommand{Move: fleet.MoveRetire, ID: old, From: old})
	return killed
}

// mortalMover returns a mover with a killer at every write.
func mortalMover(m *mover, k *killer) *mover {
	last := &succession{founder: m.founder, documents: mortal[fleet.Authority]{m.documents, k}, tool: m.tool, metrics: m.metrics}
	last.keys, last.facts, last.ledger = mortalKeys{m.keys, k}, mortalPublisher{m.facts, k}, mortalLedger{m.ledger, k}
	return &mover{succession: last, lists: m.lists}
}

// Issuers that get the same commands, and the last resort beside them, make each
// move once.
func TestPhasesSideBySide(t *testing.T) {
	w := newWorld(t)
	var all []*service
	for range 3 {
		all = append(all, w.service(t))
	}
	old := w.authority(t).CAs[0].ID
	together := func(c event.PhaseCommand) {
		t.Helper()
		e := phaseEvent(t, c)
		errs := make([]error, len(all))
		var group sync.WaitGroup
		for i, s := range all {
			group.Go(func() { errs[i] = s.phase(t.Context(), e) })
		}
		group.Wait()
		must(t, errors.Join(errs...))
	}
	together(event.PhaseCommand{Move: fleet.MovePrepare, From: old})
	doc := w.authority(t)
	if phasesOf(doc) != "active incoming" || doc.Bundle.Version != 2 {
		t.Fatalf("%s, bundle %d", phasesOf(doc), doc.Bundle.Version)
	}
	together(event.PhaseCommand{Move: fleet.MoveActivate, ID: doc.CAs[1].ID, From: old, Bundle: 2})
	together(event.PhaseCommand{Move: fleet.MoveRetire, ID: old, From: old})
	doc = w.authority(t)
	if phasesOf(doc) != "retired active" || doc.Bundle.Version != 4 {
		t.Fatalf("%s, bundle %d", phasesOf(doc), doc.Bundle.Version)
	}
	if got := w.actions(t); got != "authority.prepare, authority.activate, authority.retire" {
		t.Errorf("ledger: %s", got)
	}
}

// The last resort takes over nothing that a rotation has under way while the CA is
// good, and a rotation takes over what the last resort has begun.
func TestRolloutAndSuccession(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	old := w.authority(t).CAs[0].ID
	s.later(t, 261*fleet.Day)
	s.authority.succession.look()
	must(t, s.authority.succession.keep(t.Context()))
	at := s.env.Clock.Now()
	adopt := event.PhaseCommand{Move: fleet.MovePrepare, From: old, At: at}
	must(t, s.phase(t.Context(), phaseEvent(t, adopt)))
	must(t, s.phase(t.Context(), phaseEvent(t, adopt)))
	doc := w.authority(t)
	if phasesOf(doc) != "active incoming" || doc.CAs[1].Rollout != "r1" || doc.CAs[1].Succession || doc.Bundle.Version != 2 || doc.CAs[1].Bundle != 2 {
		t.Fatalf("%s, bundle %d: %+v; %s", phasesOf(doc), doc.Bundle.Version, doc.CAs[1], w.refused(t))
	}
	// The proof does not come, and the CA is good to its last second.
	s.later(t, 364*fleet.Day)
	s.authority.succession.look()
	must(t, s.authority.succession.keep(t.Context()))
	if got := phasesOf(w.authority(t)); got != "active incoming" {
		t.Fatalf("%s: activated without proof", got)
	}
	s.later(t, 366*fleet.Day)
	s.authority.succession.look()
	must(t, s.authority.succession.keep(t.Context()))
	doc = w.authority(t)
	if phasesOf(doc) != "retired active" {
		t.Fatal(phasesOf(doc))
	}
	// What the rotation asks for now was made.
	for _, c := range []event.PhaseCommand{
		{Move: fleet.MoveActivate, ID: doc.CAs[1].ID, From: old, Bundle: 2}, {Move: fleet.MoveRetire, ID: old, From: old},
	} {
		c.At = s.env.Clock.Now()
		must(t, s.phase(t.Context(), phaseEvent(t, c)))
	}
	if again := w.authority(t); phasesOf(again) != "retired active" || again.Bundle.Version != doc.Bundle.Version || again.Refused != nil {
		t.Errorf("%s, bundle %d, refused %+v", phasesOf(again), again.Bundle.Version, again.Refused)
	}
	// And there is no way back to what has expired.
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MoveRestore, ID: old, From: old, At: s.env.Clock.Now()})))
	if got := w.refused(t); !strings.Contains(got, "is retired") {
		t.Errorf("refused: %q", got)
	}
}

// A store that is being restored is left alone, and what is malformed is given up.
func TestPhaseKeepsOut(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	for _, c := range []event.PhaseCommand{{Move: "jump"}, {Kind: "x", Move: fleet.MovePrepare}} {
		if err := s.command(t.Context(), phaseEvent(t, c)); !bus.IsPermanent(err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	_, err := bucket[fleet.Authority](t, w, bus.Authority).Edit(t.Context(), fleet.AuthorityKey, func(doc *fleet.Authority) error {
		doc.Restoring = true
		return nil
	})
	must(t, err)
	if err := s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MovePrepare})); !errors.Is(err, errRestoring) {
		t.Errorf("%v", err)
	}
	if doc := w.authority(t); len(doc.CAs) != 1 {
		t.Errorf("%s", phasesOf(doc))
	}
}
