package apply

import (
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/fleetfile"
)

func date(month, day int) time.Time {
	return time.Date(2026, time.Month(month), day, 0, 0, 0, 0, time.UTC)
}

func lines(p api.Plan) string {
	var out []string
	for _, c := range p.Changes {
		out = append(out, strings.TrimSpace(string(c.Action)+" "+c.Kind+" "+c.Name+" "+strings.Join(c.Details, "; ")))
	}
	return strings.Join(out, "\n")
}

func TestDiff(t *testing.T) {
	r7, r8 := fleet.Release{Version: "7", PublishedAt: date(7, 1)}, fleet.Release{Version: "8", PublishedAt: date(8, 1)}
	hq := fleet.Cluster{Name: "hq", Kind: fleet.Management, Release: "7", UpgradedAt: date(7, 5), Hosts: []string{"a"}}
	edge := fleet.Cluster{Name: "edge", Kind: fleet.Workload, Parent: "hq", Release: "7", UpgradedAt: date(7, 5)}
	upgraded := edge
	upgraded.Release, upgraded.UpgradedAt = "8", date(8, 5)
	manual := edge
	manual.Policy.Mode, manual.Policy.TokenLife = fleet.ModeManual, fleet.Duration(30*fleet.Day)
	both := Present{Releases: map[string]fleet.Release{"7": r7, "8": r8}, Clusters: map[string]fleet.Cluster{"hq": hq, "edge": upgraded}}
	for name, test := range map[string]struct {
		file    fleetfile.File
		present Present
		prune   bool
		want    string
	}{
		"parents first": {
			fleetfile.File{Releases: []fleet.Release{r7}, Clusters: []fleet.Cluster{edge, hq}},
			Present{},
			false, "add release 7\nadd cluster hq\nadd cluster edge",
		},
		"an upgrade by the file": {
			fleetfile.File{Clusters: []fleet.Cluster{upgraded}},
			Present{Clusters: map[string]fleet.Cluster{"edge": edge}},
			false, "change cluster edge release 7 -> 8; upgradedAt 2026-07-05 -> 2026-08-05",
		},
		"an upgrade after the file": {
			fleetfile.File{Releases: []fleet.Release{r7, r8}, Clusters: []fleet.Cluster{hq, manual}},
			both,
			false, "change cluster edge policy.mode (none) -> manual; policy.tokenLife (none) -> 30d; release stays 8: upgraded 2026-08-05, after the file's date",
		},
		"children are removed first": {
			fleetfile.File{Releases: []fleet.Release{r7, r8}},
			both,
			true, "remove cluster edge\nremove cluster hq",
		},
		"a release in use stays": {
			fleetfile.File{Releases: []fleet.Release{r7}, Clusters: []fleet.Cluster{hq, edge}},
			both,
			true, "keep cluster edge release stays 8: upgraded 2026-08-05, after the file's date\nkeep release 8 not in the file, but edge runs it",
		},
		"settings": {
			fleetfile.File{Settings: fleet.Settings{Policy: fleet.Policy{Mode: fleet.ModeManual}}},
			Present{},
			false, "change settings fleet policy.mode (none) -> manual",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := lines(Diff(test.file, test.present, test.prune)); got != test.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
			}
		})
	}
}

// No file can break the plan, and what a plan adds is not added again.
func FuzzApply(f *testing.F) {
	f.Add([]byte("releases:\n  - {version: \"1\", publishedAt: 2026-07-01}\nclusters:\n  - {name: hq, kind: management, hosts: [a], release: \"1\"}\n"))
	f.Add([]byte("clusters: [{name: edge, kind: workload, labels: {a: b}, policy: {tokenLife: 30d, renewTo: 60%}}]"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, err := fleetfile.Parse(raw)
		if err != nil {
			return
		}
		present := Present{Settings: file.Settings, Releases: map[string]fleet.Release{}, Clusters: map[string]fleet.Cluster{}}
		_ = Diff(file, Present{}, true)
		for _, r := range file.Releases {
			present.Releases[r.Version] = r
		}
		for _, c := range file.Clusters {
			present.Clusters[c.Name] = c
		}
		if again := Diff(file, present, true); len(again.Changes) > 0 {
			t.Errorf("second apply: %s", lines(again))
		}
	})
}
