package gateway_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// steersman plays what the scheduler does with rotations of the authority: it
// writes the documents.
type steersman struct {
	rollouts  *kv.Bucket[fleet.Rollout]
	authority *kv.Bucket[fleet.Authority]

	mu       sync.Mutex
	commands []event.RolloutCommand
}

func newSteersman(t *testing.T, w *world) *steersman {
	t.Helper()
	s := &steersman{rollouts: open[fleet.Rollout](t, w, bus.Rotations), authority: open[fleet.Authority](t, w, bus.Authority)}
	consumer := bus.Consumer{Stream: bus.Commands, Name: bus.UserScheduler, Log: bustest.Quiet(), Subjects: []string{event.Advance.Subject("*")}}
	bustest.Run(t, func(ctx context.Context) error { return w.bus.Bus.Consume(ctx, consumer, s.handle) })
	return s
}

func (s *steersman) handle(ctx context.Context, e event.Event) error {
	c, err := event.Advance.Decode(e)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.commands = append(s.commands, c)
	s.mu.Unlock()
	_, err = s.rollouts.Edit(ctx, c.Kind.Key(), func(r *fleet.Rollout) error {
		var err error
		switch c.Action {
		case event.RolloutStart:
			if c.CA != "" && r.ID != "" && !r.Phase.Done() && c.CA != r.To {
				r.Reason, r.Compromised, r.TaintedAt = c.Reason, append(r.Compromised, c.CA), c.At
				return nil
			}
			*r = fleet.Rollout{
				ID: c.Rollout, Kind: c.Kind, Reason: c.Reason, Phase: fleet.RolloutPrepare, By: c.By, CreatedAt: c.At, From: "ca-1",
				Steps:  []fleet.RolloutStep{{Phase: fleet.RolloutPrepare, At: c.At}},
				Canary: c.Canary, MaxParallel: c.MaxParallel, Certificate: c.Certificate, Anchor: c.Anchor,
			}
			if c.CA != "" {
				r.Compromised = []string{c.CA}
			}
		case event.RolloutBack:
			*r, err = r.Enter(fleet.RolloutRollback, c.At)
		case event.RolloutResume:
			r.Halted = ""
		case event.RolloutExclude:
			if r.Excluded == nil {
				r.Excluded = map[string]fleet.Exclusion{}
			}
			r.Excluded[c.Cluster] = fleet.Exclusion{Reason: c.Why, By: c.By, At: c.At}
		case event.RolloutInclude:
			delete(r.Excluded, c.Cluster)
		case event.RolloutRetireIt:
			r.RetireAsked = true
		}
		return err
	})
	return err
}

// sent returns the commands that were heard so far.
func (s *steersman) sent() []event.RolloutCommand {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]event.RolloutCommand(nil), s.commands...)
}

// put writes the document of a rotation as a test wants it.
func (s *steersman) put(t *testing.T, r fleet.Rollout) {
	t.Helper()
	if _, err := s.rollouts.Edit(t.Context(), r.Kind.Key(), func(have *fleet.Rollout) error {
		*have = r
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// offline is a root that no Rotor holds, and the request that waits for it.
type offline struct {
	root *x509.Certificate
	key  crypto.Signer
	csr  []byte
	own  crypto.Signer // of the CA to come
}

func newOffline(t *testing.T) *offline {
	t.Helper()
	o := &offline{own: newKey(t)}
	o.root, o.key = newCA(t)
	o.csr = csrOf(t, o.own)
	return o
}

// certificate signs the CA to come; change may make it a bad one.
func (o *offline) certificate(t *testing.T, change func(*x509.Certificate)) string {
	t.Helper()
	now := clock.Wall()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: "Issuing CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(300 * fleet.Day),
	}
	public := o.own.Public()
	if change != nil {
		change(template)
	}
	if template.PublicKey != nil {
		public = template.PublicKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, o.root, public, o.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pemOf(der))
}

// requestOf reads the request of the CA to come as it is handed out.
func requestOf(t *testing.T, text string) *x509.CertificateRequest {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		t.Fatalf("no request: %q", text)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// written returns the entries of the ledger about the authority.
func (w *world) written(t *testing.T) []audit.Entry {
	t.Helper()
	var page struct {
		Items []json.RawMessage `json:"items"`
	}
	w.get(t, "/v1/audit?chain=gateway", &page)
	var all []audit.Entry
	for _, raw := range page.Items {
		e, err := audit.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Action) > 10 && e.Action[:10] == "authority." {
			all = append(all, e)
		}
	}
	return all
}
