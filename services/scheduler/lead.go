package scheduler

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/plan"
	"github.com/rotor-fleet/rotor/services/scheduler/internal/queue"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// century puts the clusters that a new leader has to look at before everything
// that lies in the present, in the order of their expiries.
const century = 100 * 365 * fleet.Day

// leader is the state of a scheduler that leads. One goroutine owns the queue;
// looks at different clusters run side by side.
type leader struct {
	env     daemon.Env
	config  Config
	state   *state
	metrics metrics
	office
	memory memory
	since  time.Time // when it took the lead, on the clock of the fleet
}

// office is where a leader writes. What it writes when it leads no more is
// refused: see docs/decisions/0016.
type office struct {
	bus       *bus.Bus
	documents documents
}

// memory is what a leader knows and no bucket says. To lose it costs a repeat.
type memory struct {
	queue   queue.Queue
	pending map[string]struct{} // clusters to be looked at because something has changed
	acted   map[string]acted    // clusters of which is to be noted what was told
	round   round
	told    *latest[plan.Told]
	parts   *latest[fleet.ClusterRotation]
	pace    *pace

	rotating *sync.Mutex          // looks at clusters in rotations go one by one: a rotation ends once
	progress map[string]*progress // under rotating: of each running rotation that was looked at
	course   *course

	mu      *sync.Mutex // of what follows
	asked   map[string]map[fleet.ClientKey]asked
	blocked map[string]int // cluster -> clients
}

// newLeader returns a leader that knows nothing yet.
func newLeader(l leader) *leader {
	s := l.state
	l.since = l.env.Clock.Now()
	l.memory = memory{
		pending: map[string]struct{}{}, acted: map[string]acted{}, pace: &pace{limit: l.config.MaxPerSecond}, rotating: &sync.Mutex{}, mu: &sync.Mutex{},
		told: newLatest(func(key string) (kv.Entry[plan.Told], bool) {
			e, ok := s.told.Get(key)
			told, err := e.Value.open()
			return kv.Entry[plan.Told]{Key: key, Value: told, Revision: e.Revision}, ok && err == nil
		}),
		parts: newLatest(func(key string) (kv.Entry[fleet.ClusterRotation], bool) {
			e, ok := s.operations.Get(key)
			return kv.Entry[fleet.ClusterRotation]{Key: key, Value: e.Value.part, Revision: e.Revision}, ok
		}),
		asked: map[string]map[fleet.ClientKey]asked{}, progress: map[string]*progress{}, blocked: map[string]int{},
		course: newCourse(s),
	}
	return &l
}

// lead begins a term and leads until ctx ends, the lease runs out or another
// begins the next term.
func (l leader) lead(ctx context.Context, h *kv.Hold) error {
	term, err := l.bus.Begin(ctx, bus.Leader{Name: l.env.Instance, Held: h.Valid})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return errors.Join(kv.ErrLeaseLost, err) // another may be able to
	}
	l.bus, l.documents = l.bus.In(term), l.documents.while(h.Valid)
	l.env.Log = l.env.Log.With("term", term.Number)
	l.env.Log.Info("term begun")
	l.metrics.term.Set(float64(term.Number))
	defer l.metrics.term.Set(0)
	err = newLeader(l).run(ctx, term)
	if errors.Is(err, bus.ErrFenced) {
		l.metrics.fenced.Inc()
		return errors.Join(kv.ErrLeaseLost, err)
	}
	return err
}

// run leads until ctx ends.
func (l *leader) run(ctx context.Context, term *bus.Term) error {
	l.metrics.leader.Set(1)
	defer l.metrics.leader.Set(0)
	defer l.metrics.blocked.Set(0)
	defer l.metrics.rollouts.reset()
	return daemon.Group(ctx,
		daemon.Part{Name: "commands", Run: func(ctx context.Context) error {
			return l.bus.Consume(ctx, bus.Consumer{
				Stream: bus.Commands, Name: bus.UserScheduler, Parallel: 4, Log: l.env.Log,
				Subjects: []string{
					event.Rotate.Subject("*"), event.Steer.Subject("*"), event.Advance.Subject("*"), event.SettleScheduler.Subject("*"),
				},
			}, l.commands())
		}},
		daemon.Part{Name: "watch", Run: l.watch},
		daemon.Part{Name: "authority", Run: l.govern},
		daemon.Part{Name: "term", Run: term.Keep},
	)
}

// commands returns the handler of what others ask of the leader.
func (l *leader) commands() bus.Handler {
	asked := func(ctx context.Context, e event.Event) error {
		switch {
		case event.Steer.Is(e):
			return l.steer(ctx, e)
		case event.Advance.Is(e):
			return l.advance(ctx, e)
		default:
			return l.rotate(ctx, e)
		}
	}
	settle := l.bus.Settle(bus.Settler{
		Service: bus.UserScheduler, Try: bus.Again(map[string]bus.Handler{bus.Commands: asked}), Log: l.env.Log,
	})
	return func(ctx context.Context, e event.Event) error {
		if event.SettleScheduler.Is(e) {
			return settle(ctx, e)
		}
		return asked(ctx, e)
	}
}

// takeOver fills the queue. A cluster that has not changed since the checkpoint
// has its moment in what was told of it; those that are past come first, the
// most urgent of them at the front.
func (l *leader) takeOver() {
	void := l.state.seen.void
	l.state.seen.void = false
	for _, name := range l.state.clusters.Keys() {
		if name != fleet.SettingsKey {
			l.place(name, void)
		}
	}
	for _, name := range l.state.told.Keys() {
		if _, ok := l.state.clusters.Get(name); !ok && !strings.HasPrefix(name, "_") {
			l.again(name, l.since) // it is gone
		}
	}
	for _, r := range l.state.running.all() {
		for _, name := range r.Clusters {
			l.again(name, l.since)
		}
	}
}

// place puts a cluster into the queue of a new leader.
func (l *leader) place(name string, void bool) {
	e, ok := l.state.told.Get(name)
	told, err := e.Value.open()
	switch {
	case !ok || err != nil:
		l.again(name, l.since.Add(-century))
	case void || !told.Next.IsZero() && !told.Next.After(l.since):
		urgent := told.Expiry
		if urgent.IsZero() {
			urgent = l.since
		}
		l.again(name, urgent.Add(-century))
	case !told.Next.IsZero():
		l.memory.queue.Advance(name, told.Next)
	}
}

// again has a cluster looked at because of what has changed or may have.
func (l *leader) again(name string, moment time.Time) {
	l.memory.pending[name] = struct{}{}
	l.memory.queue.Advance(name, moment)
}

// urgency returns the earliest end of a credential in use, zero if there is none.
func urgency(c *fleet.Credentials) time.Time {
	var first time.Time
	if c == nil {
		return first
	}
	for _, record := range c.Clients {
		if g := record.InUse(); g != nil {
			first = earliest(first, g.Expiry())
		}
	}
	return first
}

// settle is how long a change of what holds for all clusters is left to settle,
// in the machine's time: releases are declared together and arrive one by one,
// and what half of them says must not be told.
const settle = 250 * time.Millisecond

// drain moves the clusters that have changed to the front of the queue.
func (l *leader) drain() {
	names, all := l.state.changes.take()
	for name := range names {
		l.again(name, time.Time{}) // before all that a new leader has found
	}
	if !all {
		return
	}
	soon := l.realTime(l.env.Clock.Now(), settle)
	for _, name := range l.state.clusters.Keys() {
		if name != fleet.SettingsKey {
			l.again(name, soon)
		}
	}
}

// realTime returns the moment on the clock of the fleet at which the machine's
// time d has passed.
func (l *leader) realTime(from time.Time, d time.Duration) time.Time {
	const limit = float64(century) // far from what overflows a Duration
	return from.Add(time.Duration(min(float64(d)*l.env.Clock.Rate(), limit)))
}
