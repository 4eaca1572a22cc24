package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/link"
	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/trust"
)

func refuseProof(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path == api.PathProve {
		refuse(w, 403, "not yet")
		return true
	}
	return false
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, body string) (*http.Response, error) {
	header := http.Header{"Content-Type": {"application/problem+json"}}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// F8: an agent that is refused, or has lost its server, retries without pause.
// In ten minutes of it, on a clock of the test, calls stay few.
func TestF8_NeverSpins(t *testing.T) {
	for name, c := range map[string]struct {
		serve roundTrip
		most  int
	}{
		"server is down":           {func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }, 80},
		"server fails":             {func(*http.Request) (*http.Response, error) { return answer(500, "{}") }, 80},
		"not known, no token":      {func(*http.Request) (*http.Response, error) { return answer(401, `{"status":401}`) }, 30},
		"denied":                   {func(*http.Request) (*http.Response, error) { return answer(403, `{"status":403}`) }, 30},
		"answers at once, no work": {func(*http.Request) (*http.Response, error) { return answer(200, "{}") }, 80},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			signed := must(trust.Sign(g.fleetKey, g.bundle))
			store := must(state.Open(t.TempDir(), slog.New(slog.DiscardHandler)))
			me := must(store.Identity())
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				l := link.New(link.Options{
					Servers: []string{g.URL}, Pin: g.pin(), Clock: clock.Real(), Certificate: me.Certificate,
					Transport: func(*tls.Config) http.RoundTripper {
						return roundTrip(func(r *http.Request) (*http.Response, error) { calls++; return c.serve(r) })
					},
				})
				if err := l.Load(signed, 0); err != nil {
					t.Fatal(err)
				}
				a := &agent{
					env: Env{Log: slog.New(slog.DiscardHandler)}, config: Config{Cluster: testCluster, Server: g.URL, Pin: g.pin(), PollWait: DefaultPollWait},
					store: store, me: me, link: l, notes: map[fleet.ClientKey]*note{},
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				a.loop(ctx)
				if calls < 5 || calls > c.most {
					t.Errorf("%d calls in ten minutes, want 5 to %d", calls, c.most)
				}
			})
		})
	}
}

func TestBackoffGrowsIsJitteredAndEnds(t *testing.T) {
	var b backoff
	differs := false
	first := b.next(nil)
	for i := range 100 {
		d, limit := b.next(nil), longest
		if i < 6 {
			limit = shortest << (i + 2)
		}
		if d < shortest || d > limit {
			t.Fatalf("pause %d is %s, want at most %s", i, d, limit)
		}
		differs = differs || d != first
	}
	if !differs {
		t.Error("no jitter")
	}
	if d := b.next(fleet.ErrDenied); d < slowest/2 || d > slowest {
		t.Errorf("after a refusal %s, want about %s", d, slowest)
	}
	b.reset()
	if d := b.next(nil); d > 2*shortest {
		t.Errorf("after a success %s, want at most %s", d, 2*shortest)
	}
}

func TestDecide(t *testing.T) {
	kms := fleet.ClientKey{Kind: "kms"}
	pickup := func(n int) *fleet.Pickup { return &fleet.Pickup{Generation: n} }
	both := []fleet.Step{fleet.StepDelivered, fleet.StepInstalled}
	for name, c := range map[string]struct {
		w    api.ClientWork
		l    local
		want plan
	}{
		"first":                      {api.ClientWork{}, local{}, plan{File: 1}},
		"first, on file":             {api.ClientWork{Request: 1}, local{}, plan{}},
		"ready":                      {api.ClientWork{Generation: 1, Step: fleet.StepIssued, Request: 1, Pickup: pickup(1)}, local{Pending: true}, plan{Install: true, Prove: true, File: 2}},
		"ready, over an older":       {api.ClientWork{Generation: 2, Step: fleet.StepIssued, Request: 2, Pickup: pickup(2)}, local{Installed: 1, Pending: true}, plan{Install: true, Prove: true, File: 3}},
		"ready, key lost":            {api.ClientWork{Generation: 2, Step: fleet.StepIssued, Request: 2, Pickup: pickup(2)}, local{Installed: 1}, plan{Lost: "key of generation 2 is lost", File: 3}},
		"recorded, no pick-up yet":   {api.ClientWork{Generation: 2, Step: fleet.StepIssued, Request: 2}, local{Installed: 1, Pending: true}, plan{}},
		"pick-up of one before":      {api.ClientWork{Generation: 2, Step: fleet.StepIssued, Request: 2, Pickup: pickup(1)}, local{Installed: 1, Pending: true}, plan{}},
		"another agent's":            {api.ClientWork{Generation: 2, Step: fleet.StepIssued}, local{Installed: 1}, plan{Lost: "generation 2 is not for this agent: its key and token are another's", File: 3}},
		"installed, nothing told":    {api.ClientWork{Generation: 2, Step: fleet.StepIssued, Request: 2}, local{Installed: 2}, plan{Report: both, Prove: true, File: 3}},
		"installed, half told":       {api.ClientWork{Generation: 2, Step: fleet.StepDelivered, Request: 3}, local{Installed: 2}, plan{Report: both[1:], Prove: true}},
		"installed, told":            {api.ClientWork{Generation: 2, Step: fleet.StepInstalled, Request: 3}, local{Installed: 2}, plan{Prove: true}},
		"proven, nothing on file":    {api.ClientWork{Generation: 2, Step: fleet.StepProven, Request: 2}, local{Installed: 2}, plan{Settle: true, File: 3}},
		"proven, all well":           {api.ClientWork{Generation: 2, Step: fleet.StepProven, Request: 3}, local{Installed: 2}, plan{Settle: true}},
		"proven and gone":            {api.ClientWork{Generation: 2, Step: fleet.StepProven, Request: 3}, local{}, plan{Lost: "generation 2 was installed and is gone", File: 3}},
		"a view that is behind":      {api.ClientWork{Generation: 2, Step: fleet.StepIssued, Request: 2, Pickup: pickup(2)}, local{Installed: 3}, plan{}},
		"of its program":             {api.ClientWork{Generation: 2, Step: fleet.StepIssued, Request: 2, Program: true}, local{Installed: 1, Pending: true}, plan{File: 3}},
		"of its program, proven":     {api.ClientWork{Generation: 2, Step: fleet.StepProven, Request: 3, Program: true}, local{Restored: true}, plan{}},
		"revoked and reinstated":     {api.ClientWork{Generation: 2, Step: fleet.StepProven, Request: 3, Next: 4, Barred: true}, local{Installed: 2}, plan{File: 4}},
		"revoked on its way":         {api.ClientWork{Generation: 2, Step: fleet.StepIssued, Request: 3, Next: 4, Barred: true}, local{Installed: 1, Pending: true}, plan{File: 4}},
		"revoked, set is gone":       {api.ClientWork{Generation: 2, Step: fleet.StepProven, Request: 4, Next: 4, Barred: true}, local{}, plan{}},
		"restored, disk as recorded": {api.ClientWork{Generation: 2, Step: fleet.StepProven, Request: 3, Next: 1003}, local{Installed: 2, Restored: true}, plan{Settle: true, File: 1003}},
		"restored, disk is ahead":    {api.ClientWork{Generation: 2, Step: fleet.StepProven, Request: 3, Next: 1003}, local{Installed: 4, Restored: true}, plan{Lost: "generation 4 is installed and the record ends with 2: the server was restored from a backup", File: 1003}},
		"restored twice, far ahead":  {api.ClientWork{Generation: 2, Step: fleet.StepProven, Request: 3, Next: 1003}, local{Installed: 1003, Restored: true}, plan{Lost: "generation 1003 is installed and the record ends with 2: the server was restored from a backup", File: 1005}},
		"restored without a record":  {api.ClientWork{}, local{Installed: 4, Restored: true}, plan{Lost: "generation 4 is installed and the record ends with 0: the server was restored from a backup", File: 6}},
		"issued after a restore":     {api.ClientWork{Generation: 1003, Step: fleet.StepIssued, Request: 1003, Pickup: pickup(1003)}, local{Installed: 4, Pending: true, Restored: true}, plan{Install: true, Prove: true, File: 1004}},
		"restored long ago, behind":  {api.ClientWork{Generation: 1003, Step: fleet.StepProven, Request: 1004}, local{Installed: 1004, Restored: true}, plan{}},
		"proven, but pick-up stayed": {api.ClientWork{Generation: 2, Step: fleet.StepProven, Request: 3, Pickup: pickup(2)}, local{Installed: 2}, plan{Settle: true}},
	} {
		t.Run(name, func(t *testing.T) {
			c.w.Client = kms
			got := decide(c.w, c.l)
			if got.Install != c.want.Install || got.Prove != c.want.Prove || got.Settle != c.want.Settle || got.File != c.want.File ||
				got.Lost != c.want.Lost || len(got.Report) != len(c.want.Report) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestConfigValidate(t *testing.T) {
	good := Config{Server: "https://127.0.0.1:8443", Pin: "sha256:" + strings.Repeat("0a", 32), Cluster: "edge-01", StateDir: "s", Directory: "d"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"plain HTTP":   func(c *Config) { c.Server = "http://127.0.0.1:8443" },
		"with a path":  func(c *Config) { c.Server += "/v1" },
		"short pin":    func(c *Config) { c.Pin = "sha256:00" },
		"no cluster":   func(c *Config) { c.Cluster = "" },
		"path cluster": func(c *Config) { c.Cluster = "../x" },
		"no directory": func(c *Config) { c.Directory = "" },
	} {
		c := good
		spoil(&c)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // should it be taken
		if err := Run(ctx, Env{Log: slog.New(slog.DiscardHandler)}, c); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseClaims(f *testing.F) {
	f.Add("a.e30.b")
	f.Add(makeToken("edge-01/kms", "x", time.Unix(1, 0)))
	f.Fuzz(func(_ *testing.T, text string) { _, _ = parseClaims(secret.New(text)) })
}
