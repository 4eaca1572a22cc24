package scheduler

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// elect returns a leader in a term of its own, as of a process of its own.
func elect(t *testing.T, s *bustest.Server, name string) *leader {
	t.Helper()
	env := s.Env(t, "scheduler", clock.Real())
	env.NATS = bustest.Connect(t, s.Server)
	b, err := bus.New(env.NATS)
	if err != nil {
		t.Fatal(err)
	}
	st, err := open(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	bustest.Run(t, st.run)
	if !st.waitCurrent(t.Context()) {
		t.Fatal("state is not current")
	}
	term, err := b.Begin(t.Context(), bus.Leader{Name: name, Held: func() bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	return newLeader(leader{
		env: env, config: Defaults(), state: st, metrics: newMetrics(env.Metrics, func() float64 { return 0 }),
		office: office{b.In(term), st.documents},
	})
}

// look acts on a cluster, and notes it.
func look(ctx context.Context, l *leader, name string) error {
	a, err := l.act(ctx, name)
	if err == nil && !a.noted() {
		err = l.note(ctx, a)
	}
	return err
}

// enrolled stores a cluster whose agent waits for its first generation.
func enrolled(t *testing.T, s *bustest.Server, name string) {
	t.Helper()
	kms := fleet.ClientKey{Kind: "kms"}
	put(t, s, bus.Clusters, name, fleet.Cluster{Name: name, Kind: fleet.Workload, Clients: []fleet.ClientKey{kms}})
	put(t, s, bus.Agents, name, fleet.Agent{ID: "a", Requests: map[fleet.ClientKey]fleet.Request{kms: {Generation: 1, Key: "k"}}})
}

// A leader that is held up between its decision and its command, while another
// takes over, adds nothing to what that one does.
func TestHeldUpBeforeItsCommand(t *testing.T) {
	s := bustest.New(t)
	enrolled(t, s, "edge-01")
	old := elect(t, s, "old")
	old.memory.pace.mu.Lock() // it has decided, and is about to ask the issuer
	done := make(chan error, 1)
	go func() { done <- look(t.Context(), old, "edge-01") }()

	now := elect(t, s, "new")
	if err := look(t.Context(), now, "edge-01"); err != nil {
		t.Fatal(err)
	}
	told, err := now.documents.told.Get(t.Context(), "edge-01")
	if err != nil {
		t.Fatal(err)
	}
	old.memory.pace.mu.Unlock()
	if err := <-done; !errors.Is(err, bus.ErrFenced) {
		t.Errorf("the old leader's command: %v", err)
	}
	if n := len(bustest.Stored(t, s, event.Issue)); n != 1 {
		t.Errorf("%d commands, want that of the new leader", n)
	}
	if again, err := now.documents.told.Get(t.Context(), "edge-01"); err != nil || again.Revision != told.Revision {
		t.Errorf("the old leader has written over revision %d: %d, %v", told.Revision, again.Revision, err)
	}
	if n := len(old.memory.asked["edge-01"]); n > 0 {
		t.Errorf("the old leader believes that it has asked for %d clients", n)
	}
}

// A leader that is held up before its facts tells nothing: what it had decided
// may not be true any more.
func TestHeldUpBeforeItsFact(t *testing.T) {
	s := bustest.New(t)
	old := elect(t, s, "old")
	r := fleet.Rotation{ID: "r1", Reason: fleet.ReasonRotation, State: fleet.RotationRunning, Clusters: []string{"edge-01"}, CreatedAt: clock.Wall()}
	put(t, s, bus.Rotations, r.ID, r)
	put(t, s, bus.Rotations, "r1.edge-01", fleet.ClusterRotation{Cluster: "edge-01", State: fleet.RotationFailed})
	elect(t, s, "new")
	if err := old.finish(t.Context(), "r1"); !errors.Is(err, bus.ErrFenced) {
		t.Errorf("%v, want the fact to be refused", err)
	}
	stored, err := old.documents.rotations.Get(t.Context(), "r1")
	if err != nil || stored.Value.State != fleet.RotationRunning {
		t.Errorf("the rotation is %s, %v", stored.Value.State, err)
	}
	if n := len(bustest.Stored(t, s, event.RotationCompleted)) + len(bustest.Stored(t, s, event.RotationFailed)); n > 0 {
		t.Errorf("%d ends of the rotation were told", n)
	}
}

// What another leader has written after the take-over is looked at again, what
// this one writes itself is not.
func TestWriteOfAnotherLeaderIsLookedAt(t *testing.T) {
	s := bustest.New(t)
	put(t, s, bus.Clusters, "edge-01", fleet.Cluster{Name: "edge-01", Kind: fleet.Workload})
	old, now := elect(t, s, "old"), elect(t, s, "new")
	now.state.leading.Store(now)
	now.takeOver()
	if err := look(t.Context(), now, "edge-01"); err != nil {
		t.Fatal(err)
	}
	told := now.memory.told.get("edge-01")
	bustest.Eventually(t, func() error {
		if now.state.seen.before(bus.Schedule, told.Revision) {
			return errors.New("its own write was not seen yet")
		}
		return nil
	})
	if names, _ := now.state.changes.take(); len(names) > 0 {
		t.Errorf("%v are looked at after a write of its own", names)
	}

	late := told.Value
	late.Next = clock.Wall().Add(time.Hour)
	if _, err := old.documents.told.Update(t.Context(), "edge-01", late, told.Revision); err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, func() error {
		names, _ := now.state.changes.take()
		if _, ok := names["edge-01"]; !ok {
			return fmt.Errorf("looked at: %v", names)
		}
		return nil
	})
	if _, err := old.documents.parts.Create(t.Context(), "r1.edge-02", fleet.ClusterRotation{Cluster: "edge-02"}); err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, func() error {
		names, _ := now.state.changes.take()
		if _, ok := names["edge-02"]; !ok {
			return fmt.Errorf("looked at: %v", names)
		}
		return nil
	})
}
