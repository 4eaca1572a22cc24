package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func rotated() api.RotationView {
	return api.RotationView{
		Rotation: fleet.Rotation{
			ID: "r-1", Reason: fleet.ReasonRotation, State: fleet.RotationCompleted, Clusters: []string{"edge-01"},
			By: "admin", CreatedAt: now, EndedAt: now.Add(time.Minute), Rotated: 2, Total: 2,
		},
		Results: []fleet.ClusterRotation{{Cluster: "edge-01", State: fleet.RotationCompleted, Clients: []fleet.RotationResult{
			{Client: fleet.ClientKey{Kind: "kms"}, From: 1, To: 2, Step: fleet.StepProven, Outcome: fleet.OutcomeRotated},
			{Client: fleet.ClientKey{Kind: "csi"}, From: 1, To: 2, Step: fleet.StepProven, Outcome: fleet.OutcomeRotated},
		}}},
	}
}

func with(v api.RotationView, state fleet.RotationState, outcome fleet.Outcome, reason string) api.RotationView {
	v.State = state
	v.Results[0].Clients[1].Outcome, v.Results[0].Clients[1].Reason = outcome, reason
	return v
}

func accepted() api.RotationView {
	v := rotated()
	v.State, v.Results = fleet.RotationAccepted, nil
	return v
}

// rotations serves the views one after the other, the last for ever; the first
// answers the request for the rotation itself.
func (s *server) rotations(views ...any) *atomic.Int32 {
	var n atomic.Int32
	serve := func(w http.ResponseWriter, r *http.Request) {
		v := views[min(int(n.Add(1)), len(views))-1]
		if status, isProblem := v.(int); isProblem {
			problem(w, status, "not now")
			return
		}
		answer(v)(w, r)
	}
	s.mux.HandleFunc("POST /v1/rotations", serve)
	s.mux.HandleFunc("GET /v1/rotations/r-1", serve)
	return &n
}

func TestRotateWait(t *testing.T) {
	running := with(rotated(), fleet.RotationRunning, fleet.OutcomeWaiting, "")
	for name, tt := range map[string]struct {
		views []any
		code  int
		last  string
	}{
		"completed": {[]any{accepted(), running, rotated()}, 0, "completed: 2 of 2 clients rotated in "},
		"failed": {
			[]any{accepted(), with(rotated(), fleet.RotationFailed, fleet.OutcomeFailed, "the agent is away")},
			1,
			"failed: 1 of 2 clients rotated, 1 failed in ",
		},
		"the server restarts meanwhile": {[]any{accepted(), 404, 503, running, 500, rotated()}, 0, "completed: 2 of 2"},
		"busy at first":                 {[]any{503, rotated()}, 0, "completed: 2 of 2"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.rotations(tt.views...)
			r := s.run(t, "rotate", "edge-01", "--force", "--wait")
			lines := strings.Split(strings.TrimSpace(r.out), "\n")
			if r.code != tt.code || len(lines) != 5 || !strings.HasPrefix(lines[4], tt.last) {
				t.Fatalf("%+v", r)
			}
			if strings.Join(strings.Fields(lines[1]), " ") != "edge-01 kms 1 -> 2 rotated -" {
				t.Errorf("%q", lines[1])
			}
			if name == "completed" && !strings.Contains(r.err, "running: 1 of 2 clients (edge-01/csi proven)\n") {
				t.Errorf("progress: %q", r.err)
			}
			if name == "failed" && !strings.HasSuffix(lines[2], "failed   the agent is away") {
				t.Errorf("%q", lines[2])
			}
		})
	}
}

func TestRotateSendsTheRequest(t *testing.T) {
	s := newServer(t)
	var got api.RotateRequest
	keys := map[string]bool{}
	s.mux.HandleFunc("POST /v1/rotations", func(w http.ResponseWriter, r *http.Request) {
		got = api.RotateRequest{}
		_ = json.NewDecoder(r.Body).Decode(&got)
		keys[r.Header.Get(api.HeaderIdempotency)] = true
		if len(keys) == 1 && called(s, "POST /v1/rotations") == 1 {
			problem(w, 503, "starting") // the repeat carries the same key
			return
		}
		answer(rotated())(w, r)
	})
	s.run(t, "rotate", "--selector", "site=edge", "--client", "kms", "--client", "node-agent/host-1", "--force")
	if len(keys) != 1 || keys[""] || got.Selector["site"] != "edge" || len(got.Clients) != 2 || got.Clients[1].Instance != "host-1" || !got.Force || got.DryRun {
		t.Errorf("keys %v, %+v", keys, got)
	}
	s.run(t, "rotate", "--all", "--idempotency-key", "mine")
	if !keys["mine"] || !got.All || got.Force {
		t.Errorf("keys %v, %+v", keys, got)
	}
}

func TestRotateNothingDue(t *testing.T) {
	view := rotated()
	view.Rotated = 0
	for i := range view.Results[0].Clients {
		view.Results[0].Clients[i].Outcome, view.Results[0].Clients[i].To = fleet.OutcomeNotDue, 0
	}
	for _, args := range [][]string{{"rotate", "edge-01"}, {"rotate", "edge-01", "--wait"}} {
		s := newServer(t)
		s.rotations(accepted(), view)
		next := api.ClusterView{Cluster: fleet.Cluster{Name: "edge-01"}, NextRenewal: new(time.Date(2027, 1, 12, 3, 0, 0, 0, time.UTC))}
		sooner := api.ClusterView{Cluster: fleet.Cluster{Name: "hq"}, NextRenewal: new(now)}
		s.mux.Handle("GET /v1/clusters", answer(page(next, sooner)))
		r := s.run(t, args...)
		if r.code != 0 || r.out != "nothing is due in edge-01; next renewal 2027-01-12\n" {
			t.Errorf("%v: %+v", args, r)
		}
	}
}

func TestRotateWithoutWait(t *testing.T) {
	s := newServer(t)
	n := s.rotations(with(rotated(), fleet.RotationRunning, fleet.OutcomeWaiting, ""))
	r := s.run(t, "rotate", "edge-01", "--force")
	if r.code != 0 || r.out != "rotation r-1 is running for edge-01\nfollow it with: rotor get rotations r-1\n" || n.Load() != 1 {
		t.Errorf("%d calls: %+v", n.Load(), r)
	}
}

func TestRotateDryRun(t *testing.T) {
	s := newServer(t)
	view := with(rotated(), fleet.RotationAccepted, fleet.OutcomeNotDue, "")
	view.Results[0].Clients[0].Outcome = fleet.OutcomeWaiting
	view.DryRun = true
	s.rotations(view)
	r := s.run(t, "rotate", "edge-01", "--dry-run", "--wait")
	if r.code != 0 || !strings.HasSuffix(r.out, "\n1 of 2 clients would be rotated in edge-01; nothing was changed\n") || len(s.calls) != 1 {
		t.Errorf("%v: %+v", s.calls, r)
	}
}

func TestRotateTimeoutAndInterrupt(t *testing.T) {
	s := newServer(t)
	s.rotations(with(rotated(), fleet.RotationRunning, fleet.OutcomeWaiting, ""))
	r := s.run(t, "rotate", "edge-01", "--wait", "--timeout", "10ms")
	if r.code != 1 || !strings.Contains(r.err, "has not ended within 10ms") || !strings.Contains(r.err, "hint: the rotation goes on; look at it with: rotor get rotations r-1") {
		t.Errorf("%+v", r)
	}
	var log bytes.Buffer
	f := follower{client: &api.Client{URL: s.URL}, id: "r-1", limit: time.Minute, log: &log, live: true}
	if _, err := f.follow(cancelled(t), accepted(), true); err == nil || err.Error() != "interrupted" || log.String() != "\r\x1b[Kaccepted: rotation r-1\r\x1b[K" {
		t.Errorf("%v, %q", err, log.String())
	}
	r = s.run(t, "rotate", "edge-01", "--wait", "--timeout", "10ms", "-o", "json")
	if r.code != 1 || !strings.HasPrefix(r.out, "{") || strings.Contains(r.err, "running:") {
		t.Errorf("%+v", r)
	}
}

func TestRotateRefused(t *testing.T) {
	s := newServer(t)
	n := s.rotations(404)
	if r := s.run(t, "rotate", "edge-99"); r.code != 1 || !strings.Contains(r.err, "rotor: not now\nhint: see what there is with `rotor get clusters`") || n.Load() != 1 {
		t.Errorf("%d: %+v", n.Load(), r)
	}
}

func TestUpgrade(t *testing.T) {
	s := newServer(t)
	var got api.UpgradeRequest
	reply := api.UpgradeReply{Cluster: "edge-01", Release: "2026.10", Effect: "applied", Message: "edge-01 runs 2026.10", Rotation: "r-1"}
	s.mux.HandleFunc("POST /v1/clusters/edge-01/upgrades", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&got)
		answer(reply)(w, r)
	})
	s.mux.Handle("GET /v1/clusters/edge-01", answer(api.ClusterView{Cluster: fleet.Cluster{Name: "edge-01"}, Window: fleet.Window{State: fleet.WindowCurrent}}))
	s.rotations(404, accepted(), rotated())
	r := s.run(t, "upgrade", "edge-01", "--release", "2026.10", "--at", "2026-11-20")
	golden(t, "upgrade", r.out)
	if r.code != 0 || !got.CompletedAt.Equal(time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)) || got.Release != "2026.10" {
		t.Errorf("%+v: %+v", got, r)
	}
	if r = s.run(t, "upgrade", "edge-01", "--release", "2026.10", "--wait=false"); r.code != 0 || !strings.Contains(r.out, "follow the rotation with: rotor get rotations r-1\n") {
		t.Errorf("%+v", r)
	}
	if r = s.run(t, "upgrade", "edge-01", "--release", "2026.10", "-o", "json"); !strings.Contains(r.out, `"effect": "applied"`) || !strings.Contains(r.out, `"result": {`) {
		t.Errorf("%+v", r)
	}
	reply.Effect, reply.Rotation, reply.Message = "older", "", "edge-01 was upgraded later than that"
	if r = s.run(t, "upgrade", "edge-01", "--release", "2026.10"); r.code != 0 || r.out != "older: edge-01 was upgraded later than that\nupdate window of edge-01: current\n" {
		t.Errorf("%+v", r)
	}
}

func proven(t *testing.T, cluster string, generation int) event.Event {
	t.Helper()
	e, err := event.CredentialProven.New(event.Meta{Source: "gateway", Cluster: cluster, Key: []string{fmt.Sprint(generation)}, Time: now}, event.Credentials{
		Reason: fleet.ReasonRenewal, Clients: []event.Client{{Client: fleet.ClientKey{Kind: "kms"}, Generation: generation}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// A broken stream goes on behind the last event: nothing is lost, nothing twice.
func TestWatchReconnectsBehindTheLastEvent(t *testing.T) {
	s := newServer(t)
	connections := make(chan string, 10)
	s.mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		connections <- r.Header.Get("Last-Event-ID") + "|" + r.URL.RawQuery
		n := len(connections)
		if n == 4 {
			problem(w, 403, "enough")
			return
		}
		if n == 2 {
			problem(w, 503, "starting")
			return
		}
		raw, _ := event.Marshal(proven(t, "edge-01", n))
		_, _ = fmt.Fprintf(w, ": heartbeat\n\nid: %d\nevent: x\ndata: %s\n\n", 40+n, raw)
	})
	r := s.run(t, "watch", "--since", "all", "--cluster", "edge-01", "--type", "credential.proven")
	close(connections)
	var got []string
	for c := range connections {
		got = append(got, c)
	}
	want := []string{
		"|cluster=edge-01&since=all&type=rotor.credential.proven.v1", "41|cluster=edge-01&type=rotor.credential.proven.v1",
		"41|cluster=edge-01&type=rotor.credential.proven.v1", "43|cluster=edge-01&type=rotor.credential.proven.v1",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("connections %q", got)
	}
	if r.code != 1 || r.out != "2026-11-24 12:00:00  credential.proven       edge-01       renewal: kms #1\n2026-11-24 12:00:00  credential.proven       edge-01       renewal: kms #3\n" {
		t.Errorf("%+v", r)
	}
	if !strings.HasPrefix(r.err, "rotor: the connection is lost, trying again\n") {
		t.Errorf("%q", r.err)
	}
}

func TestWatchFiltersAndPrintsJSON(t *testing.T) {
	s := newServer(t)
	n := 0
	s.mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, _ *http.Request) {
		if n++; n > 1 {
			problem(w, 403, "enough")
			return
		}
		missed, _ := event.WindowMissed.New(event.Meta{Source: "scheduler", Cluster: "edge-01", Time: now}, event.Window{State: fleet.WindowBehind})
		for _, e := range []event.Event{missed, proven(t, "edge-01", 1), proven(t, "edge-02", 1)} {
			raw, _ := event.Marshal(e)
			_, _ = fmt.Fprintf(w, "data: %s\n\n", raw)
		}
	})
	r := s.run(t, "watch", "--type", "credential", "--cluster", "edge-01", "-o", "json")
	e, err := event.Unmarshal([]byte(r.out))
	if err != nil || e.Type() != "rotor.credential.proven.v1" || strings.Count(r.out, "\n") != 1 {
		t.Errorf("%v: %+v", err, r)
	}
}

func TestWatchEndsWithZeroOnInterrupt(t *testing.T) {
	s := newServer(t)
	w := watcher{client: &api.Client{URL: s.URL}, out: &bytes.Buffer{}, log: &bytes.Buffer{}}
	if err := w.run(cancelled(t)); err != nil {
		t.Error(err)
	}
}

func TestEventLines(t *testing.T) {
	m := event.Meta{Source: "test", Cluster: "edge-01", Time: now}
	line := func(e event.Event, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(strings.TrimPrefix(eventLine(e), "2026-11-24 12:00:00")), " ")
	}
	many := event.Credentials{}
	for i := range 7 {
		many.Clients = append(many.Clients, event.Client{Client: fleet.ClientKey{Kind: fmt.Sprintf("c%d", i)}, Generation: 1})
	}
	for _, tt := range []struct{ got, want string }{
		{line(event.WindowMissed.New(m, event.Window{State: fleet.WindowBehind, Missed: []string{"a"}, Deadline: now})), "window.missed edge-01 behind, missed a, deadline 2026-11-24"},
		{line(event.CredentialIssued.New(m, many)), "credential.issued edge-01 c0 #1, c1 #1, c2 #1, c3 #1, c4 #1, and 2 more"},
		{line(event.CredentialFailed.New(m, event.Credentials{Clients: []event.Client{{Client: fleet.ClientKey{Kind: "kms"}, Error: "bad\x1b[2J key"}}})), "credential.failed edge-01 kms #0 (bad [2J key)"},
		{line(event.ClusterUpgraded.New(m, event.Upgrade{Release: "b"})), "cluster.upgraded edge-01 ? -> b"},
		{line(event.ReleasePublished.New(event.Meta{Source: "t", Cluster: event.FleetWide, Time: now}, event.Release{Version: "b", PublishedAt: now})), "release.published fleet b of 2026-11-24"},
		{line(event.RotationHalted.New(m, event.Rotation{Reason: "rotation", Total: 9, Failed: 1, Wave: 2, Why: "too many"})), "rotation.halted edge-01 rotation: 0 of 9 clients rotated, 1 failed, wave 2: too many"},
		{line(event.RotationResumed.New(m, event.Rotation{Reason: "rotation", Total: 1, By: "admin"})), "rotation.resumed edge-01 rotation: 0 of 1 client rotated, 0 failed, by admin"},
		{line(event.RotationFailed.New(m, event.Rotation{Reason: "upgrade", Total: 1, Failed: 1})), "rotation.failed edge-01 upgrade: 0 of 1 client rotated, 1 failed"},
		{line(event.AlertSent.New(m, event.Alert{Rule: "x", About: "resolved", Channel: "mail"})), "alert.sent edge-01 x resolved to mail"},
		{line(event.AgentEnrolled.New(m, event.Agent{Agent: "0123456789abcdef"})), "agent.enrolled edge-01 0123456789ab"},
		{line(event.AuthorityActivated.New(m, event.Authority{What: "ca", ID: "00"})), "authority.activated edge-01 ca 00"},
		{line(event.AuthorityDue.New(m, event.Rollout{Kind: fleet.RolloutCA, By: now})), "authority.due edge-01 CA should be replaced by 2026-11-24"},
		{line(event.AuthorityHeld.New(m, event.Rollout{Kind: fleet.RolloutCA, Phase: fleet.RolloutTrusted, Missing: []fleet.Laggard{{Cluster: "a"}, {Cluster: "b", Client: &fleet.ClientKey{Kind: "kms"}}}})), "authority.held edge-01 CA trusted, waiting for a, b/kms"},
		{line(event.AuthorityHeld.New(m, event.Rollout{Kind: fleet.RolloutToken, Phase: fleet.RolloutRollback, Halted: "x"})), "authority.held edge-01 token key rollback, halted: x"},
		{line(event.ClusterRegistered.New(m, event.Cluster{Kind: fleet.Workload})), "cluster.registered edge-01 workload"},
	} {
		if tt.got != tt.want {
			t.Errorf("got  %q\nwant %q", tt.got, tt.want)
		}
	}
	later := proven(t, "a", 1)
	later.SetType("rotor.of.a.later.version.v1")
	if got := eventLine(later); !strings.HasSuffix(got, "of.a.later.version      a") {
		t.Errorf("%q", got)
	}
}
