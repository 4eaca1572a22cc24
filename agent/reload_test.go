package agent

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/config"
	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// quick lets a command fail twice, without long pauses.
func quick(argv ...string) *config.Reload {
	return &config.Reload{Command: argv, Attempts: 2, Backoff: time.Millisecond, Timeout: 20 * time.Second}
}

func settingsOf(kinds map[string]config.Entry) config.Settings {
	return config.Settings{Clients: config.Clients{Kinds: kinds}}
}

// write replaces a file of a test.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func (g *gateway) history(name string) []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]int(nil), g.clients[must(fleet.ParseClientKey(name))].history...)
}

// F18: "Upload Successful!", and the state stays bad. A generation that the
// client could not load is not proven, whatever the files say: it is tried
// again, given up, the set of before is back and loaded, and all of it is told.
func TestF18_ReloadThatFailsIsNeverASuccess(t *testing.T) {
	g := newGateway(t, "kms", "csi")
	r := newRig(t, g)
	dir := t.TempDir()
	program, loaded := filepath.Join(dir, "reload"), filepath.Join(dir, "loaded")
	works := "#!/bin/sh\nread -r t < $ROTOR_DIRECTORY/token || :\necho $ROTOR_GENERATION $t >> " + loaded + "\n"
	write(t, program, works)
	changes := make(chan Settings)
	r.config.Changes = changes
	r.config.Settings = settingsOf(map[string]config.Entry{"kms": {Reload: quick(program)}})
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	first := r.wantSet("kms", 1)
	write(t, program, "#!/bin/sh\ntest $ROTOR_GENERATION = 1 || { cat $ROTOR_DIRECTORY/token; exit 7; }\necho back >> "+loaded+"\n")
	g.issue("kms")
	g.issue("csi")
	eventually(t, "given up", func() bool { return strings.Contains(g.failure("kms"), "generation 2 was given up after 2 attempts") })
	if text := g.failure("kms"); !strings.Contains(text, "exit status 7: [removed]; generation 1 is back, valid until ") || !strings.Contains(text, "another generation is asked for at ") {
		t.Errorf("reported: %s", text)
	}
	if now := r.wantSet("kms", 1); now.Metadata.Serial != first.Metadata.Serial {
		t.Error("another set of generation 1")
	}
	if text, _ := os.ReadFile(loaded); !strings.HasSuffix(string(text), "back\n") {
		t.Errorf("the client has not loaded the set of before: %q", text)
	}
	eventually(t, "the other one is not held up", func() bool { h := g.history("csi"); return len(h) == 2 })
	eventually(t, "health says why", func() bool { return strings.Contains(r.waiting(), "kms: generation 2 was given up") })
	if h := g.history("kms"); len(h) != 1 {
		t.Errorf("proven %v", h)
	}
	// Repaired, and the configuration read again: the same generation goes well.
	write(t, program, works)
	changes <- r.config.Settings
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) && r.board.Status().Ready })
	second := r.wantSet("kms", 2)
	if text, _ := os.ReadFile(loaded); !strings.HasSuffix(string(text), "2 "+second.Token.Reveal()+"\n") {
		t.Errorf("proven without a reload: %q", text)
	}
}

// F16: a failed upgrade left agents stopped instead of rolling back, with no
// way forward. What was given up is replaced by another generation in time,
// also when the agent was killed meanwhile.
func TestF16_GivenUpGenerationIsFollowedByAnother(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	program := filepath.Join(t.TempDir(), "reload")
	write(t, program, "#!/bin/sh\nexit 0\n")
	r.config.Settings = settingsOf(map[string]config.Entry{"kms": {Reload: quick(program)}})
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	write(t, program, "#!/bin/sh\ntest $ROTOR_GENERATION != 2\n")
	g.issue("kms")
	eventually(t, "given up", func() bool { return strings.Contains(g.failure("kms"), "was given up") })
	stop()
	kms := fleet.ClientKey{Kind: "kms"}
	store := state.At(r.config.StateDir, nil)
	trial := store.Trial(kms)
	if wait := trial.AskAt.Sub(clock.Wall()); trial.InARow != 1 || !trial.GivenUp || wait < firstAsk/2-10*time.Second || wait > firstAsk {
		t.Errorf("%+v", trial)
	}
	// A restart alone changes nothing: it stays given up.
	stop = r.start()
	eventually(t, "health says why again", func() bool { return strings.Contains(r.waiting(), "was given up") })
	r.wantSet("kms", 1)
	stop()
	trial.AskAt = clock.Wall()
	if err := store.SaveTrial(kms, trial); err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "generation 3 proven", func() bool { return g.proven(3) })
	r.wantSet("kms", 3)
	eventually(t, "the trial is over", func() bool {
		return store.Trial(kms) == state.Trial{Loaded: state.Loaded{Generation: 3, Bundle: 1}}
	})
	if h := g.history("kms"); len(h) != 2 || h[1] != 3 {
		t.Errorf("proven %v", h)
	}
}

// reader is a program that serves what it has loaded.
type reader struct {
	address string
	mu      sync.Mutex
	held    *tls.Certificate
}

func newReader(t *testing.T) *reader {
	t.Helper()
	s := &reader{}
	listener := must(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.held, nil
		},
	}))
	s.address = listener.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return s
}

func serve(c net.Conn) {
	_ = c.SetDeadline(clock.Wall().Add(5 * time.Second))
	_, _ = c.Read(make([]byte, 1))
	_ = c.Close()
}

func (s *reader) load(c tls.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = &c
}

// A renewal that changes nothing, and a reload that is only logged, passed for
// successes elsewhere (no-op renewal counted as success; reload failure logged
// only). Here the program must serve the new certificate.
func TestProgramThatStillHoldsTheOldCertificateIsNoSuccess(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	program := newReader(t)
	verify := &config.Verify{Address: program.address, ServerName: "kms.local", Timeout: 20 * time.Second}
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	stop()
	first := r.wantSet("kms", 1)
	program.load(must(first.KeyPair()))
	verify.Timeout = 100 * time.Millisecond
	r.config.Settings = settingsOf(map[string]config.Entry{"kms": {Reload: quick("true"), Verify: verify}})
	stop = r.start()
	g.issue("kms")
	eventually(t, "given up", func() bool { return strings.Contains(g.failure("kms"), "was given up") })
	for _, want := range []string{"verify: look at " + program.address, "it still serves another certificate, serial " + first.Metadata.Serial} {
		if text := g.failure("kms"); !strings.Contains(text, want) {
			t.Errorf("reported %q, want %q", text, want)
		}
	}
	r.wantSet("kms", 1)
	if h := g.history("kms"); len(h) != 1 {
		t.Errorf("proven %v", h)
	}
	stop()
	// With a program that reads its files by itself, nothing but time is needed.
	verify.Timeout = 20 * time.Second
	r.config.Settings = settingsOf(map[string]config.Entry{"kms": {Verify: verify}})
	r.start()
	eventually(t, "installed", func() bool { s, err := r.set("kms"); return err == nil && s.Metadata.Generation == 2 })
	if h := g.history("kms"); len(h) != 1 {
		t.Errorf("proven before the program served it: %v", h)
	}
	second := r.wantSet("kms", 2)
	program.load(must(second.KeyPair()))
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
}

// A first set has nothing to go back to, and a set of before that has ended is
// no way back: the new one stays, and is loaded as soon as that works.
func TestNoWayBackIsSaid(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	program := filepath.Join(t.TempDir(), "reload")
	write(t, program, "#!/bin/sh\nexit 1\n")
	changes := make(chan Settings)
	r.config.Changes = changes
	r.config.Settings = settingsOf(map[string]config.Entry{"kms": {Reload: quick(program)}})
	r.start()
	eventually(t, "said", func() bool {
		return strings.Contains(g.failure("kms"), "attempt 2 of 2: reload: run "+program+": exit status 1; it stays in place: there is no set of before")
	})
	r.wantSet("kms", 1)
	write(t, program, "#!/bin/sh\nexit 0\n")
	changes <- r.config.Settings
	eventually(t, "proven", func() bool { return g.proven(1) && r.board.Status().Ready })
	no := false
	taken := strings.Count(r.log.String(), "new settings")
	changes <- settingsOf(map[string]config.Entry{"kms": {Reload: quick("false"), Rollback: &no}})
	eventually(t, "taken over", func() bool { return strings.Count(r.log.String(), "new settings") > taken })
	g.issue("kms")
	eventually(t, "said again", func() bool { return strings.Contains(g.failure("kms"), "it stays in place: rollback is off") })
	r.wantSet("kms", 2)
}

// A generation that the server keeps refusing is as bad as one that cannot be
// loaded: the client gets back what works.
func TestF3_RefusedGenerationGivesWayToTheOneBefore(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	g.change(func() { g.fault = refuseProof })
	g.issue("kms")
	eventually(t, "refusals are counted", func() bool { return state.At(r.config.StateDir, nil).Trial(fleet.ClientKey{Kind: "kms"}).Attempts > 1 })
	r.wantSet("kms", 2)
	stop()
	kms := fleet.ClientKey{Kind: "kms"}
	store := state.At(r.config.StateDir, nil)
	trial := store.Trial(kms)
	trial.Since, trial.Attempts = trial.Since.Add(-proofPatience), config.DefaultAttempts
	if err := store.SaveTrial(kms, trial); err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "given up", func() bool { return strings.Contains(g.failure("kms"), "was given up") })
	r.wantSet("kms", 1)
}

// F19: a rotation hung for 40 minutes. A reload has a limit of time, its end is
// told with the cause, and the others go on.
func TestF19_ReloadThatHangsIsEndedAndTold(t *testing.T) {
	g := newGateway(t, "kms", "csi")
	r := newRig(t, g)
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	stop()
	hang := quick("sleep", "1000")
	hang.Attempts, hang.Timeout = 100, 100*time.Millisecond
	r.config.Settings = settingsOf(map[string]config.Entry{"kms": {Reload: hang}})
	r.start()
	g.issue("kms")
	g.issue("csi")
	eventually(t, "told", func() bool {
		return strings.Contains(g.failure("kms"), "run sleep: it did not end in time and was killed")
	})
	eventually(t, "csi is proven", func() bool { return len(g.history("csi")) == 2 })
}

// A new trust bundle is loaded as well; where that fails there is nothing to go
// back to, and what was said is taken back once it works.
func TestF13_NewBundleIsLoaded(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	dir := t.TempDir()
	program, loaded := filepath.Join(dir, "reload"), filepath.Join(dir, "loaded")
	write(t, program, "#!/bin/sh\necho x >> "+loaded+"\n")
	changes := make(chan Settings)
	r.config.Changes = changes
	r.config.Settings = settingsOf(map[string]config.Entry{"kms": {Reload: quick(program)}})
	r.start()
	eventually(t, "proven", func() bool { return g.proven(1) })
	write(t, program, "#!/bin/sh\nexit 1\n")
	next := newAuthority()
	g.change(func() { g.bundle = trust.Bundle{Version: 2, Certificates: []string{g.ca.pem, next.pem}} })
	eventually(t, "failure told", func() bool { return strings.Contains(g.failure("kms"), "generation 1, trust bundle 2: reload: ") })
	if s := r.wantSet("kms", 1); s.Metadata.Bundle != 2 {
		t.Errorf("bundle %d", s.Metadata.Bundle)
	}
	write(t, program, "#!/bin/sh\necho x >> "+loaded+"\n")
	changes <- r.config.Settings
	eventually(t, "taken back", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		last := g.reports[len(g.reports)-1]
		return last == api.StepReport{Client: fleet.ClientKey{Kind: "kms"}, Generation: 1, Step: fleet.StepProven}
	})
	if text, _ := os.ReadFile(loaded); strings.Count(string(text), "x") != 2 {
		t.Errorf("reloaded %d times, want once for each bundle", strings.Count(string(text), "x"))
	}
}

func TestTrialFileThatMakesNoSenseCountsAsAbsent(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	r.config.Settings = settingsOf(map[string]config.Entry{"kms": {Reload: quick("true")}})
	stop := r.start()
	eventually(t, "proven", func() bool { return g.proven(1) })
	stop()
	path := filepath.Join(r.config.StateDir, "clients", "kms.json")
	var trial state.Trial
	if err := json.Unmarshal(must(os.ReadFile(path)), &trial); err != nil || trial.Loaded.Generation != 1 {
		t.Fatalf("%+v, %v %s", trial, err, must(os.ReadFile(path)))
	}
	write(t, path, "{half")
	r.start()
	g.issue("kms")
	eventually(t, "proven again", func() bool { return g.proven(2) })
}
