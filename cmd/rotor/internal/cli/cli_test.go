package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

var update = flag.Bool("update", false, "write the golden files anew")

const token = "a-token-for-tests"

// now is the time of the fleet in all fixtures.
var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// server is a gateway that answers what a test puts into it.
type server struct {
	*httptest.Server
	mux   *http.ServeMux
	calls []string
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{mux: http.NewServeMux()}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls = append(s.calls, r.Method+" "+r.URL.Path)
		if r.Header.Get("Authorization") != "Bearer "+token {
			problem(w, 401, "no token")
			return
		}
		s.mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func answer(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
}

func problem(w http.ResponseWriter, status int, detail string, errs ...api.ProblemError) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.Problem{Status: status, Detail: detail, Errors: errs})
}

type result struct {
	code     int
	out, err string
}

// run runs the command line against the server.
func (s *server) run(t *testing.T, args ...string) result {
	t.Helper()
	return runWith(t, map[string]string{"ROTOR_URL": s.URL, "ROTOR_TOKEN": token}, "", args...)
}

func runWith(t *testing.T, env map[string]string, stdin string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	root := New(Options{Getenv: func(k string) string { return env[k] }, Version: "v1.2.3"})
	code := Execute(t.Context(), root, args, Streams{strings.NewReader(stdin), &out, &errs})
	for line := range strings.Lines(out.String()) {
		if strings.TrimRight(line, "\n ") != strings.TrimRight(line, "\n") {
			t.Errorf("space at the end of the line %q", line)
		}
	}
	if strings.Contains(out.String()+errs.String(), token) {
		t.Error("the token was printed")
	}
	return result{code, out.String(), errs.String()}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; if meant, run go test -update\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// fixtures

func status(health api.Health) api.Status {
	deadline := now.Add(-15*fleet.Day - 12*time.Hour)
	closing := now.Add(12*fleet.Day + time.Hour)
	hq := api.ClusterView{
		Cluster: fleet.Cluster{Name: "hq", Kind: fleet.Management, Release: "2026.10"},
		Window:  fleet.Window{State: fleet.WindowCurrent}, EarliestExpiry: new(now.Add(89 * fleet.Day)),
		States: map[fleet.State]int{fleet.StateHealthy: 8, fleet.StateDue: 1}, Agent: "abc", AgentSeen: new(now.Add(-5 * time.Minute)),
	}
	due := api.ClusterView{
		Cluster: fleet.Cluster{Name: "edge-01", Kind: fleet.Workload, Release: "2026.09"},
		Window:  fleet.Window{State: fleet.WindowDue, Deadline: &closing, DaysLeft: new(12)}, States: map[fleet.State]int{fleet.StatePending: 4},
	}
	behind := api.ClusterView{
		Cluster: fleet.Cluster{Name: "edge-03", Kind: fleet.Workload, Release: "2026.08"},
		Window:  fleet.Window{State: fleet.WindowBehind, Deadline: &deadline, DaysLeft: new(-16)}, EarliestExpiry: new(now.Add(20 * time.Hour)),
		States: map[fleet.State]int{fleet.StateHealthy: 4}, Agent: "def",
		LastAlert: &fleet.Alert{Rule: "window-missed", State: fleet.AlertFiring, Remedy: "rotor upgrade edge-03 --release 2026.10"},
	}
	return api.Status{
		Health: health, Reasons: []string{"edge-03 is past its update window"}, Now: now, ClockRate: 1,
		Clusters: []api.ClusterView{hq, due, behind}, Clients: 17,
	}
}

func client(cluster, kind, instance string) api.ClientView {
	return api.ClientView{
		Cluster: cluster, Kind: kind, Instance: instance, State: fleet.StateHealthy, Generation: 1, Step: fleet.StepProven, RenewAt: new(now.Add(47 * fleet.Day)),
		Certificate: &fleet.Certificate{Serial: "0a1b", NotBefore: now, NotAfter: now.Add(90 * fleet.Day), Issuer: "0123456789abcdef"},
		Token:       &fleet.Token{ID: "t-1", NotBefore: now, ExpiresAt: now.Add(90 * fleet.Day)},
	}
}

func page[T any](items ...T) api.Page[T] { return api.Page[T]{Items: items} }

// tests of what all commands share

func TestUsageErrorsEndWithTwo(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"unknown command": {[]string{"statsu"}, `rotor: unknown command "statsu": did you mean "status"?`},
		"unknown flag":    {[]string{"status", "--x"}, "hint: see `rotor status --help`"},
		"bad format":      {[]string{"status", "-o", "xml"}, `output "xml": use table, json or yaml`},
		"argument":        {[]string{"status", "x"}, `unexpected argument "x"`},
		"get nothing":     {[]string{"get"}, "say what to get: clusters, clients, releases, rotations, alerts or agents"},
		"get unknown":     {[]string{"get", "pods"}, `cannot get "pods"`},
		"get state":       {[]string{"get", "clients", "--state", "well"}, `state "well": use healthy, due`},
		"get no state":    {[]string{"get", "releases", "--state", "well"}, "releases have no state"},
		"rotate nothing":  {[]string{"rotate"}, "name clusters, or use --all, or --selector: one of the three"},
		"rotate both":     {[]string{"rotate", "hq", "--all"}, "one of the three"},
		"rotate selector": {[]string{"rotate", "--selector", "edge"}, `selector "edge": write it as key=value`},
		"rotate client":   {[]string{"rotate", "hq", "--client", "KMS"}, `--client: invalid: client kind "KMS"`},
		"upgrade nothing": {[]string{"upgrade"}, "CLUSTER is missing"},
		"upgrade release": {[]string{"upgrade", "hq"}, "name the release with --release VERSION"},
		"upgrade at":      {[]string{"upgrade", "hq", "--release", "a", "--at", "noon"}, `--at: invalid: date "noon"`},
		"apply nothing":   {[]string{"apply"}, "name the fleet file with -f FILE"},
		"watch since":     {[]string{"watch", "--since", "1h"}, `since "1h": use all`},
		"watch type":      {[]string{"watch", "--type", "credential.lost"}, `type "credential.lost": use cluster.registered`},
		"watch command":   {[]string{"watch", "--type", "command.issue"}, `type "command.issue": use`},
		"get no cluster":  {[]string{"get", "releases", "--cluster", "hq"}, "releases are of no cluster"},
		"number":          {[]string{"rotate", "--all", "--max-parallel", "x"}, `rotor: --max-parallel "x": use a whole number` + "\n"},
		"truth":           {[]string{"upgrade", "hq", "--wait=maybe"}, `rotor: --wait "maybe": use true or false` + "\n"},
		"duration":        {[]string{"rotate", "hq", "--timeout", "5"}, `rotor: --timeout "5": use a duration such as 30s, 5m or 1h` + "\n"},
		"rotate timeout":  {[]string{"rotate", "hq", "--wait", "--timeout", "0s"}, "--timeout 0s: use more than 0s"},
		"upgrade timeout": {[]string{"upgrade", "hq", "--release", "a", "--timeout", "-5s"}, "--timeout -5s: use more than 0s"},
		"recover timeout": {[]string{"recover", "hq", "--timeout", "0s"}, "--timeout 0s: use more than 0s"},
		"resume timeout":  {[]string{"rotation", "resume", "r-1", "--timeout", "0s"}, "--timeout 0s: use more than 0s"},
		"audit command":   {[]string{"audit", "check"}, `unknown command "check" for "rotor audit"`},
		"bad url":         {[]string{"status", "--url", "localhost:8080"}, "no http:// or https:// URL"},
	} {
		t.Run(name, func(t *testing.T) {
			r := runWith(t, nil, "", append(tt.args, "--data", t.TempDir())...)
			if r.code != 2 || !strings.Contains(r.err, tt.want) || r.out != "" {
				t.Errorf("%+v, want %q", r, tt.want)
			}
		})
	}
}

// What was not found is looked for where such things are listed.
func TestHintsNameTheListThatHelps(t *testing.T) {
	s := newServer(t)
	says := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { problem(w, 404, text) })
	}
	s.mux.Handle("GET /v1/rotations/r-9", says(`rotation "r-9": not found`))
	s.mux.Handle("POST /v1/authority/rollback", says("rotation of the CA: not found: there was none"))
	s.mux.Handle("GET /v1/clusters/hq-9", says(`cluster "hq-9": not found`))
	for args, want := range map[string]string{
		"rotation show r-9":        "rotor get rotations",
		"get rotations r-9":        "rotor get rotations",
		"authority rollback --yes": "rotor authority status",
		"get clusters hq-9":        "rotor get clusters",
	} {
		if r := s.run(t, strings.Fields(args)...); r.code != 1 || !strings.HasSuffix(r.err, "\nhint: see what there is with `"+want+"`\n") {
			t.Errorf("%s: %+v", args, r)
		}
	}
}

func TestVersionIsAFlagToo(t *testing.T) {
	command, flag := runWith(t, nil, "", "version"), runWith(t, nil, "", "--version")
	if flag.code != 0 || flag.out != command.out || flag.out == "" {
		t.Errorf("%+v, %+v", flag, command)
	}
}

func TestEveryCommandTeaches(t *testing.T) {
	for _, c := range New(Options{}).Commands() {
		if c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		if c.Short == "" || c.Long == "" || c.Example == "" || c.Args == nil {
			t.Errorf("%s lacks Short, Long, Example or Args", c.Name())
		}
	}
	extra := &cobra.Command{Use: "up", RunE: func(*cobra.Command, []string) error { return &ExitError{Code: 7} }}
	var out, errs bytes.Buffer
	if code := Main(t.Context(), []string{"up"}, nil, &out, &errs, extra); code != 7 || out.Len()+errs.Len() != 0 {
		t.Errorf("an extra command ended with %d: %s%s", code, &out, &errs)
	}
}

func TestNoServer(t *testing.T) {
	r := runWith(t, nil, "", "status", "--data", t.TempDir())
	if r.code != 1 || !strings.Contains(r.err, "no running Rotor found") || !strings.Contains(r.err, "start one with `rotor up` or set ROTOR_URL and ROTOR_TOKEN") {
		t.Errorf("%+v", r)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	r = runWith(t, map[string]string{"ROTOR_URL": gone.URL}, "", "status")
	if r.code != 1 || !strings.Contains(r.err, "connection refused") || !strings.Contains(r.err, "hint: is Rotor running there?") {
		t.Errorf("%+v", r)
	}
}

func TestServerFileLeadsToServerAndToken(t *testing.T) {
	s := newServer(t)
	s.mux.Handle("GET /v1/releases", answer(page[fleet.Release]()))
	data := t.TempDir()
	admin := filepath.Join(data, "admin.token")
	if err := os.WriteFile(admin, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (ServerFile{URL: s.URL, AdminTokenFile: admin, SubscriberKeyFile: "/elsewhere/key"}).Write(data); err != nil {
		t.Fatal(err)
	}
	raw, _ := os.ReadFile(filepath.Join(data, "rotor.json"))
	if !bytes.Contains(raw, []byte(`"adminTokenFile": "admin.token"`)) || !bytes.Contains(raw, []byte(`"/elsewhere/key"`)) {
		t.Errorf("%s", raw)
	}
	if r := runWith(t, nil, "", "get", "releases", "--data", data); r.code != 0 || r.out != "no releases\n" {
		t.Errorf("%+v", r)
	}
	// The token of this machine's server is not sent to another.
	other := newServer(t)
	if r := runWith(t, map[string]string{"ROTOR_URL": other.URL}, "", "get", "releases", "--data", data); r.code != 1 || !strings.Contains(r.err, "hint: the admin token is missing or wrong") {
		t.Errorf("%+v", r)
	}
	if err := (ServerFile{URL: s.URL, AdminTokenFile: "admin.token"}).Write(data); err != nil {
		t.Fatal(err)
	}
	if file, err := ReadServerFile(data); err != nil || file.AdminTokenFile != admin || file.SubscriberKeyFile != "" {
		t.Errorf("%v: %+v", err, file)
	}
	if err := os.Chmod(admin, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := runWith(t, nil, "", "get", "releases", "--data", data); r.code != 1 || !strings.Contains(r.err, "chmod 600") {
		t.Errorf("a token that others may read was used: %+v", r)
	}
}

func TestVersionAndSample(t *testing.T) {
	r := runWith(t, nil, "", "version", "-o", "json")
	var build map[string]string
	if err := json.Unmarshal([]byte(r.out), &build); err != nil || build["version"] != "v1.2.3" || build["go"] == "" || build["platform"] == "" {
		t.Errorf("%+v", r)
	}
	if r := runWith(t, nil, "", "version"); !strings.HasPrefix(r.out, "rotor v1.2.3 (go") {
		t.Errorf("%+v", r)
	}
	printed := runWith(t, nil, "", "sample")
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	if r := runWith(t, nil, "", "sample", "-o", path); r.code != 0 || r.out != "" {
		t.Errorf("%+v", r)
	}
	if raw, _ := os.ReadFile(path); string(raw) != printed.out || len(raw) == 0 {
		t.Error("the file is not what is printed")
	}
	if r := runWith(t, nil, "", "sample", "-o", path); r.code != 1 || !strings.Contains(r.err, "exists already") || !strings.Contains(r.err, "--force") {
		t.Errorf("%+v", r)
	}
	if r := runWith(t, nil, "", "sample", "-o", path, "--force"); r.code != 0 {
		t.Errorf("%+v", r)
	}
}

func TestCompletion(t *testing.T) {
	s := newServer(t)
	s.mux.Handle("GET /v1/clusters", answer(page(status(api.HealthWell).Clusters...)))
	if r := s.run(t, "__complete", "rotate", "hq", ""); !strings.HasPrefix(r.out, "edge-01\nedge-03\n:4") {
		t.Errorf("%+v", r)
	}
	if r := s.run(t, "__complete", "get", "clients", "e"); !strings.Contains(r.out, "edge-03") {
		t.Errorf("%+v", r)
	}
	if r := runWith(t, nil, "", "__complete", "upgrade", "--data", t.TempDir(), ""); r.code != 0 || !strings.HasPrefix(r.out, ":4") {
		t.Errorf("without a server: %+v", r)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if r := runWith(t, nil, "", "completion", shell); r.code != 0 || len(r.out) < 1000 {
			t.Errorf("completion %s: exit %d", shell, r.code)
		}
	}
}

func TestTablePaintsOnlyWhenStyled(t *testing.T) {
	for _, styled := range []bool{false, true} {
		var out bytes.Buffer
		tab := (&app{Options: Options{Styled: styled}}).table("A", "STATE")
		tab.add("ä", "healthy")
		tab.add("long\ner", "")
		if err := tab.print(&out); err != nil {
			t.Fatal(err)
		}
		want := "A        STATE\nä        healthy\nlong er  -\n"
		if styled {
			want = "\x1b[1mA\x1b[0m        \x1b[1mSTATE\x1b[0m\nä        \x1b[32mhealthy\x1b[0m\nlong er  -\n"
		}
		if out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
	}
}

func cancelled(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func called(s *server, call string) int {
	n := 0
	for _, c := range s.calls {
		if c == call {
			n++
		}
	}
	return n
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }
