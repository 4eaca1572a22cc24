package cli

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestStatus(t *testing.T) {
	for health, code := range map[api.Health]int{api.HealthWell: 0, api.HealthAttention: 1, api.HealthBroken: 2} {
		s := newServer(t)
		s.mux.Handle("GET /v1/status", answer(status(health)))
		r := s.run(t, "status")
		if r.code != code || r.err != "" {
			t.Errorf("%s: %+v", health, r)
		}
		if health == api.HealthAttention {
			golden(t, "status", r.out)
		}
		if r = s.run(t, "status", "-o", "json"); r.code != code {
			t.Errorf("%s as JSON: exit %d", health, r.code)
		}
	}
}

func TestStatusJSONIsWhatTheServerSends(t *testing.T) {
	s := newServer(t)
	s.mux.Handle("GET /v1/status", answer(map[string]any{
		"health": "well", "ofALaterVersion": 1,
		"clusters": []any{map[string]any{"name": "hq", "window": map[string]any{"state": "behind", "deadline": now, "daysLeft": -16}}},
	}))
	var got struct {
		OfALaterVersion int
		Clusters        []struct {
			Window struct {
				State    string
				Deadline time.Time
				DaysLeft int
			}
		}
	}
	r := s.run(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.OfALaterVersion != 1 || got.Clusters[0].Window.DaysLeft != -16 || !got.Clusters[0].Window.Deadline.Equal(now) {
		t.Errorf("%v: %+v", err, r)
	}
	if r := s.run(t, "status", "-o", "yaml"); r.code != 0 || !strings.Contains(r.out, "health: well\n") {
		t.Errorf("%+v", r)
	}
}

func TestStatusOfAnEmptyFleet(t *testing.T) {
	s := newServer(t)
	s.mux.Handle("GET /v1/status", answer(api.Status{Health: api.HealthWell, Now: now, ClockRate: 1000}))
	r := s.run(t, "status")
	if !strings.Contains(r.out, "no clusters yet") || !strings.Contains(r.out, "1000 times as fast") {
		t.Errorf("%+v", r)
	}
}

// The keys are a promise to scripts.
func TestGetClientsJSONKeys(t *testing.T) {
	s := newServer(t)
	pending := api.ClientView{Cluster: "edge-01", Kind: "csi", State: fleet.StatePending}
	s.mux.HandleFunc("GET /v1/clients", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("cursor") == "" { // two pages, not sorted by cluster
			answer(api.Page[api.ClientView]{Items: []api.ClientView{client("hq", "node-agent", "host-1"), client("hq", "kms", "")}, Next: "2"})(w, r)
			return
		}
		answer(page(client("edge-01", "kms", ""), pending))(w, r)
	})
	r := s.run(t, "get", "clients", "-o", "json")
	var got []map[string]any
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got) != 4 {
		t.Fatalf("%v: %+v", err, r)
	}
	want := []string{"certificate", "cluster", "generation", "instance", "kind", "renewAt", "state", "step", "token"}
	for _, c := range got {
		if keys := slices.Sorted(maps.Keys(c)); !reflect.DeepEqual(keys, want) {
			t.Errorf("keys %v", keys)
		}
	}
	certificate, _ := got[0]["certificate"].(map[string]any)
	tok, _ := got[0]["token"].(map[string]any)
	if !reflect.DeepEqual(slices.Sorted(maps.Keys(certificate)), sorted([]string{"serial", "notBefore", "notAfter", "issuer"})) ||
		!reflect.DeepEqual(slices.Sorted(maps.Keys(tok)), sorted([]string{"id", "notBefore", "expiresAt"})) {
		t.Errorf("%v %v", certificate, tok)
	}
	order := ""
	for _, c := range got {
		order += c["cluster"].(string) + "/" + c["kind"].(string) + " "
	}
	if order != "edge-01/kms edge-01/csi hq/node-agent hq/kms " {
		t.Errorf("order %s", order)
	}
}

func TestGetTables(t *testing.T) {
	s := newServer(t)
	late := client("edge-01", "csi", "")
	late.State, late.Reason, late.Remedy = fleet.StateDegraded, "its token has expired", "rotor rotate edge-01"
	s.mux.Handle("GET /v1/clients", answer(page(client("hq", "node-agent", "host-1"), late, api.ClientView{Cluster: "edge-02", Kind: "kms", State: fleet.StatePending})))
	s.mux.Handle("GET /v1/clusters/edge-01/clients", answer(page(client("edge-01", "kms", ""), late)))
	s.mux.Handle("GET /v1/clusters", answer(page(status(api.HealthWell).Clusters...)))
	s.mux.Handle("GET /v1/clusters/hq", answer(status(api.HealthWell).Clusters[0]))
	s.mux.Handle("GET /v1/releases", answer(page(fleet.Release{Version: "2026.10", PublishedAt: now})))
	s.mux.Handle("GET /v1/rotations", answer(page(rotated(), rotated())))
	s.mux.Handle("GET /v1/rotations/r-1", answer(rotated()))
	s.mux.Handle("GET /v1/alerts", answer(page(
		fleet.Alert{Fingerprint: "0123456789abcdef", Rule: "window-missed", Severity: fleet.SeverityCritical, State: fleet.AlertFiring, Cluster: "edge-03", Since: now, Summary: "edge-03 is behind", Remedy: "upgrade", Deliveries: []fleet.Delivered{{Channel: "mail", About: "firing/0", State: fleet.DeliverySent}}},
		fleet.Alert{Fingerprint: "fedcba", Rule: "window-closing", State: fleet.AlertResolved, Cluster: "edge-02", Since: now},
	)))
	s.mux.Handle("GET /v1/agents", answer(page(api.AgentView{Cluster: "hq", ID: "0123456789abcdef", EnrolledAt: now, LastSeen: now, Version: "v1", Bundle: 1, Failures: map[fleet.ClientKey]fleet.StepFailure{
		{Kind: "kms"}: {Generation: 2, Step: fleet.StepInstalled, Error: "read-only file system", Since: now},
	}}, api.AgentView{Cluster: "edge-01", ID: "ab", Bundle: 2, NextCA: &api.NextCA{CA: "c1", Ready: true, Since: now}},
		api.AgentView{Cluster: "edge-02", ID: "cd", Bundle: 1, NextCA: &api.NextCA{CA: "c1", Why: "has loaded trust bundle 1, and the new CA is in 2"}},
		api.AgentView{Cluster: "edge-03", ID: "ef", Bundle: 2, NextCA: &api.NextCA{CA: "c1", Why: "has not shown a handshake with the new CA yet", Since: now}})))
	var all strings.Builder
	for _, args := range []string{
		"get clients", "get clients -o wide", "get clients edge-01", "get clients edge-01/csi", "get clients --state pending", "get clients --cluster edge-01 --state healthy",
		"get clusters", "get clusters -o wide", "get cluster hq", "get releases", "get rotations", "get rotations --cluster edge-02", "get rotations r-1",
		"get alerts", "get alerts --state firing -o wide", "get alerts 012345", "get agents", "get agents hq -o wide",
	} {
		r := s.run(t, strings.Fields(args)...)
		if r.code != 0 {
			t.Errorf("%s: %+v", args, r)
		}
		all.WriteString("$ rotor " + args + "\n" + r.out + "\n")
	}
	golden(t, "get", all.String())
	for args, want := range map[string]string{
		"get clients edge-01/kva": `rotor: client "edge-01/kva": not found`,
		"get releases 1.0":        `rotor: release "1.0": not found`,
		"get alerts 0123":         `rotor: alert "0123": not found`, // too short to be meant
	} {
		hint := "\nhint: see what there is with `rotor get " + strings.Fields(args)[1] + "`\n"
		if r := s.run(t, strings.Fields(args)...); r.code != 1 || r.err != want+hint {
			t.Errorf("%s: %+v", args, r)
		}
	}
	if r := s.run(t, "get", "clients", "edge-01/kms", "-o", "json"); !strings.HasPrefix(r.out, "{") || !strings.Contains(r.out, `"kind": "kms"`) {
		t.Errorf("a named client is one object: %+v", r)
	}
	if r := s.run(t, "get", "alerts", "--cluster", "nowhere", "-o", "json"); r.out != "[]\n" {
		t.Errorf("an empty list: %+v", r)
	}
}

func TestApply(t *testing.T) {
	s := newServer(t)
	var plan api.Plan
	var query string
	s.mux.HandleFunc("PUT /v1/fleet", func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RawQuery
		answer(plan)(w, r)
	})
	const file = "clusters: [{name: a, kind: workload}]\n"
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	plan = api.Plan{Applied: true, Unchanged: 2, Changes: []api.Change{
		{Action: api.ActionAdd, Kind: "release", Name: "2026.10"},
		{Action: api.ActionChange, Kind: "cluster", Name: "edge-01", Details: []string{"release 2026.09 -> 2026.10", "policy.mode automatic -> manual"}},
		{Action: api.ActionRemove, Kind: "cluster", Name: "a"},
		{Action: api.ActionKeep, Kind: "cluster", Name: "edge-03", Details: []string{"release stays 2026.10"}},
	}}
	r := s.run(t, "apply", "-f", path, "--prune")
	golden(t, "apply", r.out)
	if r.code != 0 || query != "dryRun=false&prune=true" {
		t.Errorf("%q: %+v", query, r)
	}
	plan.Applied = false
	if r = s.run(t, "apply", "-f", path, "--dry-run"); !strings.HasSuffix(r.out, "3 changes to make, 2 objects unchanged; nothing was applied\n") || query != "dryRun=true&prune=false" {
		t.Errorf("%q: %+v", query, r)
	}
	plan = api.Plan{Applied: true, Unchanged: 1}
	env := map[string]string{"ROTOR_URL": s.URL, "ROTOR_TOKEN": token}
	if r = runWith(t, env, file, "apply", "-f", "-"); r.out != "nothing to change: 1 object as the file says\n" {
		t.Errorf("%+v", r)
	}
	if r = runWith(t, env, file, "apply", "-f", "-", "-o", "json"); !strings.Contains(r.out, `"changes": []`) {
		t.Errorf("%+v", r)
	}
}

func TestApplyErrors(t *testing.T) {
	s := newServer(t)
	s.mux.HandleFunc("PUT /v1/fleet", func(w http.ResponseWriter, _ *http.Request) {
		problem(w, 422, "the fleet file is wrong", api.ProblemError{Location: "3:7", Message: "a rule of a later server"}, api.ProblemError{Message: "and one without a place"})
	})
	env := map[string]string{"ROTOR_URL": s.URL, "ROTOR_TOKEN": token}
	r := runWith(t, env, "clusters:\n  - {name: A, kind: x}\n", "apply", "-f", "-")
	want := "rotor: 2 errors in the fleet file, nothing was applied\n" +
		"standard input:2:12: cluster \"A\": use 1-63 lower-case letters, digits and '-', starting and ending with a letter or digit\n" +
		"standard input:2:21: kind \"x\": use management or workload\n"
	if r.code != 1 || r.err != want || len(s.calls) != 0 {
		t.Errorf("%d calls: %+v", len(s.calls), r)
	}
	r = runWith(t, env, "clusters: []\n", "apply", "-f", "-")
	if r.code != 1 || !strings.HasSuffix(r.err, "\nstandard input:3:7: a rule of a later server\nstandard input: and one without a place\n") {
		t.Errorf("%+v", r)
	}
	if r := runWith(t, env, "", "apply", "-f", "/no/such/file"); r.code != 1 || !strings.Contains(r.err, "no such file") {
		t.Errorf("%+v", r)
	}
}
