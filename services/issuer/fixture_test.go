package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/trust"
)

const cluster = "edge-01"

var (
	kms         = fleet.ClientKey{Kind: "kms"}
	csi         = fleet.ClientKey{Kind: "csi"}
	nodeAgent   = fleet.ClientKey{Kind: "node-agent", Instance: "host-1"}
	someClients = []fleet.ClientKey{kms, csi, nodeAgent}
)

// world is a store with an issuer's configuration and the agent of a cluster.
type world struct {
	*bustest.Server
	config      Config
	agents      *kv.Bucket[fleet.Agent]
	credentials *kv.Bucket[fleet.Credentials]
	bundles     *kv.Bucket[fleet.Bundles]
	open        secret.OpenKey
	keys        map[fleet.ClientKey]*ecdsa.PrivateKey
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, bustest.New(t))
}

func newWorldOn(t testing.TB, server *bustest.Server) *world {
	t.Helper()
	w := &world{Server: server, config: Defaults(), keys: map[fleet.ClientKey]*ecdsa.PrivateKey{}}
	w.config.KeyFile = filepath.Join(t.TempDir(), "issuer.key")
	w.agents = bucket[fleet.Agent](t, w, bus.Agents)
	w.credentials = bucket[fleet.Credentials](t, w, bus.Credentials)
	w.bundles = bucket[fleet.Bundles](t, w, bus.Bundles)
	var err error
	if w.open, err = secret.NewOpenKey(); err != nil {
		t.Fatal(err)
	}
	return w
}

func bucket[T any](t testing.TB, w *world, name string) *kv.Bucket[T] {
	t.Helper()
	b, err := kv.Open[T](t.Context(), w.NATS, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (w *world) env(t testing.TB) daemon.Env { return w.Env(t, "issuer", clock.Real()) }

// service returns an issuer that is driven by hand.
func (w *world) service(t testing.TB) *service {
	t.Helper()
	env := w.env(t)
	env.Log = bustest.Quiet()
	s, err := open(t.Context(), env, w.Bus, w.config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs issuers until the test ends.
func (w *world) run(t testing.TB, replicas int) {
	t.Helper()
	for range replicas {
		env := w.env(t)
		bustest.Run(t, func(ctx context.Context) error { return Run(ctx, env, w.config) })
	}
}

// file puts the request of a generation of each client on file.
func (w *world) file(t testing.TB, generation int, clients ...fleet.ClientKey) {
	t.Helper()
	requests := map[fleet.ClientKey]fleet.Request{}
	for _, key := range clients {
		k, der := newCSR(t)
		w.keys[key] = k
		thumbprint, err := identity.Thumbprint(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		requests[key] = fleet.Request{Generation: generation, CSR: der, Key: thumbprint, FiledAt: clock.Wall()}
	}
	_, err := w.agents.Edit(t.Context(), cluster, func(a *fleet.Agent) error {
		a.ID, a.SealKey = "agent-1", w.open.SealKey()
		if a.Requests == nil {
			a.Requests = map[fleet.ClientKey]fleet.Request{}
		}
		maps.Copy(a.Requests, requests)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func newCSR(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k, csrOf(t, k)
}

func csrOf(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "ignored"}}, k)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// order returns the command to issue a generation of each client; what makes
// it a command of its own.
func (w *world) order(t testing.TB, what string, generation int, clients ...fleet.ClientKey) event.Event {
	t.Helper()
	at := clock.Wall().Truncate(time.Second)
	command := event.IssueCommand{Reason: fleet.ReasonRenewal, At: at}
	for _, key := range clients {
		command.Clients = append(command.Clients, event.IssueClient{
			Client: key, Generation: generation,
			Life:    fleet.Life{Certificate: at.Add(90 * fleet.Day), Token: at.Add(90 * fleet.Day)},
			RenewAt: at.Add(50 * fleet.Day),
		})
	}
	return issueEvent(t, what, command)
}

func issueEvent(t testing.TB, what string, command event.IssueCommand) event.Event {
	t.Helper()
	e, err := event.Issue.New(event.Meta{Source: "scheduler", Cluster: cluster, Key: []string{what}, Time: command.At}, command)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// report returns the fact that a generation of each client has reached a step.
func (w *world) report(t testing.TB, kind event.Kind[event.Credentials], generation int, clients ...fleet.ClientKey) event.Event {
	t.Helper()
	var data event.Credentials
	for _, key := range clients {
		data.Clients = append(data.Clients, event.Client{Client: key, Generation: generation})
	}
	e, err := kind.New(event.Meta{Source: "gateway", Cluster: cluster, Key: []string{string(rune('0' + generation))}, Time: clock.Wall()}, data)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (w *world) record(t testing.TB, key fleet.ClientKey) *fleet.Record {
	t.Helper()
	e, err := w.credentials.Get(t.Context(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	return e.Value.Record(key)
}

func (w *world) pickup(t testing.TB, key fleet.ClientKey) (fleet.Pickup, bool) {
	t.Helper()
	e, err := w.bundles.Get(t.Context(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	p, ok := e.Value.Clients[key]
	return p, ok
}

// token opens the token of a pick-up, as the agent does.
func (w *world) token(t testing.TB, key fleet.ClientKey, p fleet.Pickup) string {
	t.Helper()
	text, err := w.open.Open(secret.TokenContext(cluster, key.String(), p.Generation), p.Token)
	if err != nil {
		t.Fatal(err)
	}
	return text.Reveal()
}

func (w *world) authority(t testing.TB) fleet.Authority {
	t.Helper()
	e, err := bucket[fleet.Authority](t, w, bus.Authority).Get(t.Context(), fleet.AuthorityKey)
	if err != nil {
		t.Fatal(err)
	}
	return e.Value
}

func (w *world) pool(t testing.TB) *x509.CertPool {
	t.Helper()
	doc := w.authority(t)
	b, err := trust.Verify(doc.Bundle.Signed, doc.Bundle.FleetKey)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(b.Certificates, doc.Bundle.Certificates) {
		t.Fatal("signed bundle differs from the one beside it")
	}
	pool, err := b.Pool()
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func leaf(t testing.TB, chain []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(chain)
	if block == nil {
		t.Fatal("no PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
