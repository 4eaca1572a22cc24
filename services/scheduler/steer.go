package scheduler

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/waves"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// steer handles the command of an operator about a rotation that has not ended.
// The gateway has refused what makes no sense; what has lost its sense on the
// way, as the rotation has ended meanwhile, is logged and done with.
func (l *leader) steer(ctx context.Context, e event.Event) error {
	c, err := event.Steer.Decode(e)
	if err != nil {
		return bus.Permanent(err)
	}
	err = l.steered(ctx, c)
	switch {
	case errors.Is(err, fleet.ErrInvalid):
		return bus.Permanent(err)
	case errors.Is(err, errRefused):
		l.env.Log.WarnContext(ctx, "refused to steer a rotation", "rotation", c.Rotation, "action", string(c.Action), "by", c.By, "err", err)
		return nil
	default:
		return err
	}
}

// errRefused marks a command that has no effect, and need not be repeated.
var errRefused = errors.New("refused")

// steered applies a command. The rotation is told of as resumed before it is
// stored so; a repeat has the same id.
func (l *leader) steered(ctx context.Context, c event.SteerCommand) error {
	l.memory.rotating.Lock()
	defer l.memory.rotating.Unlock()
	stored, err := l.documents.rotations.Get(ctx, c.Rotation)
	switch {
	case errors.Is(err, fleet.ErrNotFound):
		return errors.Join(errRefused, err)
	case err != nil:
		return err
	}
	l.state.running.set(stored)
	failing := 0
	if p := l.progressOf(c.Rotation); p != nil {
		failing = p.Failing()
	}
	before := stored.Value
	changed, err := waves.Steer(&stored.Value, c, failing)
	if errors.Is(err, fleet.ErrConflict) || errors.Is(err, fleet.ErrNotFound) {
		return errors.Join(errRefused, err)
	}
	if err != nil {
		return err
	}
	if changed {
		if err := l.apply(ctx, before, stored, c); err != nil {
			return err
		}
	}
	// Whoever is concerned is looked at: also after a repeat, as the first may
	// have ended between its write and this line.
	if c.Cluster != "" {
		l.state.changes.add(c.Cluster)
	}
	if p := l.progressOf(c.Rotation); p != nil {
		l.state.changes.add(p.Begun()...)
	}
	return l.decide(ctx, c.Rotation)
}

func (l *leader) apply(ctx context.Context, before fleet.Rotation, after kv.Entry[fleet.Rotation], c event.SteerCommand) error {
	r := after.Value
	ctx = telemetry.Follow(ctx, r.Trace)
	if before.State == fleet.RotationHalted && r.State == fleet.RotationRunning {
		fact := factOf(r)
		fact.Halt, fact.By = r.Halt.Number, c.By
		m := meta(r, c.At)
		m.Key = append(m.Key, strconv.Itoa(r.Halt.Number))
		if err := bus.Publish(ctx, l.bus, event.RotationResumed, m, fact); err != nil {
			return err
		}
	}
	if err := l.change(ctx, after, nil); err != nil {
		return fmt.Errorf("%s rotation %s: %w", c.Action, r.ID, err)
	}
	l.env.Log.InfoContext(ctx, "rotation steered", "rotation", r.ID, "action", string(c.Action), "cluster", c.Cluster, "by", c.By, "reason", c.Reason)
	return nil
}
