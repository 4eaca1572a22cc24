// Package apply brings the buckets to what a fleet file says: Diff decides, and
// Applier writes. A second apply of the same file changes nothing.
package apply

import (
	"fmt"
	"slices"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/fleetfile"
)

// The kinds of object in a plan.
const (
	kindSettings = "settings"
	kindRelease  = "release"
	kindCluster  = "cluster"
)

// Present is what the buckets hold.
type Present struct {
	Settings fleet.Settings
	Releases map[string]fleet.Release
	Clusters map[string]fleet.Cluster
}

// Diff returns the plan that leads from the buckets to the file: releases
// first, then settings, then clusters with parents before their children, then
// what is removed, with children before their parents.
func Diff(file fleetfile.File, present Present, prune bool) api.Plan {
	plan := api.Plan{Changes: []api.Change{}}
	add := func(kind, name string, exists bool, details []string) {
		switch {
		case !exists:
			plan.Changes = append(plan.Changes, api.Change{Action: api.ActionAdd, Kind: kind, Name: name, Details: details})
		case len(details) > 0:
			plan.Changes = append(plan.Changes, api.Change{Action: api.ActionChange, Kind: kind, Name: name, Details: details})
		default:
			plan.Unchanged++
		}
	}
	for _, r := range file.Releases {
		have, ok := present.Releases[r.Version]
		add(kindRelease, r.Version, ok, details(ok, have, r))
	}
	add(kindSettings, "fleet", true, Changes(present.Settings, file.Settings))
	for _, c := range ParentsFirst(file.Clusters) {
		have, ok := present.Clusters[c.Name]
		want, kept := Merge(c, have)
		changes := details(ok, have, want)
		if ok && len(changes) == 0 && kept != "" {
			plan.Changes = append(plan.Changes, api.Change{Action: api.ActionKeep, Kind: kindCluster, Name: c.Name, Details: []string{kept}})
			continue
		}
		if kept != "" {
			changes = append(changes, kept)
		}
		add(kindCluster, c.Name, ok, changes)
	}
	plan.Changes = append(plan.Changes, leftovers(file, present, prune)...)
	return plan
}

func details(exists bool, have, want any) []string {
	if !exists {
		return nil
	}
	return Changes(have, want)
}

// leftovers are the objects that the file does not name. A release that a
// cluster still runs stays, or its update window could not be computed.
func leftovers(file fleetfile.File, present Present, prune bool) []api.Change {
	var changes []api.Change
	runs := map[string]string{}
	var gone []fleet.Cluster
	named := map[string]bool{}
	for _, c := range file.Clusters {
		named[c.Name] = true
	}
	for name, c := range present.Clusters {
		switch {
		case !named[name]:
			gone = append(gone, c)
			if !prune {
				runs[c.Release] = name
			}
		default:
			runs[c.Release] = name
		}
	}
	gone = ParentsFirst(gone)
	slices.Reverse(gone)
	for _, c := range gone {
		changes = append(changes, leftover(kindCluster, c.Name, prune, ""))
	}
	var releases []string
	for version := range present.Releases {
		if !slices.ContainsFunc(file.Releases, func(r fleet.Release) bool { return r.Version == version }) {
			releases = append(releases, version)
		}
	}
	slices.Sort(releases)
	for _, version := range releases {
		changes = append(changes, leftover(kindRelease, version, prune, runs[version]))
	}
	return changes
}

func leftover(kind, name string, prune bool, user string) api.Change {
	switch {
	case !prune:
		return api.Change{Action: api.ActionKeep, Kind: kind, Name: name, Details: []string{"not in the file: it stays, unless you prune"}}
	case user != "":
		return api.Change{Action: api.ActionKeep, Kind: kind, Name: name, Details: []string{"not in the file, but " + user + " runs it"}}
	default:
		return api.Change{Action: api.ActionRemove, Kind: kind, Name: name}
	}
}

// Merge returns what shall be stored for a cluster of the file: what the file
// says, but for an upgrade that was recorded after the file's date. Re-applying
// an old file must never take an upgrade back. kept says so in words.
func Merge(file, have fleet.Cluster) (want fleet.Cluster, kept string) {
	want = file
	if !have.UpgradedAt.After(file.UpgradedAt) {
		return want, ""
	}
	want.Release, want.UpgradedAt = have.Release, have.UpgradedAt
	return want, fmt.Sprintf("release stays %s: upgraded %s, after the file's date", have.Release, have.UpgradedAt.UTC().Format("2006-01-02"))
}

// ParentsFirst orders clusters so that a parent comes before its children, and
// by name otherwise.
func ParentsFirst(clusters []fleet.Cluster) []fleet.Cluster {
	ordered := slices.Clone(clusters)
	slices.SortFunc(ordered, func(a, b fleet.Cluster) int {
		if (a.Parent == "") != (b.Parent == "") {
			if a.Parent == "" {
				return -1
			}
			return 1
		}
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return ordered
}
