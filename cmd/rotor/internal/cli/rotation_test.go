package cli

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// inWaves is a rotation over 12 clusters in its second wave.
func inWaves() api.RotationView {
	v := with(rotated(), fleet.RotationRunning, fleet.OutcomeWaiting, "")
	v.Clusters = []string{"edge-01"}
	for _, n := range []string{"b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"} {
		v.Clusters = append(v.Clusters, "edge-"+n)
	}
	v.Waves, v.Wave = &fleet.Waves{Sizes: []int{1, 2, 9}, MaxParallel: 50, MaxFailures: "2%"}, 2
	v.Progress = []api.WaveProgress{{Wave: 1, Clusters: 1, Begun: 1, Ended: 1}, {Wave: 2, Clusters: 2, Begun: 1, Held: 1, Failed: 1}, {Wave: 3, Clusters: 9}}
	return v
}

func halted() api.RotationView {
	v := inWaves()
	v.State, v.Results[0].State = fleet.RotationHalted, fleet.RotationFailed
	v.Halt = &fleet.Halt{Number: 1, At: now, Wave: 2, Failed: 1, Attempted: 4, Reason: "1 of 4 clients failed, more than the limit of 2%"}
	v.Exclusions = map[string]fleet.Exclusion{"edge-b": {Reason: "it moves house", By: "admin", At: now}}
	return v
}

func TestRotateWaitShowsWavesAndEndsWithAHalt(t *testing.T) {
	s := newServer(t)
	s.rotations(accepted(), inWaves(), halted())
	r := s.run(t, "rotate", "--all", "--force", "--wait")
	if r.code != 1 || !strings.Contains(r.err, "running: canary 1/1, wave 2 0/2 (1 client failed) (1 wait for their window) (edge-01/csi proven)\n") {
		t.Errorf("%+v", r)
	}
	for _, want := range []string{
		"it was halted at 2026-11-24 12:00: 1 of 4 clients failed, more than the limit of 2%\n",
		"rotor rotation resume r-1\n", "rotor rotation resume r-1 --retry\n", "rotor rotation exclude r-1 edge-01 --reason REASON\n", "rotor rotation cancel r-1\n",
		"edge-b is left out by admin since 2026-11-24 12:00: it moves house\n",
	} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%q is not in %s", want, r.out)
		}
	}
	r = s.run(t, "rotation", "show", "r-1", "-o", "json")
	var view api.RotationView
	if err := json.Unmarshal([]byte(r.out), &view); err != nil || r.code != 0 || view.Halt.Number != 1 || view.Waves.Sizes[2] != 9 || view.Progress[1].Held != 1 {
		t.Errorf("%v: %+v", err, r)
	}
}

func TestRotateDryRunShowsTheWaves(t *testing.T) {
	s := newServer(t)
	view := inWaves()
	view.DryRun, view.State = true, fleet.RotationAccepted
	s.rotations(view)
	r := s.run(t, "rotate", "--all", "--dry-run")
	want := "\ncanary: edge-01\nwave 2: edge-b, edge-c\nwave 3: edge-d, edge-e, edge-f, edge-g, edge-h and 4 more\n" +
		"50 clusters at once at most; each waits for its maintenance window; halts when a client of the canary fails, later above 2% of failed clients\n"
	if r.code != 0 || !strings.Contains(r.out, want) {
		t.Errorf("%+v", r)
	}
}

func TestRotateSendsTheWaves(t *testing.T) {
	s := newServer(t)
	var got api.RotateRequest
	s.mux.HandleFunc("POST /v1/rotations", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&got)
		answer(rotated())(w, r)
	})
	s.run(t, "rotate", "a", "b", "--canary", "b", "--max-parallel", "3", "--max-failures", "5%", "--ignore-maintenance")
	if o := got.Waves(); o == nil || *o != (fleet.WaveOptions{Canary: "b", MaxParallel: 3, MaxFailures: "5%", IgnoreMaintenance: true}) {
		t.Errorf("%+v", got)
	}
	for _, args := range [][]string{{"--max-parallel", "0"}, {"--max-failures", "many"}, {"--max-failures", "101%"}} {
		if r := s.run(t, append([]string{"rotate", "--all"}, args...)...); r.code != 2 || !strings.Contains(r.err, args[0]) {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

func TestSteerARotation(t *testing.T) {
	s := newServer(t)
	var got []string
	serve := func(view api.RotationView) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var body map[string]any
			_ = json.NewDecoder(r.Body).Decode(&body)
			raw, _ := json.Marshal(body)
			if r.Header.Get(api.HeaderIdempotency) == "" {
				t.Error("a call without a key")
			}
			got = append(got, r.Method+" "+r.URL.Path+" "+string(raw))
			answer(view)(w, r)
		}
	}
	excluded, cancelled := halted(), halted()
	cancelled.State = fleet.RotationCancelled
	s.mux.HandleFunc("POST /v1/rotations/r-1/exclusions", serve(excluded))
	s.mux.HandleFunc("DELETE /v1/rotations/r-1/exclusions/edge-b", serve(inWaves()))
	s.mux.HandleFunc("POST /v1/rotations/r-1/cancel", serve(cancelled))
	s.mux.HandleFunc("POST /v1/rotations/r-1/resume", serve(inWaves()))
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"exclude", "r-1", "edge-b", "--reason", "it moves house"}, 0, "edge-b is left out of rotation r-1\n"},
		{[]string{"exclude", "r-1", "edge-c", "--reason", "r"}, 1, "not in effect yet"},
		{[]string{"exclude", "r-1", "edge-c"}, 2, "--reason"},
		{[]string{"include", "r-1", "edge-b"}, 0, "edge-b is part of rotation r-1 again\n"},
		{[]string{"resume", "r-1", "--retry"}, 0, "rotation r-1 goes on\n"},
		{[]string{"cancel", "r-1", "--reason", "the wrong day"}, 0, "rotation r-1 is cancelled: "},
		{[]string{"cancel"}, 2, "ID is missing"},
		{[]string{"delete", "r-1"}, 2, "use show, resume"},
	} {
		r := s.run(t, append([]string{"rotation"}, tt.args...)...)
		if r.code != tt.code || !strings.Contains(r.out+r.err, tt.says) {
			t.Errorf("%v: %+v", tt.args, r)
		}
	}
	want := []string{
		`POST /v1/rotations/r-1/exclusions {"cluster":"edge-b","reason":"it moves house"}`,
		`POST /v1/rotations/r-1/exclusions {"cluster":"edge-c","reason":"r"}`,
		`DELETE /v1/rotations/r-1/exclusions/edge-b null`,
		`POST /v1/rotations/r-1/resume {"retry":true}`,
		`POST /v1/rotations/r-1/cancel {"reason":"the wrong day"}`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
