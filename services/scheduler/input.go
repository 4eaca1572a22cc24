package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/plan"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

func (s *state) settings() (fleet.Settings, error) {
	e, _ := s.clusters.Get(fleet.SettingsKey)
	d, err := e.Value.open()
	return d.settings, err
}

// cluster returns a cluster, or nil.
func (s *state) cluster(name string) (*fleet.Cluster, error) {
	e, ok := s.clusters.Get(name)
	if !ok || name == fleet.SettingsKey {
		return nil, nil //nolint:nilnil // a cluster that is not in the fleet is no error
	}
	d, err := e.Value.open()
	return &d.cluster, err
}

func (s *state) clusterCount() int {
	n := s.clusters.Len()
	if _, ok := s.clusters.Get(fleet.SettingsKey); ok {
		n--
	}
	return n
}

// published returns the releases, oldest first so that decisions do not depend
// on the order of a map.
func (s *state) published() []fleet.Release {
	var all []fleet.Release
	for _, e := range s.releases.All() {
		all = append(all, e.Value)
	}
	slices.SortFunc(all, func(a, b fleet.Release) int {
		if c := a.PublishedAt.Compare(b.PublishedAt); c != 0 {
			return c
		}
		return strings.Compare(a.Version, b.Version)
	})
	return all
}

// input gathers what a decision about a cluster depends on.
func (s *state) input(ctx context.Context, name string, now time.Time) (plan.Input, error) {
	in := plan.Input{Releases: s.published(), Now: now, Trusted: map[string]struct{}{}}
	authority := s.theAuthority()
	for i := range authority.CAs {
		switch c := &authority.CAs[i]; c.Phase {
		case fleet.PhaseActive:
			in.Active = c.ID
			in.Trusted[c.ID] = struct{}{}
		case fleet.PhaseIncoming, fleet.PhaseOutgoing:
			if c.TaintedAt.IsZero() {
				in.Trusted[c.ID] = struct{}{}
			}
		case fleet.PhaseRetired:
		}
	}
	var err error
	if in.Cluster, err = s.cluster(name); err != nil {
		return in, fmt.Errorf("read cluster %s: %w", name, err)
	}
	if in.Settings, err = s.settings(); err != nil {
		return in, fmt.Errorf("read settings: %w", err)
	}
	if in.Credentials, err = fetch(ctx, s.credentials, &s.records, name); err != nil {
		return in, err
	}
	in.Agent, err = fetch(ctx, s.agents, &s.reports, name)
	return in, err
}

// fetch returns a document, or nil if there is none.
func fetch[T any](ctx context.Context, b *kv.Bucket[T], n *news, key string) (*T, error) {
	if fleet.CheckName("cluster", key) != nil {
		return nil, nil //nolint:nilnil // nothing can be there
	}
	e, err := b.Get(ctx, key)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		return nil, err
	}
	if !n.has(key, e.Revision) {
		return nil, fmt.Errorf("read %s: %w: the server that was asked is behind; a newer revision is known", key, fleet.ErrConflict)
	}
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // that there is none is an answer
	}
	return &e.Value, nil
}

// news are the revisions of documents that have changed and were not fetched
// since: a replica of the bucket that is behind may answer with an older one.
// The zero value is ready; it is safe for concurrent use.
type news struct {
	mu        sync.Mutex
	revisions map[string]uint64
}

func (n *news) note(e kv.Entry[struct{}]) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.revisions == nil {
		n.revisions = map[string]uint64{}
	}
	n.revisions[e.Key] = e.Revision
	if e.Deleted {
		delete(n.revisions, e.Key) // what is read then has no revision
	}
}

// has reports whether a revision that was fetched is as new as is known.
func (n *news) has(key string, revision uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.revisions[key] > revision {
		return false
	}
	delete(n.revisions, key)
	return true
}
