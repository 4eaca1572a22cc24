package apply

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/services/gateway/internal/state"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/fleetfile"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// Options say how to apply.
type Options struct {
	DryRun bool // change nothing
	Prune  bool // remove what the file does not name
}

// Applier writes what a plan says. It may be killed anywhere: the next apply of
// the same file does what is left.
type Applier struct {
	State  *state.State
	Bus    *bus.Bus
	Clock  clock.Clock
	Ledger ledger.Log
}

// Present reads what the buckets hold.
func (a *Applier) Present(ctx context.Context) Present {
	a.State.Declared.Fresh(ctx)
	a.State.Releases.Fresh(ctx)
	p := Present{Settings: a.State.FleetSettings(), Releases: map[string]fleet.Release{}, Clusters: map[string]fleet.Cluster{}}
	for _, e := range a.State.Releases.All() {
		p.Releases[e.Key] = e.Value
	}
	for _, e := range a.State.Declared.All() {
		if e.Key != fleet.SettingsKey {
			p.Clusters[e.Key] = e.Value.Cluster
		}
	}
	return p
}

// Apply brings the buckets to what the file says and returns what it changed.
func (a *Applier) Apply(ctx context.Context, file fleetfile.File, o Options) (api.Plan, error) {
	plan := Diff(file, a.Present(ctx), o.Prune)
	if o.DryRun {
		return plan, nil
	}
	if err := a.record(ctx, plan); err != nil {
		return plan, err
	}
	for _, r := range file.Releases {
		if err := a.release(ctx, r); err != nil {
			return plan, err
		}
	}
	if err := a.settings(ctx, file.Settings); err != nil {
		return plan, err
	}
	for _, c := range ParentsFirst(file.Clusters) {
		if err := a.cluster(ctx, c); err != nil {
			return plan, err
		}
	}
	for _, change := range plan.Changes {
		if change.Action != api.ActionRemove {
			continue
		}
		if err := a.remove(ctx, change); err != nil {
			return plan, err
		}
	}
	plan.Applied = true
	a.State.Releases.Fresh(ctx) // so that whoever saw the answer finds what it says
	a.State.Declared.Fresh(ctx)
	return plan, nil
}

// record writes down what is about to change.
func (a *Applier) record(ctx context.Context, plan api.Plan) error {
	changes := map[api.Action][]string{}
	for _, c := range plan.Changes {
		changes[c.Action] = append(changes[c.Action], strings.TrimSpace(c.Kind+" "+c.Name))
	}
	details := map[string]string{}
	for _, action := range []api.Action{api.ActionAdd, api.ActionChange, api.ActionRemove} {
		if names := changes[action]; len(names) > 0 {
			details[string(action)] = ledger.Names(names)
		}
	}
	if len(details) == 0 {
		return nil
	}
	return ledger.Record(ctx, a.Ledger, audit.Entry{Action: "fleet.apply", Request: ledger.Request("apply", ""), Details: details})
}

// recent is how long after a write its fact is published again by whoever finds
// the document as it should be: the one who wrote it may have been killed before
// it published. The stream drops the repeat, as it remembers ids for an hour.
const recent = 45 * time.Minute

// PublishAgain reports whether the fact of a document written then may be missing.
func PublishAgain(created time.Time) bool { return clock.Wall().Sub(created) < recent }

func (a *Applier) release(ctx context.Context, want fleet.Release) error {
	written := false
	e, err := a.State.Releases.Bucket.Edit(ctx, want.Version, func(have *fleet.Release) error {
		written = len(Changes(*have, want)) > 0
		if !written {
			return kv.Keep
		}
		*have = want
		return nil
	})
	if err != nil {
		return fmt.Errorf("apply release %s: %w", want.Version, err)
	}
	if !written && !PublishAgain(e.Created) {
		return nil
	}
	m := a.meta(event.FleetWide, want.Version, revision(e.Revision))
	return bus.Publish(ctx, a.Bus, event.ReleasePublished, m, event.Release{Version: want.Version, PublishedAt: want.PublishedAt})
}

func (a *Applier) settings(ctx context.Context, want fleet.Settings) error {
	_, err := a.State.Settings.Edit(ctx, fleet.SettingsKey, func(have *fleet.Settings) error {
		if len(Changes(*have, want)) == 0 {
			return kv.Keep
		}
		*have = want
		return nil
	})
	if err != nil {
		return fmt.Errorf("apply settings: %w", err)
	}
	return nil
}

func (a *Applier) cluster(ctx context.Context, file fleet.Cluster) error {
	var want, before fleet.Cluster
	written := false
	e, err := a.State.Clusters.Edit(ctx, file.Name, func(have *fleet.Cluster) error {
		want, _ = Merge(file, *have)
		before = *have
		written = len(Changes(*have, want)) > 0
		if !written {
			return kv.Keep
		}
		*have = want
		return nil
	})
	if err != nil {
		return fmt.Errorf("apply cluster %s: %w", file.Name, err)
	}
	if !written && !PublishAgain(e.Created) {
		return nil
	}
	if written && before.Name != "" && want.UpgradedAt.After(before.UpgradedAt) {
		if err := PublishUpgrade(ctx, a.Bus, want, before.Release); err != nil {
			return err
		}
	}
	return bus.Publish(ctx, a.Bus, event.ClusterRegistered, a.meta(want.Name, revision(e.Revision)), describe(want))
}

// PublishUpgrade tells that a cluster has completed an upgrade. It happened when
// it was completed, not when it was told: so a repeat has the same content.
func PublishUpgrade(ctx context.Context, b *bus.Bus, c fleet.Cluster, from string) error {
	m := event.Meta{
		Source: "gateway", Cluster: c.Name, Time: c.UpgradedAt,
		Key: []string{c.Release, c.UpgradedAt.UTC().Format(time.RFC3339Nano)},
	}
	return bus.Publish(ctx, b, event.ClusterUpgraded, m, event.Upgrade{
		Release: c.Release, From: from, CompletedAt: c.UpgradedAt,
		Rotation: event.UpgradeRotationID(c.Name, c.Release, c.UpgradedAt),
	})
}

// remove publishes before it deletes: a document that is gone cannot remind
// anyone of a fact that was not published.
func (a *Applier) remove(ctx context.Context, change api.Change) error {
	if change.Kind == kindRelease {
		return gone(remove(ctx, a.State.Releases.Bucket, change.Name))
	}
	e, err := a.State.Clusters.Get(ctx, change.Name)
	if err != nil {
		return gone(err)
	}
	// Without its agent's document no agent of the cluster is let in any more.
	if err := gone(remove(ctx, a.State.Agents.Bucket, change.Name)); err != nil {
		return err
	}
	if err := bus.Publish(ctx, a.Bus, event.ClusterRemoved, a.meta(change.Name, revision(e.Revision)), describe(e.Value)); err != nil {
		return err
	}
	return gone(a.State.Clusters.Delete(ctx, change.Name, e.Revision))
}

func remove[T any](ctx context.Context, b *kv.Bucket[T], key string) error {
	for {
		e, err := b.Get(ctx, key)
		if err != nil {
			return err
		}
		if err := b.Delete(ctx, key, e.Revision); !errors.Is(err, fleet.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// gone forgives that what shall be removed does not exist.
func gone(err error) error {
	if errors.Is(err, fleet.ErrNotFound) {
		return nil
	}
	return err
}

func (a *Applier) meta(cluster string, key ...string) event.Meta {
	return event.Meta{Source: "gateway", Cluster: cluster, Key: key, Time: a.Clock.Now()}
}

func revision(n uint64) string { return strconv.FormatUint(n, 10) }

func describe(c fleet.Cluster) event.Cluster {
	return event.Cluster{Kind: c.Kind, Parent: c.Parent, Release: c.Release, Clients: c.ClientKeys()}
}
