package agent

import (
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// provenRig returns an agent that has proven generation 1 and stands still.
func provenRig(t *testing.T, clients ...string) (*gateway, *rig) {
	t.Helper()
	g := newGateway(t, clients...)
	r := newRig(t, g)
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	eventually(t, "settled", func() bool { return r.board.Status().Ready })
	stop()
	return g, r
}

func TestLostPendingKeyMovesOnToTheNextGeneration(t *testing.T) {
	g, r := provenRig(t, "kms", "csi")
	if err := os.Remove(filepath.Join(r.config.StateDir, "next", "kms.g2.key")); err != nil {
		t.Fatal(err)
	}
	g.issue("kms")
	r.start()
	eventually(t, "generation 3 proven", func() bool {
		s, err := r.set("kms")
		return err == nil && s.Metadata.Generation == 3 && r.board.Status().Ready
	})
	if got := g.failure("kms"); got != "key of generation 2 is lost" {
		t.Errorf("reported %q", got)
	}
	if r.wantSet("csi", 1); len(g.clients[fleet.ClientKey{Kind: "csi"}].history) != 1 {
		t.Error("csi was touched")
	}
}

// F3: while the new generation cannot be used, the old one stays.
func TestF3_OldGenerationStaysUntilANewOneIsThere(t *testing.T) {
	for name, breakIt := range map[string]func(g *gateway, p *fleet.Pickup){
		"token sealed to another": func(_ *gateway, p *fleet.Pickup) { p.Token = p.Token[:len(p.Token)-1] },
		"chain is nothing":        func(_ *gateway, p *fleet.Pickup) { p.Chain = []byte("no PEM") },
		"another key":             func(g *gateway, p *fleet.Pickup) { p.Chain = g.clients[fleet.ClientKey{Kind: "csi"}].pickup.Chain },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, r := provenRig(t, "kms", "csi")
			before := r.wantSet("kms", 1)
			kms := g.clients[fleet.ClientKey{Kind: "kms"}]
			r.start()
			seen := false
			g.change(func() {
				g.issueLocked(fleet.ClientKey{Kind: "kms"})
				breakIt(g, kms.pickup)
			})
			eventually(t, "generation 3 is there", func() bool {
				s, err := r.set("kms")
				if err != nil {
					t.Fatal(err)
				}
				if s.Metadata.Generation == 1 && s.Metadata.Serial == before.Metadata.Serial {
					seen = true
				}
				return s.Metadata.Generation == 3
			})
			if !seen || g.failure("kms") == "" {
				t.Errorf("generation 1 seen %v, failure %q", seen, g.failure("kms"))
			}
		})
	}
}

func TestAnExpiredPickupIsReplaced(t *testing.T) {
	g, r := provenRig(t, "kms")
	g.change(func() { g.life = -time.Minute })
	g.issue("kms") // while the agent was away
	g.change(func() { g.life = 0 })
	r.start()
	eventually(t, "generation 3 installed", func() bool { s, err := r.set("kms"); return err == nil && s.Metadata.Generation == 3 })
	if !strings.Contains(g.failure("kms"), "expired") {
		t.Errorf("reported %q", g.failure("kms"))
	}
}

// F4: what lies on the disk never blocks its own replacement.
func TestF4_DamagedSetIsReplaced(t *testing.T) {
	for _, file := range []string{"tls.crt", "tls.key", "ca.crt", "token", "metadata.json"} {
		for name, damage := range map[string]func(path string) error{
			"gone":    os.Remove,
			"empty":   func(path string) error { return os.Truncate(path, 0) },
			"garbage": func(path string) error { return os.WriteFile(path, []byte{}, 0o600) },
		} {
			t.Run(file+" "+name, func(t *testing.T) {
				t.Parallel()
				g, r := provenRig(t, "kms")
				if err := damage(filepath.Join(r.config.Directory, "kms", "..data", file)); err != nil {
					t.Fatal(err)
				}
				r.start()
				eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
				if !strings.Contains(g.failure("kms"), "damaged") {
					t.Errorf("reported %q", g.failure("kms"))
				}
			})
		}
	}
}

// The same, where the damaged set is not proven yet: its key still waits, so it
// is installed again and no generation is wasted.
func TestDamagedUnprovenSetIsInstalledAgain(t *testing.T) {
	g, r := provenRig(t, "kms")
	g.change(func() { g.fault = refuseProof })
	stop := r.start()
	g.issue("kms")
	eventually(t, "installed", func() bool { s, err := r.set("kms"); return err == nil && s.Metadata.Generation == 2 })
	stop()
	if err := os.Remove(filepath.Join(r.config.Directory, "kms", "..data", "token")); err != nil {
		t.Fatal(err)
	}
	g.change(func() { g.fault = nil })
	r.start()
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
}

// H1, F4: a broken file of the state counts as absent.
func TestH1_BrokenStateFilesNeverStopTheAgent(t *testing.T) {
	for _, c := range []struct {
		file   string
		enrols int
	}{{"state.json", 1}, {"bundle.jws", 1}, {"agent.key", 2}, {"seal.key", 2}} {
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			g, r := provenRig(t, "kms")
			if err := os.WriteFile(filepath.Join(r.config.StateDir, c.file), []byte("\x00garbage"), 0o600); err != nil {
				t.Fatal(err)
			}
			if c.enrols == 2 {
				g.change(func() { g.redeemed, g.clients[fleet.ClientKey{Kind: "kms"}].request = "", nil }) // a token that may replace
			}
			r.start()
			// Enrolment with new keys clears what is on file, so it is filed again.
			eventually(t, "works again", func() bool {
				g.mu.Lock()
				defer g.mu.Unlock()
				request := g.clients[fleet.ClientKey{Kind: "kms"}].request
				return request != nil && request.Generation == 2 && g.redeemed != ""
			})
			g.issue("kms")
			eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
			if n := g.count(api.PathEnrol); c.enrols == 2 && n != 2 {
				t.Errorf("enrolled %d times, want %d", n, c.enrols)
			}
		})
	}
}

// A replaced agent finds a generation that was sealed to the one before.
func TestReplacedAgentMovesOnFromAnothersPickup(t *testing.T) {
	g, r := provenRig(t, "kms")
	g.issue("kms") // sealed to the first agent, which never returns
	first := g.redeemed
	g.change(func() { g.redeemed, g.clients[fleet.ClientKey{Kind: "kms"}].request = "", nil })
	if err := os.RemoveAll(r.config.StateDir); err != nil {
		t.Fatal(err)
	}
	r.start()
	eventually(t, "generation 3 proven", func() bool { return g.proven(3) })
	if g.redeemed == first {
		t.Error("same agent")
	}
}

// The record comes before the pick-up: a request for the generation after it,
// filed in between, would take away what the issuer still needs.
func TestNoRequestIsFiledBeforeThePickupIsThere(t *testing.T) {
	g, r := provenRig(t, "kms")
	kms := g.clients[fleet.ClientKey{Kind: "kms"}]
	r.start()
	polls := g.count(api.PathWork)
	g.change(func() {
		g.withhold = true
		g.issueLocked(fleet.ClientKey{Kind: "kms"})
	})
	eventually(t, "the agent has seen the record", func() bool { return g.count(api.PathWork) > polls+1 })
	g.mu.Lock()
	if kms.request.Generation != 2 {
		t.Errorf("request for generation %d is on file", kms.request.Generation)
	}
	g.mu.Unlock()
	g.change(func() { g.withhold = false })
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
}

func TestNoSecretInAnyLogOrReport(t *testing.T) {
	g, r := provenRig(t, "kms", "csi")
	secrets := append([]string{g.join}, g.secrets...)
	addKeys := func() {
		for _, pattern := range []string{"kms/tls.key", "csi/tls.key", ".rotor-agent/*.key", ".rotor-agent/next/*.key"} {
			files, _ := filepath.Glob(filepath.Join(r.config.Directory, pattern))
			for _, f := range files {
				block, _ := pem.Decode(must(os.ReadFile(f)))
				text := string(pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: block.Bytes}))
				secrets = append(secrets, strings.Split(text, "\n")[1], fmt.Sprintf("%x", block.Bytes[len(block.Bytes)-24:]))
			}
		}
	}
	addKeys()
	g.change(func() { g.fault = refuseProof })
	r.start()
	g.issue("kms")
	eventually(t, "failure reported", func() bool { return g.failure("kms") != "" })
	if err := os.WriteFile(filepath.Join(r.config.Directory, "csi", "..data", "token"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g.change(func() { g.fault = nil })
	eventually(t, "all well", func() bool { return g.proven(2) })
	addKeys()
	g.mu.Lock()
	text := r.log.String() + r.waiting() + fmt.Sprintf("%+v %#v", g.reports, r.config)
	secrets = append(secrets, g.secrets...)
	g.mu.Unlock()
	if len(secrets) < 12 {
		t.Fatalf("only %d secrets to look for", len(secrets))
	}
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("a secret shows in the log or in a report: %.12s...", s)
		}
	}
}
