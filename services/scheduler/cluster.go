package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/plan"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/measure"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// lastSeenLag is by how much the last call on record may be behind the last call
// of an agent, in real time: gateways write it down every two minutes, and a
// poll lasts one.
const lastSeenLag = 5 * time.Minute

// act looks at one cluster, decides and acts. It is the only path to the issuer:
// what a schedule, an upgrade and an operator ask for goes through it alike. What
// it returns is to be noted.
//
// The order is what makes it safe to be killed anywhere: the parts of rotations
// are stored before their generations are asked for, so that a rotation knows
// which generation it waits for; what was told is noted after it was
// published, so that nothing is left untold and a repeat has the same id.
func (l *leader) act(ctx context.Context, name string) (acted, error) {
	in, err := l.state.input(ctx, name, l.env.Clock.Now())
	if err != nil {
		return acted{}, err
	}
	in.Grace = time.Duration(float64(lastSeenLag) * l.env.Clock.Rate())
	told := l.memory.told.get(name)
	in.Told = told.Value
	rotations, unlock := l.state.running.cluster(name), func() {}
	if len(rotations) > 0 {
		l.memory.rotating.Lock()
		unlock = sync.OnceFunc(l.memory.rotating.Unlock)
		rotations = l.state.running.cluster(name)
	}
	defer unlock()
	parts, err := l.parts(ctx, rotations, name, &in)
	if err != nil {
		return acted{}, err
	}
	l.stands(name, in, parts) // before a rotation can end with this cluster
	if in.Cluster == nil {
		if err := l.follow(ctx, parts, in, nil); err != nil {
			return acted{}, err
		}
		return acted{}, l.forget(ctx, told)
	}
	wake := l.patience(name, &in)
	d := plan.Evaluate(in)
	l.block(name, len(d.Blocked))

	if d.Upgrade != nil {
		if err := l.upgrade(ctx, *d.Upgrade); err != nil {
			return acted{}, err
		}
	}
	if err := l.follow(ctx, parts, in, d.Blocked); err != nil {
		return acted{}, err
	}
	l.stands(name, in, parts) // with what its rotation says now
	unlock()                  // what is published next is of this cluster alone
	if err := l.publish(ctx, name, in, d); err != nil {
		return acted{}, err
	}
	next := earliest(d.Next, wake, l.nextDeadline(parts))
	for _, is := range d.Issue {
		next = earliest(next, l.patienceWith(name, in, is))
	}
	d.Told.Next, d.Told.Expiry = next, urgency(in.Credentials)
	return acted{before: told, told: d.Told, at: in.Now, next: next}, nil
}

// acted is what follows from a look at a cluster and is to be noted: what was
// told, and when to look again though nothing changes, zero if never.
type acted struct {
	before kv.Entry[plan.Told]
	told   plan.Told
	at     time.Time
	next   time.Time
}

// noted reports whether there is nothing to note.
func (a acted) noted() bool {
	return a.before.Key == "" ||
		a.before.Revision > 0 && a.told.Equal(a.before.Value) && soonEnough(a.before.Value.Next, a.told.Next, a.at)
}

// note stores what was told. On a conflict another scheduler has told: the
// cluster is looked at again with what that one wrote.
func (l *leader) note(ctx context.Context, a acted) error {
	_, err := l.memory.told.write(ctx, l.documents.told, a.before, a.told)
	return err
}

// block notes how many clients of a cluster are due and cannot be issued.
func (l *leader) block(name string, clients int) {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	l.metrics.blocked.Add(float64(clients - l.memory.blocked[name]))
	l.memory.blocked[name] = clients
	if clients == 0 {
		delete(l.memory.blocked, name)
	}
}

// upgrade begins the rotation that follows from an upgrade, and its trace.
func (l *leader) upgrade(ctx context.Context, r fleet.Rotation) error {
	ctx, span := l.env.Tracer.Start(ctx, telemetry.Internal, "upgrade")
	telemetry.Set(span, "rotor.cluster", r.Clusters[0], "rotor.rotation", r.ID)
	r.Trace = telemetry.Traceparent(ctx)
	err := l.start(ctx, r)
	telemetry.End(span, err)
	return err
}

// publish publishes the facts and then the commands of a decision.
func (l *leader) publish(ctx context.Context, name string, in plan.Input, d plan.Decision) error {
	for _, f := range d.Facts {
		if err := bus.Publish(ctx, l.bus, f.Kind, f.Meta, f.Data); err != nil {
			return err
		}
	}
	for _, f := range d.Window {
		if err := bus.Publish(ctx, l.bus, f.Kind, f.Meta, f.Data); err != nil {
			return err
		}
		l.env.Log.Info("update window changed", "cluster", name, "fact", f.Kind.Type(), "level", f.Data.Level)
	}
	for _, f := range d.Agent {
		if err := bus.Publish(ctx, l.bus, f.Kind, f.Meta, f.Data); err != nil {
			return err
		}
		l.env.Log.Info("told of an agent", "cluster", name, "fact", f.Kind.Type(), "agent", f.Data.Agent)
	}
	for _, is := range d.Issue {
		if err := l.ask(ctx, name, in, is); err != nil {
			return err
		}
	}
	return nil
}

// soonEnough reports whether a stored moment may stay in place of the next one:
// it comes no later, and has not come yet. A scheduler that takes over looks too
// early then, once, which costs less than a write for each moment that moves.
func soonEnough(stored, next, now time.Time) bool {
	switch {
	case stored.IsZero():
		return next.IsZero()
	case !stored.After(now):
		return stored.Equal(next)
	default:
		return next.IsZero() || !next.Before(stored)
	}
}

// forget drops what is known of a cluster that was taken out of the fleet.
func (l *leader) forget(ctx context.Context, told kv.Entry[plan.Told]) error {
	name := told.Key
	l.block(name, 0)
	l.memory.mu.Lock()
	delete(l.memory.asked, name)
	l.memory.mu.Unlock()
	if told.Revision == 0 {
		return nil
	}
	err := l.documents.told.Delete(ctx, name, told.Revision)
	if err != nil && !errors.Is(err, fleet.ErrConflict) {
		return err
	}
	l.memory.told.drop(name)
	return nil
}

// patience fills in what the issuer was asked for and may still answer, and
// returns when the first of it will have to be asked for again. What has been
// answered, or asked for with another request, is forgotten.
func (l *leader) patience(name string, in *plan.Input) time.Time {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	wall := clock.Wall()
	var wake time.Time
	in.Asked = map[fleet.ClientKey]int{}
	for key, a := range l.memory.asked[name] {
		if in.Credentials.Record(key).Number() >= a.generation || requestKey(in.Agent, key) != a.key {
			delete(l.memory.asked[name], key)
			continue
		}
		if left := a.until().Sub(wall); left > 0 {
			in.Asked[key] = a.generation
			wake = earliest(wake, l.realTime(in.Now, left))
		}
	}
	if len(l.memory.asked[name]) == 0 {
		delete(l.memory.asked, name)
	}
	return wake
}

// patienceWith returns when the clients of a command that was just given have
// to be asked for again.
func (l *leader) patienceWith(name string, in plan.Input, is plan.Issue) time.Time {
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	wall := clock.Wall()
	var wake time.Time
	for _, c := range is.Command.Clients {
		wake = earliest(wake, l.realTime(in.Now, l.memory.asked[name][c.Client].until().Sub(wall)))
	}
	return wake
}

func requestKey(agent *fleet.Agent, key fleet.ClientKey) string {
	if agent == nil {
		return ""
	}
	return agent.Requests[key].Key
}

// ask publishes one command to the issuer and remembers it.
func (l *leader) ask(ctx context.Context, name string, in plan.Input, is plan.Issue) error {
	if err := l.memory.pace.wait(ctx); err != nil {
		return err
	}
	ctx = telemetry.Follow(ctx, l.state.running.trace(is.Command.Rotation))
	if err := bus.Publish(ctx, l.bus, issueKind, is.Meta, is.Command); err != nil {
		return err
	}
	reason := string(is.Command.Reason)
	l.metrics.due.WithLabelValues(reason).Add(float64(len(is.Command.Clients)))
	if !is.Since.IsZero() {
		measure.Observe(ctx, l.metrics.lateness, in.Now.Sub(is.Since).Seconds())
	}
	l.env.Log.InfoContext(ctx, "asked the issuer", "cluster", name, "reason", reason, "rotation", is.Command.Rotation, "clients", len(is.Command.Clients))
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	if l.memory.asked[name] == nil {
		l.memory.asked[name] = map[fleet.ClientKey]asked{}
	}
	for _, c := range is.Command.Clients {
		before := l.memory.asked[name][c.Client]
		l.memory.asked[name][c.Client] = asked{
			generation: c.Generation, key: requestKey(in.Agent, c.Client), tries: before.tries + 1, at: clock.Wall(),
		}
		if before.tries > 0 {
			l.env.Log.Warn("the issuer has not answered; asked again", "cluster", name, "client", c.Client.String(),
				"generation", c.Generation, "tries", before.tries+1)
		}
	}
	return nil
}

// certain makes sure that a cluster that seems not to exist does not: it may
// have been declared a moment ago, and the mirror lag behind.
func (l *leader) certain(ctx context.Context, name string, in *plan.Input) error {
	if in.Cluster != nil || fleet.CheckName("cluster", name) != nil {
		return nil
	}
	e, err := l.state.clusterDocs.Get(ctx, name)
	if errors.Is(err, fleet.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for cluster %s: %w", name, err)
	}
	in.Cluster = &e.Value.cluster
	return nil
}

// earliest returns the earliest of the moments that are set, or zero.
func earliest(moments ...time.Time) time.Time {
	var first time.Time
	for _, m := range moments {
		if !m.IsZero() && (first.IsZero() || m.Before(first)) {
			first = m
		}
	}
	return first
}
