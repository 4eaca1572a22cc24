package issuer

import (
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func keysOf(doc fleet.Authority) string {
	var all []string
	for _, k := range doc.Keys {
		all = append(all, string(k.Phase))
	}
	return strings.Join(all, " ")
}

// A whole rotation of the token key, to one of another algorithm: it is published
// before it signs, and the old one stays until the last token that it has signed
// has ended, also one that was signed while the keys changed.
func TestRolloutOfTheTokenKey(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	first := w.authority(t).Keys[0]
	s.mover.TokenAlgorithm = "ES256"
	prepare := event.PhaseCommand{Kind: fleet.RolloutToken, Move: fleet.MovePrepare, From: first.ID}
	must(t, s.phase(t.Context(), phaseEvent(t, prepare)))
	must(t, s.phase(t.Context(), phaseEvent(t, prepare)))
	doc := w.authority(t)
	if keysOf(doc) != "active incoming" || doc.Keys[1].Algorithm != "ES256" || doc.Keys[1].Rollout != "r1" || first.Algorithm != "EdDSA" || doc.Bundle.Version != 1 {
		t.Fatalf("%s: %+v; %s", keysOf(doc), doc.Keys[1], w.refused(t))
	}
	second := doc.Keys[1].ID
	w.prove(t, s, 2, kms)
	if g := w.record(t, kms).Newest(); g.Token.KeyID != first.ID {
		t.Errorf("generation 2 by %s", g.Token.KeyID)
	}
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Kind: fleet.RolloutToken, Move: fleet.MoveActivate, ID: second, From: first.ID})))
	doc = w.authority(t)
	last := w.record(t, kms).Newest().Token.ExpiresAt
	if keysOf(doc) != "outgoing active" || !doc.Keys[0].RetireAt.Equal(last) {
		t.Fatalf("%s, until %s; want %s; %s", keysOf(doc), doc.Keys[0].RetireAt, last, w.refused(t))
	}
	w.prove(t, s, 3, kms)
	p := w.record(t, kms).Newest()
	if p.Token.KeyID != second {
		t.Errorf("generation 3 by %s", p.Token.KeyID)
	}
	// One that was on its way when the keys changed has come on record since.
	late := last.Add(time.Hour)
	_, err := w.credentials.Edit(t.Context(), "edge-02", func(doc *fleet.Credentials) error {
		doc.Clients = map[fleet.ClientKey]*fleet.Record{kms: {Former: []fleet.Former{{Number: 1, KeyID: first.ID, ExpiresAt: late}, {Number: 2, KeyID: "x", ExpiresAt: late.Add(time.Hour)}}}}
		return nil
	})
	must(t, err)
	now := s.env.Clock.Now()
	s.later(t, last.Sub(now)-time.Hour)
	if next, err := s.authority.succession.retireKeys(t.Context()); err != nil || !next.Equal(last) {
		t.Errorf("next at %s, %v", next, err)
	}
	s.later(t, last.Sub(now)+time.Minute)
	if next, err := s.authority.succession.retireKeys(t.Context()); err != nil || !next.Equal(late) {
		t.Errorf("next at %s, %v; want %s", next, err, late)
	}
	if got := keysOf(w.authority(t)); got != "outgoing active" {
		t.Fatal(got)
	}
	s.later(t, late.Sub(now)+time.Minute)
	for range 2 {
		if next, err := s.authority.succession.retireKeys(t.Context()); err != nil || !next.IsZero() {
			t.Errorf("next at %s, %v", next, err)
		}
	}
	if got := keysOf(w.authority(t)); got != "retired active" {
		t.Fatal(got)
	}
	for kind, want := range map[event.Kind[event.Authority]]string{
		event.AuthorityPrepared: "token 2", event.AuthorityActivated: "ca 1, token 1, token 2", event.AuthorityRetired: "token 1",
	} {
		if got := w.told(t, kind); got != want {
			t.Errorf("%s: %s; want %s", kind.Type(), got, want)
		}
	}
	if got := w.actions(t); got != "authority.prepare, authority.activate, authority.retire" {
		t.Errorf("ledger: %s", got)
	}
}

// The way back of a token key, before it has signed and after.
func TestWayBackOfTheTokenKey(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	first := w.authority(t).Keys[0].ID
	move := func(c event.PhaseCommand) fleet.Authority {
		t.Helper()
		c.Kind, c.From = fleet.RolloutToken, first
		must(t, s.phase(t.Context(), phaseEvent(t, c)))
		return w.authority(t)
	}
	second := move(event.PhaseCommand{Rollout: "r1", Move: fleet.MovePrepare}).Keys[1].ID
	if doc := move(event.PhaseCommand{Rollout: "r1", Move: fleet.MoveWithdraw, ID: second}); keysOf(doc) != "active retired" {
		t.Fatal(keysOf(doc), w.refused(t))
	}
	third := move(event.PhaseCommand{Rollout: "r2", Move: fleet.MovePrepare}).Keys[2].ID
	move(event.PhaseCommand{Rollout: "r2", Move: fleet.MoveActivate, ID: third})
	w.prove(t, s, 1, kms)
	if doc := move(event.PhaseCommand{Rollout: "r2", Move: fleet.MoveRestore, ID: first}); keysOf(doc) != "active retired outgoing" || doc.Keys[2].RetireAt.IsZero() {
		t.Fatal(keysOf(doc), w.refused(t))
	}
	// A client holds a token of it: it retires by itself.
	if doc := move(event.PhaseCommand{Rollout: "r2", Move: fleet.MoveWithdraw, ID: third}); keysOf(doc) != "active retired outgoing" || !strings.Contains(w.refused(t), "in use") {
		t.Fatal(keysOf(doc), w.refused(t))
	}
}

// A key of a run that was interrupted before the algorithm was configured anew is
// left out.
func TestTokenKeyOfAnotherAlgorithm(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	must(t, s.mover.keys.Create(t.Context(), keyToken(2), s.mover.tokenKey()))
	s.mover.TokenAlgorithm = "ES256"
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Kind: fleet.RolloutToken, Move: fleet.MovePrepare})))
	if doc := w.authority(t); len(doc.Keys) != 2 || doc.Keys[1].Number != 3 || doc.Keys[1].Algorithm != "ES256" {
		t.Errorf("%+v; %s", doc.Keys, w.refused(t))
	}
}

func TestTokenAlgorithmIsChecked(t *testing.T) {
	c := Defaults()
	for algorithm, good := range map[string]bool{"EdDSA": true, "ES256": true, "RS256": false, "": false} {
		c.TokenAlgorithm = algorithm
		if err := c.Validate(); (err == nil) != good {
			t.Errorf("%q: %v", algorithm, err)
		}
	}
}
