package rollout

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// course is a rollout from its beginning to its end.
type course struct {
	kind   fleet.RolloutKind
	drive  func(w *world)
	end    fleet.RolloutPhase
	active string   // what signs in the end
	phases []string // what is kept of all others
	moves  []fleet.Move
}

func courses() map[string]course {
	ca, token := fleet.RolloutCA, fleet.RolloutToken
	begin := func(w *world, kind fleet.RolloutKind, reason fleet.RolloutReason) {
		w.must(event.RolloutCommand{Rollout: "r1", Kind: kind, Action: event.RolloutStart, Reason: reason})
	}
	all := map[string]course{
		"forward": {ca, func(w *world) {
			begin(w, ca, fleet.RolloutAsked)
			w.run(ca, fleet.RolloutCompleted)
		}, fleet.RolloutCompleted, "ca-2", []string{"ca-1 retired", "ca-2 active"}, []fleet.Move{"prepare", "activate", "retire"}},
		"schedule": {ca, func(w *world) {
			w.now = start0.Add(200 * fleet.Day)
			for name := range w.records {
				w.issue(name)
			}
			w.run(ca, fleet.RolloutCompleted)
		}, fleet.RolloutCompleted, "ca-2", []string{"ca-1 retired", "ca-2 active"}, []fleet.Move{"prepare", "activate", "retire"}},
		"taint": {ca, func(w *world) {
			begin(w, ca, fleet.RolloutTainted)
			w.run(ca, fleet.RolloutRetire)
			w.must(event.RolloutCommand{Kind: ca, Action: event.RolloutRetireIt})
			w.run(ca, fleet.RolloutCompleted)
		}, fleet.RolloutCompleted, "ca-2", []string{"ca-1 retired", "ca-2 active"}, []fleet.Move{"prepare", "activate", "retire"}},
		"exclude": {ca, func(w *world) {
			begin(w, ca, fleet.RolloutAsked)
			w.must(event.RolloutCommand{Kind: ca, Action: event.RolloutExclude, Cluster: "edge-02", Why: "it is at sea"})
			w.run(ca, fleet.RolloutCompleted)
		}, fleet.RolloutCompleted, "ca-2", []string{"ca-1 retired", "ca-2 active"}, []fleet.Move{"prepare", "activate", "retire"}},
		"token": {token, func(w *world) {
			begin(w, token, fleet.RolloutAsked)
			w.run(token, fleet.RolloutCompleted)
		}, fleet.RolloutCompleted, "key-2", []string{"key-1 outgoing", "key-2 active"}, []fleet.Move{"prepare", "activate"}},
	}
	backs := map[fleet.RolloutPhase][]fleet.Move{
		fleet.RolloutPrepare:  {},
		fleet.RolloutTrusted:  {"prepare", "withdraw"},
		fleet.RolloutActivate: {"prepare", "withdraw"},
		fleet.RolloutReissued: {"prepare", "activate", "restore", "retire"},
	}
	for phase, moves := range backs {
		kept := []string{"ca-1 active", "ca-2 retired"}
		if len(moves) == 0 {
			kept = kept[:1]
		}
		all["back from "+string(phase)] = course{ca, func(w *world) {
			begin(w, ca, fleet.RolloutAsked)
			w.run(ca, phase)
			w.must(event.RolloutCommand{Kind: ca, Action: event.RolloutBack})
			w.run(ca, fleet.RolloutRolledBack)
		}, fleet.RolloutRolledBack, "ca-1", kept, moves}
	}
	for phase, moves := range map[fleet.RolloutPhase][]fleet.Move{
		fleet.RolloutTrusted: {"prepare", "withdraw"}, fleet.RolloutActivate: {"prepare", "withdraw"},
	} {
		all["token back from "+string(phase)] = course{token, func(w *world) {
			begin(w, token, fleet.RolloutAsked)
			w.run(token, phase)
			w.must(event.RolloutCommand{Kind: token, Action: event.RolloutBack})
			w.run(token, fleet.RolloutRolledBack)
		}, fleet.RolloutRolledBack, "key-1", []string{"key-1 active", "key-2 retired"}, moves}
	}
	return all
}

func (c course) world(t *testing.T, kill int) *world {
	w := newWorld(t, "edge-01", "edge-02", "edge-03")
	w.kill = kill
	return w
}

// check compares the end with what it shall be, whatever happened on the way.
func (c course) check(w *world) {
	w.t.Helper()
	r := w.rollouts[c.kind]
	var kept []string
	for _, g := range (&evaluation{Input: Input{Kind: c.kind, Authority: w.authority}}).generations() {
		kept = append(kept, g.id+" "+string(g.phase))
	}
	if r.Phase != c.end || !slices.Equal(kept, c.phases) || !slices.Equal(w.moves, c.moves) || r.EndedAt.IsZero() || r.Halted != "" {
		w.t.Errorf("ended %+v with %v after %v", r, kept, w.moves)
	}
	for name, doc := range w.records {
		for key, record := range doc.Clients {
			_, excluded := r.Excluded[name]
			if g := record.Newest(); c.kind == fleet.RolloutCA && !excluded && g.Certificate.Issuer != c.active {
				w.t.Errorf("%s/%s has a certificate of %s", name, key, g.Certificate.Issuer)
			}
		}
	}
	for _, rotation := range w.rotations {
		if !rotation.State.Done() {
			w.t.Errorf("rotation %+v goes on", rotation)
		}
	}
	told := map[string]bool{}
	for _, f := range w.facts {
		told[f.Kind.Type()] = true
	}
	last := event.AuthorityCompleted.Type()
	if c.end == fleet.RolloutRolledBack {
		last = event.AuthorityRolledBack.Type()
	}
	if !told[last] {
		w.t.Errorf("%s was not told", last)
	}
}

// Killed before any one effect, the rollout comes to the same end from what is
// stored.
func TestKilledBeforeEveryEffect(t *testing.T) {
	for name, c := range courses() {
		t.Run(name, func(t *testing.T) {
			w := c.world(t, 0)
			c.drive(w)
			c.check(w)
			if w.effects < 4 && name != "back from prepare" {
				t.Fatalf("%d effects", w.effects)
			}
			for kill := 1; kill <= w.effects; kill++ {
				t.Run(fmt.Sprintf("effect %d", kill), func(t *testing.T) {
					again := c.world(t, kill)
					c.drive(again)
					c.check(again)
				})
			}
		})
	}
}

// The phases of a rollout follow on each other as its table says, and each is told
// with its moment.
func TestStepsAreKept(t *testing.T) {
	for name, c := range courses() {
		w := c.world(t, 0)
		c.drive(w)
		r := w.rollouts[c.kind]
		for i, s := range r.Steps {
			if i > 0 && (!r.Steps[i-1].Phase.May(s.Phase) || s.At.Before(r.Steps[i-1].At)) {
				t.Errorf("%s: steps %+v", name, r.Steps)
			}
		}
		if back := strings.Contains(name, "back"); back != (r.BackFrom != "") {
			t.Errorf("%s: back from %q", name, r.BackFrom)
		}
	}
}
