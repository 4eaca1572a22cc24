package rest

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway/internal/view"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// order is a moment in a form whose order as text is that of time.
const order = "2006-01-02T15:04:05.000000000"

func (a *API) releases(ctx context.Context, in *Paging) (api.Page[fleet.Release], error) {
	a.Operate.State.Releases.Fresh(ctx)
	return pageOf(a.Operate.State.AllReleases(), *in, func(r fleet.Release) string {
		return r.PublishedAt.UTC().Format(order) + r.Version
	}, ascending)
}

func (a *API) rotations(ctx context.Context, in *Paging) (api.Page[fleet.Rotation], error) {
	// Newest first, and by id where two began together.
	key := func(r fleet.Rotation) string { return r.CreatedAt.UTC().Format(order) + " " + r.ID }
	return pageOf(a.Operate.Rotations(ctx), *in, key, newestFirst)
}

func (a *API) rotation(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"64" doc:"id of the rotation"`
},
) (api.RotationView, error) {
	return a.Operate.Rotation(ctx, in.ID)
}

// allAlerts returns every alert, firing ones first, newest first among them.
func (a *API) allAlerts() []fleet.Alert {
	alerts := []fleet.Alert{}
	for _, e := range a.Operate.State.Alerts.All() {
		alerts = append(alerts, e.Value)
	}
	slices.SortFunc(alerts, func(x, y fleet.Alert) int { return strings.Compare(alertKey(x), alertKey(y)) })
	return alerts
}

// alertKey orders alerts: the moment counts down from one far ahead.
func alertKey(a fleet.Alert) string {
	rank := "1"
	if a.State == fleet.AlertFiring {
		rank = "0"
	}
	epoch := time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	return rank + time.Unix(0, 0).UTC().Add(epoch.Sub(a.Since)).Format(order) + a.Fingerprint
}

func (a *API) alerts(ctx context.Context, in *struct {
	Paging
	State string `query:"state" enum:"firing,resolved" doc:"only alerts in this state"`
},
) (api.Page[fleet.Alert], error) {
	a.Operate.State.Alerts.Fresh(ctx)
	alerts := slices.DeleteFunc(a.allAlerts(), func(x fleet.Alert) bool { return in.State != "" && in.State != string(x.State) })
	return pageOf(alerts, in.Paging, alertKey, ascending)
}

func (a *API) agents(ctx context.Context, in *Paging) (api.Page[api.AgentView], error) {
	a.Operate.State.Agents.Fresh(ctx)
	a.fresh(ctx)
	authority, _ := a.Operate.State.TheAuthority()
	agents := []api.AgentView{}
	for _, name := range a.Operate.State.ClusterNames() {
		if c, err := a.Operate.Cluster(name); err == nil && c.Agent != nil && c.Agent.ID != "" {
			agents = append(agents, view.AgentOf(c, &authority))
		}
	}
	return pageOf(agents, *in, func(v api.AgentView) string { return v.Cluster }, ascending)
}
