package state

import (
	"sync"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Recoveries finds the client that a recovery token was made for by the hash of
// the token. The zero value is ready; it is safe for concurrent use.
type Recoveries struct {
	mu      sync.RWMutex
	clients map[string]place    // hash -> client
	hashes  map[string][]string // cluster -> its hashes
}

type place struct {
	cluster string
	client  fleet.ClientKey
}

// set says which recovery tokens a cluster has.
func (x *Recoveries) set(cluster string, recoveries map[fleet.ClientKey]fleet.Recovery) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(recoveries) == 0 && len(x.hashes[cluster]) == 0 {
		return
	}
	if x.clients == nil {
		x.clients, x.hashes = map[string]place{}, map[string][]string{}
	}
	for _, hash := range x.hashes[cluster] {
		delete(x.clients, hash)
	}
	delete(x.hashes, cluster)
	for key, r := range recoveries {
		x.clients[r.Hash] = place{cluster, key}
		x.hashes[cluster] = append(x.hashes[cluster], r.Hash)
	}
}

// Find returns the client of a recovery token.
func (x *Recoveries) Find(hash string) (cluster string, client fleet.ClientKey, ok bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	p, ok := x.clients[hash]
	return p.cluster, p.client, ok
}
