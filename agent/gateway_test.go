package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// client is what the server knows of one client.
type client struct {
	number  int
	step    fleet.Step
	request *api.FileRequest
	pickup  *fleet.Pickup
	serial  string
	token   string
	history []int // generations that were proven
	skip    int   // numbers that are left out before the next
	revoked *fleet.Revocation
	barred  bool // the newest generation is revoked
}

// gateway stands in for gateway and issuer: what an agent sees of them, over
// real TLS, with the real types.
type gateway struct {
	*httptest.Server

	mu          sync.Mutex
	changed     chan struct{} // closed at each change
	ca          authority
	cert        *tls.Certificate
	fleetKey    ed25519.PrivateKey
	bundle      trust.Bundle
	join        string
	redeemed    string // agent that has used the join token
	sealKey     []byte
	clients     map[fleet.ClientKey]*client
	order       []fleet.ClientKey
	reports     []api.StepReport
	told        []string // installations and proofs, in their order
	calls       map[string]int
	bundleError string
	starts      int            // that it has heard of
	refused     *fleet.Refused // what an agent did not believe
	loaded      int            // version of the bundle that was acknowledged last
	hash        string         // of that
	incoming    string         // id of the CA that is to come
	canary      *tls.Certificate
	proof       *api.CanaryReport // that was told last
	greeted     int               // handshakes that asked for a canary
	misdirected int               // requests that came to one
	secrets     []string          // tokens that were issued
	withhold    bool              // no pick-ups
	life        time.Duration
	fault       func(w http.ResponseWriter, r *http.Request) bool // answers instead
	after       func(path string)                                 // the answer is lost, if it panics
}

const testCluster = "edge-01"

func newGateway(t *testing.T, clients ...string) *gateway {
	t.Helper()
	ca := newAuthority()
	_, fleetKey, _ := ed25519.GenerateKey(rand.Reader)
	g := &gateway{
		changed: make(chan struct{}), ca: ca, cert: ca.server(), fleetKey: fleetKey, join: "join-token-0123456789",
		bundle: trust.Bundle{Version: 1, Certificates: []string{ca.pem}}, clients: map[fleet.ClientKey]*client{}, calls: map[string]int{},
	}
	for _, name := range clients {
		key := must(fleet.ParseClientKey(name))
		g.order = append(g.order, key)
		g.clients[key] = &client{}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathTrustSigned, g.serveBundle)
	mux.HandleFunc("POST "+api.PathEnrol, g.enrol)
	mux.HandleFunc("GET "+api.PathWork, g.work)
	mux.HandleFunc("PUT "+api.PathRequests, g.file)
	mux.HandleFunc("POST "+api.PathSteps, g.steps)
	mux.HandleFunc("POST "+api.PathProve, g.prove)
	g.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.calls[r.URL.Path]++
		if _, ok := identity.CanaryCA(r.TLS.ServerName); ok {
			g.misdirected++
		}
		fault, after := g.fault, g.after
		g.mu.Unlock()
		if fault != nil && fault(w, r) {
			return
		}
		if after != nil {
			recorder := httptest.NewRecorder()
			mux.ServeHTTP(recorder, r)
			after(r.URL.Path)
			w.WriteHeader(recorder.Code)
			_, _ = w.Write(recorder.Body.Bytes())
			return
		}
		mux.ServeHTTP(w, r)
	}))
	g.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	g.TLS = &tls.Config{
		// Not GetCertificate: httptest's own certificate goes before it.
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			if _, ok := identity.CanaryCA(hello.ServerName); ok {
				g.greeted++
				if g.canary == nil {
					return nil, errors.New("no canary yet")
				}
				return &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{*g.canary}}, nil
			}
			return &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{*g.cert}}, nil
		},
	}
	g.StartTLS()
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) pin() string { return must(trust.Pin(g.fleetKey.Public())) }

// change changes the state and wakes the long polls.
func (g *gateway) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	close(g.changed)
	g.changed = make(chan struct{})
}

func refuse(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.Problem{Status: status, Detail: detail})
}

func (g *gateway) serveBundle(w http.ResponseWriter, _ *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, _ = io.WriteString(w, must(trust.Sign(g.fleetKey, g.bundle)))
}

func agentOf(r *http.Request) string {
	if len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return identity.AgentID(r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo)
}

func (g *gateway) enrol(w http.ResponseWriter, r *http.Request) {
	var in api.EnrolRequest
	if json.NewDecoder(r.Body).Decode(&in) != nil || secret.CheckSealKey(in.SealKey) != nil {
		refuse(w, 422, "bad request")
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	id := agentOf(r)
	if in.Token != g.join || in.Cluster != testCluster || g.redeemed != "" && g.redeemed != id {
		refuse(w, 403, "join token refused")
		return
	}
	g.redeemed, g.sealKey = id, in.SealKey
	_ = json.NewEncoder(w).Encode(api.EnrolReply{Cluster: in.Cluster, Agent: id})
}

// known reports whether the caller is the enrolled agent.
func (g *gateway) known(w http.ResponseWriter, r *http.Request) bool {
	if id := agentOf(r); id == "" || id != g.redeemed {
		refuse(w, 401, "this agent is not known")
		return false
	}
	return true
}

func (g *gateway) work(w http.ResponseWriter, r *http.Request) {
	wait := must(time.ParseDuration(r.URL.Query().Get("wait")))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		g.mu.Lock()
		if !g.known(w, r) {
			g.mu.Unlock()
			return
		}
		work, changed := g.view(), g.changed
		g.mu.Unlock()
		if work.Tag != r.URL.Query().Get("after") {
			_ = json.NewEncoder(w).Encode(work)
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-timer.C:
			_ = json.NewEncoder(w).Encode(work)
			return
		}
	}
}

func (g *gateway) view() api.Work {
	work := api.Work{Cluster: testCluster, Bundle: g.bundle.Version, Clients: []api.ClientWork{}}
	for _, key := range g.order {
		c := g.clients[key]
		cw := api.ClientWork{Client: key, Generation: c.number, Step: c.step, Revoked: c.revoked, Barred: c.barred}
		if c.skip > 0 {
			cw.Next = c.number + c.skip + 1
		}
		if c.request != nil {
			cw.Request = c.request.Generation
		}
		if c.pickup != nil && c.step.Before(fleet.StepProven) && c.pickup.Agent == g.redeemed && !g.withhold {
			cw.Pickup = c.pickup
		}
		work.Clients = append(work.Clients, cw)
	}
	if g.incoming != "" {
		work.Canary, work.Trust = g.incoming, &api.TrustNoted{Bundle: g.loaded, Hash: g.hash}
		if g.proof != nil && g.proof.Error == "" {
			work.Trust.CA = g.proof.CA
		}
	}
	sum := sha256.Sum256(must(json.Marshal(work)))
	work.Tag, work.Now, work.Starts = fmt.Sprintf("%x", sum[:8]), clock.Wall(), g.starts
	return work
}

func (g *gateway) file(w http.ResponseWriter, r *http.Request) {
	var in api.FileRequests
	if json.NewDecoder(r.Body).Decode(&in) != nil {
		refuse(w, 422, "bad request")
		return
	}
	g.change(func() {
		if !g.known(w, r) {
			return
		}
		for _, f := range in.Requests {
			c := g.clients[f.Client]
			csr, err := x509.ParseCertificateRequest(f.CSR)
			if err != nil || csr.CheckSignature() != nil || csr.Subject.CommonName != identity.CommonName(testCluster, f.Client) {
				refuse(w, 422, "bad certificate request")
				return
			}
			if c.request != nil && c.request.Generation == f.Generation && !slices.Equal(publicOf(c.request.CSR), publicOf(f.CSR)) {
				refuse(w, 409, "another request for this generation is on file")
				return
			}
			if f.Generation != c.number+c.skip+1 {
				refuse(w, 422, fmt.Sprintf("request for generation %d, want %d", f.Generation, c.number+c.skip+1))
				return
			}
		}
		for _, f := range in.Requests {
			c := g.clients[f.Client]
			c.request = &f
			if f.Generation == 1 || f.Lost { // as the scheduler does
				g.issueLocked(f.Client)
			}
		}
	})
}

func publicOf(csr []byte) []byte {
	return must(x509.ParseCertificateRequest(csr)).RawSubjectPublicKeyInfo
}

// issue makes the next generation of a client from its standing request.
func (g *gateway) issue(name string) {
	g.change(func() { g.issueLocked(must(fleet.ParseClientKey(name))) })
}

func (g *gateway) issueLocked(key fleet.ClientKey) {
	c := g.clients[key]
	csr := must(x509.ParseCertificateRequest(c.request.CSR))
	c.number, c.step, c.skip, c.barred = c.request.Generation, fleet.StepIssued, 0, false
	serial := new(big.Int).SetBytes(must(io.ReadAll(io.LimitReader(rand.Reader, 12))))
	c.serial = serial.Text(16)
	life := g.life
	if life == 0 {
		life = time.Hour
	}
	leaf := g.ca.sign(&x509.Certificate{
		SerialNumber: serial, Subject: csr.Subject, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotAfter: clock.Wall().Add(life), URIs: []*url.URL{identity.URI("rotor.test", testCluster, key)},
	}, csr.PublicKey)
	c.token = makeToken(identity.Subject(testCluster, key), must(identity.Thumbprint(csr.PublicKey)), clock.Wall().Add(life))
	g.secrets = append(g.secrets, c.token)
	c.pickup = &fleet.Pickup{
		Generation: c.number, Agent: g.redeemed, Chain: append(encodePEM(leaf), g.ca.pem...),
		Token: must(secret.Seal(g.sealKey, secret.TokenContext(testCluster, key.String(), c.number), secret.New(c.token))),
	}
}

func (g *gateway) steps(w http.ResponseWriter, r *http.Request) {
	var in api.ReportSteps
	if json.NewDecoder(r.Body).Decode(&in) != nil {
		refuse(w, 422, "bad request")
		return
	}
	g.change(func() {
		if !g.known(w, r) {
			return
		}
		g.reports = append(g.reports, in.Steps...)
		g.bundleError = in.BundleError
		if in.Refused != nil {
			g.refused = in.Refused
		}
		if in.Bundle >= g.loaded {
			g.loaded, g.hash = in.Bundle, in.BundleHash
		}
		if in.Canary != nil {
			g.proof = in.Canary
		}
		for _, s := range in.Steps {
			if s.Step == fleet.StepInstalled && s.Error == "" {
				g.told = append(g.told, fmt.Sprintf("installed %s %d", s.Client, s.Generation))
			}
			if c := g.clients[s.Client]; s.Error == "" && s.Generation == c.number && c.step.Before(s.Step) {
				c.step = s.Step
			}
		}
	})
}

func (g *gateway) prove(w http.ResponseWriter, r *http.Request) {
	g.change(func() {
		pool := must(g.bundle.Pool())
		leaf := r.TLS.PeerCertificates[0]
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			refuse(w, 401, err.Error())
			return
		}
		_, key, err := identity.FromCertificate(leaf, "rotor.test")
		c := g.clients[key]
		if err != nil || identity.Serial(leaf) != c.serial || strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") != c.token {
			refuse(w, 403, "not the newest certificate and token")
			return
		}
		c.step = fleet.StepProven
		c.history = append(c.history, c.number)
		g.told = append(g.told, fmt.Sprintf("proven %s %d", key, c.number))
		_ = json.NewEncoder(w).Encode(api.ProveReply{Cluster: testCluster, Client: key, Generation: c.number, Serial: c.serial})
	})
}

// count returns how often a path was called.
func (g *gateway) count(path string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls[path]
}

// proven reports whether each client has reached this generation, has proven it
// and has a request for the next on file.
func (g *gateway) proven(generation int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.clients {
		if c.number != generation || c.step != fleet.StepProven || c.request.Generation != generation+1 {
			return false
		}
	}
	return true
}

// failure returns the last failure reported for a client.
func (g *gateway) failure(name string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range slices.Backward(g.reports) {
		if s.Client.String() == name && s.Error != "" {
			return s.Error
		}
	}
	return ""
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	for !condition() {
		if clock.Sleep(ctx, 5*time.Millisecond) != nil {
			t.Fatalf("not in time: %s", what)
		}
	}
}
