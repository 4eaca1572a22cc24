package scheduler

import (
	"context"
	"errors"
	"fmt"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/rollout"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// advance handles the command of an operator about a rotation of the authority.
// The gateway has refused what makes no sense, and told the operator; what has
// lost its sense on the way is logged and done with.
func (l *leader) advance(ctx context.Context, e event.Event) error {
	c, err := event.Advance.Decode(e)
	if err != nil {
		return bus.Permanent(err)
	}
	err = l.advanced(ctx, c)
	switch {
	case errors.Is(err, fleet.ErrInvalid):
		return bus.Permanent(err)
	case errors.Is(err, errRefused):
		l.env.Log.WarnContext(ctx, "refused a command about the authority", "rotation", c.Rollout, "kind", string(c.Kind), "action", string(c.Action),
			"cluster", c.Cluster, "by", c.By, "err", err)
		return nil
	default:
		return err
	}
}

// advanced applies a command to the rollout as it is stored. What the clients'
// rotation is told comes first: a repeat finds it done.
func (l *leader) advanced(ctx context.Context, c event.RolloutCommand) error {
	course := l.memory.course
	course.deciding.Lock()
	defer course.deciding.Unlock()
	stand := rollout.Stand{Authority: l.state.theAuthority(), Trace: telemetry.Traceparent(ctx), Now: l.env.Clock.Now()}
	if c.Kind == fleet.RolloutCA || c.Kind == fleet.RolloutToken {
		stored, err := l.documents.rollouts.Get(ctx, c.Kind.Key())
		switch {
		case errors.Is(err, fleet.ErrNotFound):
		case err != nil:
			return err
		default:
			course.rollouts.end(stored)
			stand.Rollout = &stored.Value
			stand.Reissue = l.rotation(stored.Value.Reissue)
		}
	}
	known, err := l.exists(ctx, c.Cluster)
	if err != nil {
		return err
	}
	stand.Known = func(string) bool { return known }
	turn, err := rollout.Steer(c, stand)
	if errors.Is(err, fleet.ErrConflict) || errors.Is(err, fleet.ErrNotFound) {
		return errors.Join(errRefused, err)
	}
	if err != nil {
		return err
	}
	if err := l.tell(ctx, turn.Facts); err != nil {
		return err
	}
	if turn.Steer != nil {
		if err := l.steered(ctx, *turn.Steer); err != nil && !errors.Is(err, errRefused) {
			return err
		}
	}
	if turn.Rollout != nil {
		_, before := course.last(c.Kind)
		if _, err := course.rollouts.write(ctx, l.documents.rollouts, before, *turn.Rollout); err != nil {
			return fmt.Errorf("%s rotation of the authority %s: %w", c.Action, c.Rollout, err)
		}
		l.env.Log.InfoContext(ctx, "rotation of the authority steered", "rotation", c.Rollout, "kind", string(c.Kind), "action", string(c.Action),
			"cluster", c.Cluster, "by", c.By, "reason", c.Why)
	}
	delete(course.asked, c.Kind)
	l.state.turn()
	return nil
}

// exists reports whether a cluster is in the fleet. One that was declared a moment
// ago may not be in the mirror yet.
func (l *leader) exists(ctx context.Context, name string) (bool, error) {
	if fleet.CheckName("cluster", name) != nil {
		return false, nil
	}
	if _, ok := l.state.clusters.Get(name); ok {
		return true, nil
	}
	_, err := l.state.clusterDocs.Get(ctx, name)
	if errors.Is(err, fleet.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
