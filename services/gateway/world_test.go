package gateway_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// world is a running gateway with a real server below it and an issuer of the
// test beside it.
type world struct {
	bus    *bustest.Server
	env    daemon.Env
	dir    string
	url    string // of the API
	agents string // host:port of the agents' listener
	client *api.Client
	issuer *issuer
}

// start runs a gateway for the length of the test.
func start(t *testing.T) *world {
	t.Helper()
	return startOn(t, bustest.New(t))
}

func startOn(t *testing.T, server *bustest.Server) *world {
	t.Helper()
	w := &world{bus: server, dir: t.TempDir()}
	w.env = w.bus.Env(t, "gateway", clock.Real())
	w.issuer = newIssuer(t, w.bus)
	w.run(t)
	return w
}

func (w *world) run(t *testing.T) {
	t.Helper()
	config := gateway.Defaults()
	config.AdminTokenFile = filepath.Join(w.dir, "admin.token")
	config.APIListener, config.AgentsListener = listen(t), listen(t)
	w.url, w.agents = "http://"+config.APIListener.Addr().String(), config.AgentsListener.Addr().String()
	bustest.Run(t, func(ctx context.Context) error { return gateway.Run(ctx, w.env, config) })
	bustest.Eventually(t, func() error {
		response, err := http.Get(w.url + "/readyz")
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %s", body)
		}
		return nil
	})
	token, err := secret.ReadFile(config.AdminTokenFile)
	if err != nil {
		t.Fatal(err)
	}
	w.client = &api.Client{URL: w.url, Token: token}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

const fleetFile = `
releases:
  - {version: "2026.07", publishedAt: 2026-07-01}
  - {version: "2026.08", publishedAt: 2026-08-01}
clusters:
  - {name: hq, kind: management, release: "2026.08", upgradedAt: 2026-08-05, hosts: [host-1, host-2]}
  - {name: edge-01, kind: workload, parent: hq, release: "2026.07", upgradedAt: 2026-07-05, labels: {zone: north}}
`

// apply sends a fleet file and demands that it is taken.
func (w *world) apply(t *testing.T, file string) api.Plan {
	t.Helper()
	plan, err := w.client.Apply(t.Context(), []byte(file), false, false)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// open opens a bucket for the test.
func open[T any](t *testing.T, w *world, name string) *kv.Bucket[T] {
	t.Helper()
	b, err := kv.Open[T](t.Context(), w.bus.NATS, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// get calls the API and reads the answer into out.
func (w *world) get(t *testing.T, path string, out any) {
	t.Helper()
	if err := w.client.Call(t.Context(), http.MethodGet, path, nil, out); err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
}

// status returns the status of a problem, or 200.
func status(err error) int {
	if err == nil {
		return http.StatusOK
	}
	if p, ok := errors.AsType[*api.Problem](err); ok {
		return p.Status
	}
	return 0
}

// agentClient returns a client of the agents' listener that trusts the issuer
// of the test and shows a certificate.
func (w *world) agentClient(t *testing.T, certificate tls.Certificate) *api.Client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(w.issuer.ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: pool, MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil },
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &api.Client{URL: "https://" + w.agents, HTTP: &http.Client{Transport: transport}}
}

// agent is an agent of the test.
type agent struct {
	*api.Client
	id   string
	open secret.OpenKey
}

// newAgent makes an agent with keys of its own that has not enrolled.
func (w *world) newAgent(t *testing.T) *agent {
	t.Helper()
	certificate, id := selfSigned(t)
	key, err := secret.NewOpenKey()
	if err != nil {
		t.Fatal(err)
	}
	return &agent{Client: w.agentClient(t, certificate), id: id, open: key}
}

func (w *world) joinToken(t *testing.T, cluster string, replace bool) string {
	t.Helper()
	var reply api.JoinReply
	path := api.PathClusters + "/" + cluster + "/join-tokens"
	if err := w.client.Call(t.Context(), http.MethodPost, path, api.JoinRequest{Replace: replace}, &reply); err != nil {
		t.Fatal(err)
	}
	return reply.Token
}

func (a *agent) enrol(ctx context.Context, cluster, token string) error {
	var reply api.EnrolReply
	err := a.Call(ctx, http.MethodPost, api.PathEnrol, api.EnrolRequest{Cluster: cluster, Token: token, SealKey: a.open.SealKey()}, &reply)
	if err == nil && (reply.Agent != a.id || reply.Cluster != cluster) {
		return fmt.Errorf("enrolled as %+v, want agent %s of %s", reply, a.id, cluster)
	}
	return err
}

// enrolled returns an agent that has joined a cluster.
func (w *world) enrolled(t *testing.T, cluster string) *agent {
	t.Helper()
	a := w.newAgent(t)
	if err := a.enrol(t.Context(), cluster, w.joinToken(t, cluster, false)); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *agent) work(t *testing.T) api.Work {
	t.Helper()
	work, _, err := a.WorkAfter(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	return work
}

func (a *agent) file(ctx context.Context, requests ...api.FileRequest) error {
	return a.Call(ctx, http.MethodPut, api.PathRequests, api.FileRequests{Requests: requests}, nil)
}

func (a *agent) report(ctx context.Context, steps ...api.StepReport) error {
	return a.Call(ctx, http.MethodPost, api.PathSteps, api.ReportSteps{Steps: steps}, nil)
}

func agentDoc(t *testing.T, w *world, cluster string) fleet.Agent {
	t.Helper()
	e, err := open[fleet.Agent](t, w, bus.Agents).Get(t.Context(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	return e.Value
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not say %q", text, part)
		}
	}
}

// day returns midnight of a date.
func day(text string) time.Time {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		panic(err) // the text stands in the test
	}
	return t
}
