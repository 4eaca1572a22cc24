package agent

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// middle is a man in the middle: agents reach it under the address of the
// server. It ends TLS with a certificate of its own and passes on to the server
// what it likes. When it is away, connections go through to the server.
type middle struct {
	URL    string
	listen net.Listener

	mu     sync.Mutex
	away   bool
	bundle func() string // what it hands out as trust bundle
	heard  strings.Builder
	asked  int
}

func newMiddle(t *testing.T, g *gateway) *middle {
	t.Helper()
	m := &middle{}
	evil := newAuthority()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.asked++
		m.heard.WriteString(r.Method + " " + r.URL.String() + " " + r.Header.Get("Authorization") + " " + string(body) + "\n")
		if r.URL.Path == api.PathTrustSigned {
			_, _ = io.WriteString(w, m.bundle())
			return
		}
		refuse(w, 500, "you have said too much")
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*evil.server()}, ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	var err error
	if m.listen, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.listen.Close() })
	m.URL = "https://" + m.listen.Addr().String()
	go func() {
		for {
			c, err := m.listen.Accept()
			if err != nil {
				return
			}
			m.mu.Lock()
			to := s.Listener.Addr().String()
			if m.away {
				to = g.Listener.Addr().String()
			}
			m.mu.Unlock()
			go pipe(c, to)
		}
	}()
	return m
}

func pipe(c net.Conn, to string) {
	defer func() { _ = c.Close() }()
	d, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = d.Close() }()
	go func() { _, _ = io.Copy(d, c); _ = d.Close() }()
	_, _ = io.Copy(c, d)
}

func (m *middle) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *middle) said() (text string, asked int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard.String(), m.asked
}

// lies are the bundles of a man in the middle: each signed by somebody else,
// tampered with, older than what was seen, or true but of no use to him.
func lies(t *testing.T, g *gateway) map[string]func() string {
	t.Helper()
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	evil := newAuthority()
	return map[string]func() string{
		"another fleet key": func() string {
			return must(trust.Sign(other, trust.Bundle{Version: 99, Certificates: []string{evil.pem}}))
		},
		"wrong signature": func() string {
			signed := must(trust.Sign(g.fleetKey, trust.Bundle{Version: 99, Certificates: []string{evil.pem}}))
			parts := strings.Split(signed, ".")
			genuine := strings.Split(must(trust.Sign(g.fleetKey, g.bundle)), ".")
			return parts[0] + "." + parts[1] + "." + genuine[2]
		},
		"an older version": func() string {
			return must(trust.Sign(g.fleetKey, trust.Bundle{Version: 2, Certificates: []string{evil.pem}}))
		},
		"the true bundle": func() string {
			g.mu.Lock()
			defer g.mu.Unlock()
			return must(trust.Sign(g.fleetKey, g.bundle))
		},
	}
}

// refusedAndTold demands that the agent believes nothing of it, says so in the
// health and the log, gives nothing away, and tells the true server once it can.
func refusedAndTold(t *testing.T, g *gateway, m *middle, r *rig, well func() bool) {
	t.Helper()
	reason := func() string {
		why := r.waiting()
		for _, s := range []string{trust.ErrUntrusted.Error(), "older than the last one seen", errForeign.Error(), "unknown authority"} {
			if strings.Contains(why, s) {
				return s
			}
		}
		return ""
	}
	eventually(t, "the health says why", func() bool { return reason() != "" })
	eventually(t, "the log says so", func() bool { return strings.Contains(r.log.String(), "somebody may be in the middle") })
	text, asked := m.said()
	if asked == 0 {
		t.Error("the man in the middle was never asked")
	}
	for _, secret := range append([]string{g.join, "/v1/agent/", "Bearer"}, g.secrets...) {
		if strings.Contains(text, secret) {
			t.Errorf("the man in the middle has heard %.20q:\n%s", secret, text)
		}
	}
	m.change(func() { m.away = true })
	eventually(t, "works with the true server", well)
	eventually(t, "the true server is told", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.refused != nil && g.refused.Server == m.URL && g.refused.Reason != ""
	})
	// Readiness not cleared after recovery.
	eventually(t, "ready again", func() bool { return r.board.Status().Ready })
	eventually(t, "told once", func() bool { return state.At(r.config.StateDir, slog.New(slog.DiscardHandler)).Record().Refused == nil })
}

func TestManInTheMiddleOfAnEnrolment(t *testing.T) {
	for name := range lies(t, newGateway(t)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, "kms")
			g.bundle.Version = 5
			g.join = api.JoinToken(testCluster, 5, "SECRET-0123456789") // made when the bundle was at 5
			m := newMiddle(t, g)
			lie := lies(t, g)[name]
			m.change(func() { m.bundle = lie })
			r := newRig(t, g)
			r.config.Server = m.URL
			r.start()
			refusedAndTold(t, g, m, r, func() bool { return g.proven(1) })
		})
	}
}

func TestManInTheMiddleOfAnOrdinaryDay(t *testing.T) {
	for name := range lies(t, newGateway(t)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, "kms")
			g.bundle.Version = 5
			m := newMiddle(t, g)
			lie := lies(t, g)[name]
			m.change(func() { m.bundle, m.away = lie, true })
			r := newRig(t, g)
			r.config.Server, r.config.PollWait = m.URL, shortest
			r.start()
			eventually(t, "proven", func() bool { return g.proven(1) })
			m.change(func() { m.away = false })
			g.CloseClientConnections()
			g.issue("kms")
			refusedAndTold(t, g, m, r, func() bool { return g.proven(2) })
		})
	}
}

// The agent was away for so long that every CA which it knows has expired: the
// bundle comes over a connection that nobody can trust.
func TestManInTheMiddleOfAReturnAfterAllHasExpired(t *testing.T) {
	for name := range lies(t, newGateway(t)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, "kms")
			g.bundle.Version = 5
			m := newMiddle(t, g)
			lie := lies(t, g)[name]
			m.change(func() { m.bundle, m.away = lie, true })
			r := newRig(t, g)
			r.config.Server = m.URL
			stop := r.start()
			eventually(t, "proven", func() bool { return g.proven(1) })
			eventually(t, "settled", func() bool { return r.board.Status().Ready })
			stop()
			old := g.bundle
			old.Certificates = []string{expiredAuthority(t)}
			if err := os.WriteFile(filepath.Join(r.config.StateDir, "bundle.jws"), []byte(must(trust.Sign(g.fleetKey, old))), 0o600); err != nil {
				t.Fatal(err)
			}
			g.change(func() {
				g.ca = newAuthority()
				g.cert = g.ca.server()
				g.bundle = trust.Bundle{Version: 9, Certificates: []string{g.ca.pem}}
				g.issueLocked(fleet.ClientKey{Kind: "kms"})
			})
			m.change(func() { m.away = false })
			g.CloseClientConnections()
			r.start()
			refusedAndTold(t, g, m, r, func() bool { return g.proven(2) })
		})
	}
}

func expiredAuthority(t *testing.T) string {
	t.Helper()
	a := newAuthority()
	template := *a.cert
	template.NotBefore, template.NotAfter = clock.Wall().AddDate(-2, 0, 0), clock.Wall().AddDate(-1, 0, 0)
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(encodePEM(der))
}

// Agent stale bundle on disk: one that is older than what the agent has seen is
// not believed because it lies on the disk.
func TestStaleBundleOnTheDiskIsNotBelieved(t *testing.T) {
	g := newGateway(t, "kms")
	g.bundle.Version = 5
	r := newRig(t, g)
	stop := r.start()
	eventually(t, "proven", func() bool { return g.proven(1) })
	stop()
	old := trust.Bundle{Version: 4, Certificates: []string{newAuthority().pem}}
	if err := os.WriteFile(filepath.Join(r.config.StateDir, "bundle.jws"), []byte(must(trust.Sign(g.fleetKey, old))), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	g.issue("kms")
	eventually(t, "generation 2 proven", func() bool { return g.proven(2) })
	if kept, err := os.ReadFile(filepath.Join(r.config.StateDir, "bundle.jws")); err != nil || !strings.Contains(r.log.String(), "cannot be used; fetching it") ||
		must(trust.Verify(string(kept), g.pin())).Version != 5 {
		t.Errorf("the stale bundle stayed, or nothing was said of it: %v", err)
	}
}
