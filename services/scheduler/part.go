package scheduler

import (
	"context"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/plan"
	"github.com/rotor-fleet/rotor/services/scheduler/internal/waves"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// part is the part of a running rotation that concerns a cluster.
type part struct {
	rotation fleet.Rotation
	stored   kv.Entry[fleet.ClusterRotation]
	now      fleet.ClusterRotation
	wake     time.Time // when to look again though nothing changes
}

// begun reports whether the turn of a part has come. Parts of before there were
// waves do not say when.
func begun(p fleet.ClusterRotation) bool { return p.State != "" && p.State != fleet.RotationAccepted }

// parts returns the parts of the running rotations of a cluster, plans those
// whose turn has come, and fills in the generations that they wait for.
func (l *leader) parts(ctx context.Context, rotations []kv.Entry[fleet.Rotation], name string, in *plan.Input) ([]part, error) {
	var all []part
	in.Wanted = map[fleet.ClientKey]plan.Wanted{}
	for _, e := range rotations {
		p := part{rotation: e.Value, stored: l.memory.parts.get(e.Key + "." + name)}
		p.now = p.stored.Value
		if err := l.turn(ctx, name, &p, in); err != nil {
			return nil, err
		}
		plan.Pending(&p.rotation, p.now, in.Wanted)
		all = append(all, p)
	}
	return all, nil
}

// turn decides whether a part begins, and what becomes of one that an operator
// has left out or ended.
func (l *leader) turn(ctx context.Context, name string, p *part, in *plan.Input) error {
	r, progress := &p.rotation, l.progressOf(p.rotation.ID)
	switch {
	case progress == nil: // it has ended meanwhile
		return nil
	case r.Cancel != nil:
		if p.stored.Revision > 0 && !p.now.State.Done() {
			p.now = plan.Cancel(r, p.now)
		}
		return nil
	case r.Excluded(name):
		p.now = plan.Exclude(r, name, p.now, *in)
		return nil
	case begun(p.now) && !r.Again(p.now):
		return nil
	case !progress.Holds(name) && !progress.Turn(r, name):
		return nil
	}
	if err := l.certain(ctx, name, in); err != nil {
		return err
	}
	next := plan.Start(r, name, p.now, *in)
	ok, why, wake := plan.MayBegin(r, *in)
	switch {
	case !next.State.Done() && !ok:
		progress.Hold(r, name)
		p.wake = wake
		if !begun(p.now) { // of one that is tried again, its results say more
			p.now = plan.Held(next, why)
		}
	case progress.Turn(r, name):
		p.now = next
	default:
		progress.Release(r, name)
	}
	return nil
}

// deadline returns the moment at which a part no longer waits.
//
// It is counted in the machine's time, as the network and the agents are no
// quicker under a fast clock: the moment at which its turn came is stored on the
// clock of the fleet, which runs evenly, so a duration of the machine is that
// duration times the rate of the clock. So the deadline needs no memory and
// survives every restart. A leader that has just begun still gives a quarter of
// it, or a rotation would fail because the scheduler was away. What has not
// begun has none: it may wait for its wave, its window or an operator.
func (l *leader) deadline(p *part) time.Time {
	from := p.now.BeganAt
	if from.IsZero() {
		from = p.rotation.CreatedAt
	}
	moment, grace := l.realTime(from, l.config.RotationDeadline), l.realTime(l.since, l.config.RotationDeadline/4)
	if grace.After(moment) {
		return grace
	}
	return moment
}

// heard is how recent the last call of an agent must be, on the clock of the
// fleet.
func (l *leader) heard() time.Duration {
	return l.realTime(l.since, fleet.AgentHeard).Sub(l.since)
}

// nextDeadline returns the first moment at which one of the parts has to be
// looked at though nothing changes.
func (l *leader) nextDeadline(parts []part) time.Time {
	var next time.Time
	for i := range parts {
		p := &parts[i]
		next = earliest(next, p.wake)
		if p.now.State == fleet.RotationRunning && p.rotation.Reason != fleet.ReasonAuthority {
			next = earliest(next, l.deadline(p))
		}
	}
	return next
}

// follow brings the parts of a cluster up to date, stores those that have
// changed, and goes on with their rotations.
func (l *leader) follow(ctx context.Context, parts []part, in plan.Input, blocked []plan.Block) error {
	for i := range parts {
		p := &parts[i]
		if p.now.State == fleet.RotationRunning {
			p.now = plan.Follow(&p.rotation, p.now, in, blocked)
		}
		look := l.patient(p, in)
		if p.now.State == fleet.RotationRunning && p.rotation.Reason != fleet.ReasonAuthority && !in.Now.Before(l.deadline(p)) {
			p.now = plan.Expire(&p.rotation, p.now, in.Agent, l.config.RotationDeadline)
		}
		if err := l.storePart(ctx, p); err != nil {
			return err
		}
		if err := l.proceed(ctx, p, look); err != nil {
			return err
		}
	}
	return nil
}

// patient says how a part of a rotation for the authority stands that has no
// deadline: the CA that is to go stays trusted until the last client has left
// it, so what is late is told of and does not end.
func (l *leader) patient(p *part, in plan.Input) waves.Look {
	var look waves.Look
	if p.rotation.Reason != fleet.ReasonAuthority || p.now.State != fleet.RotationRunning {
		return look
	}
	var until time.Time
	look.Quiet, until = plan.Quiet(in.Agent, l.heard(), in.Now)
	late := !in.Now.Before(l.deadline(p))
	look.Overdue = late && !look.Quiet
	p.wake = earliest(p.wake, until)
	if !late {
		p.wake = earliest(p.wake, l.deadline(p))
	}
	return look
}

func (l *leader) storePart(ctx context.Context, p *part) error {
	before := p.stored
	same := before.Value.State == p.now.State && before.Value.BeganAt.Equal(p.now.BeganAt) &&
		before.Value.Attempt == p.now.Attempt && slices.Equal(before.Value.Clients, p.now.Clients)
	if before.Revision > 0 && same || p.now.State == "" {
		return nil
	}
	before.Key = p.rotation.ID + "." + p.now.Cluster
	stored, err := l.memory.parts.write(ctx, l.documents.parts, before, p.now)
	if err == nil {
		p.stored = stored
	}
	return err
}
