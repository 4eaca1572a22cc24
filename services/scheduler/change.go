package scheduler

import (
	"slices"
	"sync"

	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// changes collects the clusters whose documents have changed. Many changes of
// one cluster are one.
type changes struct{ *changeSet }

type changeSet struct {
	mu     sync.Mutex
	all    bool
	names  map[string]struct{}
	signal chan struct{} // holds one element while there is something to take
}

func newChanges() changes {
	return changes{&changeSet{names: map[string]struct{}{}, signal: make(chan struct{}, 1)}}
}

func (c changes) add(names ...string) {
	c.mu.Lock()
	for _, name := range names {
		c.names[name] = struct{}{}
	}
	c.mu.Unlock()
	c.wake()
}

func (c changes) addAll() {
	c.mu.Lock()
	c.all = true
	c.mu.Unlock()
	c.wake()
}

func (c changes) wake() {
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

func (c changes) take() (names map[string]struct{}, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names, all = c.names, c.all
	c.names, c.all = map[string]struct{}{}, false
	return names, all
}

// index finds the running rotations of a cluster without a look at the others.
type index struct {
	mu        sync.Mutex
	rotations map[string]kv.Entry[fleet.Rotation]
	of        map[string][]string // cluster -> ids, in the order of their start
	revisions map[string]uint64   // of every rotation that is kept
}

func newIndex() index {
	return index{rotations: map[string]kv.Entry[fleet.Rotation]{}, of: map[string][]string{}, revisions: map[string]uint64{}}
}

// set takes notice of a rotation as it is stored, and reports whether that was
// news: the mirror tells late of what was written here. One that has ended, or
// was deleted, is taken out.
func (x *index) set(e kv.Entry[fleet.Rotation]) (news bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e.Revision <= x.revisions[e.Key] {
		return false
	}
	x.revisions[e.Key] = e.Revision
	if e.Deleted {
		delete(x.revisions, e.Key)
	}
	old, known := x.rotations[e.Key]
	running := !e.Deleted && !e.Value.State.Done()
	switch {
	case running && !known:
		for _, cluster := range e.Value.Clusters {
			x.of[cluster] = append(x.of[cluster], e.Key)
		}
		x.rotations[e.Key] = e
	case running:
		x.rotations[e.Key] = e
	case known:
		for _, cluster := range old.Value.Clusters {
			x.of[cluster] = slices.DeleteFunc(x.of[cluster], func(other string) bool { return other == e.Key })
			if len(x.of[cluster]) == 0 {
				delete(x.of, cluster)
			}
		}
		delete(x.rotations, e.Key)
	}
	return true
}

// get returns a running rotation.
func (x *index) get(id string) (kv.Entry[fleet.Rotation], bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.rotations[id]
	return e, ok
}

// cluster returns the running rotations of a cluster, oldest first.
func (x *index) cluster(name string) []kv.Entry[fleet.Rotation] {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []kv.Entry[fleet.Rotation]
	for _, id := range x.of[name] {
		all = append(all, x.rotations[id])
	}
	slices.SortFunc(all, func(a, b kv.Entry[fleet.Rotation]) int { return a.Value.CreatedAt.Compare(b.Value.CreatedAt) })
	return all
}

// trace returns the traceparent of a running rotation, empty if it has none.
func (x *index) trace(id string) string {
	e, _ := x.get(id)
	return e.Value.Trace
}

// all returns every running rotation.
func (x *index) all() []fleet.Rotation {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []fleet.Rotation
	for _, e := range x.rotations {
		all = append(all, e.Value)
	}
	return all
}

// gate opens once every bucket was read, and keeps the readiness up to date
// when one is interrupted later and recovers.
type gate struct {
	mu      sync.Mutex
	env     daemon.Env
	missing int
	now     map[string]bool // buckets that are current now
	seen    map[string]bool // buckets that were current once
	open    chan struct{}
}

func newGate(env daemon.Env, buckets int) *gate {
	return &gate{env: env, missing: buckets, now: map[string]bool{}, seen: map[string]bool{}, open: make(chan struct{})}
}

func (g *gate) met(bucket string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now[bucket] = true
	if !g.seen[bucket] {
		g.seen[bucket] = true
		if g.missing--; g.missing == 0 {
			close(g.open)
		}
	}
	if g.missing == 0 && len(g.now) == len(g.seen) {
		g.env.Health.Met("state")
	}
}

func (g *gate) broken(bucket string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.now, bucket)
	g.env.Health.Wait("state", "bucket "+bucket+": "+err.Error())
}
