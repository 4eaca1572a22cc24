package rollout

import (
	"errors"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// at returns a world with a rollout in a phase.
func at(t *testing.T, kind fleet.RolloutKind, reason fleet.RolloutReason, phase fleet.RolloutPhase) *world {
	t.Helper()
	w := newWorld(t, "edge-01")
	w.must(event.RolloutCommand{Rollout: "r1", Kind: kind, Action: event.RolloutStart, Reason: reason})
	switch phase {
	case fleet.RolloutRollback, fleet.RolloutRolledBack:
		w.run(kind, fleet.RolloutTrusted)
		w.must(event.RolloutCommand{Kind: kind, Action: event.RolloutBack})
	case fleet.RolloutCompleted:
		if reason == fleet.RolloutTainted {
			w.run(kind, fleet.RolloutRetire)
			w.must(event.RolloutCommand{Kind: kind, Action: event.RolloutRetireIt})
		}
	case fleet.RolloutPrepare, fleet.RolloutTrusted, fleet.RolloutActivate, fleet.RolloutReissued, fleet.RolloutRetire:
	}
	w.run(kind, phase)
	return w
}

// Every phase meets every command: ok changes the rollout, same is a repeat, and
// no is refused.
func TestEveryCommandInEveryPhase(t *testing.T) {
	phases := []fleet.RolloutPhase{
		fleet.RolloutPrepare, fleet.RolloutTrusted, fleet.RolloutActivate, fleet.RolloutReissued, fleet.RolloutRetire, fleet.RolloutCompleted,
		fleet.RolloutRollback, fleet.RolloutRolledBack,
	}
	for name, test := range map[string]struct {
		kind    fleet.RolloutKind
		reason  fleet.RolloutReason
		command event.RolloutCommand
		want    map[fleet.RolloutPhase]string
	}{
		"start": {fleet.RolloutCA, fleet.RolloutAsked, event.RolloutCommand{Rollout: "r2", Action: event.RolloutStart, Reason: fleet.RolloutAsked}, map[fleet.RolloutPhase]string{
			"prepare": "no", "trusted": "no", "activate": "no", "reissued": "no", "retire": "no", "completed": "ok", "rollback": "no", "rolledback": "ok",
		}},
		"start again": {fleet.RolloutCA, fleet.RolloutAsked, event.RolloutCommand{Rollout: "r1", Action: event.RolloutStart, Reason: fleet.RolloutAsked}, map[fleet.RolloutPhase]string{
			"prepare": "same", "trusted": "same", "activate": "same", "reissued": "same", "retire": "same", "completed": "same", "rollback": "same", "rolledback": "same",
		}},
		"rollback": {fleet.RolloutCA, fleet.RolloutAsked, event.RolloutCommand{Action: event.RolloutBack}, map[fleet.RolloutPhase]string{
			"prepare": "ok", "trusted": "ok", "activate": "ok", "reissued": "ok", "retire": "no", "completed": "no", "rollback": "same", "rolledback": "same",
		}},
		"rollback of a taint": {fleet.RolloutCA, fleet.RolloutTainted, event.RolloutCommand{Action: event.RolloutBack}, map[fleet.RolloutPhase]string{
			"prepare": "no", "activate": "no", "reissued": "no", "retire": "no", "completed": "no",
		}},
		"rollback of a token key": {fleet.RolloutToken, fleet.RolloutAsked, event.RolloutCommand{Action: event.RolloutBack}, map[fleet.RolloutPhase]string{
			"prepare": "ok", "trusted": "ok", "activate": "ok", "completed": "no", "rollback": "same", "rolledback": "same",
		}},
		"exclude": {fleet.RolloutCA, fleet.RolloutAsked, event.RolloutCommand{Action: event.RolloutExclude, Cluster: "edge-01", Why: "w"}, map[fleet.RolloutPhase]string{
			"prepare": "ok", "trusted": "ok", "activate": "ok", "reissued": "ok", "retire": "ok", "completed": "no", "rollback": "ok", "rolledback": "no",
		}},
		"exclude a stranger": {fleet.RolloutCA, fleet.RolloutAsked, event.RolloutCommand{Action: event.RolloutExclude, Cluster: "edge-09", Why: "w"}, map[fleet.RolloutPhase]string{
			"prepare": "no", "trusted": "no", "reissued": "no",
		}},
		"exclude of a token key": {fleet.RolloutToken, fleet.RolloutAsked, event.RolloutCommand{Action: event.RolloutExclude, Cluster: "edge-01", Why: "w"}, map[fleet.RolloutPhase]string{
			"prepare": "no", "trusted": "no",
		}},
		"include nobody": {fleet.RolloutCA, fleet.RolloutAsked, event.RolloutCommand{Action: event.RolloutInclude, Cluster: "edge-01"}, map[fleet.RolloutPhase]string{
			"prepare": "same", "trusted": "same", "reissued": "same", "completed": "no",
		}},
		"resume": {fleet.RolloutCA, fleet.RolloutAsked, event.RolloutCommand{Action: event.RolloutResume}, map[fleet.RolloutPhase]string{
			"prepare": "no", "trusted": "no", "activate": "no", "reissued": "no", "retire": "no", "completed": "no", "rollback": "no", "rolledback": "no",
		}},
		"retire": {fleet.RolloutCA, fleet.RolloutAsked, event.RolloutCommand{Action: event.RolloutRetireIt}, map[fleet.RolloutPhase]string{
			"prepare": "no", "trusted": "no", "activate": "no", "reissued": "no", "retire": "no", "completed": "no", "rollback": "no", "rolledback": "no",
		}},
		"retire of a taint": {fleet.RolloutCA, fleet.RolloutTainted, event.RolloutCommand{Action: event.RolloutRetireIt}, map[fleet.RolloutPhase]string{
			"prepare": "no", "activate": "no", "reissued": "no", "retire": "ok", "completed": "same",
		}},
		"of another rollout": {fleet.RolloutCA, fleet.RolloutAsked, event.RolloutCommand{Rollout: "r9", Action: event.RolloutBack}, map[fleet.RolloutPhase]string{
			"trusted": "no", "completed": "no",
		}},
	} {
		for _, phase := range phases {
			want, ok := test.want[phase]
			if !ok {
				continue
			}
			t.Run(name+" in "+string(phase), func(t *testing.T) {
				w := at(t, test.kind, test.reason, phase)
				before := w.rollouts[test.kind]
				c := test.command
				c.Kind = test.kind
				err := w.command(c)
				changed := w.rollouts[test.kind] != before
				switch {
				case want == "ok" && (err != nil || !changed),
					want == "same" && (err != nil || changed),
					want == "no" && (err == nil || changed || errors.Is(err, fleet.ErrInvalid)):
					t.Errorf("want %s: changed %v, %v", want, changed, err)
				}
				if want == "ok" && c.Action != event.RolloutStart { // twice is once
					before := w.rollouts[test.kind]
					if err := w.command(c); err != nil || w.rollouts[test.kind] != before {
						t.Errorf("a repeat: %v", err)
					}
				}
			})
		}
	}
}

func TestCommandsThatCanNeverMakeSense(t *testing.T) {
	for name, c := range map[string]event.RolloutCommand{
		"kind":           {Rollout: "r1", Kind: "crl", Action: event.RolloutStart, Reason: fleet.RolloutAsked},
		"no id":          {Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutAsked},
		"reason":         {Rollout: "r2", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutScheduled},
		"taint of a key": {Rollout: "r2", Kind: fleet.RolloutToken, Action: event.RolloutStart, Reason: fleet.RolloutTainted},
		"empty import":   {Rollout: "r2", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutImported},
		"half an import": {Rollout: "r2", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutImported, Anchor: []byte("a")},
		"no import":      {Rollout: "r2", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutAsked, Certificate: []byte("a")},
		"parallel":       {Rollout: "r2", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutAsked, MaxParallel: -1},
		"action":         {Rollout: "r1", Kind: fleet.RolloutCA, Action: "jump"},
	} {
		w := at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutCompleted)
		before := w.rollouts[fleet.RolloutCA]
		s := Stand{Rollout: before, Authority: w.authority, Now: w.now}
		if turn, err := Steer(c, s); !errors.Is(err, fleet.ErrInvalid) || turn.Rollout != nil {
			t.Errorf("%s: %+v, %v", name, turn, err)
		}
	}
}

// A command that is told again after its rollout, and the next one, have ended
// begins nothing.
func TestAnOldStartBeginsNothing(t *testing.T) {
	w := at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutPrepare)
	old := event.RolloutCommand{Rollout: "r1", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutAsked, At: w.now}
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutBack}) // before anything was made
	w.run(fleet.RolloutCA, fleet.RolloutRolledBack)
	w.now = w.now.Add(time.Hour)
	w.must(event.RolloutCommand{Rollout: "r2", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutAsked})
	w.run(fleet.RolloutCA, fleet.RolloutCompleted)
	if turn, err := Steer(old, Stand{Rollout: w.rollouts[fleet.RolloutCA], Authority: w.authority, Now: w.now}); !errors.Is(err, fleet.ErrConflict) || turn.Rollout != nil {
		t.Errorf("begun again: %+v, %v", turn.Rollout, err)
	}
}

// Halts of the rotation of the clients are shown, and resume goes on.
func TestHaltAndResume(t *testing.T) {
	w := at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutReissued)
	w.decide(fleet.RolloutCA)
	rotation := w.rotations[w.rollouts[fleet.RolloutCA].Reissue]
	rotation.State, rotation.Halt = fleet.RotationHalted, &fleet.Halt{Number: 1, Reason: "1 of 2 clients failed"}
	w.decide(fleet.RolloutCA)
	if r := w.rollouts[fleet.RolloutCA]; r.Halted != "1 of 2 clients failed" {
		t.Fatalf("rollout %+v", r)
	}
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutResume})
	if rotation.State != fleet.RotationRunning {
		t.Fatal("not resumed")
	}
	rotation.State, rotation.EndedAt = fleet.RotationFailed, w.now // it ends with clients left
	w.now = w.now.Add(48 * time.Hour)
	w.decide(fleet.RolloutCA)
	r := w.rollouts[fleet.RolloutCA]
	if want := "the rotation of the clients has ended, it is failed, and 2 clients still use the CA that is to go"; r.Halted != want || r.Attempt != 0 {
		t.Fatalf("rollout %+v", r)
	}
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutResume})
	w.decide(fleet.RolloutCA)
	if next := w.rollouts[fleet.RolloutCA]; next.Attempt != 1 || next.Halted != "" || next.Reissue == rotation.ID || w.rotations[next.Reissue] == nil {
		t.Fatalf("rollout %+v", next)
	}
	w.run(fleet.RolloutCA, fleet.RolloutCompleted)
}

func TestRefusalOfTheIssuerIsShown(t *testing.T) {
	w := at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutPrepare)
	w.authority.CAs = append(w.authority.CAs, w.ca(7, fleet.PhaseIncoming, "")) // of a succession
	w.decide(fleet.RolloutCA)
	w.obey()
	w.decide(fleet.RolloutCA)
	if r := w.rollouts[fleet.RolloutCA]; r.Halted != "the issuer refuses: there is one that comes" {
		t.Errorf("rollout %+v", r)
	}
	w.authority.CAs = w.authority.CAs[:1]
	w.run(fleet.RolloutCA, fleet.RolloutCompleted)
}

// What the issuer has made after a rollout was taken back is taken back too.
func TestALateGenerationIsWithdrawn(t *testing.T) {
	for _, next := range []bool{false, true} {
		w := at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutPrepare)
		w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutBack})
		w.run(fleet.RolloutCA, fleet.RolloutRolledBack)
		w.authority.CAs = append(w.authority.CAs, w.ca(2, fleet.PhaseIncoming, "r1"))
		if next {
			w.must(event.RolloutCommand{Rollout: "r2", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutAsked})
			w.run(fleet.RolloutCA, fleet.RolloutCompleted)
		}
		w.step(fleet.RolloutCA)
		if ca := w.authority.FindCA("ca-2"); ca.Phase != fleet.PhaseRetired {
			t.Errorf("CA %+v", ca)
		}
	}
}

// The last resort of the issuer overtakes a rollout whose CA has expired, in either
// direction; what is stored catches up.
func TestTheLastResortOvertakes(t *testing.T) {
	w := at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutTrusted)
	w.agents["edge-01"].Canary = nil
	w.authority.CAs[0].Phase, w.authority.CAs[1].Phase = fleet.PhaseRetired, fleet.PhaseActive
	for range 5 {
		w.decide(fleet.RolloutCA)
	}
	if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutCompleted || len(w.commands) > 0 {
		t.Errorf("rollout %+v, commands %+v", r, w.commands)
	}
	w = at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutReissued)
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutBack})
	w.authority.CAs[0].Phase = fleet.PhaseRetired
	w.decide(fleet.RolloutCA)
	if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutCompleted || r.BackFrom != fleet.RolloutReissued {
		t.Errorf("rollout %+v", r)
	}
}

// A restore from a backup brings a time before the new CA.
func TestARestoreBringsATimeBefore(t *testing.T) {
	for _, phase := range []fleet.RolloutPhase{fleet.RolloutTrusted, fleet.RolloutActivate, fleet.RolloutReissued, fleet.RolloutRetire} {
		w := at(t, fleet.RolloutCA, fleet.RolloutAsked, phase)
		w.authority.CAs = w.authority.CAs[:1]
		w.authority.CAs[0].Phase = fleet.PhaseActive
		w.run(fleet.RolloutCA, fleet.RolloutRolledBack)
	}
	w := at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutReissued)
	w.authority.CAs[0].Phase, w.authority.CAs[1].Phase = fleet.PhaseActive, fleet.PhaseIncoming
	w.run(fleet.RolloutCA, fleet.RolloutCompleted)
}

// After a compromise all clusters begin at once; else in waves, canary first.
func TestWavesOfTheReissue(t *testing.T) {
	w := newWorld(t, "edge-01", "edge-02")
	w.must(event.RolloutCommand{
		Rollout: "r1", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutAsked, Canary: "edge-02", MaxParallel: 7,
	})
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutExclude, Cluster: "edge-01", Why: "w"})
	w.run(fleet.RolloutCA, fleet.RolloutReissued)
	d := Decide(w.input(fleet.RolloutCA)).Reissue
	if d == nil || d.Waves == nil || *d.Waves != (fleet.WaveOptions{Canary: "edge-02", MaxParallel: 7}) || !d.Rotation.Excluded("edge-01") ||
		d.Rotation.Reason != fleet.ReasonAuthority || !d.Rotation.Force || d.Rotation.ID != event.ID("reissue", "r1") || len(d.Rotation.Clusters) != 2 {
		t.Errorf("reissue %+v", d)
	}
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutInclude, Cluster: "edge-01"})
	w.now = w.now.Add(time.Minute)
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutInclude, Cluster: "edge-01"})
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutExclude, Cluster: "edge-02", Why: "w"})
	if d := Decide(w.input(fleet.RolloutCA)).Reissue; d.Waves.Canary != "" || d.Rotation.Excluded("edge-01") {
		t.Errorf("reissue %+v", d)
	}
	w = at(t, fleet.RolloutCA, fleet.RolloutTainted, fleet.RolloutReissued)
	if d := Decide(w.input(fleet.RolloutCA)).Reissue; d == nil || d.Waves != nil {
		t.Errorf("after a compromise %+v", d)
	}
}

// A cluster that is excluded later is left out of the rotation that runs, and an
// inclusion reaches it.
func TestExclusionReachesTheRotation(t *testing.T) {
	w := at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutReissued)
	w.decide(fleet.RolloutCA)
	rotation := w.rotations[w.rollouts[fleet.RolloutCA].Reissue]
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutExclude, Cluster: "edge-01", Why: "at sea"})
	in := w.input(fleet.RolloutCA)
	if d := Decide(in); len(d.Steer) != 1 || d.Steer[0].Action != event.SteerExclude || d.Steer[0].Cluster != "edge-01" || d.Steer[0].Reason != "at sea" {
		t.Fatalf("steers %+v", d.Steer)
	}
	rotation.Exclusions = map[string]fleet.Exclusion{"edge-01": {At: w.now}}
	w.now = w.now.Add(time.Minute)
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutInclude, Cluster: "edge-01"})
	if rotation.Excluded("edge-01") || len(w.rollouts[fleet.RolloutCA].Excluded) != 0 {
		t.Errorf("rotation %+v", rotation)
	}
	// Killed between the two: the rotation knows, the rollout does not yet.
	rotation.Inclusions = map[string]fleet.Exclusion{"edge-01": {At: w.now}}
	in.Reissue = rotation
	if d := Decide(in); len(d.Steer) > 0 {
		t.Errorf("left out again: %+v", d.Steer)
	}
}

// A rotation of the clients that nobody waits for any more ends: the rest of it are
// clients without a valid certificate, whose agents are silent.
func TestRotationOfTheClientsEndsWithTheRollout(t *testing.T) {
	w := at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutReissued)
	w.decide(fleet.RolloutCA)
	rotation := w.rotations[w.rollouts[fleet.RolloutCA].Reissue]
	w.issue("edge-01")
	for range 5 {
		w.decide(fleet.RolloutCA)
		w.obey()
		w.now = w.now.Add(time.Minute)
	}
	if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutCompleted || rotation.Cancel == nil {
		t.Errorf("rollout %+v, rotation %+v", r, rotation)
	}
	w = at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutReissued)
	w.decide(fleet.RolloutCA)
	rotation = w.rotations[w.rollouts[fleet.RolloutCA].Reissue]
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutBack})
	w.decide(fleet.RolloutCA)
	if rotation.Cancel == nil || len(w.commands) != 1 || w.commands[0].Move != fleet.MoveRestore || w.commands[0].ID != "ca-1" {
		t.Errorf("on the way back: rotation %+v, commands %+v", rotation, w.commands)
	}
}
