package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestApplyIsIdempotent(t *testing.T) {
	w := start(t)
	dry, err := w.client.Apply(t.Context(), []byte(fleetFile), true, false)
	if err != nil || dry.Applied || len(dry.Changes) != 4 {
		t.Fatalf("dry run: %+v, %v", dry, err)
	}
	if n := len(bustest.Stored(t, w.bus, event.ClusterRegistered)); n != 0 {
		t.Fatalf("a dry run told of %d clusters", n)
	}
	first := w.apply(t, fleetFile)
	if !first.Applied || mustJSON(t, first.Changes) != mustJSON(t, dry.Changes) {
		t.Errorf("apply %+v is not what the dry run said: %+v", first, dry)
	}
	second := w.apply(t, fleetFile)
	if len(second.Changes) != 0 || second.Unchanged != 5 {
		t.Errorf("second apply: %+v", second)
	}
	if n := len(bustest.Stored(t, w.bus, event.ClusterRegistered)); n != 2 {
		t.Errorf("%d clusters registered, want 2", n)
	}
	if n := len(bustest.Stored(t, w.bus, event.ReleasePublished)); n != 2 {
		t.Errorf("%d releases published, want 2", n)
	}
}

// A gateway that was killed between the write and the fact is made good by the
// next apply.
func TestApplyPublishesWhatIsMissing(t *testing.T) {
	w := start(t)
	clusters := open[fleet.Cluster](t, w, bus.Clusters)
	hq := fleet.Cluster{Name: "hq", Kind: fleet.Management, Release: "2026.08", UpgradedAt: day("2026-08-05"), Hosts: []string{"host-1", "host-2"}}
	if _, err := clusters.Create(t.Context(), "hq", hq); err != nil {
		t.Fatal(err)
	}
	w.apply(t, fleetFile)
	if n := len(bustest.Stored(t, w.bus, event.ClusterRegistered)); n != 2 {
		t.Errorf("%d clusters registered, want 2", n)
	}
}

func TestApplyChangesPrunesAndKeeps(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	var reply api.UpgradeReply
	if err := w.client.Call(t.Context(), http.MethodPost, api.PathClusters+"/edge-01/upgrades",
		api.UpgradeRequest{Release: "2026.08", CompletedAt: day("2026-11-20")}, &reply); err != nil {
		t.Fatal(err)
	}
	again := w.apply(t, fleetFile)
	if len(again.Changes) != 1 || again.Changes[0].Action != api.ActionKeep {
		t.Fatalf("an old file after an upgrade: %+v", again)
	}
	contains(t, again.Changes[0].Details[0], "release stays 2026.08", "upgraded 2026-11-20")

	changed := strings.Replace(fleetFile, "labels: {zone: north}", "labels: {zone: south}, policy: {mode: manual}", 1)
	plan := w.apply(t, changed)
	contains(t, mustJSON(t, plan), "labels.zone north -\\u003e south", "policy.mode (none) -\\u003e manual")

	file, _, _ := strings.Cut(fleetFile, "  - {name: edge-01")
	kept := w.apply(t, file)
	if len(kept.Changes) != 1 || kept.Changes[0].Action != api.ActionKeep {
		t.Errorf("without prune: %+v", kept)
	}
	agent := w.enrolled(t, "edge-01")
	pruned, err := w.client.Apply(t.Context(), []byte(file), false, true)
	if err != nil || len(pruned.Changes) != 1 || pruned.Changes[0].Action != api.ActionRemove {
		t.Fatalf("prune: %+v, %v", pruned, err)
	}
	bustest.Expect(t, w.bus, event.ClusterRemoved, nil)
	if err := w.client.Call(t.Context(), http.MethodGet, api.PathClusters+"/edge-01", nil, nil); status(err) != http.StatusNotFound {
		t.Errorf("removed cluster: %v", err)
	}
	bustest.Eventually(t, func() error {
		if _, _, err := agent.WorkAfter(t.Context(), "", 0); status(err) != http.StatusUnauthorized {
			return fmt.Errorf("agent of a removed cluster: %w", err)
		}
		return nil
	})
}

func TestApplyRefusesAWrongFile(t *testing.T) {
	w := start(t)
	_, err := w.client.Apply(t.Context(), []byte("clusters:\n  - {name: UPPER, kind: management, hosts: [a]}\n"), false, false)
	if status(err) != http.StatusUnprocessableEntity {
		t.Fatalf("got %v", err)
	}
	contains(t, err.Error(), "2:", "UPPER")
	huge := slices.Repeat([]byte("# a long line of a fleet file that is far too large\n"), 17<<20/52+1)
	if _, err := w.client.Apply(t.Context(), huge, false, false); status(err) != http.StatusRequestEntityTooLarge {
		t.Errorf("17 MiB: %v", err)
	}
	body := api.RotateRequest{Selector: map[string]string{"x": strings.Repeat("x", 2<<20)}}
	if _, err := w.client.Rotate(t.Context(), body); status(err) != http.StatusRequestEntityTooLarge {
		t.Errorf("2 MiB: %v", err)
	}
}

func TestUpgrade(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	upgrade := func(cluster, release string, at time.Time) (reply api.UpgradeReply, err error) {
		err = w.client.Call(t.Context(), http.MethodPost, api.PathClusters+"/"+cluster+"/upgrades",
			api.UpgradeRequest{Release: release, CompletedAt: at}, &reply)
		return reply, err
	}
	at := clock.Wall().Add(-time.Hour).Truncate(time.Second)
	for _, rotation := range []string{event.UpgradeRotationID("edge-01", "2026.08", at), ""} { // no scheduler has planned it by the repeat
		reply, err := upgrade("edge-01", "2026.08", at)
		if err != nil || !reply.ValidUntil.Equal(at.Add(90*fleet.Day)) || reply.Window.State != fleet.WindowCurrent {
			t.Fatalf("%+v, %v", reply, err)
		}
		if reply.Rotation != rotation {
			t.Errorf("rotation %s", reply.Rotation)
		}
	}
	if all := bustest.Stored(t, w.bus, event.ClusterUpgraded); len(all) != 1 || all[0].From != "2026.07" {
		t.Errorf("upgrades told: %+v", all)
	}
	if _, err := upgrade("nowhere", "2026.08", at); status(err) != http.StatusNotFound {
		t.Errorf("unknown cluster: %v", err)
	}
	if _, err := upgrade("_fleet", "2026.08", at); status(err) != http.StatusNotFound {
		t.Errorf("the settings are no cluster: %v", err)
	}
}

func TestRotate(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	for _, test := range []struct {
		name    string
		request api.RotateRequest
		status  int
		says    string
	}{
		{"unknown cluster", api.RotateRequest{Clusters: []string{"edge-01", "edge-99"}}, 404, "edge-99"},
		{"unknown client", api.RotateRequest{Clusters: []string{"edge-01"}, Clients: []fleet.ClientKey{{Kind: "caph"}}}, 404, "caph"},
		{"no match", api.RotateRequest{Selector: map[string]string{"zone": "mars"}}, 422, "zone=mars"},
		{"nothing", api.RotateRequest{}, 422, "selector"},
		{"two ways", api.RotateRequest{All: true, Clusters: []string{"hq"}}, 422, "one of the three"},
	} {
		_, err := w.client.Rotate(t.Context(), test.request)
		if status(err) != test.status {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		contains(t, err.Error(), test.says)
	}
	preview, err := w.client.Rotate(t.Context(), api.RotateRequest{All: true, DryRun: true})
	if err != nil || preview.Total != 13 || len(preview.Results) != 2 {
		t.Fatalf("dry run: %+v, %v", preview, err)
	}
	if n := len(bustest.Stored(t, w.bus, event.Rotate)); n != 0 {
		t.Fatalf("a dry run sent %d commands", n)
	}
	keyed := *w.client
	keyed.Key = "key-1"
	one, err := keyed.Rotate(t.Context(), api.RotateRequest{Selector: map[string]string{"zone": "north"}, Force: true})
	if err != nil || one.State != fleet.RotationAccepted || !slices.Equal(one.Clusters, []string{"edge-01"}) {
		t.Fatalf("%+v, %v", one, err)
	}
	command := bustest.Expect(t, w.bus, event.Rotate, nil)
	if command.Rotation != one.ID || !command.Force || command.By != "admin" {
		t.Errorf("command %+v", command)
	}
	planned := one.Rotation
	planned.State, planned.Total = fleet.RotationRunning, 4
	if _, err := open[fleet.Rotation](t, w, bus.Rotations).Create(t.Context(), one.ID, planned); err != nil {
		t.Fatal(err)
	}
	repeat, err := keyed.Rotate(t.Context(), api.RotateRequest{Selector: map[string]string{"zone": "north"}, Force: true})
	if err != nil || repeat.ID != one.ID || repeat.State != fleet.RotationRunning {
		t.Errorf("repeat: %+v, %v", repeat, err)
	}
	if _, err := keyed.Rotate(t.Context(), api.RotateRequest{All: true}); status(err) != http.StatusConflict {
		t.Errorf("the same key for another rotation: %v", err)
	}
	if n := len(bustest.Stored(t, w.bus, event.Rotate)); n != 1 {
		t.Errorf("%d commands, want 1", n)
	}
	if view, err := w.client.Rotation(t.Context(), one.ID); err != nil || view.State != fleet.RotationRunning {
		t.Errorf("%+v, %v", view, err)
	}
}

func TestViewsAndPages(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	var s api.Status
	w.get(t, api.PathStatus, &s)
	if s.Health != api.HealthAttention || s.Clients != 13 || s.States[fleet.StatePending] != 13 {
		t.Errorf("status %+v", s)
	}
	contains(t, strings.Join(s.Reasons, "\n"), "no agent has enrolled for edge-01", "edge-01 is ", "past its update window")
	all, err := api.List[api.ClientView](t.Context(), w.client, api.PathClients, map[string][]string{"limit": {"2"}})
	if err != nil || len(all) != 13 {
		t.Fatalf("%d clients, %v", len(all), err)
	}
	if all[0].Cluster != "edge-01" || all[0].Kind != "kms" || all[4].Kind != "node-agent" || all[4].Instance != "host-1" {
		t.Errorf("not in the order of rotation: %+v", all)
	}
	kms, err := api.List[api.ClientView](t.Context(), w.client, api.PathClients, map[string][]string{"kind": {"kms"}, "limit": {"1"}, "state": {"pending"}})
	if err != nil || len(kms) != 2 {
		t.Errorf("%+v, %v", kms, err)
	}
	for _, path := range []string{api.PathClusters, api.PathReleases, api.PathAgents, api.PathAlerts, api.PathRotations} {
		if _, err := api.List[any](t.Context(), w.client, path, map[string][]string{"limit": {"1"}}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for path, want := range map[string]int{
		"/v1/clusters/nowhere": 404, "/v1/clusters/_fleet": 404, "/v1/clusters/nowhere/clients": 404,
		"/v1/rotations/../x": 404, "/v1/rotations/nothing": 404, "/v1/clients?cursor=!": 422, "/v1/clients?limit=0": 422, "/v1/clients?state=odd": 422,
	} {
		if err := w.client.Call(t.Context(), http.MethodGet, path, nil, nil); status(err) != want {
			t.Errorf("GET %s: %v, want %d", path, err, want)
		}
	}
}

func TestAdminTokenIsGuarded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "admin.token")
	if err := os.WriteFile(path, []byte("a-token-of-enough-characters\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := bustest.New(t)
	config := gateway.Defaults()
	config.AdminTokenFile = path
	err := gateway.Run(context.Background(), s.Env(t, "gateway", clock.Real()), config)
	if err == nil {
		t.Fatal("a file that others can read was taken")
	}
	contains(t, err.Error(), "chmod 600")
}
