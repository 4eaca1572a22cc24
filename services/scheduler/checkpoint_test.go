package scheduler

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/plan"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// fixture is a fleet of three clusters, of which everything was told.
type fixture struct {
	*bustest.Server
	agents *kv.Bucket[fleet.Agent]
	next   time.Time
}

func put[T any](t *testing.T, s *bustest.Server, bucket, key string, value T) *kv.Bucket[T] {
	t.Helper()
	b, err := kv.Open[T](t.Context(), s.NATS, bucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Edit(t.Context(), key, func(v *T) error { *v = value; return nil }); err != nil {
		t.Fatal(err)
	}
	return b
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	f := fixture{Server: bustest.New(t), next: clock.Wall().Add(time.Hour).UTC()}
	for _, name := range []string{"a", "b", "c"} {
		put(t, f.Server, bus.Clusters, name, fleet.Cluster{Name: name, Kind: fleet.Workload})
		f.agents = put(t, f.Server, bus.Agents, name, fleet.Agent{ID: name})
		put(t, f.Server, bus.Credentials, name, fleet.Credentials{})
		put(t, f.Server, bus.Schedule, name, plan.Told{Seen: true, Next: f.next, Expiry: f.next})
	}
	return f
}

// leader returns a leader that has taken over from whoever wrote the store.
func (f fixture) leader(t *testing.T) *leader {
	t.Helper()
	env := f.Env(t, "scheduler", clock.Real())
	st, err := open(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	bustest.Run(t, st.run)
	if !st.waitCurrent(t.Context()) {
		t.Fatal("state is not current")
	}
	l := newLeader(leader{
		env: env, config: Defaults(), state: st, metrics: newMetrics(env.Metrics, func() float64 { return 0 }), office: office{f.Bus, st.documents},
	})
	l.takeOver()
	l.drain()
	return l
}

func pending(l *leader) []string { return slices.Sorted(maps.Keys(l.memory.pending)) }

func TestRestartLooksAtWhatHasChangedOnly(t *testing.T) {
	f := newFixture(t)
	first := f.leader(t)
	if got := pending(first); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Fatalf("without a checkpoint %v are looked at, want all", got)
	}
	if err := first.saveCheckpoint(t.Context(), first.state.seen.checkpoint()); err != nil {
		t.Fatal(err)
	}
	if got := pending(f.leader(t)); len(got) > 0 {
		t.Errorf("nothing has changed since the checkpoint, and %v are looked at", got)
	}
	put(t, f.Server, bus.Agents, "b", fleet.Agent{ID: "another"})
	put(t, f.Server, bus.Clusters, "d", fleet.Cluster{Name: "d", Kind: fleet.Workload})
	second := f.leader(t)
	if got := pending(second); !slices.Equal(got, []string{"b", "d"}) {
		t.Errorf("looked at %v, want b, whose agent is another, and d, which is new", got)
	}
	moments := map[string]time.Time{}
	for second.memory.queue.Len() > 0 {
		moment, _ := second.memory.queue.Next()
		name, _ := second.memory.queue.Pop(moment)
		moments[name] = moment
	}
	if !moments["a"].Equal(f.next) || !moments["c"].Equal(f.next) {
		t.Errorf("moments %v, want a and c at %s, as was stored", moments, f.next)
	}
	put(t, f.Server, bus.Releases, "1.31", fleet.Release{Version: "1.31"})
	if got := pending(f.leader(t)); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Errorf("after a release %v are looked at, want all", got)
	}
}

// The checkpoint that a leader writes comes back to it with the documents of the
// clusters. Taken for one of them, it would be deleted as that of a cluster that
// is gone, and every restart would look at the whole fleet.
func TestCheckpointIsNoCluster(t *testing.T) {
	f := newFixture(t)
	l := f.leader(t)
	l.state.leading.Store(l)
	if err := l.saveCheckpoint(t.Context(), l.state.seen.checkpoint()); err != nil {
		t.Fatal(err)
	}
	clear(l.memory.pending)
	// A note of another comes after it: when that was noticed, so was the checkpoint.
	put(t, f.Server, bus.Schedule, "a", plan.Told{Seen: true})
	bustest.Eventually(t, func() error {
		if l.drain(); !slices.Contains(pending(l), "a") {
			return errors.New("the note of another was not noticed")
		}
		return nil
	})
	if got := pending(l); slices.Contains(got, checkpointKey) {
		t.Errorf("%v are looked at", got)
	}
}

// A checkpoint of another store, or of a later state of it, says nothing.
func TestCheckpointOfAnotherStoreIsNone(t *testing.T) {
	for name, change := range map[string]func(*mark){
		"made anew":    func(m *mark) { m.Made = m.Made.Add(time.Second) },
		"older backup": func(m *mark) { m.Revision += 100 },
	} {
		f := newFixture(t)
		first := f.leader(t)
		c := first.state.seen.checkpoint()
		m := c.Buckets[bus.Credentials]
		change(&m)
		c.Buckets[bus.Credentials] = m
		if err := first.saveCheckpoint(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if got := pending(f.leader(t)); len(got) != 3 {
			t.Errorf("%s: %v are looked at, want all", name, got)
		}
	}
}

// served looks at clusters and notes them.
func served(ctx context.Context, l *leader, names ...string) bool {
	return l.lookAtAll(ctx, names, 1) && l.noteAll(ctx, slices.Collect(maps.Keys(l.memory.acted)), 1)
}

// What was not looked at is not behind a checkpoint.
func TestCheckpointWaitsForItsRound(t *testing.T) {
	f := newFixture(t)
	l := f.leader(t)
	seen := l.state.seen.checkpoint()
	l.mark(t.Context(), seen)
	if _, err := l.state.documents.checkpoints.Get(t.Context(), checkpointKey); !errors.Is(err, fleet.ErrNotFound) {
		t.Fatalf("stored a checkpoint with three clusters to be looked at (%v)", err)
	}
	if !served(t.Context(), l, "a", "b") {
		t.Fatal("two looks failed")
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if served(canceled, l, "c") {
		t.Fatal("a look without time succeeded")
	}
	l.mark(t.Context(), l.state.seen.checkpoint())
	if _, err := l.state.documents.checkpoints.Get(t.Context(), checkpointKey); !errors.Is(err, fleet.ErrNotFound) {
		t.Fatalf("stored a checkpoint with one cluster that could not be looked at (%v)", err)
	}
	if !served(t.Context(), l, "c") {
		t.Fatal("the third look failed")
	}
	l.mark(t.Context(), l.state.seen.checkpoint())
	e, err := l.state.documents.checkpoints.Get(t.Context(), checkpointKey)
	if err != nil || e.Value.Buckets[bus.Agents] != seen.Buckets[bus.Agents] {
		t.Errorf("checkpoint %+v, %v: want the one at the beginning of the round", e.Value, err)
	}
}

// Clusters that were acted upon are noted when no more are due, or sooner when
// one is to be looked at again; no checkpoint is behind them until then, and
// whoever leads after a crash in between comes to the same.
func TestActedUponAndNotNoted(t *testing.T) {
	s := bustest.New(t)
	names := []string{"edge-01", "edge-02", "edge-03"}
	for _, name := range names {
		enrolled(t, s, name)
	}
	first := elect(t, s, "first")
	if !first.lookAtAll(t.Context(), names, 1) || len(first.memory.acted) != 3 {
		t.Fatalf("acted upon %v", first.memory.acted)
	}
	first.mark(t.Context(), first.state.seen.checkpoint())
	if _, err := first.documents.checkpoints.Get(t.Context(), checkpointKey); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("stored a checkpoint with three clusters to be noted (%v)", err)
	}
	first.again("edge-02", time.Time{})
	if names, notes := first.due(); len(names) > 0 || !slices.Equal(notes, []string{"edge-02"}) {
		t.Errorf("due %v, to be noted first %v", names, notes)
	}
	if !first.noteAll(t.Context(), []string{"edge-02"}, 1) {
		t.Error("not noted")
	}
	if names, notes := first.due(); len(notes) > 0 || !slices.Equal(names, []string{"edge-02"}) {
		t.Errorf("due %v, to be noted first %v", names, notes)
	}

	second := elect(t, s, "second") // the first is gone
	second.takeOver()
	if due, _ := second.due(); len(due) != 3 {
		t.Errorf("looked at after a crash: %v", due)
	}
	if !served(t.Context(), second, names...) {
		t.Error("not looked at")
	}
	if n := len(bustest.Stored(t, s, event.Issue)); n != 3 {
		t.Errorf("%d commands for 3 clusters", n)
	}
}

func TestReplicaThatIsBehindIsNoAnswer(t *testing.T) {
	f := newFixture(t)
	e, err := f.agents.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	var n news
	n.note(kv.Entry[struct{}]{Key: "a", Revision: e.Revision + 1}) // told of by another replica
	if _, err := fetch(t.Context(), f.agents, &n, "a"); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("took an old document for the new one: %v", err)
	}
	put(t, f.Server, bus.Agents, "b", fleet.Agent{})
	put(t, f.Server, bus.Agents, "a", fleet.Agent{ID: "new"})
	if got, err := fetch(t.Context(), f.agents, &n, "a"); err != nil || got.ID != "new" {
		t.Errorf("%+v, %v", got, err)
	}
	if len(n.revisions) > 0 {
		t.Errorf("kept %v", n.revisions)
	}
}

func TestStoredMomentMayBeEarlyAndNeverLate(t *testing.T) {
	now := clock.Wall()
	early, late, past := now.Add(time.Hour), now.Add(2*time.Hour), now.Add(-time.Hour)
	for _, row := range []struct {
		name         string
		stored, next time.Time
		stays        bool
	}{
		{"same", early, early, true},
		{"stored is earlier", early, late, true},
		{"stored is later", late, early, false},
		{"stored and none any more", early, time.Time{}, true},
		{"stored has come", past, early, false},
		{"stored has come and none any more", past, time.Time{}, false},
		{"none", time.Time{}, time.Time{}, true},
		{"none was stored", time.Time{}, early, false},
	} {
		if got := soonEnough(row.stored, row.next, now); got != row.stays {
			t.Errorf("%s: stays is %v", row.name, got)
		}
	}
}
