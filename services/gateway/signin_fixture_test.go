package gateway_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// programs is what the issuer of the test has signed for programs, and whether
// it answers.
type programs struct {
	mu     sync.Mutex
	silent bool
	made   map[string]issued // by subject, generation and key
}

func (p *programs) hush(silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = silent
}

// login answers as the issuer does: the same key gets the same bytes.
func (i *issuer) login(t *testing.T, e event.Event, records *kv.Bucket[fleet.Credentials], bundles *kv.Bucket[fleet.Bundles]) error {
	ctx := context.WithoutCancel(t.Context())
	command, err := event.Login.Decode(e)
	if err != nil {
		return err
	}
	i.programs.mu.Lock()
	defer i.programs.mu.Unlock()
	if i.programs.silent {
		return nil
	}
	csr, err := x509.ParseCertificateRequest(command.CSR)
	if err != nil {
		return err
	}
	key, err := identity.Thumbprint(csr.PublicKey)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s/%s@%d %s", e.Subject(), command.Client, command.Generation, key)
	made, ok := i.programs.made[name]
	if !ok {
		made = i.sign(t, order{cluster: e.Subject(), client: command.Client, number: command.Generation, step: fleet.StepIssued, public: csr.PublicKey})
		made.Reason, made.Operation, made.Rotation = command.Reason, e.ID(), command.Rotation
		if i.programs.made == nil {
			i.programs.made = map[string]issued{}
		}
		i.programs.made[name] = made
	}
	answer := fleet.Answer{Command: e.ID(), At: clock.Wall(), Generation: command.Generation, Chain: pemOf(made.pair.Certificate[0])}
	_, err = records.Edit(ctx, e.Subject(), func(c *fleet.Credentials) error {
		if c.Record(command.Client).Find(command.Generation) != nil {
			return kv.Keep
		}
		if c.Clients == nil {
			c.Clients = map[fleet.ClientKey]*fleet.Record{}
		}
		if c.Clients[command.Client] == nil {
			c.Clients[command.Client] = &fleet.Record{}
		}
		r := c.Clients[command.Client]
		r.Generations = append(r.Generations, made.Generation)
		return nil
	})
	if err != nil {
		return err
	}
	context := secret.TokenContext(e.Subject(), command.Client.String(), command.Generation)
	if answer.Token, err = secret.Seal(command.SealTo, context, secret.New(made.token)); err != nil {
		return err
	}
	_, err = bundles.Edit(ctx, e.Subject(), func(b *fleet.Bundles) error {
		b.PutAnswer(answer)
		return nil
	})
	return err
}

// program is a program that signs in by itself.
type program struct {
	*api.Client
	issued
	with api.Credential
	next crypto.Signer
}

// signedIn returns a program with a generation that is on record and proven.
func (w *world) signedIn(t *testing.T, o order) program {
	t.Helper()
	if o.cluster == "" {
		o.cluster, o.client, o.number, o.step = "edge-01", kms, 1, fleet.StepProven
	}
	g := w.issuer.sign(t, o)
	w.record(t, o.cluster, o.client, g)
	return program{Client: &api.Client{URL: w.url}, with: api.Credential{Token: secret.New(g.token), Key: signerOf(t, g)}, issued: g}
}

// stepTo moves a generation on the record.
func (w *world) stepTo(t *testing.T, number int, step fleet.Step) {
	t.Helper()
	w.change(t, func(r *fleet.Record) { r.Find(number).Step = step })
}

func (w *world) change(t *testing.T, f func(*fleet.Record)) {
	t.Helper()
	if _, err := open[fleet.Credentials](t, w, bus.Credentials).Edit(t.Context(), "edge-01", func(c *fleet.Credentials) error {
		f(c.Record(kms))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// recovery puts a recovery token for a generation of kms on record.
func (w *world) recovery(t *testing.T, token string, generation int, expires time.Time) {
	t.Helper()
	hash := hashOf(token)
	if _, err := open[fleet.Agent](t, w, bus.Agents).Edit(t.Context(), "edge-01", func(a *fleet.Agent) error {
		a.Recoveries = map[fleet.ClientKey]fleet.Recovery{kms: {Hash: hash, Generation: generation, Operation: "op-1", ExpiresAt: expires}}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// post calls without the client of package api, to say what it never would.
func post(t *testing.T, url, body string, headers http.Header) (*http.Response, error) {
	t.Helper()
	return postWith(t, http.DefaultClient, url, body, headers)
}

// same demands that two replies hold the same generation to the byte.
func same(t *testing.T, what string, a, b api.SignInReply) {
	t.Helper()
	if a.Certificate != b.Certificate || a.Token != b.Token || a.Generation != b.Generation {
		t.Errorf("%s: got another generation", what)
	}
}

// stored returns how many facts of a kind were told.
func told(t *testing.T, w *world, kind event.Kind[event.Credentials]) int {
	t.Helper()
	return len(bustest.Stored(t, w.bus, kind))
}

func signerOf(t *testing.T, g issued) crypto.Signer {
	t.Helper()
	key, ok := g.pair.PrivateKey.(crypto.Signer)
	if !ok {
		t.Fatal("no key")
	}
	return key
}

// derOf returns the first certificate of a chain in PEM.
func derOf(t *testing.T, chain string) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(chain))
	if block == nil {
		t.Fatal("no PEM")
	}
	return block.Bytes
}
