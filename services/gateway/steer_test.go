package gateway_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestRotateInWaves(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	for name, test := range map[string]struct {
		request api.RotateRequest
		says    string
	}{
		"a canary of another fleet": {api.RotateRequest{All: true, Canary: "edge-99"}, "none of the clusters"},
		"a limit of nothing":        {api.RotateRequest{All: true, MaxFailures: "few"}, "a share such as 2%"},
		"less than one at once":     {api.RotateRequest{All: true, MaxParallel: -1}, "at least 1"},
	} {
		_, err := w.client.Rotate(t.Context(), test.request)
		if status(err) != http.StatusUnprocessableEntity {
			t.Errorf("%s: %v", name, err)
			continue
		}
		contains(t, err.Error(), test.says)
	}
	preview, err := w.client.Rotate(t.Context(), api.RotateRequest{All: true, Force: true, DryRun: true})
	if err != nil || preview.Waves == nil || !slices.Equal(preview.Clusters, []string{"edge-01", "hq"}) || len(preview.Progress) != 2 || preview.Progress[0].Clusters != 1 {
		t.Fatalf("dry run: %+v, %v", preview, err)
	}
	one, err := w.client.Rotate(t.Context(), api.RotateRequest{All: true, Force: true, Canary: "hq", MaxParallel: 7, MaxFailures: "3", IgnoreMaintenance: true})
	if err != nil || !slices.Equal(one.Clusters, []string{"hq", "edge-01"}) {
		t.Fatalf("%+v, %v", one, err)
	}
	command := bustest.Expect(t, w.bus, event.Rotate, nil)
	if command.Waves == nil || *command.Waves != (fleet.WaveOptions{Canary: "hq", MaxParallel: 7, MaxFailures: "3", IgnoreMaintenance: true}) {
		t.Errorf("command %+v", command.Waves)
	}
	if plain, err := w.client.Rotate(t.Context(), api.RotateRequest{Clusters: []string{"hq", "edge-01"}, DryRun: true}); err != nil || plain.Waves != nil {
		t.Errorf("named clusters: %+v, %v", plain, err)
	}
}

func TestSteer(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	bucket := open[fleet.Rotation](t, w, bus.Rotations)
	halted := fleet.Rotation{
		ID: event.ID("a"), Reason: fleet.ReasonRotation, State: fleet.RotationHalted, Clusters: []string{"edge-01", "hq"},
		Waves: &fleet.Waves{Sizes: []int{1, 1}}, Wave: 1, Halt: &fleet.Halt{Number: 2, Reason: "1 of 4 clients failed"}, CreatedAt: clock.Wall(),
	}
	ended, running, reissue := halted, halted, halted
	ended.ID, ended.State = event.ID("b"), fleet.RotationFailed
	running.ID, running.State = event.ID("c"), fleet.RotationRunning
	reissue.ID, reissue.Reason = event.ID("d"), fleet.ReasonAuthority
	for _, r := range []fleet.Rotation{halted, ended, running, reissue} {
		if _, err := bucket.Create(t.Context(), r.ID, r); err != nil {
			t.Fatal(err)
		}
	}
	c := w.client
	for name, test := range map[string]struct {
		call   func() error
		status int
		says   string
	}{
		"unknown":          {func() error { _, err := c.Resume(t.Context(), event.ID("x"), api.ResumeRequest{}); return err }, 404, "not found"},
		"ended":            {func() error { _, err := c.Cancel(t.Context(), ended.ID, api.CancelRequest{}); return err }, 409, "has ended, it is failed"},
		"not halted":       {func() error { _, err := c.Resume(t.Context(), running.ID, api.ResumeRequest{}); return err }, 409, "only one that is halted"},
		"an earlier halt":  {func() error { _, err := c.Resume(t.Context(), halted.ID, api.ResumeRequest{Halt: 1}); return err }, 409, "halted again"},
		"of the authority": {func() error { _, err := c.Cancel(t.Context(), reissue.ID, api.CancelRequest{}); return err }, 409, "rotor authority"},
		"of another cluster": {func() error {
			_, err := c.Exclude(t.Context(), halted.ID, api.ExclusionRequest{Cluster: "edge-99", Reason: "r"})
			return err
		}, 404, "edge-99"},
		"without a reason": {func() error {
			_, err := c.Exclude(t.Context(), halted.ID, api.ExclusionRequest{Cluster: "hq", Reason: " "})
			return err
		}, 422, "say why"},
	} {
		if err := test.call(); status(err) != test.status || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(bustest.Stored(t, w.bus, event.Steer)); n > 0 {
		t.Fatalf("%d commands of what was refused", n)
	}
	if v, err := c.Include(t.Context(), halted.ID, "hq"); err != nil || v.State != fleet.RotationHalted {
		t.Errorf("what is so already: %+v, %v", v, err)
	}
	keyed := *c
	keyed.Key = "key-1"
	for range 2 { // the scheduler is not there: it was asked for, and is not in effect
		if v, err := keyed.Exclude(t.Context(), halted.ID, api.ExclusionRequest{Cluster: "hq", Reason: "it moves house"}); err != nil || v.Excluded("hq") {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	if _, err := c.Resume(t.Context(), halted.ID, api.ResumeRequest{Retry: true}); err != nil {
		t.Fatal(err)
	}
	commands := bustest.Stored(t, w.bus, event.Steer)
	if len(commands) != 2 || commands[0].Reason != "it moves house" || commands[0].By != "admin" || commands[1].Halt != 2 || !commands[1].Retry {
		t.Errorf("commands %+v", commands)
	}
	var raw json.RawMessage
	w.get(t, api.PathAudit+"?limit=100", &raw)
	contains(t, string(raw), `"rotation.exclude"`, `"it moves house"`, `"rotation.resume"`, "tried again")
}
