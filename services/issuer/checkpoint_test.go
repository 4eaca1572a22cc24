package issuer

import (
	"errors"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// checkpointed returns the checkpoints of the chain, and the newest one of the
// document.
func (w *world) checkpointed(t testing.TB) (all []trust.Checkpoint, newest trust.Checkpoint) {
	t.Helper()
	doc := w.authority(t)
	for _, e := range w.chain(t) {
		if e.Checkpoint == "" {
			continue
		}
		c, _, err := trust.VerifyCheckpoint(e.Checkpoint, doc.Bundle.FleetKey)
		must(t, err)
		all = append(all, c)
	}
	newest, _, err := trust.VerifyCheckpoint(doc.Checkpoint, doc.Bundle.FleetKey)
	must(t, err)
	return all, newest
}

// asked writes an entry as the gateway does.
func (w *world) asked(t testing.TB, request string) {
	t.Helper()
	must(t, audit.New("gateway", w.Bus.Ledger("gateway"), clock.Wall).Append(t.Context(), audit.Entry{Actor: "admin", Action: "x.y", Request: request}))
}

// A checkpoint is signed when a chain has moved, and not of itself.
func TestCheckpointsFollowTheChains(t *testing.T) {
	w := newWorld(t)
	s, other := w.service(t), w.service(t)
	must(t, s.checkpoints.keep(t.Context()))
	must(t, s.checkpoints.keep(t.Context()))
	must(t, other.checkpoints.keep(t.Context()))
	all, newest := w.checkpointed(t)
	if len(all) != 1 || newest.Heads["issuer"].Seq != 2 || len(newest.Heads) != 1 { // CA and bundle
		t.Fatalf("%+v, newest %+v", all, newest)
	}
	w.asked(t, "1")
	must(t, other.checkpoints.keep(t.Context()))
	must(t, s.checkpoints.keep(t.Context()))
	all, newest = w.checkpointed(t)
	if len(all) != 2 || newest.Heads["gateway"].Seq != 1 || newest.Heads["issuer"].Seq != 3 {
		t.Fatalf("%+v, newest %+v", all, newest)
	}
	for _, c := range all {
		if c.At.IsZero() {
			t.Errorf("of no time: %+v", c)
		}
	}
}

// Killed before or after each write and run again by another, it comes to one
// checkpoint more, in the chain and in the document.
func TestCheckpointKilledAnywhere(t *testing.T) {
	for at := 1; at <= 2; at++ { // entry, document
		for _, after := range []bool{false, true} {
			w := newWorld(t)
			s := w.service(t)
			k := &killer{at: at, after: after}
			dying := *s.checkpoints
			dying.documents = mortal[fleet.Authority]{dying.documents, k}
			dying.ledger = &telling{ledger: mortalLedger{s.ledger, k}}
			if err := dying.keep(t.Context()); !errors.Is(err, errKilled) {
				t.Fatalf("write %d: %v", at, err)
			}
			must(t, w.service(t).checkpoints.keep(t.Context()))
			if all, newest := w.checkpointed(t); len(all) != 1 || newest.Heads["issuer"] != all[0].Heads["issuer"] {
				t.Errorf("write %d, after %v: %+v, newest %+v", at, after, all, newest)
			}
		}
	}
}

// Where a chain ends before a checkpoint, there is no other: it would hide it.
func TestNoCheckpointOverWhatWasCutOff(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	documents := bucket[fleet.Authority](t, w, bus.Authority)
	sign := func(c trust.Checkpoint) {
		key, err := s.checkpoints.fleetKey(t.Context())
		must(t, err)
		signed, err := trust.SignCheckpoint(key, c)
		must(t, err)
		_, err = documents.Edit(t.Context(), fleet.AuthorityKey, func(a *fleet.Authority) error {
			a.Checkpoint = signed
			return nil
		})
		must(t, err)
	}
	sign(trust.Checkpoint{Heads: map[string]trust.Head{"gateway": {Seq: 4, Hash: "x"}}})
	w.asked(t, "1")
	if err := s.checkpoints.keep(t.Context()); err == nil || !strings.Contains(err.Error(), `"gateway" of the ledger ends with entry 1, and a checkpoint has signed entry 4`) {
		t.Errorf("%v", err)
	}
	_, err := documents.Edit(t.Context(), fleet.AuthorityKey, func(a *fleet.Authority) error {
		a.Checkpoint = "forged"
		return nil
	})
	must(t, err)
	if err := s.checkpoints.keep(t.Context()); err == nil || !strings.Contains(err.Error(), "ALARM") {
		t.Errorf("%v", err)
	}
}

// A ledger that could not be written is tried again though nothing has moved.
func TestReadyAgainWithoutACommand(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	must(t, s.checkpoints.keep(t.Context()))
	s.checkpoints.ledger.down.Store(true)
	must(t, s.checkpoints.keep(t.Context()))
	if s.checkpoints.ledger.down.Load() {
		t.Error("not tried again")
	}
	if all, _ := w.checkpointed(t); len(all) != 1 {
		t.Errorf("%d checkpoints", len(all))
	}
}
