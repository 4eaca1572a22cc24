package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/config"
	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/agent/internal/link"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// id is that of the CA in the documents of the authority.
func (a authority) id() string { return hex.EncodeToString(a.cert.SubjectKeyId) }

// canary returns a server certificate for the canary of a CA, with a chain.
func (a authority) canary(of authority, chain ...string) *tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := &tls.Certificate{PrivateKey: key, Certificate: [][]byte{a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(4), DNSNames: []string{identity.CanaryName(of.id())}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public())}}
	for _, text := range chain {
		block, _ := pem.Decode([]byte(text))
		c.Certificate = append(c.Certificate, block.Bytes)
	}
	return c
}

// prepare makes a CA incoming: it is in the next trust bundle, and has no canary yet.
func (g *gateway) prepare() (next authority) {
	next = newAuthority()
	g.change(func() {
		g.bundle = trust.Bundle{Version: g.bundle.Version + 1, Certificates: []string{g.ca.pem, next.pem}}
		g.incoming = next.id()
	})
	return next
}

// seen returns what was told of the canary, with the bundle that was acknowledged.
func (g *gateway) seen() (proof api.CanaryReport, version int, hash string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.proof != nil {
		proof = *g.proof
	}
	return proof, g.loaded, g.hash
}

// proves reports whether the agent has proven a CA with the bundle of now.
func (g *gateway) proves(ca authority) bool {
	proof, version, hash := g.seen()
	g.mu.Lock()
	defer g.mu.Unlock()
	return proof.CA == ca.id() && proof.Error == "" && version == g.bundle.Version && hash == trust.Hash(must(trust.Sign(g.fleetKey, g.bundle)))
}

// doubts reports whether the agent has told of a canary that failed.
func (g *gateway) doubts(parts ...string) bool {
	proof, _, _ := g.seen()
	for _, part := range parts {
		if !strings.Contains(proof.Error, part) {
			return false
		}
	}
	return proof.Error != ""
}

// The proof goes with the bundle and the CA: it waits until there is a canary, is
// told again after a start, and made again with the next bundle. Nothing is sent.
func TestProvesTheCAThatIsToCome(t *testing.T) {
	g := newGateway(t, "kms", "csi")
	r := newRig(t, g)
	file := filepath.Join(t.TempDir(), "client-ca.crt")
	r.config.Settings.TrustBundles = []config.TrustBundle{{File: &config.BundleFile{Path: file}}}
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	next := g.prepare()
	eventually(t, "not ready yet", func() bool { return g.doubts("has no certificate for this name yet") })
	if _, version, _ := g.seen(); version != 2 {
		t.Errorf("bundle %d is acknowledged, want 2: that is everywhere", version)
	}
	g.change(func() { g.canary = next.canary(next) })
	eventually(t, "proven", func() bool { return g.proves(next) })
	for _, place := range []string{file, filepath.Join(r.config.Directory, "kms", "ca.crt"), filepath.Join(r.config.Directory, "csi", "ca.crt")} {
		if text := must(os.ReadFile(place)); !strings.Contains(string(text), next.pem) {
			t.Errorf("%s lacks the new CA", place)
		}
	}
	stop()
	g.change(func() { g.proof, g.loaded, g.hash = nil, 0, "" })
	r.start()
	eventually(t, "told again after a start", func() bool { return g.proves(next) })
	g.change(func() { g.bundle.Version, g.canary = 3, g.ca.canary(next) })
	eventually(t, "made again with the next bundle", func() bool { return g.doubts("not of CA " + next.id()) })
	another := g.prepare()
	g.change(func() { g.canary = another.canary(another) })
	eventually(t, "another CA", func() bool { return g.proves(another) })
	g.mu.Lock()
	greeted := g.greeted
	g.mu.Unlock()
	g.issue("kms")
	eventually(t, "generation 2 of kms", func() bool { return len(g.history("kms")) == 2 })
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.misdirected > 0 || g.greeted != greeted {
		t.Errorf("%d requests came to a canary, and %d handshakes after the proof", g.misdirected, g.greeted-greeted)
	}
}

// Whoever gets to a server by a bridge, or by the CA of now, has not shown that it
// trusts the CA that is to come.
func TestAnotherWayToTheCanaryIsNoProof(t *testing.T) {
	now, next := newAuthority(), newAuthority()
	both := trust.Bundle{Version: 2, Certificates: []string{now.pem, next.pem}}
	root := newAuthority() // offline
	signed := next.bridge(root)
	bridge := next.bridge(now)
	offline := trust.Bundle{Version: 2, Certificates: []string{now.pem, root.pem}, Bridges: []string{bridge}}
	for name, test := range map[string]struct {
		bundle trust.Bundle
		read   string
		shown  *tls.Certificate
		why    string
	}{
		"trusted":                         {both, now.pem + next.pem, next.canary(next, next.pem), ""},
		"with more that is trusted":       {both, root.pem + now.pem + next.pem, next.canary(next), ""},
		"and a bridge":                    {both, now.pem + next.pem, next.canary(next, next.bridge(now), next.pem), ""},
		"of the CA of now":                {both, now.pem + next.pem, now.canary(next), "not of CA"},
		"of nobody":                       {both, now.pem + next.pem, root.canary(next), "unknown authority"},
		"for another name":                {both, now.pem + next.pem, next.canary(now), "not " + identity.CanaryName(next.id())},
		"place without the CA":            {both, now.pem, next.canary(next, next.bridge(now), next.pem), "lacks"},
		"bundle without the CA":           {trust.Bundle{Version: 1, Certificates: []string{now.pem}}, now.pem, next.canary(next), "unknown authority"},
		"place that is empty":             {both, "", next.canary(next), "lacks"},
		"offline root":                    {offline, now.pem + root.pem, next.canary(next, signed, root.pem), ""},
		"offline root, which is missing":  {offline, now.pem, next.canary(next, signed, next.bridge(now)), "lacks"},
		"offline root, and a bridge":      {offline, now.pem + root.pem, next.canary(next, bridge, signed), ""},
		"offline root, by a bridge alone": {offline, now.pem + root.pem, next.canary(next, bridge), "unknown authority"},
		"offline root, not by the CA":     {offline, now.pem + root.pem, root.canary(next), "not of CA"},
	} {
		t.Run(name, func(t *testing.T) {
			look := canaryLook{ca: next.id(), name: identity.CanaryName(next.id()), now: clock.Wall(), bundle: test.bundle}
			for _, der := range test.shown.Certificate {
				look.chain = append(look.chain, must(x509.ParseCertificate(der)))
			}
			err := look.from(place{"place", []byte(test.read)})
			if (err == nil) != (test.why == "") || err != nil && !strings.Contains(err.Error(), test.why) {
				t.Errorf("got %v, want %q", err, test.why)
			}
		})
	}
}

// A client that does not load its ca.crt keeps the word back, with the reason, and
// with it the proof.
func TestBundleIsAcknowledgedOnceEveryClientUsesIt(t *testing.T) {
	g := newGateway(t, "kms", "csi")
	r := newRig(t, g)
	program := filepath.Join(t.TempDir(), "reload")
	write(t, program, "#!/bin/sh\nexit 0\n")
	r.config.Settings = settingsOf(map[string]config.Entry{"kms": {Reload: quick(program)}})
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	eventually(t, "acknowledged", func() bool { return g.acknowledged() == 1 })
	write(t, program, "#!/bin/sh\nexit 3\n")
	next := newAuthority()
	g.change(func() {
		g.bundle, g.incoming = trust.Bundle{Version: 2, Certificates: []string{g.ca.pem, next.pem}}, next.id()
		g.canary = next.canary(next)
	})
	eventually(t, "the reason is told", func() bool {
		return strings.Contains(g.unspread(), "ca.crt of kms: ") && strings.Contains(g.unspread(), "exit status 3")
	})
	if proof, version, _ := g.seen(); version != 1 || proof.CA != "" {
		t.Errorf("bundle %d is acknowledged, and %+v told, while a client does not use it", version, proof)
	}
	write(t, program, "#!/bin/sh\nexit 0\n")
	eventually(t, "proven", func() bool { return g.proves(next) && g.unspread() == "" })
}

// A Secret that cannot be written keeps the word back, although what it should hold
// lies ready.
func TestBundleIsNotAcknowledgedWhileASecretLacksIt(t *testing.T) {
	g := newGateway(t, "kms")
	r, k := newKubeRig(t, g)
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	eventually(t, "acknowledged", func() bool { return g.acknowledged() == 1 })
	k.Refuse(func(method, path string) int {
		if strings.HasPrefix(path, "secrets") && method != http.MethodGet {
			return http.StatusForbidden
		}
		return 0
	})
	next := newAuthority()
	g.change(func() {
		g.bundle, g.incoming = trust.Bundle{Version: 2, Certificates: []string{g.ca.pem, next.pem}}, next.id()
		g.canary = next.canary(next)
	})
	eventually(t, "the reason is told", func() bool { return strings.Contains(g.unspread(), "ca.crt of kms: ") })
	failed := g.count(api.PathSteps)
	g.change(func() {
		g.order = append(g.order, fleet.ClientKey{Kind: "csi"})
		g.clients[fleet.ClientKey{Kind: "csi"}] = &client{}
	}) // another round
	eventually(t, "rounds go on", func() bool { return g.count(api.PathSteps) > failed })
	if proof, version, _ := g.seen(); version != 1 || proof.CA != "" {
		t.Errorf("bundle %d is acknowledged, and %+v told, while a Secret lacks it", version, proof)
	}
	k.Refuse(nil)
	eventually(t, "proven", func() bool { return g.proves(next) && g.unspread() == "" })
}

// The handshake goes where everything goes: through the proxy, and on to the next
// server when one does not answer.
func TestCanaryIsReachedThroughAProxyAndByTheNextServer(t *testing.T) {
	g := newGateway(t, "kms")
	g.cert = named(g.ca, "rotor.test")
	_, port, err := net.SplitHostPort(g.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p, url := newProxy(t, g.Listener.Addr().String())
	t.Setenv("HTTPS_PROXY", url)
	r := newRig(t, g)
	r.config.Server = "https://127.0.0.1:1,https://rotor.test:" + port
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	next := g.prepare()
	g.change(func() { g.canary = next.canary(next) })
	eventually(t, "proven", func() bool { return g.proves(next) })
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.Contains(strings.Join(p.asked, " "), "canary") || len(p.asked) == 0 {
		t.Errorf("the proxy was asked for %q", p.asked)
	}
}

// What was told and does not stand on record is told again, after a while: the
// gateway that answered may have lagged behind.
func TestWhatIsNotOnRecordIsToldAgain(t *testing.T) {
	told := word{trusted: trusted{version: 2, hash: "h"}, canary: api.CanaryReport{CA: "new"}}
	failed := told
	failed.canary.Error = "no"
	at := clock.Wall()
	for name, test := range map[string]struct {
		now, told word
		noted     *api.TrustNoted
		after     time.Duration
		want      bool
	}{
		"as told":              {told, told, &api.TrustNoted{Bundle: 2, Hash: "h", CA: "new"}, resend, false},
		"nothing is asked for": {told, told, nil, resend, false},
		"news":                 {told, word{}, nil, 0, true},
		"a failure":            {failed, told, nil, 0, true},
		"a failure on record":  {failed, failed, &api.TrustNoted{Bundle: 2, Hash: "h"}, resend, false},
		"bundle lost":          {told, told, &api.TrustNoted{Bundle: 1, Hash: "h", CA: "new"}, resend, true},
		"hash lost":            {told, told, &api.TrustNoted{Bundle: 2, CA: "new"}, resend, true},
		"proof lost":           {told, told, &api.TrustNoted{Bundle: 2, Hash: "h"}, resend, true},
		"a moment ago":         {told, told, &api.TrustNoted{Bundle: 2, Hash: "h"}, resend - 1, false},
		"no CA to come":        {word{trusted: told.trusted}, told, nil, resend, false},
		"nothing was told":     {word{}, word{}, &api.TrustNoted{}, resend, false},
	} {
		a := &agent{round: roundState{word: test.told, wordAt: at}}
		a.round.work.Trust = test.noted
		if got := a.news(test.now, at.Add(test.after)); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// An agent slept through a whole rotation: what it trusts has not expired, and signs
// nothing any more. It takes the signed bundle over a connection that it does not
// trust, and goes on.
func TestReturnsAfterTheCAHasChanged(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	eventually(t, "acknowledged", func() bool { return g.acknowledged() == 1 })
	stop()
	g.change(func() {
		g.ca = newAuthority()
		g.cert = g.ca.server()
		g.bundle = trust.Bundle{Version: 4, Certificates: []string{g.ca.pem}}
		g.issueLocked(fleet.ClientKey{Kind: "kms"})
	})
	g.CloseClientConnections()
	r.start()
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
	eventually(t, "acknowledged", func() bool { return g.acknowledged() == 4 })
	if s := r.wantSet("kms", 2); string(s.CA) != g.bundle.Certificates[0] {
		t.Error("ca.crt is not the new bundle")
	}
	if strings.Contains(r.log.String(), "somebody may be in the middle") {
		t.Error("the new CA was taken for an attack")
	}
	next := g.prepare()
	g.change(func() { g.canary = next.canary(next) })
	eventually(t, "the next CA is proven", func() bool { return g.proves(next) })
}

// An agent that cannot have the bundle that is announced does not try the CA, which
// it would only fail to trust.
func TestCanaryWaitsForTheBundle(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	r.start()
	eventually(t, "acknowledged", func() bool { return g.proven(1) && g.acknowledged() == 1 })
	before := g.count(api.PathTrustSigned)
	g.change(func() {
		g.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == api.PathTrustSigned {
				refuse(w, http.StatusServiceUnavailable, "not now")
			}
			return r.URL.Path == api.PathTrustSigned
		}
	})
	next := g.prepare()
	eventually(t, "two rounds without the bundle", func() bool { return g.count(api.PathTrustSigned) >= before+2 })
	if proof, version, _ := g.seen(); proof.CA != "" || version != 1 {
		t.Errorf("bundle %d, told %+v", version, proof)
	}
	g.change(func() { g.fault, g.canary = nil, next.canary(next) })
	eventually(t, "proven", func() bool { return g.proves(next) })
}

// Every client counts, also one that this round left alone.
func TestBundleIsAcknowledgedForAllClients(t *testing.T) {
	g := newGateway(t)
	signed := must(trust.Sign(g.fleetKey, trust.Bundle{Version: 2, Certificates: []string{g.ca.pem}}))
	set := func(bundle int) *install.Set { return &install.Set{Metadata: install.Metadata{Bundle: bundle}} }
	for name, test := range map[string]struct {
		job     *job // of kms, nil if the round left it alone
		note    note
		work    api.ClientWork
		version int
		why     string
	}{
		"has it":                       {job: &job{set: set(2), loaded: true}, version: 2},
		"has none":                     {job: &job{absent: true}, version: 2},
		"does not use it":              {job: &job{set: set(2), err: errors.New("exit 3")}, why: "ca.crt of kms: exit 3"},
		"has the one before":           {job: &job{set: set(1), loaded: true}},
		"cannot be read":               {job: &job{err: errors.New("away")}, why: "ca.crt of kms: away"},
		"cannot be read, had it":       {job: &job{err: errors.New("away")}, note: note{bundle: 2}, version: 2},
		"left alone, failed":           {note: note{bundle: 1, why: "before"}, why: "ca.crt of kms: before"},
		"left alone, not looked at":    {},
		"left alone, had it":           {note: note{bundle: 2}, version: 2},
		"revoked":                      {work: api.ClientWork{Revoked: &fleet.Revocation{}}, version: 2},
		"another generation fails now": {job: &job{set: set(2), err: errors.New("exit 3")}, note: note{bundle: 2}, version: 2},
	} {
		key := fleet.ClientKey{Kind: "kms"}
		a := &agent{link: link.New(link.Options{Pin: g.pin(), Clock: clock.Real()}), notes: map[fleet.ClientKey]*note{key: &test.note}}
		if err := a.link.Load(signed, 0); err != nil {
			t.Fatal(err)
		}
		a.spreading.version = 2
		var jobs []*job
		test.work.Client = key
		if test.job != nil {
			test.job.work, test.job.note = test.work, a.notes[key]
			jobs = append(jobs, test.job)
		}
		a.acknowledge(api.Work{Clients: []api.ClientWork{test.work}}, jobs)
		if got := a.trusted; got.version != test.version || got.why != test.why || (got.hash == trust.Hash(signed)) != (test.version == 2) {
			t.Errorf("%s: %+v, want %d, %q", name, got, test.version, test.why)
		}
	}
}

// An agent was away while a generation was issued for it and the CA of that was
// retired again: it gives the generation up, and asks for one of a CA of now.
func TestAGenerationOfARetiredCAIsGivenUp(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	stop := r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	stop()
	for _, version := range []int{3, 5} {
		g.change(func() {
			g.ca = newAuthority()
			g.cert = g.ca.server()
			g.bundle = trust.Bundle{Version: version, Certificates: []string{g.ca.pem}}
			if version == 3 {
				g.issueLocked(fleet.ClientKey{Kind: "kms"})
			}
		})
	}
	g.CloseClientConnections()
	r.start()
	eventually(t, "generation 3 proven", func() bool { return g.proven(3) })
	eventually(t, "acknowledged", func() bool { return g.acknowledged() == 5 })
	if s := r.wantSet("kms", 3); string(s.CA) != g.bundle.Certificates[0] {
		t.Error("ca.crt is not the new bundle")
	}
}
