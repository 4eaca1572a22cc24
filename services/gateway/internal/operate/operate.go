package operate

import (
	"context"
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway/internal/apply"
	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/services/gateway/internal/state"
	"github.com/rotor-fleet/rotor/services/gateway/internal/view"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// Operator carries out what is asked for. It is safe for concurrent use.
type Operator struct {
	State  *state.State
	Bus    *bus.Bus
	Clock  clock.Clock
	Ledger ledger.Log
	Agents string // URL of the agents' listener, as agents reach it; several with commas
}

// Cluster returns all that is known about a cluster, or fleet.ErrNotFound.
func (o *Operator) Cluster(name string) (view.Cluster, error) {
	c, err := o.State.Cluster(name)
	if err != nil {
		return view.Cluster{}, err
	}
	return view.Cluster{
		Declared: c, Settings: o.State.FleetSettings(), Records: o.State.Records(name),
		Agent: o.State.Agent(name), Now: o.Clock.Now(),
	}, nil
}

// Upgrade records a reported upgrade. The scheduler sees it in the bucket and
// rotates.
func (o *Operator) Upgrade(ctx context.Context, cluster string, request api.UpgradeRequest) (api.UpgradeReply, error) {
	o.State.Releases.Fresh(ctx)
	o.State.Declared.Fresh(ctx)
	o.State.Rotations.Fresh(ctx)
	if _, err := o.State.Cluster(cluster); err != nil {
		return api.UpgradeReply{}, err
	}
	var reply api.UpgradeReply
	var from string
	// Settled once, so that a repetition of the edit does not report another moment.
	now := o.Clock.Now()
	e, err := o.State.Clusters.Edit(ctx, cluster, func(c *fleet.Cluster) error {
		if c.Name == "" { // removed just now
			return fmt.Errorf("cluster %q: %w", cluster, fleet.ErrNotFound)
		}
		from = c.Release
		decided, want, err := Reported{
			Cluster: *c, Settings: o.State.FleetSettings(), Releases: o.State.AllReleases(),
			Records: o.State.Records(cluster), Request: request, Now: now,
			Rotated: func(id string) bool { _, ok := o.State.Rotations.Get(id); return ok },
		}.Decide()
		if err != nil {
			return err
		}
		reply = decided
		if reply.Effect != EffectApplied {
			return kv.Keep
		}
		if err := ledger.Record(ctx, o.Ledger, audit.Entry{
			Action: "cluster.upgrade", Cluster: cluster, Request: "upgrade " + reply.Rotation,
			Details: map[string]string{"from": from, "release": reply.Release, "completedAt": reply.CompletedAt.Format(time.RFC3339)},
		}); err != nil {
			return err
		}
		*c = want
		return nil
	})
	if err != nil {
		return api.UpgradeReply{}, err
	}
	switch {
	case reply.Effect == EffectApplied:
		o.State.Declared.Await(ctx, e.Revision)
		err = apply.PublishUpgrade(ctx, o.Bus, e.Value, from)
	case reply.Effect == EffectRepeat && apply.PublishAgain(e.Created):
		err = apply.PublishUpgrade(ctx, o.Bus, e.Value, "")
	}
	return reply, err
}
