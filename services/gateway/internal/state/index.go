package state

import (
	"slices"
	"sync"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Index finds the cluster of an agent by the agent's id. The zero value is
// ready; it is safe for concurrent use.
type Index struct {
	mu       sync.RWMutex
	clusters map[string]string   // agent -> cluster
	replaced map[string]string   // agent that was replaced -> cluster
	agents   map[string][]string // cluster -> its agent, empty for none, and those before it
}

// Set says which agent a cluster has, and which it had.
func (x *Index) Set(cluster string, a *fleet.Agent) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.clusters == nil {
		x.clusters, x.replaced, x.agents = map[string]string{}, map[string]string{}, map[string][]string{}
	}
	for _, id := range x.agents[cluster] {
		for _, known := range []map[string]string{x.clusters, x.replaced} {
			if known[id] == cluster {
				delete(known, id)
			}
		}
	}
	if delete(x.agents, cluster); a.ID == "" && len(a.Replaced) == 0 {
		return
	}
	if a.ID != "" {
		x.clusters[a.ID] = cluster
	}
	for _, id := range a.Replaced {
		x.replaced[id] = cluster
	}
	x.agents[cluster] = append([]string{a.ID}, slices.Clone(a.Replaced)...)
}

// Cluster returns the cluster of an agent.
func (x *Index) Cluster(agent string) (cluster string, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	cluster, ok = x.clusters[agent]
	return cluster, ok
}

// Replaced returns the cluster whose agent this one was.
func (x *Index) Replaced(agent string) (cluster string, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	cluster, ok = x.replaced[agent]
	return cluster, ok
}
