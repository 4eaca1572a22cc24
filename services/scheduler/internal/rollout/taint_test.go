package rollout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// moment is a moment in a rotation from ca-1 to ca-2: a phase, and whether the
// issuer has a command of it that it has not carried out.
type moment struct {
	phase  fleet.RolloutPhase
	back   bool // it is on its way back since that phase
	moved  int  // moves of the issuer on the way back
	flight bool
}

func (m moment) String() string {
	text := string(m.phase)
	if m.back {
		text = fmt.Sprintf("back from %s after %d moves", m.phase, m.moved)
	}
	if m.flight {
		text += ", with a command on its way"
	}
	return text
}

func (m moment) reach(w *world) {
	w.t.Helper()
	const ca = fleet.RolloutCA
	w.must(event.RolloutCommand{Rollout: "r1", Kind: ca, Action: event.RolloutStart, Reason: fleet.RolloutAsked})
	w.run(ca, m.phase)
	if m.phase == fleet.RolloutReissued {
		w.now = w.now.Add(time.Minute)
		w.decide(ca) // the rotation of the clients begins
	}
	if m.back {
		w.must(event.RolloutCommand{Kind: ca, Action: event.RolloutBack})
		for before := len(w.moves); len(w.moves) < before+m.moved; {
			w.now = w.now.Add(time.Minute)
			w.decide(ca)
			w.obey()
		}
	}
	for m.flight && len(w.commands) == 0 {
		w.now = w.now.Add(time.Minute)
		if !w.decide(ca) {
			w.t.Fatal("no command is on its way")
		}
	}
}

func taintOf(ca string) event.RolloutCommand {
	return event.RolloutCommand{Rollout: "taint-" + ca, Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutTainted, CA: ca}
}

// finish goes on to the end, with an operator who does what the status says.
func (w *world) finish() (words int) {
	w.t.Helper()
	for range 100 {
		r := w.rollouts[fleet.RolloutCA]
		if r.Phase.Done() {
			return words
		}
		if r.AwaitsRetirement() && r.Phase == fleet.RolloutRetire {
			words++
			w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutRetireIt})
		}
		w.step(fleet.RolloutCA)
		signing := 0
		for _, ca := range w.authority.CAs {
			if ca.Phase == fleet.PhaseActive {
				signing++
			}
		}
		if signing != 1 {
			w.t.Fatalf("%d CAs sign: %+v", signing, w.authority.CAs)
		}
	}
	w.t.Fatalf("a dead end: %+v; refused %+v", w.rollouts[fleet.RolloutCA], w.authority.Refused)
	return 0
}

func (w *world) ended() string {
	r := w.rollouts[fleet.RolloutCA]
	all := []string{r.ID, string(r.Phase), string(r.Reason)}
	for _, ca := range w.authority.CAs {
		text := ca.ID + " " + string(ca.Phase)
		if !ca.TaintedAt.IsZero() {
			text += "!"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// In every moment of a rotation either CA may turn out to be compromised. It comes
// to its end by itself and by the operator's word, whatever was on its way to the
// issuer, and wherever the process dies.
func TestTaintInTheMiddle(t *testing.T) {
	const (
		prepare, trusted, activate, reissued, retire = fleet.RolloutPrepare, fleet.RolloutTrusted, fleet.RolloutActivate, fleet.RolloutReissued, fleet.RolloutRetire

		emergency = "r1, completed, taint, ca-1 retired!, ca-2 active"                          // it goes on, faster
		anew      = "taint-ca-2, completed, operator, ca-1 retired, ca-2 retired!, ca-3 active" // what never signed is withdrawn, and the next one goes by proof
		over      = "taint-ca-2, completed, taint, ca-1 retired, ca-2 retired!, ca-3 active"    // what signs is replaced without proof
		turned    = "taint-ca-1, completed, taint, ca-1 retired!, ca-2 retired, ca-3 active"    // there is no way back to it any more
		back      = "r1, rolledback, taint, ca-1 active, ca-2 retired!"                         // the way back goes on, faster
	)
	for _, tt := range []struct {
		at    moment
		ca    string
		want  string
		words int // of the operator
	}{
		{moment{phase: prepare}, "ca-1", emergency, 1},
		{moment{phase: prepare, flight: true}, "ca-1", emergency, 1},
		{moment{phase: trusted}, "ca-1", emergency, 1},
		{moment{phase: activate}, "ca-1", emergency, 1},
		{moment{phase: activate, flight: true}, "ca-1", emergency, 1},
		{moment{phase: reissued}, "ca-1", emergency, 1},
		{moment{phase: retire}, "ca-1", emergency, 1},
		{moment{phase: retire, flight: true}, "ca-1", emergency, 1},

		{moment{phase: trusted}, "ca-2", anew, 0},
		{moment{phase: activate}, "ca-2", anew, 0},
		{moment{phase: activate, flight: true}, "ca-2", over, 1},
		{moment{phase: reissued}, "ca-2", over, 1},
		{moment{phase: retire}, "ca-2", over, 1},
		{moment{phase: retire, flight: true}, "ca-2", over, 1},

		{moment{phase: trusted, back: true}, "ca-1", turned, 1},
		{moment{phase: trusted, back: true, flight: true}, "ca-1", turned, 1},
		{moment{phase: reissued, back: true}, "ca-1", turned, 1},
		{moment{phase: reissued, back: true, flight: true}, "ca-1", turned, 1},
		{moment{phase: reissued, back: true, moved: 1}, "ca-1", turned, 1},

		{moment{phase: trusted, back: true}, "ca-2", back, 0},
		{moment{phase: trusted, back: true, flight: true}, "ca-2", back, 0},
		{moment{phase: reissued, back: true}, "ca-2", back, 0},
		{moment{phase: reissued, back: true, flight: true}, "ca-2", back, 0},
		{moment{phase: reissued, back: true, moved: 1}, "ca-2", back, 0},
	} {
		t.Run(tt.ca+" in "+tt.at.String(), func(t *testing.T) {
			effects := 0
			for kill := 0; kill <= effects; kill++ {
				w := newWorld(t, "edge-01", "edge-02")
				tt.at.reach(w)
				before := w.effects
				if kill > 0 {
					w.kill = before + kill
				}
				w.now = w.now.Add(time.Minute)
				w.must(taintOf(tt.ca))
				said := w.now
				for range 2 { // told again, and asked for again
					known := w.rollouts[fleet.RolloutCA]
					again := taintOf(tt.ca)
					w.must(again)
					again.Rollout = "another"
					w.must(again)
					if w.rollouts[fleet.RolloutCA] != known {
						t.Fatalf("a repeat changes %+v to %+v", known, w.rollouts[fleet.RolloutCA])
					}
				}
				words := w.finish()
				if got := w.ended(); got != tt.want || words != tt.words {
					t.Fatalf("killed before effect %d: %s after %d words; want %s after %d", kill, got, words, tt.want, tt.words)
				}
				if kill == 0 {
					effects = w.effects - before
				}
				w.checkEnd(said)
			}
			if effects < 2 {
				t.Fatalf("%d effects", effects)
			}
		})
	}
}

func (w *world) checkEnd(said time.Time) {
	w.t.Helper()
	r := w.rollouts[fleet.RolloutCA]
	active := w.authority.ActiveCA().ID
	for name, doc := range w.records {
		for key, record := range doc.Clients {
			if g := record.Newest(); g.Certificate.Issuer != active {
				w.t.Errorf("%s/%s has a certificate of %s", name, key, g.Certificate.Issuer)
			}
		}
	}
	for _, rotation := range w.rotations {
		if !rotation.State.Done() {
			w.t.Errorf("rotation %+v goes on", rotation)
		}
	}
	if !r.TaintedAt.Equal(said) || r.Halted != "" || r.MissingCount > 0 {
		w.t.Errorf("ended as %+v", r)
	}
	ends := map[string]int{}
	for _, f := range w.facts {
		if f.Kind.Type() == event.AuthorityCompleted.Type() || f.Kind.Type() == event.AuthorityRolledBack.Type() {
			ends[f.Data.Rollout]++
		}
	}
	if ends["r1"] == 0 || ends[r.ID] == 0 {
		w.t.Errorf("ends that were told: %v", ends)
	}
}

// What runs in waves is replaced by what has none, and what is measured counts
// from the taint.
func TestTaintHastens(t *testing.T) {
	w := newWorld(t, "edge-01", "edge-02")
	moment{phase: fleet.RolloutReissued}.reach(w)
	first := w.rotations[w.rollouts[fleet.RolloutCA].Reissue]
	first.State, first.Halt = fleet.RotationHalted, &fleet.Halt{Number: 1, Reason: "1 of 2 clients failed"}
	w.decide(fleet.RolloutCA)
	w.now = w.now.Add(time.Hour)
	w.must(taintOf("ca-1"))
	if r := w.rollouts[fleet.RolloutCA]; r.Halted != "" || r.Reason != fleet.RolloutTainted || !r.LastReplacedAt.IsZero() {
		t.Fatalf("rollout %+v", r)
	}
	d := Decide(w.input(fleet.RolloutCA))
	if d.Reissue == nil || d.Reissue.Waves != nil || d.Reissue.Rotation.ID == first.ID || len(d.Steer) != 1 || d.Steer[0].Action != event.SteerCancel || d.Steer[0].Rotation != first.ID {
		t.Fatalf("reissue %+v, steer %+v", d.Reissue, d.Steer)
	}
	if d.Command == nil || d.Command.Data.Move != fleet.MoveTaint || d.Command.Data.ID != "ca-1" {
		t.Errorf("command %+v", d.Command)
	}
	if err := w.command(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutBack}); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("back to a compromised CA: %v", err)
	}
	r := w.run(fleet.RolloutCA, fleet.RolloutRetire)
	if took := r.LastReplacedAt.Sub(r.TaintedSince()); took <= 0 || took > 10*time.Minute {
		t.Errorf("replaced %s after the taint", took)
	}
}

// Nobody is waited for who has not proven that he trusts the next CA.
func TestTaintWaitsForNoProof(t *testing.T) {
	w := newWorld(t, "edge-01")
	moment{phase: fleet.RolloutTrusted}.reach(w)
	w.agents["edge-01"].Canary = nil
	w.decide(fleet.RolloutCA)
	if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutTrusted || r.MissingCount != 1 {
		t.Fatalf("it does not wait: %+v", r)
	}
	w.must(taintOf("ca-1"))
	w.decide(fleet.RolloutCA)
	if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutActivate {
		t.Errorf("rollout %+v", r)
	}
}

// What was measured before the taint does not count.
func TestTaintMeasuresAnew(t *testing.T) {
	w := newWorld(t, "edge-01")
	moment{phase: fleet.RolloutRetire}.reach(w)
	w.now = w.now.Add(time.Hour)
	w.must(taintOf("ca-1"))
	w.step(fleet.RolloutCA)
	if r := w.rollouts[fleet.RolloutCA]; r.LastReplacedAt.Before(r.TaintedAt) || !r.AwaitsRetirement() {
		t.Errorf("rollout %+v", r)
	}
}

// On the way back the CA that is left is marked before its last client has left it.
func TestTaintOnTheWayBackIsMarkedAtOnce(t *testing.T) {
	w := newWorld(t, "edge-01")
	moment{phase: fleet.RolloutReissued}.reach(w)
	w.rotate() // to ca-2
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutBack})
	w.decide(fleet.RolloutCA)
	w.obey()
	w.must(taintOf("ca-2"))
	if c := Decide(w.input(fleet.RolloutCA)).Command; c == nil || c.Data.Move != fleet.MoveTaint || c.Data.ID != "ca-2" {
		t.Errorf("command %+v", c)
	}
}

// A rotation that takes over ends what the one before has in waves, and says by
// itself what it replaces.
func TestTakingOver(t *testing.T) {
	w := newWorld(t, "edge-01")
	moment{phase: fleet.RolloutReissued}.reach(w)
	first := w.rollouts[fleet.RolloutCA].Reissue
	w.must(taintOf("ca-2"))
	for range 20 {
		if w.rollouts[fleet.RolloutCA].Phase == fleet.RolloutReissued {
			break
		}
		w.decide(fleet.RolloutCA)
		w.obey()
	}
	if d := Decide(w.input(fleet.RolloutCA)); len(d.Steer) != 1 || d.Steer[0].Rotation != first || d.Steer[0].Action != event.SteerCancel || d.Reissue == nil || d.Reissue.Waves != nil {
		t.Errorf("steer %+v, reissue %+v", d.Steer, d.Reissue)
	}
	w = newWorld(t, "edge-01")
	moment{phase: fleet.RolloutActivate, flight: true}.reach(w)
	w.must(taintOf("ca-2"))
	if r := w.rollouts[fleet.RolloutCA]; r.From != "ca-1" || r.Reason != fleet.RolloutAsked {
		t.Fatalf("rollout %+v", r)
	}
	w.obey() // ca-2 signs after all
	if r := Decide(w.input(fleet.RolloutCA)).Rollout; r == nil || r.From != "ca-2" || r.Reason != fleet.RolloutTainted || r.Phase != fleet.RolloutPrepare {
		t.Errorf("rollout %+v", r)
	}
}

// Where the old CA has expired on the way back to it, the new one is replaced like
// any that signs.
func TestTaintWhereNothingIsLeftToGoBackTo(t *testing.T) {
	w := newWorld(t, "edge-01")
	moment{phase: fleet.RolloutReissued, back: true}.reach(w)
	w.authority.CAs[0].Phase = fleet.PhaseRetired
	w.must(taintOf("ca-2"))
	w.finish()
	if got := w.ended(); got != "taint-ca-2, completed, taint, ca-1 retired, ca-2 retired!, ca-3 active" {
		t.Error(got)
	}
}

// One after the other both CAs of a rotation turn out to be compromised.
func TestBothAreTainted(t *testing.T) {
	for _, phase := range []fleet.RolloutPhase{fleet.RolloutTrusted, fleet.RolloutActivate, fleet.RolloutReissued, fleet.RolloutRetire} {
		for _, order := range [][]string{{"ca-1", "ca-2"}, {"ca-2", "ca-1"}} {
			t.Run(fmt.Sprint(phase, order), func(t *testing.T) {
				w := newWorld(t, "edge-01", "edge-02")
				moment{phase: phase}.reach(w)
				w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutExclude, Cluster: "edge-02", Why: "at sea"})
				var said []time.Time
				for _, ca := range order {
					w.now = w.now.Add(time.Minute)
					w.must(taintOf(ca))
					said = append(said, w.now)
				}
				w.finish()
				if got := w.ended(); got != "taint-ca-2, completed, taint, ca-1 retired!, ca-2 retired!, ca-3 active" {
					t.Error(got)
				}
				r := w.rollouts[fleet.RolloutCA]
				since := said[1] // what never signed makes no emergency, and what takes over begins anew
				if order[0] == "ca-2" && !phase.May(fleet.RolloutActivate) && phase != fleet.RolloutActivate {
					since = said[0] // both go with the emergency that has begun
				}
				if !r.TaintedAt.Equal(since) {
					t.Errorf("counts from %s, want %s", r.TaintedAt, since)
				}
				if _, excluded := r.Excluded["edge-02"]; !excluded || r.Replaces != "r1" || !slices.Equal(r.Compromised, order) {
					t.Errorf("rollout %+v", r)
				}
			})
		}
	}
}

// The import of a CA that is compromised is taken back: the next one comes from the
// operator's offline root. One that is refused is not waited for when the old one is
// compromised.
func TestTaintOfAnImport(t *testing.T) {
	imported := event.RolloutCommand{
		Rollout: "r1", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutImported, Certificate: []byte("c"), Anchor: []byte("a"),
	}
	w := newWorld(t, "edge-01")
	w.must(imported)
	w.run(fleet.RolloutCA, fleet.RolloutTrusted)
	w.must(taintOf("ca-2"))
	if r := w.rollouts[fleet.RolloutCA]; r.BackFrom != fleet.RolloutTrusted || r.TaintedAt.IsZero() {
		t.Errorf("rollout %+v", r)
	}
	w.finish()
	if got := w.ended(); got != "r1, rolledback, import, ca-1 active, ca-2 retired!" {
		t.Error(got)
	}
	w = newWorld(t, "edge-01")
	w.must(imported)
	w.must(taintOf("ca-1"))
	if r := w.rollouts[fleet.RolloutCA]; r.Certificate != nil || r.Anchor != nil {
		t.Errorf("rollout %+v", r)
	}
	w.finish()
	if got := w.ended(); got != "r1, completed, taint, ca-1 retired!, ca-2 active" {
		t.Error(got)
	}
}

// What a taint meets that has no effect, or cannot have any.
func TestTaintIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		at   fleet.RolloutPhase
		c    event.RolloutCommand
		kind error
	}{
		"nobody says which": {fleet.RolloutTrusted, taintOf(""), fleet.ErrConflict},
		"unknown":           {fleet.RolloutTrusted, taintOf("ca-9"), fleet.ErrNotFound},
		"retired":           {fleet.RolloutCompleted, taintOf("ca-1"), fleet.ErrConflict},
		"unknown, at rest":  {fleet.RolloutCompleted, taintOf("ca-9"), fleet.ErrNotFound},
		"of another reason": {fleet.RolloutCompleted, event.RolloutCommand{Rollout: "r2", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutAsked, CA: "ca-2"}, fleet.ErrInvalid},
	} {
		w := at(t, fleet.RolloutCA, fleet.RolloutAsked, tt.at)
		before := w.rollouts[fleet.RolloutCA]
		if err := w.command(tt.c); !errors.Is(err, tt.kind) || w.rollouts[fleet.RolloutCA] != before {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A command from before the last rotation still counts: the CA is compromised.
	w := at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutRolledBack)
	w.now = w.now.Add(-fleet.Day)
	w.must(taintOf("ca-1"))
	if r := w.rollouts[fleet.RolloutCA]; r.ID != "taint-ca-1" || !r.Tainted("ca-1") {
		t.Errorf("rollout %+v", r)
	}
}
