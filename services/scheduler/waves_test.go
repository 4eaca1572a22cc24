package scheduler_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func edges(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("edge-%02d", i+1))
	}
	return names
}

// expectState waits until a rotation is in a state, and returns it.
func (w *world) expectState(id string, state fleet.RotationState) fleet.Rotation {
	w.t.Helper()
	var r fleet.Rotation
	bustest.Eventually(w.t, func() error {
		e, err := w.rotations.Get(w.t.Context(), id)
		if err == nil && e.Value.State != state {
			err = fmt.Errorf("rotation %s is %s in wave %d, want %s", id, e.Value.State, e.Value.Wave, state)
		}
		r = e.Value
		return err
	})
	return r
}

func (w *world) expectPart(id, cluster string, state fleet.RotationState) fleet.ClusterRotation {
	w.t.Helper()
	var part fleet.ClusterRotation
	bustest.Eventually(w.t, func() (err error) {
		if part, err = w.part(id, cluster); err == nil && part.State != state {
			err = fmt.Errorf("%s is %s, want %s: %+v", cluster, part.State, state, part)
		}
		return err
	})
	return part
}

func (w *world) steer(c event.SteerCommand) {
	w.t.Helper()
	c.By, c.At = "admin", w.clock.Now()
	m := event.Meta{Source: "gateway", Cluster: event.FleetWide, Key: []string{c.Rotation, string(c.Action), c.Cluster, c.At.String()}, Time: c.At}
	if err := bus.Publish(w.t.Context(), w.Bus, event.Steer, m, c); err != nil {
		w.t.Fatal(err)
	}
}

// absent fails if a cluster has begun.
func (w *world) absent(id string, clusters ...string) {
	w.t.Helper()
	for _, name := range clusters {
		if p, err := w.part(id, name); !errors.Is(err, fleet.ErrNotFound) {
			w.t.Errorf("%s has begun before its turn: %+v, %v", name, p, err)
		}
	}
}

func TestWavesGoOnWithTheProof(t *testing.T) {
	names := edges(12)
	w, r := rotating(t, scheduler.Config{LeaseTTL: time.Second}, names...)
	w.step.Store(fleet.StepIssued)
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: names, Force: true, Waves: &fleet.WaveOptions{Canary: "edge-07", MaxParallel: 3}})
	w.expectPart("r1", "edge-07", fleet.RotationRunning)
	w.absent("r1", slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "edge-07" })...)
	r.stop() // killed while the canary is on its way
	w.expectGeneration("edge-07", 2)
	w.reach("edge-07", fleet.StepProven)
	r = w.schedule(scheduler.Config{LeaseTTL: time.Second})
	for _, name := range []string{"edge-01", "edge-02"} { // a tenth of 12, rounded up
		w.expectPart("r1", name, fleet.RotationRunning)
	}
	w.absent("r1", names[2:6]...)
	got := w.expectState("r1", fleet.RotationRunning)
	if got.Wave != 2 || !slices.Equal(got.Waves.Sizes, []int{1, 2, 9}) || got.Clusters[0] != "edge-07" {
		t.Errorf("rotation %+v", got)
	}
	w.step.Store(fleet.StepProven)
	for _, name := range []string{"edge-01", "edge-02"} {
		w.expectGeneration(name, 2)
		w.reach(name, fleet.StepProven)
	}
	w.step.Store(fleet.StepIssued)
	r.stop()
	w.step.Store(fleet.StepProven)
	w.schedule(scheduler.Config{LeaseTTL: time.Second})
	for _, name := range names {
		w.expectGeneration(name, 2)
		w.reach(name, fleet.StepProven)
	}
	if r := w.expectRotation("r1"); r.State != fleet.RotationCompleted || r.Rotated != 24 || r.Wave != 3 {
		t.Errorf("rotation %+v", r)
	}
	if n := len(bustest.Stored(t, w.Server, event.RotationHalted)); n > 0 {
		t.Errorf("%d halts", n)
	}
}

func TestNoMoreThanMaxParallelAtOnce(t *testing.T) {
	names := edges(6)
	w, _ := rotating(t, scheduler.Config{}, names...)
	w.rotate(event.RotateCommand{Rotation: "r0", Clusters: names[:1], Force: true})
	w.expectRotation("r0")
	w.step.Store(fleet.StepIssued)
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: names, Force: true, Waves: &fleet.WaveOptions{Canary: "edge-01", MaxParallel: 2}})
	for i, name := range names {
		part := w.expectPart("r1", name, fleet.RotationRunning)
		if ahead := i + 2; ahead < len(names) {
			w.absent("r1", names[ahead:]...)
		}
		want := part.Clients[0].To
		w.expectGeneration(name, want)
		w.reach(name, fleet.StepProven)
	}
	if r := w.expectRotation("r1"); r.Rotated != 12 {
		t.Errorf("rotation %+v", r)
	}
}

func TestFailedCanaryHaltsAndResumeGoesOn(t *testing.T) {
	names := edges(4)
	w, _ := rotating(t, scheduler.Config{RotationDeadline: time.Second}, names...)
	w.step.Store(fleet.StepIssued)
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: names, Clients: []fleet.ClientKey{kms}, Force: true, Waves: &fleet.WaveOptions{Canary: "edge-03"}})
	r := w.expectState("r1", fleet.RotationHalted)
	if r.Halt == nil || r.Halt.Number != 1 || r.Halt.Wave != 1 || r.Halt.Failed != 1 || !strings.Contains(r.Halt.Reason, "canary edge-03") {
		t.Errorf("halt %+v", r.Halt)
	}
	w.absent("r1", "edge-01", "edge-02", "edge-04")
	fact := bustest.Expect(t, w.Server, event.RotationHalted, nil)
	if fact.Failed != 1 || fact.Halt != 1 || len(fact.Failures) != 1 || fact.Failures[0].Cluster != "edge-03" {
		t.Errorf("fact %+v", fact)
	}
	w.step.Store(fleet.StepProven)
	w.steer(event.SteerCommand{Rotation: "r1", Action: event.SteerResume, Halt: 7}) // of another halt
	w.steer(event.SteerCommand{Rotation: "r1", Action: event.SteerExclude, Cluster: "edge-04", Reason: "it moves house"})
	part := w.expectPart("r1", "edge-04", fleet.RotationCompleted)
	if c := part.Clients[0]; c.Outcome != fleet.OutcomeExcluded || c.Reason != "left out by admin: it moves house" {
		t.Errorf("excluded %+v", c)
	}
	if r := w.expectState("r1", fleet.RotationHalted); r.Accepted != 0 {
		t.Errorf("resumed by a command about another halt: %+v", r)
	}
	w.steer(event.SteerCommand{Rotation: "r1", Action: event.SteerResume, Halt: 1})
	r = w.expectRotation("r1")
	if r.State != fleet.RotationFailed || r.Failed != 1 || r.Rotated != 2 || r.Accepted != 1 {
		t.Errorf("rotation %+v", r)
	}
	if resumed := bustest.Expect(t, w.Server, event.RotationResumed, nil); resumed.Halt != 1 || resumed.By != "admin" {
		t.Errorf("fact %+v", resumed)
	}
	w.steer(event.SteerCommand{Rotation: "r1", Action: event.SteerCancel}) // it has ended: no effect, and no letter
	bustest.Eventually(t, func() error {
		if n := len(bustest.Stored(t, w.Server, event.Steer)); n > 0 {
			return fmt.Errorf("%d commands are not settled", n)
		}
		return nil
	})
}

func TestResumeWithRetryTriesAgain(t *testing.T) {
	names := edges(2)
	w, _ := rotating(t, scheduler.Config{RotationDeadline: time.Second}, names...)
	w.step.Store(fleet.StepIssued)
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: names, Force: true, Waves: &fleet.WaveOptions{}})
	r := w.expectState("r1", fleet.RotationHalted)
	if r.Clusters[0] != "edge-01" {
		t.Errorf("the canary is %s", r.Clusters[0])
	}
	w.step.Store(fleet.StepProven)
	w.reach("edge-01", fleet.StepProven)
	w.steer(event.SteerCommand{Rotation: "r1", Action: event.SteerResume, Halt: 1, Retry: true})
	if r := w.expectRotation("r1"); r.State != fleet.RotationCompleted || r.Rotated != 4 || r.Failed != 0 || r.Attempt != 1 {
		t.Errorf("rotation %+v", r)
	}
}

func TestCancelledRotationBeginsNothingMore(t *testing.T) {
	names := edges(3)
	w, _ := rotating(t, scheduler.Config{}, names...)
	w.step.Store(fleet.StepIssued)
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: names, Force: true, Waves: &fleet.WaveOptions{Canary: "edge-02"}})
	w.expectPart("r1", "edge-02", fleet.RotationRunning)
	w.steer(event.SteerCommand{Rotation: "r1", Action: event.SteerCancel})
	r := w.expectRotation("r1")
	if r.State != fleet.RotationCancelled || r.Total != 6 || r.Cancel.By != "admin" {
		t.Errorf("rotation %+v", r)
	}
	if part, err := w.part("r1", "edge-02"); err != nil || part.Clients[0].Outcome != fleet.OutcomeCancelled {
		t.Errorf("part %+v, %v", part, err)
	}
	w.absent("r1", "edge-01", "edge-03")
	if fact := bustest.Expect(t, w.Server, event.RotationCancelled, nil); fact.By != "admin" {
		t.Errorf("fact %+v", fact)
	}
}

// A closed window holds its own cluster up and no other, for as long as it
// likes, and the reason is to be seen.
func TestWavesWaitForWindows(t *testing.T) {
	names := edges(3)
	w, _ := rotating(t, scheduler.Config{RotationDeadline: time.Second}, names...)
	never := []fleet.Maintenance{{Cron: "0 0 30 2 *", Duration: fleet.Duration(time.Hour)}}
	w.declare("edge-02", func(c *fleet.Cluster) { c.Maintenance = never })
	w.declare("edge-03", func(c *fleet.Cluster) { c.Maintenance = never })
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: names, Force: true, Waves: &fleet.WaveOptions{MaxParallel: 1}})
	part := w.expectPart("r1", "edge-02", fleet.RotationAccepted)
	if c := part.Clients[0]; c.Reason != "no maintenance window opens" || c.Outcome != fleet.OutcomeWaiting {
		t.Errorf("held %+v", c)
	}
	if r := w.expectState("r1", fleet.RotationRunning); r.Clusters[0] != "edge-01" || r.Wave != 2 {
		t.Errorf("rotation %+v", r)
	}
	w.declare("edge-02", func(c *fleet.Cluster) { c.Maintenance = nil })
	w.expectPart("r1", "edge-02", fleet.RotationCompleted)
	w.expectPart("r1", "edge-03", fleet.RotationAccepted)
	w.steer(event.SteerCommand{Rotation: "r1", Action: event.SteerExclude, Cluster: "edge-03", Reason: "r"})
	if r := w.expectRotation("r1"); r.State != fleet.RotationCompleted || r.Rotated != 4 {
		t.Errorf("rotation %+v", r)
	}
}

// A rotation away from a CA passes over what the new one has signed, waits for a
// silent agent without a deadline, and goes on without it after the canary.
func TestRotationForTheAuthority(t *testing.T) {
	names := edges(4)
	w, _ := rotating(t, scheduler.Config{RotationDeadline: time.Second}, names...)
	authority := opened[fleet.Authority](w, bus.Authority)
	if _, err := authority.Create(t.Context(), fleet.AuthorityKey, fleet.Authority{CAs: []fleet.CA{{ID: "old", Phase: fleet.PhaseOutgoing}, {ID: "new", Phase: fleet.PhaseActive}}}); err != nil {
		t.Fatal(err)
	}
	w.ca.Store("new")
	w.rotate(event.RotateCommand{Rotation: "r0", Clusters: []string{"edge-04"}, Force: true}) // it has left the old CA already
	w.expectRotation("r0")
	silent := func(agent *fleet.Agent) error { agent.LastSeen = w.clock.Now().Add(-time.Hour); return nil }
	if _, err := w.agents.Edit(t.Context(), "edge-02", silent); err != nil {
		t.Fatal(err)
	}
	_, err := w.credentials.Edit(t.Context(), "edge-02", func(c *fleet.Credentials) error {
		c.Clients[csi].Revoked = &fleet.Revocation{At: w.clock.Now()}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.agents.Edit(t.Context(), "edge-02", func(a *fleet.Agent) error { delete(a.Requests, kms); return nil }); err != nil {
		t.Fatal(err)
	}
	r := fleet.Rotation{ID: "r1", Reason: fleet.ReasonAuthority, State: fleet.RotationRunning, Force: true, Wave: 1, CreatedAt: w.clock.Now()}
	r.Clusters, r.Waves = fleet.WaveOptions{Canary: "edge-01"}.Plan(names)
	if _, err := w.rotations.Create(t.Context(), r.ID, r); err != nil {
		t.Fatal(err)
	}
	w.expectPart("r1", "edge-01", fleet.RotationCompleted)
	w.expectPart("r1", "edge-03", fleet.RotationCompleted)
	if part := w.expectPart("r1", "edge-04", fleet.RotationCompleted); part.Clients[0].Outcome != fleet.OutcomeNotDue {
		t.Errorf("%+v", part)
	}
	part := w.expectPart("r1", "edge-02", fleet.RotationRunning)
	if c := part.Clients; c[0].Outcome != fleet.OutcomeWaiting || c[1].Outcome != fleet.OutcomeRevoked {
		t.Errorf("%+v", part)
	}
	if g := w.expectGeneration("edge-01", 2).Record(kms).Newest(); g.Reason != fleet.ReasonAuthority || g.Certificate.Issuer != "new" {
		t.Errorf("generation %+v", g)
	}
	if got := w.expectState("r1", fleet.RotationRunning); got.Wave != 3 || got.Halt != nil {
		t.Errorf("rotation %+v", got)
	}
	if err := w.file(t.Context(), "edge-02", map[fleet.ClientKey]int{kms: 2}); err != nil { // it returns
		t.Fatal(err)
	}
	if got := w.expectRotation("r1"); got.State != fleet.RotationCompleted || got.Rotated != 5 || got.Total != 8 {
		t.Errorf("rotation %+v", got)
	}
}

// A gateway cannot ask for one: only a rotation of the authority begins it.
func TestTheAuthorityIsNotForGateways(t *testing.T) {
	w, _ := rotating(t, scheduler.Config{}, "edge-01")
	w.rotate(event.RotateCommand{Rotation: "r1", Clusters: []string{"edge-01"}, Reason: fleet.ReasonAuthority})
	w.rotate(event.RotateCommand{Rotation: "r2", Clusters: []string{"edge-01"}, Waves: &fleet.WaveOptions{Canary: "hq"}})
	w.rotate(event.RotateCommand{Rotation: "r3", Clusters: []string{"edge-01"}, Waves: &fleet.WaveOptions{MaxFailures: "many"}})
	w.rotate(event.RotateCommand{Rotation: "r4", Clusters: []string{"edge-01"}})
	w.expectRotation("r4")
	bustest.Eventually(t, func() error {
		if n := len(bustest.Stored(t, w.Server, event.Rotate)); n > 0 {
			return fmt.Errorf("%d commands are not settled", n)
		}
		return nil
	})
	for _, id := range []string{"r1", "r2", "r3"} {
		if _, err := w.rotations.Get(t.Context(), id); !errors.Is(err, fleet.ErrNotFound) {
			t.Errorf("%s: %v", id, err)
		}
	}
}
