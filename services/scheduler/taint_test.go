package scheduler_test

import (
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func taintOf(ca string) event.RolloutCommand {
	return event.RolloutCommand{Rollout: "taint-" + ca, Action: event.RolloutStart, Reason: fleet.RolloutTainted, CA: ca}
}

// The CA that a rotation replaces is stolen while the rotation waits for an agent
// that is off: it waits for nobody any more, also if the leader changes.
func TestTheOldCAIsStolenInTheMiddle(t *testing.T) {
	t.Parallel()
	names := edges(3)
	a := ruled(t, clock.Real(), 10*fleet.Day, names...)
	r := a.schedule(scheduler.Config{LeaseTTL: time.Second})
	a.expectIssuer("ca-1", names...)
	a.still("edge-03")
	a.begin(fleet.RolloutCA, fleet.RolloutAsked)
	a.expectRollout(fleet.RolloutCA, func(r *fleet.Rollout) bool { return r.Phase == fleet.RolloutTrusted && r.MissingCount == 1 })
	r.stop()
	a.step.Store(fleet.StepIssued) // nothing is proven for now
	a.advance(taintOf("ca-1"))
	a.schedule(scheduler.Config{LeaseTTL: time.Second})
	a.advance(taintOf("ca-1")) // it is said again
	a.proven(2, names...)
	got := a.expectPhase(fleet.RolloutCA, fleet.RolloutRetire)
	a.expectIssuer("ca-2", names...)
	a.expectPhases("ca-1 outgoing", "ca-2 active")
	if rotation := a.expectRotation(got.Reissue); got.ID != "r1" || rotation.Waves != nil || got.LastReplacedAt.Before(got.TaintedAt) || !a.document().CAs[1].TaintedAt.IsZero() || a.document().CAs[0].TaintedAt.IsZero() {
		t.Errorf("rollout %+v, rotation %+v, CAs %+v", got, rotation, a.document().CAs)
	}
	a.advance(event.RolloutCommand{Rollout: "r1", Action: event.RolloutBack}) // there is no way back
	a.advance(event.RolloutCommand{Rollout: "r1", Action: event.RolloutRetireIt})
	a.expectPhase(fleet.RolloutCA, fleet.RolloutCompleted)
	a.expectPhases("ca-1 retired", "ca-2 active")
}

// The CA that signs by now is stolen while the canary of the reissue is on its way:
// another rotation takes over, and both CAs go with it.
func TestTheNewCAIsStolenInTheMiddle(t *testing.T) {
	t.Parallel()
	names := edges(3)
	a := ruled(t, clock.Real(), 10*fleet.Day, names...)
	a.schedule(scheduler.Config{})
	a.expectIssuer("ca-1", names...)
	a.step.Store(fleet.StepIssued) // nothing is proven for now
	a.begin(fleet.RolloutCA, fleet.RolloutAsked)
	forward := a.expectRollout(fleet.RolloutCA, func(r *fleet.Rollout) bool {
		return r.Phase == fleet.RolloutReissued && r.Reissue != "" && r.MissingCount == 6
	})
	waves, err := a.rotations.Get(t.Context(), forward.Reissue)
	if err != nil {
		t.Fatal(err)
	}
	canary := waves.Value.Clusters[0]
	a.expectGeneration(canary, 2)
	a.advance(taintOf("ca-2"))
	a.expectRollout(fleet.RolloutCA, func(r *fleet.Rollout) bool {
		return r.Phase == fleet.RolloutReissued && r.Reissue != forward.Reissue && r.MissingCount >= 6
	})
	for _, name := range names {
		a.expectGeneration(name, map[bool]int{true: 3, false: 2}[name == canary])
	}
	a.step.Store(fleet.StepProven)
	for _, name := range names {
		a.reach(name, fleet.StepProven)
	}
	got := a.expectPhase(fleet.RolloutCA, fleet.RolloutRetire)
	a.expectIssuer("ca-3", names...)
	a.expectPhases("ca-1 outgoing", "ca-2 outgoing", "ca-3 active")
	if got.ID != "taint-ca-2" || got.Replaces != "r1" || got.From != "ca-2" || got.Reissue == forward.Reissue {
		t.Errorf("rollout %+v", got)
	}
	if rotation := a.expectRotation(forward.Reissue); rotation.State != fleet.RotationCancelled {
		t.Errorf("what went in waves: %+v", rotation)
	}
	a.advance(event.RolloutCommand{Rollout: "taint-ca-2", Action: event.RolloutRetireIt})
	a.expectPhase(fleet.RolloutCA, fleet.RolloutCompleted)
	a.expectPhases("ca-1 retired", "ca-2 retired", "ca-3 active")
	ended := bustest.Expect(t, a.Server, event.AuthorityRolledBack, nil)
	if ended.Rollout != "r1" || ended.ReplacedBy != "taint-ca-2" {
		t.Errorf("told of the first: %+v", ended)
	}
}

// A cluster whose document cannot be read holds up no emergency.
func TestATaintAndADocumentThatCannotBeRead(t *testing.T) {
	t.Parallel()
	a := ruled(t, clock.Real(), 10*fleet.Day, "edge-01")
	if _, err := opened[string](a.world, bus.Clusters).Create(t.Context(), "edge-09", "no cluster"); err != nil {
		t.Fatal(err)
	}
	a.schedule(scheduler.Config{})
	a.expectIssuer("ca-1", "edge-01")
	a.advance(taintOf("ca-1"))
	a.expectIssuer("ca-2", "edge-01")
	a.expectPhases("ca-1 outgoing", "ca-2 active")
}
