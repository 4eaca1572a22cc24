package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Steer asks the scheduler to go on with a rotation in another way, and waits a
// moment for the effect. What is so already stays so, and that is no error; the
// view says how the rotation stands. With a key, a repeat has the effect of the
// first.
func (o *Operator) Steer(ctx context.Context, c event.SteerCommand, key string) (api.RotationView, error) {
	v, err := o.Rotation(ctx, c.Rotation)
	if err != nil {
		return v, err
	}
	if err := steerable(v.Rotation, &c); err != nil || effectOf(c)(v.Rotation) {
		return v, err
	}
	c.By, c.At = ledger.Admin, o.Clock.Now()
	e := audit.Entry{
		Action: "rotation." + string(c.Action), Cluster: c.Cluster, Reason: c.Reason,
		Request: ledger.Request("rotation "+c.Rotation+" "+string(c.Action), key), Details: map[string]string{"rotation": c.Rotation},
	}
	if c.Action == event.SteerResume {
		e.Details["halt"], e.Details["failures"] = strconv.Itoa(c.Halt), "accepted"
		if c.Retry {
			e.Details["failures"] = "tried again"
		}
	}
	if err := ledger.Record(ctx, o.Ledger, e); err != nil {
		return v, err
	}
	m := event.Meta{Source: "gateway", Cluster: event.FleetWide, Key: []string{c.Cluster, e.Request}, Time: c.At}
	if err := bus.Publish(ctx, o.Bus, event.Steer, m, c); err != nil {
		return v, err
	}
	effect := effectOf(c)
	o.State.Rotations.Until(ctx, planned, func() bool {
		var r fleet.Rotation
		e, ok := o.State.Rotations.Get(c.Rotation)
		return ok && json.Unmarshal(e.Value, &r) == nil && effect(r)
	})
	return o.Rotation(ctx, c.Rotation)
}

// steerable refuses what makes no sense for a rotation as it stands, and fills in
// the halt that is resumed.
func steerable(r fleet.Rotation, c *event.SteerCommand) error {
	switch {
	case r.State.Done():
		return fmt.Errorf("%w: rotation %s has ended, it is %s: nothing of it can be changed any more", fleet.ErrConflict, r.ID, r.State)
	case r.Cancel != nil && c.Action != event.SteerCancel:
		return fmt.Errorf("%w: rotation %s was cancelled by %s and is about to end", fleet.ErrConflict, r.ID, r.Cancel.By)
	case r.Reason == fleet.ReasonAuthority && c.Action != event.SteerResume:
		return fmt.Errorf("%w: rotation %s is part of a rotation of the authority: use rotor authority exclude, include or rollback", fleet.ErrConflict, r.ID)
	case c.Action == event.SteerResume && r.State != fleet.RotationHalted:
		return fmt.Errorf("%w: rotation %s is %s: only one that is halted can be resumed", fleet.ErrConflict, r.ID, r.State)
	case c.Action == event.SteerResume && c.Halt != 0 && c.Halt != r.Halt.Number:
		return fmt.Errorf("%w: rotation %s was halted again, for the %d. time: %s", fleet.ErrConflict, r.ID, r.Halt.Number, r.Halt.Reason)
	case c.Action == event.SteerResume:
		c.Halt = r.Halt.Number
		return nil
	case c.Action == event.SteerCancel:
		return nil
	case !slices.Contains(r.Clusters, c.Cluster):
		return fmt.Errorf("cluster %q: %w in rotation %s, which is of %s", c.Cluster, fleet.ErrNotFound, r.ID, ledger.Names(r.Clusters))
	case c.Action == event.SteerExclude && strings.TrimSpace(c.Reason) == "":
		return fmt.Errorf("%w: leave %s out of rotation %s: say why, it is written down", fleet.ErrInvalid, c.Cluster, r.ID)
	default:
		return nil
	}
}

// effectOf reports whether what a command asks for is so.
func effectOf(c event.SteerCommand) func(fleet.Rotation) bool {
	return func(r fleet.Rotation) bool {
		switch c.Action {
		case event.SteerResume:
			return r.State != fleet.RotationHalted || r.Halt.Number != c.Halt
		case event.SteerExclude:
			return r.Excluded(c.Cluster)
		case event.SteerInclude:
			return !r.Excluded(c.Cluster)
		default:
			return r.State.Done()
		}
	}
}
