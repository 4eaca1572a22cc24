package fleetfile

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/strictyaml"
)

// checkReferences checks what clusters and routes say about other objects.
func (r *reader) checkReferences() {
	var managers, releases []string
	for _, name := range r.order {
		if r.clusters[name].kind == fleet.Management {
			managers = append(managers, name)
		}
	}
	for version := range r.releases {
		releases = append(releases, version)
	}
	slices.Sort(releases)
	for _, name := range r.order {
		d := r.clusters[name]
		if d.release != "" {
			if _, ok := r.releases[d.release]; !ok {
				r.Fail(d.releaseAt, "release %q of cluster %s is unknown: %s", strictyaml.Clip(d.release), name, known(d.release, releases, "declare it under releases"))
			}
		}
		if d.parent == "" || d.kind == fleet.Management { // the latter is told by the cluster itself
			continue
		}
		parent, ok := r.clusters[d.parent]
		switch {
		case !ok:
			r.Fail(d.parentAt, "parent %q of cluster %s is unknown: %s", strictyaml.Clip(d.parent), name, known(d.parent, managers, "declare a management cluster of this name"))
		case parent.kind != fleet.Management:
			r.Fail(d.parentAt, "parent %s of cluster %s is not a management cluster: %s", d.parent, name, known("", managers, "declare one"))
		}
	}
	for _, n := range r.routed {
		if _, ok := r.clusters[n.Text]; !ok {
			r.Fail(n.Place, "cluster %q of a route is unknown: %s", strictyaml.Clip(n.Text), known(n.Text, r.order, "declare it under clusters"))
		}
	}
}

// known says which name was meant or which there are, or what to do if none.
func known(word string, names []string, otherwise string) string {
	if len(names) == 0 {
		return otherwise
	}
	return strictyaml.Suggest(word, names)
}

// checkDirectories makes sure that no two agents install into each other.
func (r *reader) checkDirectories() {
	type folder struct{ path, cluster string }
	var folders []folder
	for _, name := range r.order {
		if d := r.clusters[name]; d.directory != "" {
			folders = append(folders, folder{path.Clean(d.directory) + "/", name})
		}
	}
	slices.SortStableFunc(folders, func(a, b folder) int { return cmp.Compare(a.path, b.path) })
	// Sorted, everything inside a folder follows it directly.
	for i, outer := 1, 0; i < len(folders); i++ {
		if !strings.HasPrefix(folders[i].path, folders[outer].path) {
			outer = i
			continue
		}
		inner, other := folders[i].cluster, folders[outer].cluster
		where := "the same as"
		if folders[i].path != folders[outer].path {
			where = "inside"
		}
		r.Fail(r.clusters[inner].directoryAt, "directory of cluster %s is %s that of cluster %s: give each cluster a folder of its own", inner, where, other)
	}
}
