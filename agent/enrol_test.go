package agent

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/link"
	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/health"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// F8: an agent whose join token is refused asks once a minute, for as long as it
// takes, and says why.
func TestF8_RefusedEnrolmentNeverSpins(t *testing.T) {
	g := newGateway(t)
	signed := must(trust.Sign(g.fleetKey, g.bundle))
	store := must(state.Open(t.TempDir(), slog.New(slog.DiscardHandler)))
	me := must(store.Identity())
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		l := link.New(link.Options{
			Servers: []string{g.URL}, Pin: g.pin(), Clock: clock.Real(), Certificate: me.Certificate,
			Transport: func(*tls.Config) http.RoundTripper {
				return roundTrip(func(*http.Request) (*http.Response, error) {
					calls++
					return answer(403, `{"status":403,"detail":"no"}`)
				})
			},
		})
		if err := l.Load(signed, 0); err != nil {
			t.Fatal(err)
		}
		board := health.New()
		a := &agent{
			env:    Env{Log: slog.New(slog.DiscardHandler), Health: board.Part("agent")},
			config: Config{Cluster: testCluster, JoinToken: secret.New("edge-01.1.x")}, store: store, me: me, link: l, notes: map[fleet.ClientKey]*note{},
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*24*time.Hour)
		defer cancel()
		a.retry(ctx, conditionEnrolment, a.enrol)
		if days := 3 * 24 * 60; calls < days || calls > 2*days+20 {
			t.Errorf("%d calls in three days, want one or two a minute", calls)
		}
		if s := board.Status(); s.Ready {
			t.Errorf("ready: %+v", s)
		}
	})
}

// Without anything but its folder an agent goes on where it was; H1, H14: what
// it remembers and cannot be read now is waited for, not given up.
func TestFolderAloneWillDo(t *testing.T) {
	g, r := provenRig(t, "kms")
	file := filepath.Join(r.config.StateDir, "state.json")
	kept := must(os.ReadFile(file))
	r.config.Server, r.config.Pin, r.config.Cluster, r.config.StateDir, r.config.JoinToken = "", "", "", "", secret.Text{}
	stop := r.start()
	g.issue("kms")
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
	stop()
	if err := os.WriteFile(file, []byte("\x00garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "the health says what is missing", func() bool { return strings.Contains(r.waiting(), "it may stand in the agent's state") })
	if err := os.WriteFile(file, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	g.issue("kms")
	eventually(t, "generation 3 proven", func() bool { return g.proven(3) })
}

func TestFolderOfAnotherClusterIsRefused(t *testing.T) {
	_, r := provenRig(t, "kms")
	r.config.Cluster, r.config.JoinToken = "edge-02", secret.Text{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := Run(ctx, Env{Log: slog.New(slog.DiscardHandler)}, r.config)
	if err == nil || !strings.Contains(err.Error(), "holds the keys of the agent of cluster edge-01") {
		t.Errorf("%v", err)
	}
}

// A restart counts on, and an agent that has lost its count goes on with the
// server's.
func TestStartsAreCounted(t *testing.T) {
	g, r := provenRig(t, "kms")
	log := slog.New(slog.DiscardHandler)
	dir := r.config.StateDir
	if n := state.At(dir, log).Record().Starts; n != 1 {
		t.Errorf("%d starts, want 1", n)
	}
	stop := r.start()
	eventually(t, "counts on", func() bool { return state.At(dir, log).Record().Starts == 2 })
	stop()
	if err := os.Remove(filepath.Join(dir, "state.json")); err != nil {
		t.Fatal(err)
	}
	g.change(func() { g.starts = 7 })
	stop = r.start()
	eventually(t, "goes on with the server's count", func() bool { return state.At(dir, log).Record().Starts == 7 })
	stop()
	r.start()
	eventually(t, "counts on", func() bool { return state.At(dir, log).Record().Starts == 8 })
}

func TestASecondAgentOnTheFolderWaits(t *testing.T) {
	g, r := provenRig(t, "kms")
	stop := r.start()
	eventually(t, "the first has begun", func() bool { return strings.Count(r.log.String(), "agent starts") == 2 })
	second := &rig{t: t, board: health.New(), log: &buffer{}, config: r.config, ops: r.ops}
	second.start()
	eventually(t, "the second says what it waits for", func() bool { return strings.Contains(second.waiting(), "another agent runs with the state") })
	stop()
	g.issue("kms")
	eventually(t, "the second takes over", func() bool { return g.proven(2) })
}
