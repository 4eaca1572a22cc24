// Package fleetfile reads and checks the declarative fleet file. Every error
// names line and column and says what would be right; nothing is applied from a
// file that has one.
//
// The package decides and reads; it touches no disk, no network and no clock.
package fleetfile

import (
	"slices"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/strictyaml"
)

// File is a fleet file that has passed every check.
type File struct {
	Settings fleet.Settings
	Releases []fleet.Release
	Clusters []fleet.Cluster
}

// Error is one thing that is wrong in a file.
type Error = strictyaml.Error

// Errors are all the things wrong in a file, in the order of their lines.
type Errors = strictyaml.Errors

// The limits of a file.
const (
	MaxErrors = strictyaml.MaxErrors
	MaxSize   = strictyaml.MaxSize
)

// Parse reads a file. The error, if any, is an Errors.
func Parse(raw []byte) (File, error) {
	top, errs := strictyaml.Parse(raw, "fleet file", "`rotor sample` prints one to begin with")
	if len(errs) > 0 {
		return File{}, errs.Sorted()
	}
	r := &reader{releases: map[string]place{}, clusters: map[string]declared{}}
	r.file(top)
	r.checkReferences()
	r.checkDirectories()
	r.checkSecrets()
	if len(r.Errs) > 0 {
		return File{}, r.Errs.Sorted()
	}
	return r.out, nil
}

// file reads the top of the file.
func (r *reader) file(top node) {
	f := r.Mapping(top, "the fleet file", "policy", "authority", "releases", "clusters", "notifications")
	if n, ok := f["policy"]; ok {
		r.out.Settings.Policy = r.policy(n)
		r.checkPolicy(n, r.out.Settings.Policy, fleet.DefaultPolicy())
	}
	if n, ok := f["authority"]; ok {
		r.out.Settings.Authority = r.authority(n)
	}
	for _, n := range r.List(f["releases"], "releases", "entries such as {version: \"2026.08\", publishedAt: 2026-08-01}") {
		r.release(n)
	}
	for _, n := range r.List(f["clusters"], "clusters", "entries such as {name: hq, kind: management}") {
		r.cluster(n)
	}
	if n, ok := f["notifications"]; ok {
		inner := r.Mapping(n, "notifications", "routes")
		for _, route := range r.List(inner["routes"], "routes", "entries such as {severity: critical, channels: [slack]}") {
			r.route(route)
		}
	}
}

func (r *reader) release(n node) {
	f := r.Mapping(n, "a release", "version", "publishedAt")
	if f == nil {
		return
	}
	version, ok := r.Required(n, f, "version", "a name such as \"2026.08\"")
	published, dated := r.Required(n, f, "publishedAt", "a date such as 2026-08-01")
	if !ok {
		return
	}
	release := fleet.Release{Version: version.Text}
	if first, twice := r.releases[version.Text]; twice {
		r.Fail(version.Place, "release %s is declared twice: the first time on line %d", version.Text, first.Line)
		return
	}
	r.releases[version.Text] = version.Place
	// The form of the version, apart from the date.
	if err := (fleet.Release{Version: version.Text, PublishedAt: anyDay}).Validate(); err != nil {
		r.Reject(version.Place, err)
		return
	}
	if dated {
		release.PublishedAt = r.date(published)
	}
	r.out.Releases = append(r.out.Releases, release)
}

func (r *reader) route(n node) {
	f := r.Mapping(n, "a route", "clusters", "labels", "rules", "severity", "channels")
	if f == nil {
		return
	}
	route := fleet.Route{
		Labels:   r.labels(f["labels"]),
		Rules:    r.names(f["rules"], "rules", "rule"),
		Channels: r.names(f["channels"], "channels", "channel"),
	}
	if _, ok := f["channels"]; !ok {
		r.Fail(n.Place, "channels is missing in a route: write the names of channels, or [] to tell nobody")
	}
	for _, name := range r.Texts(f["clusters"], "clusters", "names of clusters") {
		route.Clusters = append(route.Clusters, name.Text)
		r.routed = append(r.routed, name)
	}
	if s, ok := f["severity"]; ok {
		if text, ok := r.Text(s, "severity"); ok {
			route.Severity = fleet.Severity(text)
			if !slices.Contains([]fleet.Severity{fleet.SeverityInfo, fleet.SeverityWarning, fleet.SeverityCritical}, route.Severity) {
				r.Fail(s.Place, "severity %q: use info, warning or critical", strictyaml.Clip(text))
			}
		}
	}
	r.out.Settings.Routes = append(r.out.Settings.Routes, route)
}
