package scheduler

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/plan"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// F25: what was missed runs on return, the most urgent first.
func TestF25_TakeOverIsMostUrgentFirst(t *testing.T) {
	s := bustest.New(t)
	schedule, err := kv.Open[plan.Told](t.Context(), s.NATS, bus.Schedule)
	if err != nil {
		t.Fatal(err)
	}
	clusters, err := kv.Open[json.RawMessage](t.Context(), s.NATS, bus.Clusters)
	if err != nil {
		t.Fatal(err)
	}
	now := clock.Wall()
	for name, left := range map[string]int{"a": 30, "b": -5, "c": 10, "d": 40} {
		if _, err := clusters.Create(t.Context(), name, json.RawMessage(fmt.Sprintf(`{"name":%q,"kind":"workload"}`, name))); err != nil {
			t.Fatal(err)
		}
		end := now.Add(time.Duration(left) * fleet.Day)
		if _, err := schedule.Create(t.Context(), name, plan.Told{Seen: true, Next: now.Add(-time.Hour), Expiry: end}); err != nil {
			t.Fatal(err)
		}
	}
	env := s.Env(t, "scheduler", clock.Real())
	st, err := open(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	bustest.Run(t, st.run)
	if !st.waitCurrent(t.Context()) {
		t.Fatal("state is not current")
	}
	l := newLeader(leader{
		env: env, config: Defaults(), state: st, metrics: newMetrics(env.Metrics, func() float64 { return 0 }), office: office{s.Bus, st.documents},
	})
	l.takeOver()
	l.drain()
	var order []string
	for l.memory.queue.Len() > 0 {
		name, ok := l.memory.queue.Pop(now)
		if !ok {
			t.Fatal("not due at once")
		}
		order = append(order, name)
	}
	if !slices.Equal(order, []string{"b", "c", "a", "d"}) {
		t.Errorf("order %v", order)
	}
}

func TestPatienceGrowsToALimit(t *testing.T) {
	at := time.Unix(0, 0)
	for tries, want := range map[int]time.Duration{1: patience, 2: 2 * patience, 8: maxPatience, 1000: maxPatience} {
		if got := (asked{tries: tries, at: at}).until().Sub(at); got != want {
			t.Errorf("after %d tries %s, want %s", tries, got, want)
		}
	}
}

// The deadline of a rotation is a duration of the machine, whatever the clock,
// and a leader that has just begun leaves time.
func TestDeadlineIsOfTheMachine(t *testing.T) {
	now := clock.Wall()
	l := &leader{config: Defaults(), since: now}
	l.env.Clock = clock.Fast(now, now, 1000)
	p := &part{rotation: fleet.Rotation{CreatedAt: now.Add(-time.Hour)}}
	if got, want := l.deadline(p), p.rotation.CreatedAt.Add(15000*time.Minute); !got.Equal(want) {
		t.Errorf("deadline %s, want %s", got, want)
	}
	p.rotation.CreatedAt = now.Add(-1000 * time.Hour)
	if got, want := l.deadline(p), now.Add(3750*time.Minute); !got.Equal(want) {
		t.Errorf("after a pause %s, want %s", got, want)
	}
	p.now.BeganAt = now // its turn came late: the deadline counts from then
	if got, want := l.deadline(p), now.Add(15000*time.Minute); !got.Equal(want) {
		t.Errorf("begun late %s, want %s", got, want)
	}
	if got := l.realTime(now, 1<<62); got.Before(now) {
		t.Errorf("overflow: %s", got)
	}
}

func TestLatestPrefersTheNewer(t *testing.T) {
	mirrored := kv.Entry[int]{Key: "a", Value: 1, Revision: 5}
	l := newLatest(func(string) (kv.Entry[int], bool) { return mirrored, true })
	l.end(kv.Entry[int]{Key: "a", Value: 2, Revision: 6})
	if got := l.get("a"); got.Value != 2 {
		t.Errorf("own write not seen: %+v", got)
	}
	mirrored.Value, mirrored.Revision = 3, 7
	if got := l.get("a"); got.Value != 3 || len(l.own) > 0 {
		t.Errorf("later write of another not seen: %+v", got)
	}
}

func TestClusterDeclaredAMomentAgoIsKnown(t *testing.T) {
	s := bustest.New(t)
	clusters, err := kv.Open[fleet.Cluster](t.Context(), s.NATS, bus.Clusters)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := clusters.Create(t.Context(), "edge-01", fleet.Cluster{Name: "edge-01", Kind: fleet.Workload}); err != nil {
		t.Fatal(err)
	}
	st, err := open(t.Context(), s.Env(t, "scheduler", clock.Real())) // not run: its mirrors lag for ever
	if err != nil {
		t.Fatal(err)
	}
	l := &leader{state: st}
	for name, known := range map[string]bool{"edge-01": true, "edge-02": false} {
		in, err := st.input(t.Context(), name, clock.Wall())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.certain(t.Context(), name, &in); err != nil || (in.Cluster != nil) != known {
			t.Errorf("%s: %+v, %v", name, in.Cluster, err)
		}
	}
}

// What lies in the document of the authority beside CAs and trust bundle concerns
// no cluster, and neither does what was so at the start.
func TestWhatOfTheAuthorityConcernsClusters(t *testing.T) {
	s := &state{changes: newChanges(), turning: turning{turns: make(chan struct{}, 1)}}
	doc := fleet.Authority{CAs: []fleet.CA{{ID: "ca-1", Phase: fleet.PhaseActive}}, Bundle: fleet.TrustBundle{Version: 1, Signed: "1"}}
	for _, step := range []struct {
		name   string
		change func()
		all    bool
	}{
		{"start", func() {}, false},
		{"a checkpoint", func() { doc.Checkpoint = "c" }, false},
		{"a token key", func() { doc.Keys = []fleet.SigningKey{{ID: "key-1"}} }, false},
		{"the bundle", func() { doc.Bundle.Signed = "2" }, true},
		{"a phase", func() { doc.CAs = []fleet.CA{{ID: "ca-1", Phase: fleet.PhaseOutgoing}} }, true},
		{"a taint", func() { doc.CAs = []fleet.CA{{ID: "ca-1", Phase: fleet.PhaseOutgoing, TaintedAt: time.Unix(1, 0)}} }, true},
		{"nothing", func() {}, false},
	} {
		step.change()
		s.authorityChanged(kv.Entry[fleet.Authority]{Key: fleet.AuthorityKey, Value: doc})
		if _, all := s.changes.take(); all != step.all {
			t.Errorf("%s: all clusters: %v", step.name, all)
		}
		select {
		case <-s.turns:
		default:
			t.Errorf("%s: the rotations of the authority are not looked at", step.name)
		}
	}
}
