package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rotor-fleet/rotor/agent/internal/config"
	"github.com/rotor-fleet/rotor/agent/internal/durable"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// walk is a life of an agent with one client that is cut off at every step in
// turn.
type walk struct {
	prepare func(*testing.T, *gateway, *rig) // goes well
	change  func(*gateway)                   // what the agent then works on when it dies
	goal    func(*gateway, *rig) bool        // what it comes to in the end
	after   int                              // generation that is proven then
	bundle  int                              // version of the trust bundle in it
}

func kmsReload(loaded string) config.Settings {
	// Appends what the client has loaded: the generation and the token.
	script := `read -r t < "$ROTOR_DIRECTORY/token"; echo "$ROTOR_GENERATION $t" >> "$0"`
	return settingsOf(map[string]config.Entry{"kms": {Reload: &config.Reload{Command: []string{"sh", "-c", script, loaded}, Attempts: 50, Backoff: 1}}})
}

func fromNothing(*testing.T, *gateway, *rig) {}

func withFirst(t *testing.T, g *gateway, r *rig) {
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	stop()
}

var walks = map[string]walk{
	"enrolment and first set": {
		prepare: fromNothing, change: func(*gateway) {}, after: 1, bundle: 1,
		goal: func(g *gateway, _ *rig) bool { return g.proven(1) },
	},
	"rotation": {
		prepare: withFirst, change: func(g *gateway) { g.issue("kms") }, after: 2, bundle: 1,
		goal: func(g *gateway, _ *rig) bool { return g.proven(2) },
	},
	"new trust bundle": {
		prepare: withFirst, after: 1, bundle: 2,
		change: func(g *gateway) {
			g.change(func() { g.bundle = trust.Bundle{Version: 2, Certificates: []string{g.ca.pem, newAuthority().pem}} })
		},
		goal: func(_ *gateway, r *rig) bool {
			s, err := r.set("kms")
			return err == nil && s.Metadata.Bundle == 2 && r.board.Status().Ready
		},
	},
}

// TestCrashAtEveryStep cuts an agent off at every operation on the disk, of the
// installation and of its own state: before it, and in the middle of it. Then
// the disk holds one matching set, and the next start ends with the client
// proven and everything put away.
func TestCrashAtEveryStep(t *testing.T) {
	for name, w := range walks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			steps := 0
			for died := true; died; {
				steps++
				disk := &dying{at: steps}
				died = w.step(t, disk)
				if strings.HasPrefix(disk.in, "create ") || strings.HasPrefix(disk.in, "remove ") {
					w.step(t, &dying{at: steps, half: true})
				}
			}
			if steps < 15 {
				t.Errorf("only %d steps were walked", steps)
			}
		})
	}
}

// step cuts one life off, and reports whether that came about before the goal.
func (w walk) step(t *testing.T, disk *dying) bool {
	g, r := newGateway(t, "kms"), (*rig)(nil)
	defer g.Close()
	r = newRig(t, g)
	loaded := filepath.Join(t.TempDir(), "loaded")
	r.config.Settings = kmsReload(loaded)
	w.prepare(t, g, r)
	w.change(g)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	disk.kill = cancel
	r.ops = disk
	stop := r.startWith(ctx)
	over := func() bool { return ctx.Err() != nil }
	eventually(t, "dead, or at the goal", func() bool { return over() || w.goal(g, r) })
	polls := g.count(api.PathWork) // what comes after the goal is a part of the walk
	eventually(t, "dead, or idle", func() bool { return over() || r.board.Status().Ready && g.count(api.PathWork) > polls })
	stop()
	died := over()
	w.check(t, g, r, fmt.Sprintf("step %d (%s), half %v", disk.at, disk.in, disk.half))
	r.ops = durable.Disk{}
	defer r.start()()
	eventually(t, fmt.Sprintf("the goal after step %d (%s), half %v", disk.at, disk.in, disk.half), func() bool { return w.goal(g, r) })
	w.checkEnd(t, g, r, loaded)
	return died
}

// check looks at the disk after the crash: one set of one generation, or none
// before the first.
func (w walk) check(t *testing.T, g *gateway, r *rig, where string) {
	t.Helper()
	s, err := r.set("kms")
	if errors.Is(err, fs.ErrNotExist) && w.after == 1 && w.bundle == 1 {
		return
	}
	if err != nil {
		t.Fatalf("%s: %v", where, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.Metadata.Generation > len(g.secrets) || s.Token.Reveal() != g.secrets[s.Metadata.Generation-1] {
		t.Fatalf("%s: the token is not that of generation %d", where, s.Metadata.Generation)
	}
	if count := bytes.Count(s.CA, []byte("BEGIN CERTIFICATE")); count != s.Metadata.Bundle {
		t.Fatalf("%s: %d certificates in ca.crt of bundle %d", where, count, s.Metadata.Bundle)
	}
}

// checkEnd looks at what is left when all is well.
func (w walk) checkEnd(t *testing.T, g *gateway, r *rig, loaded string) {
	t.Helper()
	s := r.wantSet("kms", w.after)
	eventually(t, "everything put away", func() bool {
		sets, _ := filepath.Glob(filepath.Join(r.config.Directory, "kms", "..*"))
		keys, _ := filepath.Glob(filepath.Join(r.config.StateDir, "next", "*"))
		rubbish, _ := filepath.Glob(filepath.Join(r.config.StateDir, "*", ".tmp-*"))
		return len(sets) == 2 && len(keys) == 1 && len(rubbish) == 0 && r.board.Status().Ready
	})
	text, _ := os.ReadFile(loaded)
	if want := fmt.Sprintf("%d %s\n", w.after, s.Token.Reveal()); !strings.HasSuffix(string(text), want) {
		t.Errorf("the client has loaded %q, want at last %q", text, want)
	}
	if h := g.history("kms"); len(h) == 0 || h[len(h)-1] != w.after {
		t.Errorf("proven %v", h)
	}
}

// killed is the configuration of an agent in a process of its own.
type killed struct {
	Server, Pin, Join, StateDir, Directory, Loaded string
	At                                             int
}

const killedVariable = "ROTOR_TEST_KILLED_AT"

// runKilled is that process: it kills itself, with SIGKILL, at a step.
func runKilled(text string) error {
	var k killed
	if err := json.Unmarshal([]byte(text), &k); err != nil {
		return err
	}
	disk := &dying{at: k.At, kill: func() { _ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL) }}
	return run(context.Background(), Env{Log: slog.New(slog.DiscardHandler)}, Config{
		Server: k.Server, Pin: k.Pin, JoinToken: secret.New(k.Join), Cluster: testCluster, StateDir: k.StateDir, Directory: k.Directory,
		Settings: kmsReload(k.Loaded),
	}, disk)
}

// TestKillAtEveryStep kills a real process between any two steps of a rotation.
func TestKillAtEveryStep(t *testing.T) {
	w := walks["rotation"]
	for at := 1; ; at++ {
		g := newGateway(t, "kms")
		r := newRig(t, g)
		loaded := filepath.Join(t.TempDir(), "loaded")
		r.config.Settings = kmsReload(loaded)
		w.prepare(t, g, r)
		w.change(g)
		text := must(json.Marshal(killed{g.URL, g.pin(), g.join, r.config.StateDir, r.config.Directory, loaded, at}))
		ctx, cancel := context.WithCancel(t.Context())
		process := exec.CommandContext(ctx, os.Args[0], "-test.run", "^$")
		process.Env = append(os.Environ(), killedVariable+"="+string(text))
		if err := process.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = process.Wait() // by a signal, most often
			close(ended)
		}()
		dead := false
		eventually(t, "killed, or at the goal", func() bool {
			select {
			case <-ended:
				dead = true
			default:
			}
			return dead || w.goal(g, r)
		})
		cancel()
		if !dead {
			<-ended
		}
		w.check(t, g, r, fmt.Sprintf("kill at step %d", at))
		stop := r.start()
		eventually(t, fmt.Sprintf("the goal after a kill at step %d", at), func() bool { return w.goal(g, r) })
		w.checkEnd(t, g, r, loaded)
		stop()
		g.Close()
		if !dead {
			if at < 20 {
				t.Errorf("only %d steps were walked", at)
			}
			return
		}
	}
}
