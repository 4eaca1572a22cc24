package operate

import (
	"context"
	"fmt"
	"strings"

	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/services/gateway/internal/view"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Course is what is asked of a rotation of the authority that is under way.
type Course struct {
	Kind    fleet.RolloutKind
	Action  event.RolloutAction
	Cluster string // of an exclusion
	Reason  string // of an exclusion
}

// SteerRollout asks the scheduler to go on with a rotation of the authority in
// another way, and waits a moment for the effect; done is false when that takes
// longer. What is so already stays so, and that is no error.
func (o *Operator) SteerRollout(ctx context.Context, c Course, key string) (r fleet.Rollout, done bool, err error) {
	have, err := o.rollout(ctx, c.Kind)
	if err != nil {
		return r, false, err
	}
	if have == nil {
		return r, false, fmt.Errorf("rotation of the %s: %w: there was none", c.Kind.Name(), fleet.ErrNotFound)
	}
	o.State.Declared.Fresh(ctx)
	if err := o.steerable(have, &c); err != nil {
		return *have, false, err
	}
	if c.effect(have) {
		return *have, true, nil
	}
	request := ledger.Request(fmt.Sprintf("authority %s %s", c.Action, have.ID), key)
	if err := ledger.Record(ctx, o.Ledger, audit.Entry{
		Action: "authority." + string(c.Action), Cluster: c.Cluster, Reason: c.Reason, Request: request,
		Details: map[string]string{"rotation": have.ID, "kind": string(c.Kind), "phase": string(have.Phase)},
	}); err != nil {
		return *have, false, err
	}
	now := o.Clock.Now()
	m := event.Meta{Source: "gateway", Cluster: event.FleetWide, Key: []string{c.Cluster, request}, Time: now}
	if err := bus.Publish(ctx, o.Bus, event.Advance, m, event.RolloutCommand{
		Rollout: have.ID, Kind: c.Kind, Action: c.Action, Cluster: c.Cluster, Why: c.Reason, By: ledger.Admin, At: now,
	}); err != nil {
		return *have, false, err
	}
	if now := o.shown(ctx, c.Kind, func(r *fleet.Rollout) bool { return r.ID != have.ID || c.effect(r) }); now != nil && now.ID == have.ID {
		return *now, true, nil
	}
	return *have, false, nil
}

// steerable refuses what makes no sense for a rotation as it stands.
func (o *Operator) steerable(r *fleet.Rollout, c *Course) error {
	what := "the rotation of the " + c.Kind.Name()
	ofCA := c.Action == event.RolloutExclude || c.Action == event.RolloutInclude || c.Action == event.RolloutRetireIt
	switch {
	case c.Action == event.RolloutBack:
		return view.Returnable(r)
	case c.Kind != fleet.RolloutCA && ofCA:
		return fmt.Errorf("%w: %s waits for no cluster and retires the old key by itself", fleet.ErrConflict, what)
	case c.Action == event.RolloutRetireIt:
		return retirable(r)
	case r.Phase.Done():
		return fmt.Errorf("%w: %s has ended, it is %s: there is nothing of it to change any more", fleet.ErrConflict, what, r.Phase)
	case c.Action == event.RolloutExclude:
		if c.Reason = strings.TrimSpace(c.Reason); c.Reason == "" {
			return fmt.Errorf("%w: exclude: say why, it is written down", fleet.ErrInvalid)
		}
		if _, err := o.State.Cluster(c.Cluster); err != nil {
			return fmt.Errorf("exclude: %w", err)
		}
	case c.Action == event.RolloutInclude:
		if _, excluded := r.Excluded[c.Cluster]; excluded {
			return nil // also one that was removed from the fleet file
		}
		if _, err := o.State.Cluster(c.Cluster); err != nil {
			return fmt.Errorf("include: %w", err)
		}
	}
	return nil
}

// retirable refuses to take an old CA out of the trust bundle where it goes by
// itself, or where clients would be cut off.
func retirable(r *fleet.Rollout) error {
	switch {
	case r.Reason != fleet.RolloutTainted:
		return fmt.Errorf("%w: the old CA goes out of the trust bundle by itself, once nobody uses it: only after rotor authority taint an operator says so", fleet.ErrConflict)
	case r.Phase == fleet.RolloutCompleted || r.RetireAsked || r.AwaitsRetirement():
		return nil
	case r.Phase == fleet.RolloutRollback || r.Phase == fleet.RolloutRolledBack:
		return fmt.Errorf("%w: the rotation of the CA is taken back, it is in phase %s", fleet.ErrConflict, r.Phase)
	default:
		return fmt.Errorf("%w: the compromised CA is still in use, the rotation is in phase %s: wait until all are reissued, or exclude clusters that are not waited for; rotor authority status names them",
			fleet.ErrConflict, r.Phase)
	}
}

// effect reports whether what is asked for is so.
func (c Course) effect(r *fleet.Rollout) bool {
	switch c.Action {
	case event.RolloutBack:
		return r.Phase == fleet.RolloutRollback || r.Phase == fleet.RolloutRolledBack
	case event.RolloutResume:
		return r.Halted == ""
	case event.RolloutExclude, event.RolloutInclude:
		_, excluded := r.Excluded[c.Cluster]
		return excluded == (c.Action == event.RolloutExclude)
	default:
		return r.RetireAsked || r.Phase == fleet.RolloutCompleted
	}
}
