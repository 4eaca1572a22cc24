package rest

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/services/gateway/internal/view"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// ClusterPath is the cluster in a path. It is exported, as the router fills no
// field of an unexported one.
// ClusterPath is the part of a request that names one cluster.
type ClusterPath struct {
	Cluster string `path:"cluster" maxLength:"63" doc:"name of the cluster"`
}

// ClientFilter is the part of a request that picks clients.
type ClientFilter struct {
	State string `query:"state" enum:"pending,healthy,due,degraded,recoverable,locked-out,revoked" doc:"only clients in this state"`
	Kind  string `query:"kind" maxLength:"63" doc:"only clients of this kind"`
}

func (f ClientFilter) takes(v api.ClientView) bool {
	return (f.State == "" || f.State == string(v.State)) && (f.Kind == "" || f.Kind == v.Kind)
}

func (a *API) registerViews(h huma.API) {
	get := func(path, id, summary string, errors ...int) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Tags: []string{"views"}, Errors: errors}
	}
	route(a, h, get(api.PathStatus, "status", "The fleet at a glance"), a.status)
	route(a, h, get(api.PathClusters, "listClusters", "Clusters with what follows from their state", 422), a.clusters)
	route(a, h, get(api.PathClusters+"/{cluster}", "getCluster", "One cluster", 404), a.cluster)
	route(a, h, get(api.PathClusters+"/{cluster}/clients", "listClientsOfCluster", "Clients of one cluster, in the order of their rotation", 404, 422), a.clientsOf)
	route(a, h, get(api.PathClients, "listClients", "Clients of all clusters", 422), a.clients)
	route(a, h, get(api.PathReleases, "listReleases", "Releases by their publication", 422), a.releases)
	route(a, h, get(api.PathRotations, "listRotations", "Rotations, newest first, without results", 422), a.rotations)
	route(a, h, get(api.PathRotations+"/{id}", "getRotation", "One rotation with its results", 404), a.rotation)
	route(a, h, get(api.PathAlerts, "listAlerts", "Alerts, firing ones first", 422), a.alerts)
	route(a, h, get(api.PathAgents, "listAgents", "Enrolled agents", 422), a.agents)
}

func (a *API) fresh(ctx context.Context) {
	s := a.Operate.State
	s.Declared.Fresh(ctx)
	s.Credentials.Fresh(ctx)
}

func (a *API) status(ctx context.Context, _ *struct{}) (api.Status, error) {
	a.fresh(ctx)
	s := a.Operate.State
	s.Alerts.Fresh(ctx)
	s.Releases.Fresh(ctx)
	s.Letters.Fresh(ctx)
	f := view.Fleet{Releases: s.AllReleases(), Alerts: a.allAlerts(), Now: a.Operate.Clock.Now(), Rate: a.Operate.Clock.Rate()}
	f.Authority, _ = s.TheAuthority()
	f.Settings, f.CA, f.Token = s.FleetSettings(), a.Operate.LastRollout(fleet.RolloutCA), a.Operate.LastRollout(fleet.RolloutToken)
	for _, n := range s.Letters.Open() {
		f.DeadLetters += n
	}
	for _, name := range s.ClusterNames() {
		if c, err := a.Operate.Cluster(name); err == nil { // else it was removed just now
			f.Clusters = append(f.Clusters, c)
		}
	}
	return f.Status(), nil
}

func (a *API) clusters(ctx context.Context, in *Paging) (api.Page[api.ClusterView], error) {
	a.fresh(ctx)
	none := api.Page[api.ClusterView]{}
	names, err := pageOf(a.Operate.State.ClusterNames(), *in, func(name string) string { return name }, ascending)
	if err != nil {
		return none, err
	}
	releases, alerts := a.Operate.State.AllReleases(), view.AlertsByCluster(a.allAlerts())
	page := api.Page[api.ClusterView]{Items: []api.ClusterView{}, Next: names.Next}
	for _, name := range names.Items {
		if c, err := a.Operate.Cluster(name); err == nil {
			page.Items = append(page.Items, c.View(releases, alerts[name]))
		}
	}
	return page, nil
}

func (a *API) cluster(ctx context.Context, in *ClusterPath) (api.ClusterView, error) {
	a.fresh(ctx)
	c, err := a.Operate.Cluster(in.Cluster)
	if err != nil {
		return api.ClusterView{}, err
	}
	return c.View(a.Operate.State.AllReleases(), view.AlertsByCluster(a.allAlerts())[in.Cluster]), nil
}

func (a *API) clientsOf(ctx context.Context, in *struct {
	ClusterPath
	ClientFilter
	Paging
},
) (api.Page[api.ClientView], error) {
	a.fresh(ctx)
	if _, err := a.Operate.State.Cluster(in.Cluster); err != nil {
		return api.Page[api.ClientView]{}, err
	}
	return a.clientPage([]string{in.Cluster}, in.ClientFilter, in.Paging)
}

func (a *API) clients(ctx context.Context, in *struct {
	ClientFilter
	Paging
},
) (api.Page[api.ClientView], error) {
	a.fresh(ctx)
	return a.clientPage(a.Operate.State.ClusterNames(), in.ClientFilter, in.Paging)
}

// clientPage walks the clusters from the cursor on until the page is full, so
// that a page costs what it holds and not what the fleet holds.
func (a *API) clientPage(clusters []string, f ClientFilter, p Paging) (api.Page[api.ClientView], error) {
	page := api.Page[api.ClientView]{Items: []api.ClientView{}}
	after, err := p.after()
	if err != nil {
		return page, err
	}
	first, key, _ := strings.Cut(after, "/")
	for _, name := range clusters {
		if name < first {
			continue
		}
		c, err := a.Operate.Cluster(name)
		if err != nil {
			continue // removed just now
		}
		views := c.Clients()
		if name == first {
			at := slices.IndexFunc(views, func(v api.ClientView) bool { return clientKey(v) == key })
			views = views[at+1:] // all, if the client has gone: better twice than never
		}
		for _, v := range views {
			if !f.takes(v) {
				continue
			}
			if len(page.Items) == p.Limit {
				last := page.Items[p.Limit-1]
				page.Next = cursor(last.Cluster + "/" + clientKey(last))
				return page, nil
			}
			page.Items = append(page.Items, v)
		}
	}
	return page, nil
}

func clientKey(v api.ClientView) string {
	return fleet.ClientKey{Kind: v.Kind, Instance: v.Instance}.String()
}
