package scheduler_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// rotating returns a world with clusters at generation 1.
func rotating(t *testing.T, config scheduler.Config, names ...string) (*world, replica) {
	w := newWorld(t, clock.Real())
	w.issuer()
	r := w.schedule(config)
	for _, name := range names {
		w.declare(name, nil)
		w.enrol(name)
		w.expectGeneration(name, 1)
	}
	return w, r
}

func TestRotationOfWhatIsNotDueChangesNothing(t *testing.T) {
	w, _ := rotating(t, scheduler.Config{}, "edge-01")
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: []string{"edge-01"}, By: "admin"})
	r := w.expectRotation("r1")
	if r.State != fleet.RotationCompleted || r.Rotated != 0 || r.Total != 2 || r.By != "admin" || r.EndedAt.IsZero() {
		t.Errorf("rotation %+v", r)
	}
	part, err := w.part("r1", "edge-01")
	if err != nil || part.Clients[0].Outcome != fleet.OutcomeNotDue || !strings.Contains(part.Clients[0].Reason, "not due") {
		t.Errorf("part %+v, %v", part, err)
	}
	if doc := w.expectGeneration("edge-01", 1); doc.Record(kms).Number() != 1 {
		t.Errorf("generation %d", doc.Record(kms).Number())
	}
}

func TestForcedRotationCompletesWithTheProof(t *testing.T) {
	w, _ := rotating(t, scheduler.Config{}, "edge-01", "edge-02", "edge-03")
	w.step.Store(fleet.StepInstalled)
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: []string{"edge-01", "edge-02", "edge-01"}, Force: true})
	for _, name := range []string{"edge-01", "edge-02"} {
		w.expectGeneration(name, 2)
		bustest.Eventually(t, func() error {
			part, err := w.part("r1", name)
			if err == nil && (part.State != fleet.RotationRunning || part.Clients[0].Step != fleet.StepInstalled) {
				err = fmt.Errorf("part %+v: want it to run, installed", part)
			}
			return err
		})
	}
	if e, err := w.rotations.Get(t.Context(), "r1"); err != nil || e.Value.State != fleet.RotationRunning {
		t.Errorf("installed and not proven, but %s, %v", e.Value.State, err)
	}
	w.reach("edge-01", fleet.StepProven)
	w.reach("edge-02", fleet.StepProven)
	r := w.expectRotation("r1")
	if r.State != fleet.RotationCompleted || r.Rotated != 4 || r.Total != 4 || r.Failed != 0 {
		t.Errorf("rotation %+v", r)
	}
	if doc := w.expectGeneration("edge-03", 1); doc.Record(kms).Number() != 1 {
		t.Error("a cluster was rotated that was not asked for")
	}
	started := bustest.Stored(t, w.Server, event.RotationStarted)
	completed := bustest.Stored(t, w.Server, event.RotationCompleted)
	if len(started) != 1 || started[0].Total != 4 || len(completed) != 1 || completed[0].Rotated != 4 {
		t.Errorf("started %+v, completed %+v", started, completed)
	}
	if g := w.expectGeneration("edge-01", 2).Record(kms).Newest(); g.Rotation != "r1" || g.Reason != fleet.ReasonRotation {
		t.Errorf("generation %+v", g)
	}
}

// A leader is killed at every stage of a rotation; the next one goes on, and no
// client gets more than one generation.
func TestRotationIsResumedAfterRestart(t *testing.T) {
	w, r := rotating(t, scheduler.Config{LeaseTTL: time.Second}, "edge-01")
	w.step.Store(fleet.StepIssued)
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: []string{"edge-01"}, Force: true})
	bustest.Expect(t, w.Server, event.RotationStarted, nil)
	r.stop()
	r = w.schedule(scheduler.Config{LeaseTTL: time.Second})
	w.expectGeneration("edge-01", 2)
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: []string{"edge-01"}, Force: true, By: "again"})
	r.stop()
	w.reach("edge-01", fleet.StepProven)
	w.schedule(scheduler.Config{LeaseTTL: time.Second})
	if got := w.expectRotation("r1"); got.State != fleet.RotationCompleted || got.Rotated != 2 || got.By != "" {
		t.Errorf("rotation %+v", got)
	}
	if n := w.expectGeneration("edge-01", 2).Record(kms).Number(); n != 2 {
		t.Errorf("generation %d after one rotation", n)
	}
	if n := len(bustest.Stored(t, w.Server, event.RotationCompleted)); n != 1 {
		t.Errorf("completed was told %d times", n)
	}
}

// F19: an operation ends in bounded time, with the cause.
func TestF19_DeadlineNamesTheCause(t *testing.T) {
	w, _ := rotating(t, scheduler.Config{RotationDeadline: time.Second}, "edge-01")
	w.step.Store(fleet.StepIssued)
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: []string{"edge-01"}, Clients: []fleet.ClientKey{kms}, Force: true})
	r := w.expectRotation("r1")
	if r.State != fleet.RotationFailed || r.Failed != 1 || r.Total != 1 {
		t.Errorf("rotation %+v", r)
	}
	fact := bustest.Expect(t, w.Server, event.RotationFailed, nil)
	if len(fact.Failures) != 1 || !strings.Contains(fact.Failures[0].Reason, "waits for the agent to fetch it; the agent was last seen at") {
		t.Errorf("fact %+v", fact)
	}
}

func TestRotationOfWhatDoesNotExist(t *testing.T) {
	w, _ := rotating(t, scheduler.Config{}, "edge-01")
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: []string{"edge-01", "nowhere"}, Clients: []fleet.ClientKey{kms, {Kind: "kva"}}, Force: true})
	r := w.expectRotation("r1")
	if r.State != fleet.RotationFailed || r.Rotated != 1 || r.Failed != 3 {
		t.Errorf("rotation %+v", r)
	}
	fact := bustest.Expect(t, w.Server, event.RotationFailed, nil)
	if len(fact.Failures) != 3 {
		t.Errorf("failures %+v", fact.Failures)
	}
}

// F17: what has ended does not pile up.
func TestF17_OldRotationsAreDeleted(t *testing.T) {
	w, _ := rotating(t, scheduler.Config{}, "edge-01")
	for i := range 220 {
		w.rotate(event.RotateCommand{Rotation: fmt.Sprintf("r%03d", i), Clusters: []string{"edge-01"}})
	}
	w.expectRotation("r219")
	bustest.Eventually(t, func() error {
		for _, key := range []string{"r000", "r000.edge-01"} {
			if _, err := w.rotations.Get(t.Context(), key); !errors.Is(err, fleet.ErrNotFound) {
				return fmt.Errorf("%s is still there: %w", key, err)
			}
		}
		return nil
	})
	if _, err := w.part("r100", "edge-01"); err != nil {
		t.Errorf("one of the last 200 is gone: %v", err)
	}
}

func TestWrongCommandGoesToTheDeadLetters(t *testing.T) {
	w, _ := rotating(t, scheduler.Config{}, "edge-01")
	w.rotate(event.RotateCommand{Rotation: "a.b", Clusters: []string{"edge-01"}})
	w.rotate(event.RotateCommand{Rotation: "r2", Clusters: []string{"edge-01"}})
	if r := w.expectRotation("r2"); r.State != fleet.RotationCompleted {
		t.Errorf("rotation %+v", r)
	}
	bustest.Eventually(t, func() error {
		if n := len(bustest.Stored(t, w.Server, event.Rotate)); n > 0 {
			return fmt.Errorf("%d commands are not settled", n)
		}
		return nil
	})
}

// F16, domain 5.5: a completed upgrade sets the validity, counted from its
// completion, and its rotation is found under the id that the gateway knows.
func TestUpgradeRotatesAndSetsValidity(t *testing.T) {
	w := newWorld(t, clock.Real())
	w.issuer()
	w.schedule(scheduler.Config{})
	w.old("edge-01", 10*fleet.Day)
	if err := w.file(t.Context(), "edge-01", map[fleet.ClientKey]int{kms: 2, csi: 2}); err != nil {
		t.Fatal(err)
	}
	w.declare("edge-01", func(c *fleet.Cluster) { c.Policy.Mode = fleet.ModeOnUpgrade })
	completed := w.clock.Now().Add(-time.Hour)
	w.declare("edge-01", func(c *fleet.Cluster) { c.Release, c.UpgradedAt = "r2", completed })
	doc := w.expectGeneration("edge-01", 2)
	id := event.UpgradeRotationID("edge-01", "r2", completed)
	g := doc.Record(kms).Newest()
	if want := completed.Truncate(time.Second).Add(90 * fleet.Day); g.Reason != fleet.ReasonUpgrade || !g.Expiry().Equal(want) || g.Rotation != id {
		t.Errorf("generation %+v, want it to end at %s for %s", g, want, id)
	}
	if r := w.expectRotation(id); r.State != fleet.RotationCompleted || r.Rotated != 2 || r.Reason != fleet.ReasonUpgrade {
		t.Errorf("rotation %+v", r)
	}
	w.declare("edge-01", func(c *fleet.Cluster) { c.Release, c.UpgradedAt = "r1", completed.Add(-24*time.Hour) }) // an old one, delivered late
	w.rotate(event.RotateCommand{Rotation: "r9", Clusters: []string{"edge-01"}})
	w.expectRotation("r9")
	if n := w.expectGeneration("edge-01", 2).Record(kms).Number(); n != 2 {
		t.Errorf("generation %d", n)
	}
}
