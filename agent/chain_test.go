package agent

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/config"
	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// bridge returns a certificate of this CA that another has signed.
func (a authority) bridge(by authority) string {
	der := must(x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(3), Subject: a.cert.Subject, IsCA: true, BasicConstraintsValid: true, SubjectKeyId: a.cert.SubjectKeyId,
		NotBefore: clock.Wall().Add(-time.Hour), NotAfter: clock.Wall().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}, by.cert, a.key.Public(), by.key))
	return string(encodePEM(der))
}

// accepts makes a TLS connection in which a server that trusts one CA alone is
// shown what is installed.
func accepts(s install.Set, only authority) error {
	pair, err := s.KeyPair()
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(only.cert)
	near, far := net.Pipe()
	defer func() { _ = far.Close() }()
	go func() {
		client := tls.Client(near, &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, // the server is what is looked at
		})
		_ = client.Handshake()
		_, _ = client.Read(make([]byte, 1))
		_ = near.Close()
	}()
	return tls.Server(far, &tls.Config{
		MinVersion: tls.VersionTLS13, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert, Certificates: []tls.Certificate{*only.server()},
	}).Handshake()
}

func certificatesIn(text []byte) (n int) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		n++
	}
	return n
}

// rollout is a rotation of the CA, as a gateway of tests goes through it.
type rolloutOfTest struct {
	g         *gateway
	old, next authority
}

func (r rolloutOfTest) load(b trust.Bundle) { r.g.change(func() { r.g.bundle = b }) }

func (r rolloutOfTest) bridges() []string {
	return []string{r.old.bridge(r.next), r.next.bridge(r.old)}
}

func newRolloutOfTest(g *gateway) rolloutOfTest {
	g.mu.Lock()
	defer g.mu.Unlock()
	return rolloutOfTest{g, g.ca, newAuthority()}
}

// While two CAs are trusted, what is installed has the bridges to its CA, also what
// was issued before: a verifier that has only one of them accepts what either has
// signed. Then they go again. No generation is issued for it.
func TestChainsHaveTheBridgesOfTheTrustBundle(t *testing.T) {
	g := newGateway(t, "kms", "csi")
	r := newRig(t, g)
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	c := newRolloutOfTest(g)
	plain := r.wantSet("kms", 1)
	if err := accepts(plain, c.next); err == nil {
		t.Fatal("a server with the new CA alone accepts what the old one has signed, without a bridge")
	}
	c.load(trust.Bundle{Version: 2, Certificates: []string{c.old.pem, c.next.pem}, Bridges: c.bridges()})
	at := func(version int) func() bool {
		return func() bool {
			kms, err := r.set("kms")
			csi, csiErr := r.set("csi")
			return err == nil && csiErr == nil && kms.Metadata.Bundle == version && csi.Metadata.Bundle == version
		}
	}
	eventually(t, "both have the bundle", at(2))
	g.change(func() { // the new CA signs
		g.ca = c.next
		g.issueLocked(fleet.ClientKey{Kind: "csi"})
	})
	eventually(t, "generation 2 proven", func() bool { return len(g.history("csi")) == 2 })
	for name, generation := range map[string]int{"kms": 1, "csi": 2} {
		s := r.wantSet(name, generation)
		if n := certificatesIn(s.Certificate); n != 3 {
			t.Errorf("%s: %d certificates, want the leaf, a bridge and its CA", name, n)
		}
		for who, only := range map[string]authority{"old": c.old, "new": c.next} {
			if err := accepts(s, only); err != nil {
				t.Errorf("%s, generation %d: a server with the %s CA alone: %v", name, generation, who, err)
			}
		}
	}
	c.load(trust.Bundle{Version: 3, Certificates: []string{c.old.pem}})
	eventually(t, "both have the bundle of before", at(3))
	if s := r.wantSet("kms", 1); !bytes.Equal(s.Certificate, plain.Certificate) {
		t.Error("the bridges do not go away again")
	}
}

// A client is reloaded when what it reads has changed: when two CAs come together,
// and when they part. That another of them signs is no reason.
func TestClientsAreReloadedOnlyWhenWhatTheyReadHasChanged(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	loads := filepath.Join(t.TempDir(), "loads")
	program := filepath.Join(filepath.Dir(loads), "reload")
	write(t, program, "#!/bin/sh\nls -l $ROTOR_DIRECTORY/ > /dev/null; grep -c BEGIN $ROTOR_DIRECTORY/tls.crt >> "+loads+"\n")
	r.config.Settings = settingsOf(map[string]config.Entry{"kms": {Reload: quick(program)}})
	r.config.PollWait = time.Minute // what is told must not wait for another round
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	c := newRolloutOfTest(g)
	both, bridges := []string{c.old.pem, c.next.pem}, c.bridges()
	for i, step := range []struct {
		name  string
		loads string // certificates in tls.crt at each reload
		next  trust.Bundle
	}{
		{"two CAs", "2 3", trust.Bundle{Certificates: both, Bridges: bridges}},
		{"the other one signs", "2 3", trust.Bundle{Certificates: []string{c.next.pem, c.old.pem}, Bridges: bridges}},
		{"nothing but the version", "2 3", trust.Bundle{Certificates: []string{c.next.pem, c.old.pem}, Bridges: bridges}},
		{"other bridges", "2 3 2", trust.Bundle{Certificates: both}},
		{"one CA", "2 3 2 2", trust.Bundle{Certificates: both[:1]}},
	} {
		step.next.Version = i + 2
		c.load(step.next)
		store := state.At(r.config.StateDir, nil)
		eventually(t, step.name, func() bool {
			return store.Trial(fleet.ClientKey{Kind: "kms"}).Loaded == state.Loaded{Generation: 1, Bundle: i + 2}
		})
		eventually(t, step.name+", told", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.loaded == i+2
		})
		if text, _ := os.ReadFile(loads); strings.Join(strings.Fields(string(text)), " ") != step.loads {
			t.Errorf("%s: reloads with %q certificates, want %s", step.name, text, step.loads)
		}
		if s := r.wantSet("kms", 1); !bytes.Equal(s.CA, step.next.PEM()) {
			t.Errorf("%s: ca.crt is another", step.name)
		}
	}
	stop()
	r.start() // and a restart is none either
	eventually(t, "ready", func() bool { return r.board.Status().Ready })
	if text, _ := os.ReadFile(loads); strings.Count(string(text), "\n") != 4 {
		t.Errorf("after a restart: %q", text)
	}
}

// A client that is back with its set of before follows the trust bundle: it must
// not be the one for which the rotation of the CA ends in an outage.
func TestClientThatWentBackFollowsTheBundle(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	program := filepath.Join(t.TempDir(), "reload")
	write(t, program, "#!/bin/sh\ntest $ROTOR_GENERATION = 1\n")
	r.config.Settings = settingsOf(map[string]config.Entry{"kms": {Reload: quick(program)}})
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	g.issue("kms")
	eventually(t, "given up", func() bool { return strings.Contains(g.failure("kms"), "was given up") })
	c := newRolloutOfTest(g)
	c.load(trust.Bundle{Version: 2, Certificates: []string{c.old.pem, c.next.pem}, Bridges: c.bridges()})
	eventually(t, "the set of before has the bundle", func() bool {
		s, err := r.set("kms")
		return err == nil && s.Metadata.Generation == 1 && s.Metadata.Bundle == 2
	})
	eventually(t, "and it is loaded", func() bool {
		return state.At(r.config.StateDir, nil).Trial(fleet.ClientKey{Kind: "kms"}).Loaded == state.Loaded{Generation: 1, Bundle: 2}
	})
	s := r.wantSet("kms", 1)
	if err := accepts(s, c.next); err != nil || !trust.Same(s.CA, []byte(c.old.pem+c.next.pem)) {
		t.Errorf("a server with the new CA alone: %v", err)
	}
	if text := g.failure("kms"); !strings.Contains(text, "generation 1 is back") || strings.Contains(text, "has not loaded") {
		t.Errorf("reported: %s", text)
	}
}

// The Secret of a client has what its folder would have.
func TestSecretsHaveTheBridges(t *testing.T) {
	g := newGateway(t, "kms")
	r, k := newKubeRig(t, g)
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	c := newRolloutOfTest(g)
	plain := k.Data("secrets/rotor-kms", "tls.crt")
	bridges := c.bridges()
	c.load(trust.Bundle{Version: 2, Certificates: []string{c.old.pem, c.next.pem}, Bridges: bridges})
	want := string(trust.Chain([]byte(plain), bridges))
	eventually(t, "tls.crt and ca.crt with both CAs", func() bool {
		return k.Data("secrets/rotor-kms", "ca.crt") == c.old.pem+c.next.pem && k.Data("secrets/rotor-kms", "tls.crt") == want
	})
	if n := certificatesIn([]byte(want)); n != 3 {
		t.Errorf("%d certificates", n)
	}
	c.load(trust.Bundle{Version: 3, Certificates: []string{c.old.pem}})
	eventually(t, "as before", func() bool {
		return k.Data("secrets/rotor-kms", "ca.crt") == c.old.pem && k.Data("secrets/rotor-kms", "tls.crt") == plain
	})
	if !g.proven(1) {
		t.Error("it took another certificate")
	}
}
