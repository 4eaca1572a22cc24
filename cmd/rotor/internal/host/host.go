// Package host runs an agent for each cluster whose delivery names a directory
// or a namespace of Kubernetes, so that one machine needs one process. The agents talk to the gateway over
// HTTP, exactly as remote ones do.
package host

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/agent"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/health"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// Config says which gateway to serve, and where.
type Config struct {
	Client *api.Client // admin access, to list clusters and make join tokens
	Server string      // address of the gateway for agents
	Data   string      // data folder; relative directories start here
	Log    *slog.Logger
	Clock  clock.Clock
	Health health.Part
	Mine   func(cluster string) bool             // which clusters to serve; all, if nil
	Tracer func(cluster string) telemetry.Tracer // of each agent; none, if nil
}

// lookAgain is how often the clusters are listed without being told of a
// change.
const lookAgain = 15 * time.Second

// host holds the agents that run.
type host struct {
	Config
	agents map[string]hosted
	all    sync.WaitGroup
}

type hosted struct {
	place place
	stop  context.CancelFunc
	done  chan struct{}
}

// place is where the agent of one cluster installs. Two that are equal need no
// other agent.
type place struct {
	directory  string
	kubernetes fleet.KubernetesDelivery // instead of the directory, if it is empty
}

// Run starts and stops agents as clusters come and go, until ctx ends.
func Run(ctx context.Context, c Config) error {
	h := &host{Config: c, agents: map[string]hosted{}}
	defer h.all.Wait()
	changed := make(chan struct{}, 1)
	h.all.Go(func() { h.follow(ctx, changed) })
	for attempt := 1; ctx.Err() == nil; attempt++ {
		err := h.reconcile(ctx)
		c.Health.Check("clusters", err)
		wait := lookAgain
		if err != nil {
			wait = bus.Backoff(attempt, 5*time.Second)
		} else {
			attempt = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// follow wakes the host when a cluster was added, changed or removed.
func (h *host) follow(ctx context.Context, changed chan<- struct{}) {
	query := url.Values{"type": {event.ClusterRegistered.Type(), event.ClusterRemoved.Type()}}
	last := ""
	for attempt := 1; ctx.Err() == nil; attempt++ {
		_ = h.Client.StreamEvents(ctx, query, last, func(id string, _ event.Event) error {
			last, attempt = id, 0
			select {
			case changed <- struct{}{}:
			default:
			}
			return nil
		})
		_ = clock.Sleep(ctx, bus.Backoff(attempt, 5*time.Second))
	}
}

// reconcile makes the agents that run those that should.
func (h *host) reconcile(ctx context.Context) error {
	clusters, err := api.List[api.ClusterView](ctx, h.Client, api.PathClusters, nil)
	if err != nil {
		return err
	}
	wanted := map[string]place{}
	for _, c := range clusters {
		if c.Delivery.Hosted() && (h.Mine == nil || h.Mine(c.Name)) {
			wanted[c.Name] = h.place(c.Delivery)
		}
	}
	for name, running := range h.agents {
		if where, stays := wanted[name]; !stays || where != running.place {
			running.stop()
			<-running.done
			delete(h.agents, name)
		}
	}
	for name, where := range wanted {
		if _, runs := h.agents[name]; !runs {
			h.start(ctx, name, where)
		}
	}
	return nil
}

func (h *host) place(d fleet.Delivery) place {
	if d.Kubernetes == nil {
		return place{directory: h.path(d.Directory)}
	}
	in := *d.Kubernetes
	if in.Kubeconfig != "" {
		in.Kubeconfig = h.path(in.Kubeconfig)
	}
	return place{kubernetes: in}
}

func (h *host) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(h.Data, name)
}

func (h *host) start(ctx context.Context, cluster string, where place) {
	ctx, stop := context.WithCancel(ctx)
	running := hosted{place: where, stop: stop, done: make(chan struct{})}
	h.agents[cluster] = running
	h.all.Go(func() {
		defer close(running.done)
		for attempt := 1; ctx.Err() == nil; attempt++ {
			if err := h.runAgent(ctx, cluster, where); err != nil && ctx.Err() == nil {
				h.Log.Warn("hosted agent stopped; starting it again", "cluster", cluster, "err", err)
			}
			_ = clock.Sleep(ctx, bus.Backoff(attempt, 30*time.Second))
		}
	})
}

// runAgent runs the agent of one cluster. The machine that was told to host a
// cluster may take the place of an agent whose keys are lost.
func (h *host) runAgent(ctx context.Context, cluster string, where place) error {
	var authority api.AuthorityView
	if err := h.Client.Call(ctx, http.MethodGet, api.PathAuthority, nil, &authority); err != nil {
		return err
	}
	env := agent.Env{Log: h.Log, Clock: h.Clock}
	if h.Tracer != nil {
		env.Tracer = h.Tracer(cluster)
	}
	var settings agent.Settings
	if where.directory == "" {
		settings = agent.InKubernetes(where.kubernetes)
	}
	return agent.Run(ctx, env, agent.Config{
		Server: h.Server, Pin: authority.FleetKey, Cluster: cluster, Directory: where.directory, Settings: settings,
		StateDir: filepath.Join(h.Data, "agents", cluster), Version: daemon.Version(),
		Join: func(ctx context.Context) (secret.Text, error) {
			var join api.JoinReply
			path := api.PathClusters + "/" + url.PathEscape(cluster) + "/join-tokens"
			err := h.Client.Call(ctx, http.MethodPost, path, api.JoinRequest{Replace: true, Hosted: true}, &join)
			return secret.New(join.Token), err
		},
	})
}
