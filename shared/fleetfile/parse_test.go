package fleetfile

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// base is a right file to which the tables append.
const base = `releases:
  - {version: 2026.10, publishedAt: 2026-10-01}
clusters:
  - name: hq
    kind: management
    hosts: [host-1]
`

func TestParseErrors(t *testing.T) {
	for name, tt := range map[string]struct{ file, want string }{
		"empty":         {"", "1:1: the file is empty: `rotor sample` prints one to begin with"},
		"comments only": {"# nothing\n", "1:1: the file is empty: `rotor sample` prints one to begin with"},
		"a list":        {"- a\n", `1:1: the fleet file must be keys and values, such as "policy: ...", not a list`},
		"two documents": {"policy: {}\n---\npolicy: {}\n", "3:1: a second document begins here: remove the line '---', one file is one document"},
		"syntax":        {"clusters: [\n", "1:11: this is not YAML: sequence end token ']' not found"},
		"tab":           {"policy:\n\tmode: manual\n", "2:1: this is not YAML: found character '\t' that cannot start any token"},
		"control":       {"policy: {}\x00\n", "1:11: the file is not plain text in UTF-8"},
		"anchor":        {"policy: &p {}\n", "1:9: anchors, aliases and merge keys are not read here: write the value out"},
		"tag":           {"policy: !!map {}\n", `1:9: "!!map" is not read here: write plain keys and values`},

		"unknown key":      {"polices: {}\n", `1:1: unknown key "polices" in the fleet file: did you mean "policy"?`},
		"unknown far key":  {"server: {}\n", `1:1: unknown key "server" in the fleet file: use one of policy, authority, releases, clusters, notifications`},
		"CA too short":     {"authority: {life: 1h}\n", `1:19: life 1h0m0s: use 4h0m0s to 3650d`},
		"CA without slack": {"authority:\n  life: 100d\n  slack: 50d\n", `3:10: slack 50d: use at most a quarter of the life, 25d`},
		"CA soak":          {"authority: {soak: 60d}\n", `1:19: soak 60d: use at most a twelfth of the life, 730h0m0s`},
		"CA mode":          {"authority: {mode: on-upgrade}\n", `1:19: mode "on-upgrade": use automatic or manual`},
		"key in a cluster": {base + "    relase: x\n", `7:5: unknown key "relase" in a cluster: did you mean "release"?`},
		"key twice":        {base + "    kind: workload\n", `7:5: key "kind" stands twice in a cluster: the first time on line 5`},
		"wrong type":       {base + "    policy: [manual]\n", `7:13: a policy must be keys and values, such as "mode: ...", not a list`},
		"wrong list":       {base + "  - {name: a, kind: workload, clients: kms}\n", `7:40: clients must be a list of names such as kms or node-agent/host-1, not "kms"`},
		"wrong scalar":     {base + "  - {name: [a], kind: workload}\n", "7:12: name must be a single value, not a list"},

		"no name":        {base + "  - {kind: workload}\n", "7:5: name is missing: write a name such as edge-01"},
		"no kind":        {base + "  - {name: a}\n", "7:5: kind is missing: write management or workload"},
		"bad kind":       {base + "  - {name: a, kind: worker}\n", `7:21: kind "worker": use management or workload`},
		"bad name":       {base + "  - {name: Edge_1, kind: workload}\n", `7:12: cluster "Edge_1": use 1-63 lower-case letters, digits and '-', starting and ending with a letter or digit`},
		"same cluster":   {base + "  - {name: hq, kind: workload}\n", "7:12: cluster hq is declared twice: the first time on line 4"},
		"same release":   {"releases:\n  - {version: a, publishedAt: 2026-10-01}\n  - {version: a, publishedAt: 2026-10-01}\n", "3:15: release a is declared twice: the first time on line 2"},
		"same host":      {base + "  - {name: b, kind: management, hosts: [h, h]}\n", "7:44: host h is named twice"},
		"same client":    {base + "  - {name: b, kind: workload, clients: [kms, kms]}\n", "7:46: client kms is named twice"},
		"nested client":  {base + "  - {name: b, kind: workload, clients: [kms, kms/a]}\n", "7:46: client kms/a stands beside another kms: give each of them an instance, such as kms/a"},
		"bad client":     {base + "  - {name: b, kind: workload, clients: [KMS]}\n", `7:41: client kind "KMS": use 1-63 lower-case letters, digits and '-', starting and ending with a letter or digit`},
		"unknown parent": {base + "  - {name: b, kind: workload, parent: hp}\n", `7:39: parent "hp" of cluster b is unknown: did you mean "hq"?`},
		"far parent":     {base + "  - {name: b, kind: workload, parent: other}\n", `7:39: parent "other" of cluster b is unknown: use one of hq`},
		"workload parent": {
			base + "  - {name: b, kind: workload}\n  - {name: c, kind: workload, parent: b}\n",
			"8:39: parent b of cluster c is not a management cluster: use one of hq",
		},
		"managed manager":  {base + "    parent: hq\n", "4:11: cluster hq: a management cluster has no parent"},
		"no hosts":         {base + "  - {name: b, kind: management}\n", "7:12: cluster b: a management cluster needs hosts (each runs a node-agent) or clients"},
		"workload hosts":   {base + "  - {name: b, kind: workload, hosts: [h]}\n", "7:12: cluster b: hosts belong to the management cluster"},
		"unknown release":  {base + "    release: 2026.1\n", `7:14: release "2026.1" of cluster hq is unknown: did you mean "2026.10"?`},
		"no releases":      {"clusters: [{name: a, kind: workload, release: x}]\n", `1:47: release "x" of cluster a is unknown: declare it under releases`},
		"bad version":      {"releases: [{version: a b, publishedAt: 2026-10-01}]\n", `1:22: release "a b": use 1-63 letters, digits, '.', '_' and '-', such as 2026.08`},
		"no date":          {"releases: [{version: a}]\n", "1:12: publishedAt is missing: write a date such as 2026-08-01"},
		"bad date":         {"releases: [{version: a, publishedAt: 2026-13-01}]\n", `1:38: date "2026-13-01": write 2026-08-01 or 2026-08-01T06:30:00Z`},
		"bad upgradedAt":   {base + "    upgradedAt: yesterday\n", `7:17: date "yesterday": write 2026-08-01 or 2026-08-01T06:30:00Z`},
		"bad label":        {base + "    labels: {site: [a]}\n", "7:20: label site must be a single value, not a list"},
		"bad label key":    {base + "    labels: {'a b': c}\n", `7:14: label "a b": use 1-63 letters, digits, '.', '_', '/' and '-', starting with a letter or digit`},
		"bad duration":     {"policy: {tokenLife: 90 days}\n", `1:21: tokenLife "90 days": write days, hours or minutes, such as 90d, 36h or 30m`},
		"zero duration":    {"policy: {tokenLife: 0d}\n", `1:21: tokenLife "0d": must be longer than nothing; leave the key out for the default`},
		"bad share":        {"policy: {renewFrom: 120%}\n", `1:21: renewFrom "120%": write a part of a life between 0% and 100%, such as 61%`},
		"bad mode":         {"policy: {mode: auto}\n", `1:16: mode "auto": use automatic, on-upgrade or manual`},
		"bad recovery":     {"policy: {recovery: manual}\n", `1:20: recovery "manual": use automatic or operator`},
		"long permit":      {"policy: {recoveryTokenLife: 2d}\n", "1:29: recoveryTokenLife 2d: use 1m to 1d"},
		"long life":        {"policy: {tokenLife: 400d}\n", "1:21: tokenLife 400d: use 1h to 365d, the life of the CA"},
		"policy over base": {"policy: {renewTo: 70%}\n" + base + "    policy: {mode: manual, renewFrom: 71%}\n", "8:39: renewFrom 71%: must lie above 0% and not above renewTo 70%"},
		"bad cron":         {base + "    maintenance: [{cron: 61 2 * * 6, duration: 4h}]\n", `7:26: maintenance: cron "61 2 * * 6": end of range (61) above maximum (59): 61: write minute hour day month weekday, such as "0 2 * * 6"`},
		"macro cron":       {base + "    maintenance: [{cron: '@daily', duration: 4h}]\n", `7:26: cron "@daily": write five fields, minute hour day month weekday, such as "0 2 * * 6"`},
		"TZ cron panics":   {base + "    maintenance: [{cron: TZ=UTC, duration: 4h}]\n", `7:26: cron "TZ=UTC": write five fields, minute hour day month weekday, such as "0 2 * * 6"`},
		"never":            {base + "    maintenance: [{cron: 0 0 31 2 *, duration: 4h}]\n", `7:26: cron "0 0 31 2 *": this day never comes`},
		"bad zone":         {base + "    maintenance: [{cron: 0 2 * * 6, duration: 4h, zone: Mars/Olympus}]\n", `7:57: zone "Mars/Olympus": use an IANA name such as Europe/Berlin`},
		"no duration":      {base + "    maintenance: [{cron: 0 2 * * 6}]\n", "7:19: duration is missing: write how long it stays open, such as 4h"},
		"short":            {base + "    maintenance: [{cron: 0 2 * * 6, duration: 30s}]\n", "7:47: duration 30s: use at least 1m"},
		"parent folder":    {base + "    delivery: {directory: a/../../b}\n", `7:27: directory "a/../../b": must not contain ".."`},
		"data folder":      {base + "    delivery: {directory: ./}\n", `7:27: directory "./": name a folder of its own, such as clusters/edge-01`},
		"same folder": {
			base + "    delivery: {directory: c/x}\n  - {name: b, kind: workload, delivery: {directory: c//x/}}\n",
			"8:53: directory of cluster b is the same as that of cluster hq: give each cluster a folder of its own",
		},
		"nested folder": {
			base + "    delivery: {directory: c/x/y}\n  - {name: b, kind: workload, delivery: {directory: c/x-1}}\n  - {name: d, kind: workload, delivery: {directory: c/x}}\n",
			"7:27: directory of cluster hq is inside that of cluster d: give each cluster a folder of its own",
		},
		"two deliveries":  {base + "    delivery: {directory: a, kubernetes: {namespace: n}}\n", "7:42: delivery has a directory and kubernetes: choose one"},
		"no namespace":    {base + "    delivery: {kubernetes: {context: a}}\n", "7:28: namespace is missing: write the namespace of the Secrets, such as kube-system"},
		"bad namespace":   {base + "    delivery: {kubernetes: {namespace: a.b}}\n", `7:40: namespace "a.b": use 1-63 lower-case letters, digits and '-', as Kubernetes does`},
		"bad prefix":      {base + "    delivery: {kubernetes: {namespace: n, secretPrefix: A}}\n", `7:57: secretPrefix "A": use 1-63 lower-case letters, digits and '-', beginning with a letter or digit`},
		"kubeconfig away": {base + "    delivery: {kubernetes: {namespace: n, kubeconfig: ../k}}\n", `7:55: kubeconfig "../k": must not contain ".."`},
		"secret key":      {base + "    delivery: {kubernetes: {namespace: n, prefix: a}}\n", `7:43: unknown key "prefix" in kubernetes: use one of kubeconfig, context, namespace, secretPrefix`},
		"same secrets": {
			base + "    delivery: {kubernetes: {namespace: n}}\n  - {name: b, kind: workload, delivery: {kubernetes: {namespace: n, secretPrefix: rotor-}}}\n",
			"8:54: clusters hq and b would write the same Secrets: give one of them another namespace or secretPrefix",
		},
		"no channels":      {base + "notifications: {routes: [{severity: info}]}\n", "7:26: channels is missing in a route: write the names of channels, or [] to tell nobody"},
		"bad severity":     {base + "notifications: {routes: [{severity: high, channels: [a]}]}\n", `7:37: severity "high": use info, warning or critical`},
		"route to unknown": {base + "notifications: {routes: [{clusters: [hx], channels: [a]}]}\n", `7:38: cluster "hx" of a route is unknown: did you mean "hq"?`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(tt.file))
			if err == nil {
				t.Fatal("no error")
			}
			if err.Error() != tt.want {
				t.Errorf("\ngot  %s\nwant %s", err, tt.want)
			}
			if !errors.Is(err, fleet.ErrInvalid) {
				t.Error("the error is not ErrInvalid")
			}
		})
	}
}

func TestParseReportsAllErrorsInOrder(t *testing.T) {
	_, err := Parse([]byte(base + "    release: nope\n    policy: {tokenLife: x}\n  - {name: b, kind: workload, parent: zz}\npolicy: {mode: x}\n"))
	var lines []int
	errs, _ := errors.AsType[Errors](err)
	for _, e := range errs {
		lines = append(lines, e.Line)
	}
	if !reflect.DeepEqual(lines, []int{7, 8, 9, 10}) {
		t.Errorf("lines %v: %v", lines, err)
	}
	_, err = Parse([]byte("clusters:\n" + strings.Repeat("  - {}\n", 100)))
	errs, _ = errors.AsType[Errors](err)
	if len(errs) != MaxErrors+1 || errs[MaxErrors].Message != "and 150 more errors from here on" {
		t.Errorf("%d errors, last %+v", len(errs), errs[len(errs)-1])
	}
}

func TestParseBounds(t *testing.T) {
	for name, raw := range map[string]string{
		"large":         strings.Repeat("#", MaxSize+1),
		"deep flow":     "a: " + strings.Repeat("[", 1<<20),
		"deep block":    strings.Repeat("- ", 1<<20),
		"deep mappings": strings.Repeat("{a: ", 1<<16),
		"deep indent":   deepIndent(2000),
		"many keys":     strings.Repeat("a: b\n", 1<<20),
		"laughs":        "a: &a [x]\nb: &b [*a, *a]\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(raw)); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestParseLargeFleet(t *testing.T) {
	const clusters = 5000
	var b strings.Builder
	b.WriteString("clusters:\n")
	for i := range clusters {
		fmt.Fprintf(&b, "  # a comment\n  - name: edge-%d\n    kind: workload\n    delivery:\n      directory: clusters/edge-%d\n", i, i)
	}
	f, err := Parse([]byte(b.String()))
	if err != nil || len(f.Clusters) != clusters {
		t.Errorf("%d clusters: %v", len(f.Clusters), err)
	}
}

func deepIndent(levels int) string {
	var b strings.Builder
	for i := range levels {
		fmt.Fprintf(&b, "%sa:\n", strings.Repeat(" ", i))
	}
	return b.String()
}

func TestParseFull(t *testing.T) {
	raw, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"as it is": string(raw), "with CRLF and BOM": "\ufeff" + strings.ReplaceAll(string(raw), "\n", "\r\n")} {
		f, err := Parse([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		day := func(y, m, d int) time.Time { return time.Date(y, time.Month(m), d, 0, 0, 0, 0, time.UTC) }
		want := File{
			Settings: fleet.Settings{
				Policy: fleet.Policy{Mode: fleet.ModeManual, TokenLife: fleet.Duration(36 * time.Hour), RenewFrom: 0.4},
				Routes: []fleet.Route{{
					Clusters: []string{"hq"}, Labels: map[string]string{"site": "berlin"}, Rules: []string{"window-missed"},
					Severity: fleet.SeverityWarning, Channels: []string{"mail"},
				}, {Channels: []string{}}},
			},
			Releases: []fleet.Release{{Version: "2026.10", PublishedAt: day(2026, 10, 1)}, {Version: "0x1F", PublishedAt: day(2026, 9, 1).Add(4 * time.Hour)}},
			Clusters: []fleet.Cluster{
				{Name: "hq", Kind: fleet.Management, Hosts: []string{"1"}, Release: "2026.10", UpgradedAt: day(2026, 10, 5), Labels: map[string]string{"site": "true"}},
				{
					Name: "edge", Kind: fleet.Workload, Parent: "hq", Clients: []fleet.ClientKey{{Kind: "kms"}, {Kind: "node-agent", Instance: "host-1"}},
					Policy:      fleet.Policy{Mode: fleet.ModeOnUpgrade},
					Maintenance: []fleet.Maintenance{{Cron: "0 2 * * 6", Duration: fleet.Duration(4 * time.Hour), Zone: "Europe/Berlin"}},
					Delivery:    fleet.Delivery{Directory: "/srv/edge"}, Notify: []string{"slack"},
				},
				{Name: "alone", Kind: fleet.Workload},
			},
		}
		if !reflect.DeepEqual(f, want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, f, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(base))
	f.Add(Sample(anyDay))
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, err := Parse(raw)
		if err != nil {
			errs, ok := errors.AsType[Errors](err)
			if !ok || len(errs) == 0 || len(errs) > MaxErrors+1 {
				t.Fatalf("%T: %v", err, err)
			}
			for _, e := range errs {
				if e.Line < 1 || e.Column < 1 || e.Message == "" {
					t.Fatalf("no place or message: %+v", e)
				}
			}
			return
		}
		for i := range file.Clusters {
			c := &file.Clusters[i]
			if err := errors.Join(c.Validate(), fleet.PolicyOf(file.Settings, c).Validate()); err != nil {
				t.Errorf("accepted what is not valid: %v", err)
			}
		}
	})
}

func TestDeliveryInKubernetes(t *testing.T) {
	f, err := Parse([]byte("clusters:\n  - {name: a, kind: workload, delivery: {kubernetes: {kubeconfig: k/edge, context: c, namespace: n, secretPrefix: a-}}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	d := f.Clusters[0].Delivery
	want := fleet.KubernetesDelivery{Kubeconfig: "k/edge", Context: "c", Namespace: "n", SecretPrefix: "a-"}
	if d.Kubernetes == nil || *d.Kubernetes != want || !d.Hosted() {
		t.Errorf("%+v, want %+v", d.Kubernetes, want)
	}
}
