package scheduler_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/rotor-fleet/rotor/services/scheduler"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	kms = fleet.ClientKey{Kind: "kms"}
	csi = fleet.ClientKey{Kind: "csi"}
)

// world is a server with the buckets that the other services write, and a
// stand-in for issuer, gateway and agent that does what it is told at once.
type world struct {
	*bustest.Server
	t           testing.TB
	clock       clock.Clock
	clusters    *kv.Bucket[fleet.Cluster]
	settings    *kv.Bucket[fleet.Settings]
	credentials *kv.Bucket[fleet.Credentials]
	agents      *kv.Bucket[fleet.Agent]
	releases    *kv.Bucket[fleet.Release]
	rotations   *kv.Bucket[fleet.Rotation]
	parts       *kv.Bucket[fleet.ClusterRotation]
	step        atomic.Value // the step that a new generation has at once
	ca          atomic.Value // id of the CA that signs
}

func newWorld(t testing.TB, c clock.Clock) *world {
	w := &world{Server: bustest.New(t), t: t, clock: c}
	w.step.Store(fleet.StepProven)
	w.ca.Store("")
	w.clusters = opened[fleet.Cluster](w, bus.Clusters)
	w.settings = opened[fleet.Settings](w, bus.Clusters)
	w.credentials = opened[fleet.Credentials](w, bus.Credentials)
	w.agents = opened[fleet.Agent](w, bus.Agents)
	w.releases = opened[fleet.Release](w, bus.Releases)
	w.rotations = opened[fleet.Rotation](w, bus.Rotations)
	w.parts = opened[fleet.ClusterRotation](w, bus.Rotations)
	return w
}

func opened[T any](w *world, name string) *kv.Bucket[T] {
	w.t.Helper()
	b, err := kv.Open[T](w.t.Context(), w.NATS, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// replica is a running scheduler that can be stopped before the test ends.
type replica struct {
	env  daemon.Env
	stop func()
}

func (w *world) schedule(config scheduler.Config) replica {
	w.t.Helper()
	env := w.Env(w.t, "scheduler", w.clock)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- scheduler.Run(ctx, env, config) }()
	var stopped atomic.Bool
	stop := func() {
		if stopped.Swap(true) {
			return
		}
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("scheduler ended: %v", err)
		}
	}
	w.t.Cleanup(stop)
	return replica{env, stop}
}

// metric returns the value of a gauge or the sum of a counter.
func (r replica) metric(t testing.TB, name string) float64 {
	t.Helper()
	families, err := r.env.Metrics.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// issuer answers the commands of the scheduler: the generation is there, has
// the step that the world gives it, and its successor's request is on file.
func (w *world) issuer() {
	log := w.Env(w.t, "issuer", w.clock).Log
	bustest.Run(w.t, func(ctx context.Context) error {
		return w.Bus.Consume(ctx, bus.Consumer{
			Stream: bus.Commands, Name: "issuer", Subjects: []string{event.Issue.Subject("*")}, Log: log,
		}, w.issue)
	})
}

func (w *world) issue(ctx context.Context, e event.Event) error {
	c, err := event.Issue.Decode(e)
	if err != nil {
		return err
	}
	_, err = w.credentials.Edit(ctx, e.Subject(), func(doc *fleet.Credentials) error {
		for _, want := range c.Clients {
			if doc.Record(want.Client).Number() >= want.Generation {
				continue
			}
			if doc.Clients == nil {
				doc.Clients = map[fleet.ClientKey]*fleet.Record{}
			}
			if doc.Clients[want.Client] == nil {
				doc.Clients[want.Client] = &fleet.Record{}
			}
			r := doc.Clients[want.Client]
			r.Generations = append(r.Generations, fleet.Generation{
				Number: want.Generation, Step: w.step.Load().(fleet.Step), Reason: c.Reason, Operation: e.ID(), Rotation: c.Rotation,
				At: c.At, Life: want.Life, RenewAt: want.RenewAt, Agent: "agent-1", ProvenAt: c.At,
				Certificate: fleet.Certificate{Serial: fmt.Sprintf("%02x", want.Generation), NotBefore: c.At.Add(-fleet.Backdate), NotAfter: want.Life.Certificate, Issuer: w.ca.Load().(string)},
				Token:       fleet.Token{ID: e.ID(), NotBefore: c.At.Add(-fleet.Backdate), ExpiresAt: want.Life.Token},
			})
			r.Generations = r.Generations[max(0, len(r.Generations)-fleet.MaxGenerations):]
		}
		return nil
	})
	if err != nil {
		return err
	}
	next := map[fleet.ClientKey]int{}
	for _, want := range c.Clients {
		next[want.Client] = want.Generation + 1
	}
	return w.file(ctx, e.Subject(), next)
}

// file enrols the agent of a cluster and puts requests on file.
func (w *world) file(ctx context.Context, cluster string, generations map[fleet.ClientKey]int) error {
	_, err := w.agents.Edit(ctx, cluster, func(a *fleet.Agent) error {
		a.ID, a.LastSeen = "agent-1", w.clock.Now()
		if a.Requests == nil {
			a.Requests = map[fleet.ClientKey]fleet.Request{}
		}
		for key, n := range generations {
			a.Requests[key] = fleet.Request{Generation: n, Key: fmt.Sprintf("%s-%d", key, n)}
		}
		return nil
	})
	return err
}

// reach moves the newest generation of every client of a cluster to a step.
func (w *world) reach(cluster string, step fleet.Step) {
	w.t.Helper()
	_, err := w.credentials.Edit(w.t.Context(), cluster, func(doc *fleet.Credentials) error {
		for _, r := range doc.Clients {
			r.Newest().Step, r.Newest().ProvenAt = step, w.clock.Now()
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// declare stores a workload cluster with the clients kms and csi, whose agent
// has filed the first requests.
func (w *world) declare(name string, change func(*fleet.Cluster)) {
	w.t.Helper()
	_, err := w.clusters.Edit(w.t.Context(), name, func(c *fleet.Cluster) error {
		c.Name, c.Kind, c.Clients = name, fleet.Workload, []fleet.ClientKey{kms, csi}
		if change != nil {
			change(c)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) enrol(name string) {
	w.t.Helper()
	if err := w.file(w.t.Context(), name, map[fleet.ClientKey]int{kms: 1, csi: 1}); err != nil {
		w.t.Fatal(err)
	}
}

// expectGeneration waits until every client of a cluster has a generation.
func (w *world) expectGeneration(cluster string, number int) *fleet.Credentials {
	w.t.Helper()
	var doc *fleet.Credentials
	bustest.Eventually(w.t, func() error {
		e, err := w.credentials.Get(w.t.Context(), cluster)
		if err != nil {
			return err
		}
		for _, key := range []fleet.ClientKey{kms, csi} {
			if n := e.Value.Record(key).Number(); n < number {
				return fmt.Errorf("%s/%s is at generation %d, want %d", cluster, key, n, number)
			}
		}
		doc = &e.Value
		return nil
	})
	return doc
}

func (w *world) rotate(c event.RotateCommand) {
	w.t.Helper()
	m := event.Meta{Source: "gateway", Cluster: c.Clusters[0], Key: []string{c.Rotation}, Time: w.clock.Now()}
	if err := bus.Publish(w.t.Context(), w.Bus, event.Rotate, m, c); err != nil {
		w.t.Fatal(err)
	}
}

// expectRotation waits until a rotation has ended.
func (w *world) expectRotation(id string) fleet.Rotation {
	w.t.Helper()
	var r fleet.Rotation
	bustest.Eventually(w.t, func() error {
		e, err := w.rotations.Get(w.t.Context(), id)
		if err != nil {
			return err
		}
		if !e.Value.State.Done() {
			return fmt.Errorf("rotation %s is %s", id, e.Value.State)
		}
		r = e.Value
		return nil
	})
	return r
}

func (w *world) part(id, cluster string) (fleet.ClusterRotation, error) {
	e, err := w.parts.Get(w.t.Context(), id+"."+cluster)
	return e.Value, err
}

// old gives a cluster credentials that were issued this long ago.
func (w *world) old(cluster string, age time.Duration) {
	w.t.Helper()
	at := w.clock.Now().Add(-age).Truncate(time.Second)
	_, err := w.credentials.Edit(w.t.Context(), cluster, func(doc *fleet.Credentials) error {
		doc.Clients = map[fleet.ClientKey]*fleet.Record{}
		for _, key := range []fleet.ClientKey{kms, csi} {
			end := at.Add(90 * fleet.Day)
			doc.Clients[key] = &fleet.Record{Generations: []fleet.Generation{{
				Number: 1, Step: fleet.StepProven, At: at, RenewAt: at.Add(50 * fleet.Day), Agent: "agent-1", ProvenAt: at,
				Certificate: fleet.Certificate{Serial: "01", NotBefore: at, NotAfter: end}, Token: fleet.Token{ID: "t", NotBefore: at, ExpiresAt: end},
			}}}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}
