package state

import (
	"maps"
	"slices"
	"sync"
)

// names are the keys of a bucket whose documents are not kept here.
type names struct {
	mu  sync.Mutex
	all map[string]bool
}

func (n *names) note(key string, there bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !there {
		delete(n.all, key)
		return
	}
	if n.all == nil {
		n.all = map[string]bool{}
	}
	n.all[key] = true
}

// BundleNames returns the keys of the documents in the bucket "bundles", in their
// order: those of clusters and those of gateways.
func (s *State) BundleNames() []string {
	s.names.mu.Lock()
	defer s.names.mu.Unlock()
	return slices.Sorted(maps.Keys(s.names.all))
}
