package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/health"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// rig is an agent under test.
type rig struct {
	t      *testing.T
	config Config
	ops    durable.Ops
	board  *health.Board
	log    *buffer
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newRig(t *testing.T, g *gateway) *rig {
	t.Helper()
	dir := t.TempDir()
	return &rig{t: t, ops: durable.Disk{}, board: health.New(), log: &buffer{}, config: Config{
		Server: g.URL, Pin: g.pin(), JoinToken: secret.New(g.join), Cluster: testCluster,
		StateDir: filepath.Join(dir, ".rotor-agent"), Directory: dir, PollWait: 5 * time.Second, Version: "test",
	}}
}

// start runs the agent until stop is called, or the test ends.
func (r *rig) start() (stop func()) { return r.startWith(r.t.Context()) }

// startWith is like start, and stops when ctx ends, too.
func (r *rig) startWith(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() { done <- run(ctx, Env{Log: log, Health: r.board.Part("agent")}, r.config, r.ops) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				r.t.Errorf("Run: %v", err)
			}
		})
	}
	r.t.Cleanup(func() {
		stop()
		if r.t.Failed() {
			r.t.Log(r.log.String())
		}
	})
	return stop
}

func (r *rig) set(client string) (install.Set, error) {
	return install.New(filepath.Join(r.config.Directory, client)).Read()
}

func (r *rig) wantSet(client string, generation int) install.Set {
	r.t.Helper()
	s, err := r.set(client)
	if err != nil || s.Metadata.Generation != generation {
		r.t.Fatalf("%s: generation %d installed, %v; want %d", client, s.Metadata.Generation, err, generation)
	}
	return s
}

func (r *rig) waiting() string {
	b, _ := json.Marshal(r.board.Status())
	return string(b)
}

var nine = []string{"node-agent/host-1", "node-agent/host-2", "kms", "kva", "cloud-operator", "caph", "cert-manager", "csi", "cloud-provider"}

func TestAgentTakesClientsThroughGenerations(t *testing.T) {
	g := newGateway(t, nine...)
	r := newRig(t, g)
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	for number := 2; number <= 3; number++ {
		for _, name := range nine {
			g.issue(name)
		}
		eventually(t, "next generation proven", func() bool { return g.proven(number) })
	}
	eventually(t, "ready", func() bool { return r.board.Status().Ready })
	for _, name := range nine {
		s := r.wantSet(name, 3)
		c := g.clients[must(fleet.ParseClientKey(name))]
		if s.Metadata.Serial != c.serial || s.Token.Reveal() != c.token || len(c.history) != 3 {
			t.Errorf("%s: serial %s, proven %v", name, s.Metadata.Serial, c.history)
		}
		eventually(t, "older sets gone", func() bool {
			old, _ := filepath.Glob(filepath.Join(r.config.Directory, name, "..g*"))
			keys, _ := filepath.Glob(filepath.Join(r.config.StateDir, "next", strings.ReplaceAll(name, "/", "_")+".g*"))
			return len(old) == 1 && len(keys) == 1
		})
	}
	for _, want := range []fleet.Step{fleet.StepDelivered, fleet.StepInstalled} {
		n := 0
		for _, s := range g.reports {
			if s.Step == want && s.Error == "" {
				n++
			}
		}
		if n != 3*len(nine) {
			t.Errorf("%d reports of step %s, want one for each of %d generations", n, want, 3*len(nine))
		}
	}
}

func TestAgentKeepsItsIdentityAndSetsOverARestart(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	if Enrolled(r.config) {
		t.Error("enrolled before the start")
	}
	stop := r.start()
	eventually(t, "proven", func() bool { return g.proven(1) })
	stop()
	before := r.wantSet("kms", 1)
	if !Enrolled(r.config) {
		t.Error("not enrolled after the start")
	}
	r.config.JoinToken, r.config.Pin = secret.Text{}, "" // both are kept
	r.start()
	eventually(t, "ready again", func() bool { return r.board.Status().Ready })
	g.issue("kms")
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
	if g.count(api.PathEnrol) != 1 {
		t.Errorf("enrolled %d times", g.count(api.PathEnrol))
	}
	if before.Metadata.Serial == r.wantSet("kms", 2).Metadata.Serial {
		t.Error("same serial")
	}
}

// F28: one-time token consumed, reply lost, client locked out.
func TestF28_LostEnrolReplyIsRepeated(t *testing.T) {
	g := newGateway(t, "kms")
	lost := false
	g.after = func(path string) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if path == api.PathEnrol && !lost {
			lost = true
			panic(http.ErrAbortHandler)
		}
	}
	r := newRig(t, g)
	r.start()
	eventually(t, "proven", func() bool { return g.proven(1) })
	if n := g.count(api.PathEnrol); n != 2 {
		t.Errorf("enrolled %d times, want 2", n)
	}
}

func TestRefusedJoinTokenIsSaidAndAskedForAgain(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	r.config.JoinToken = secret.New("wrong-token-xyz")
	stop := r.start()
	eventually(t, "health says why", func() bool { return strings.Contains(r.waiting(), "join token refused") })
	stop()
	if Enrolled(r.config) {
		t.Error("enrolled")
	}
	r.config.Join = func(context.Context) (secret.Text, error) { return secret.New(g.join), nil }
	r.start()
	eventually(t, "proven", func() bool { return g.proven(1) })
}

func TestServerThatForgotTheAgentEnrolsItAgain(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	r.start()
	eventually(t, "proven", func() bool { return g.proven(1) })
	g.change(func() { g.redeemed = "" })
	eventually(t, "enrolled again", func() bool { return g.count(api.PathEnrol) == 2 })
	g.issue("kms")
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
}

func TestManInTheMiddleWithAnotherFleetKeyIsRefused(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	r.config.Pin = newGateway(t).pin()
	r.start()
	eventually(t, "health says why", func() bool { return strings.Contains(r.waiting(), trust.ErrUntrusted.Error()) })
	if g.count(api.PathEnrol) != 0 {
		t.Error("the join token went to a server that is not trusted")
	}
}

// A bundle that the agent has seen must not be replaced by an older one, even
// if that is signed by the right key: it may hold a CA that is distrusted since.
func TestAgentRefusesAnOlderBundle(t *testing.T) {
	g := newGateway(t, "kms")
	g.bundle.Version = 5
	r := newRig(t, g)
	stop := r.start()
	eventually(t, "proven", func() bool { return g.proven(1) })
	stop()
	if err := os.Remove(filepath.Join(r.config.StateDir, "bundle.jws")); err != nil {
		t.Fatal(err)
	}
	g.change(func() { g.bundle.Version = 4 })
	r.start()
	eventually(t, "health says why", func() bool { return strings.Contains(r.waiting(), "older than the last one seen") })
	g.change(func() { g.bundle.Version = 6 })
	eventually(t, "ready", func() bool { return r.board.Status().Ready })
}

// F13 of the clients: trust reaches the disk apart from certificates.
func TestF13_NewBundleIsInstalledWithoutANewGeneration(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	r.start()
	eventually(t, "proven", func() bool { return g.proven(1) })
	next := newAuthority()
	g.change(func() { g.bundle = trust.Bundle{Version: 2, Certificates: []string{g.ca.pem, next.pem}} })
	eventually(t, "new ca.crt", func() bool {
		s, err := r.set("kms")
		return err == nil && s.Metadata.Bundle == 2 && bytes.Equal(s.CA, g.bundle.PEM())
	})
	r.wantSet("kms", 1)
}

func TestAgentThatSleptThroughACARotationFetchesTheBundle(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	stop := r.start()
	eventually(t, "proven", func() bool { return g.proven(1) })
	stop()
	g.change(func() {
		g.ca = newAuthority()
		g.cert = g.ca.server()
		g.bundle = trust.Bundle{Version: 2, Certificates: []string{g.ca.pem}}
		g.issueLocked(fleet.ClientKey{Kind: "kms"})
	})
	r.start()
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
}

// H2: what could not be read passed for a success. One client whose folder can
// be neither read nor written holds up no other, and keeps what it has.
func TestH2_FolderThatCannotBeReadIsToldAndKept(t *testing.T) {
	g := newGateway(t, "kms", "csi")
	r := newRig(t, g)
	stop := r.start()
	eventually(t, "proven", func() bool { return g.proven(1) })
	stop()
	// A file in the way of the folder stops every user, root as well.
	data := filepath.Join(r.config.Directory, "kms")
	if err := os.Rename(data, data+"-away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(data, []byte("in the way"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	g.issue("kms")
	g.issue("csi")
	eventually(t, "csi is not held up", func() bool { s, err := r.set("csi"); return err == nil && s.Metadata.Generation == 2 })
	eventually(t, "failure reported", func() bool { return strings.Contains(g.failure("kms"), "not a directory") })
	if err := errors.Join(os.Remove(data), os.Rename(data+"-away", data)); err != nil {
		t.Fatal(err)
	}
	r.wantSet("kms", 1)
	eventually(t, "all proven", func() bool { return g.proven(2) })
}

// A client that leaves while something of it waits must not keep the agent
// awake.
func TestClientThatIsGoneIsForgotten(t *testing.T) {
	g := newGateway(t, "kms", "csi")
	g.fault = refuseProof
	r := newRig(t, g)
	r.start()
	eventually(t, "failure reported", func() bool { return g.failure("kms") != "" && g.failure("csi") != "" })
	g.change(func() {
		g.fault = nil
		g.order = g.order[:1]
		delete(g.clients, fleet.ClientKey{Kind: "csi"})
	})
	eventually(t, "ready without it", func() bool { return r.board.Status().Ready })
	polls := g.count(api.PathWork)
	g.issue("kms")
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) && r.board.Status().Ready })
	if n := g.count(api.PathWork) - polls; n > 12 {
		t.Errorf("%d polls for one generation", n)
	}
	r.wantSet("csi", 1)
}

func TestClockThatIsOffIsSaidOnce(t *testing.T) {
	log := &buffer{}
	a := &agent{env: Env{Log: slog.New(slog.NewTextHandler(log, nil)), Clock: clock.Real()}}
	for _, c := range []struct {
		off   time.Duration
		lines int
	}{{0, 0}, {4 * time.Minute, 0}, {-6 * time.Minute, 1}, {-6 * time.Minute, 1}, {0, 1}, {6 * time.Minute, 2}} {
		a.checkClock(clock.Wall().Add(c.off))
		if n := strings.Count(log.String(), "differs from the server's"); n != c.lines {
			t.Errorf("off by %s: %d lines, want %d", c.off, n, c.lines)
		}
	}
}
