// Package state holds what the gateway knows of the fleet: mirrors of the
// buckets, and the buckets it writes. It decides nothing.
package state

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/health"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// Declared is a document of the bucket "clusters": a cluster, or the settings
// of the fleet under fleet.SettingsKey. Both have a policy.
type Declared struct {
	fleet.Cluster
	Routes    []fleet.Route         `json:"routes,omitempty"`
	Authority fleet.AuthorityPolicy `json:"authority,omitzero"`
}

// State is safe for concurrent use. What it returns is shared: do not change it.
type State struct {
	Declared    *Mirror[Declared]
	Releases    *Mirror[fleet.Release]
	Agents      *Mirror[fleet.Agent]
	Credentials *Mirror[fleet.Credentials]
	Authority   *Mirror[fleet.Authority]
	Lists       *Mirror[fleet.RevocationList] // CRLs, which lie beside the authority
	Alerts      *Mirror[fleet.Alert]
	// Rotations holds documents of two types: a fleet.Rotation under its id, a
	// fleet.ClusterRotation under "<id>.<cluster>".
	Rotations *Mirror[json.RawMessage]

	// Letters is set by whoever has a bus.
	Letters *Letters

	Clusters *kv.Bucket[fleet.Cluster]
	Settings *kv.Bucket[fleet.Settings]
	Bundles  *kv.Bucket[fleet.Bundles]

	// Work wakes the long polls of a cluster.
	Work Signal
	// Index finds the cluster of an agent.
	Index Index
	// Recoveries finds the client of a recovery token.
	Recoveries Recoveries

	health  health.Part
	touch   touch
	first   []<-chan struct{} // each is closed when a mirror has all of its bucket
	bundles *kv.Bucket[json.RawMessage]
	names   names // of the documents in bundles
}

// Open opens every bucket; it waits for those that are missing until ctx ends.
func Open(ctx context.Context, nc *nats.Conn, h health.Part) (*State, error) {
	s := &State{health: h, touch: touch{rhythm: usual}}
	h.Wait(condition, s.touch.lost(time.Time{}))
	for _, name := range []string{bus.Clusters, bus.Releases, bus.Agents, bus.Credentials, bus.Authority, bus.Alerts, bus.Rotations} {
		h.Wait("bucket-"+name, "reading the bucket for the first time")
	}
	var err error
	step := func(open func() error) {
		if err == nil {
			err = open()
		}
	}
	step(func() (err error) { s.Declared, err = open[Declared](ctx, nc, bus.Clusters); return err })
	step(func() (err error) { s.Releases, err = open[fleet.Release](ctx, nc, bus.Releases); return err })
	step(func() (err error) { s.Agents, err = open[fleet.Agent](ctx, nc, bus.Agents); return err })
	step(func() (err error) { s.Credentials, err = open[fleet.Credentials](ctx, nc, bus.Credentials); return err })
	step(func() (err error) { s.Authority, err = open[fleet.Authority](ctx, nc, bus.Authority); return err })
	step(func() (err error) { s.Lists, err = open[fleet.RevocationList](ctx, nc, bus.Authority); return err })
	step(func() (err error) { s.Alerts, err = open[fleet.Alert](ctx, nc, bus.Alerts); return err })
	step(func() (err error) { s.Rotations, err = open[json.RawMessage](ctx, nc, bus.Rotations); return err })
	step(func() (err error) { s.Clusters, err = kv.Open[fleet.Cluster](ctx, nc, bus.Clusters); return err })
	step(func() (err error) { s.Settings, err = kv.Open[fleet.Settings](ctx, nc, bus.Clusters); return err })
	step(func() (err error) { s.Bundles, err = kv.Open[fleet.Bundles](ctx, nc, bus.Bundles); return err })
	step(func() (err error) { s.bundles, err = kv.Open[json.RawMessage](ctx, nc, bus.Bundles); return err })
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	s.first = []<-chan struct{}{
		s.Declared.current, s.Releases.current, s.Agents.current, s.Credentials.current, s.Authority.current, s.Lists.current, s.Alerts.current, s.Rotations.current,
	}
	return s, nil
}

// Run keeps the mirrors up to date until ctx ends.
func (s *State) Run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() { s.Declared.run(ctx, s.health, func(e kv.Entry[Declared]) { s.Work.Wake(e.Key) }) })
	all.Go(func() { s.Releases.run(ctx, s.health, nil) })
	all.Go(func() {
		s.Agents.run(ctx, s.health, func(e kv.Entry[fleet.Agent]) {
			s.Index.Set(e.Key, &e.Value)
			s.Recoveries.set(e.Key, e.Value.Recoveries)
			s.Work.Wake(e.Key)
		})
	})
	all.Go(func() {
		s.Credentials.run(ctx, s.health, func(e kv.Entry[fleet.Credentials]) { s.Work.Wake(e.Key) })
	})
	all.Go(func() {
		s.Authority.run(ctx, s.health, func(e kv.Entry[fleet.Authority]) {
			if e.Key == fleet.AuthorityKey {
				s.Work.WakeAll()
			}
		})
	})
	all.Go(func() { s.Lists.run(ctx, s.health, nil) })
	all.Go(func() { s.Alerts.run(ctx, s.health, nil) })
	all.Go(func() { s.Rotations.run(ctx, s.health, nil) })
	// Bundles are large and wanted once: they are fetched when needed, and the
	// watch only wakes those who wait for them.
	all.Go(func() {
		s.bundles.Watch(ctx, kv.Watcher[json.RawMessage]{Changed: func(e kv.Entry[json.RawMessage]) {
			s.names.note(e.Key, !e.Deleted)
			s.Work.Wake(e.Key)
		}})
	})
	all.Go(func() { s.keepTouch(ctx) })
	all.Wait()
	return nil
}

// FleetSettings returns the settings of the fleet.
func (s *State) FleetSettings() fleet.Settings {
	e, _ := s.Declared.Get(fleet.SettingsKey)
	return fleet.Settings{Policy: e.Value.Policy, Routes: e.Value.Routes, Authority: e.Value.Authority}
}

// Cluster returns a cluster, or fleet.ErrNotFound.
func (s *State) Cluster(name string) (fleet.Cluster, error) {
	e, ok := s.Declared.Get(name)
	if !ok || name == fleet.SettingsKey {
		return fleet.Cluster{}, fmt.Errorf("cluster %q: %w", name, fleet.ErrNotFound)
	}
	return e.Value.Cluster, nil
}

// ClusterNames returns the names of all clusters in their order.
func (s *State) ClusterNames() []string {
	var names []string
	for _, e := range s.Declared.All() {
		if e.Key != fleet.SettingsKey {
			names = append(names, e.Key)
		}
	}
	slices.Sort(names)
	return names
}

// AllReleases returns the releases by their publication.
func (s *State) AllReleases() []fleet.Release {
	releases := []fleet.Release{}
	for _, e := range s.Releases.All() {
		releases = append(releases, e.Value)
	}
	slices.SortFunc(releases, func(a, b fleet.Release) int {
		if c := a.PublishedAt.Compare(b.PublishedAt); c != 0 {
			return c
		}
		return cmp.Compare(a.Version, b.Version)
	})
	return releases
}

// Agent returns the document of a cluster's agent, nil if it has none.
func (s *State) Agent(cluster string) *fleet.Agent {
	e, ok := s.Agents.Get(cluster)
	if !ok {
		return nil
	}
	return &e.Value
}

// Records returns the records of a cluster's clients, nil if it has none.
func (s *State) Records(cluster string) *fleet.Credentials {
	e, ok := s.Credentials.Get(cluster)
	if !ok {
		return nil
	}
	return &e.Value
}

// TheAuthority returns the authority; ok is false while the issuer has made none.
func (s *State) TheAuthority() (a fleet.Authority, ok bool) {
	e, ok := s.Authority.Get(fleet.AuthorityKey)
	return e.Value, ok
}

// List returns the CRL of a CA; ok is false while the issuer has signed none.
func (s *State) List(ca string) (list fleet.RevocationList, ok bool) {
	e, ok := s.Lists.Get(fleet.ListKey(ca))
	return e.Value, ok
}

// AllLists returns the CRLs of all CAs.
func (s *State) AllLists() []fleet.RevocationList {
	var all []fleet.RevocationList
	for _, e := range s.Lists.All() {
		if _, is := fleet.ListOf(e.Key); is {
			all = append(all, e.Value)
		}
	}
	return all
}
