package rollout

import (
	"encoding/json"
	"testing"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Whatever a command holds, it is refused or leads to a rollout that goes on: its
// phase follows on the one before, and what is decided next does not fail.
func FuzzSteer(f *testing.F) {
	for _, body := range []string{
		`{"rollout":"r1","kind":"ca","action":"rollback"}`, `{"rollout":"r2","kind":"token","action":"start","reason":"operator"}`,
		`{"rollout":"r1","kind":"ca","action":"exclude","cluster":"edge-01","why":"w"}`, `{"kind":"","action":"x"}`,
		`{"rollout":"r1","kind":"ca","action":"start","reason":"import","certificate":"AA==","anchor":"AA=="}`,
	} {
		f.Add([]byte(body), uint8(1))
	}
	f.Fuzz(func(t *testing.T, body []byte, steps uint8) {
		var c event.RolloutCommand
		if json.Unmarshal(body, &c) != nil {
			return
		}
		w := newWorld(t, "edge-01")
		w.must(event.RolloutCommand{Rollout: "r1", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutAsked})
		for range steps % 8 {
			w.step(fleet.RolloutCA)
		}
		before := w.rollouts[c.Kind]
		s := Stand{Rollout: before, Authority: w.authority, Known: func(name string) bool { return w.records[name] != nil }, Now: w.now}
		if before != nil {
			s.Reissue = w.rotations[before.Reissue]
		}
		turn, err := Steer(c, s)
		after := turn.Rollout
		switch {
		case err != nil && (after != nil || turn.Steer != nil):
			t.Fatalf("%q is refused, and changes %+v", body, turn)
		case after == nil:
			return
		case before != nil && after.ID == before.ID && after.Phase != before.Phase && !before.Phase.May(after.Phase):
			t.Fatalf("%q leads from %s to %s", body, before.Phase, after.Phase)
		}
		w.rollouts[c.Kind] = after
		for range 3 {
			w.step(c.Kind)
		}
	})
}
