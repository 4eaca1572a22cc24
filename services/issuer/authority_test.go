package issuer

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

func (w *world) start(t testing.TB) error {
	t.Helper()
	env := w.env(t)
	env.Log = bustest.Quiet()
	_, err := open(t.Context(), env, w.Bus, w.config)
	return err
}

func TestOneAuthority(t *testing.T) {
	w := newWorld(t)
	errs := make([]error, 4)
	var all sync.WaitGroup
	for i := range errs {
		env := w.env(t)
		all.Go(func() { _, errs[i] = open(t.Context(), env, w.Bus, w.config) })
	}
	all.Wait()
	must(t, errors.Join(errs...))
	first := w.authority(t)
	must(t, w.start(t)) // and once more later
	again := w.authority(t)
	if len(again.CAs) != 1 || again.CAs[0].ID != first.CAs[0].ID || string(again.CAs[0].Certificate) != string(first.CAs[0].Certificate) {
		t.Error("another CA after a restart")
	}
	w.pool(t) // verifies the signed bundle
	facts := bustest.Stored(t, w.Server, event.AuthorityActivated)
	if len(facts) != 2 || facts[0].What != "ca" || facts[1].What != "token" {
		t.Errorf("facts %+v", facts)
	}
}

// mortalKeys ends the first start at its n-th key.
type mortalKeys struct {
	keystore.Keystore
	*killer
}

func (m mortalKeys) Create(ctx context.Context, id string, a keystore.Algorithm) error {
	return m.write(func() error { return m.Keystore.Create(ctx, id, a) })
}

func TestFirstStartKilledAnywhere(t *testing.T) {
	t.Parallel()
	for at := 1; at <= 8; at++ { // four keys, the entries of CA and bundle, two facts
		for _, after := range []bool{false, true} {
			w := newWorld(t)
			env := w.env(t)
			keys, err := openKeystore(t.Context(), newLookout(env, w.Bus), w.config)
			must(t, err)
			k := &killer{at: at, after: after}
			_, err = openAuthority(t.Context(), founder{
				Config: w.config, env: env, keys: mortalKeys{keys, k}, documents: bucket[fleet.Authority](t, w, bus.Authority),
				facts: mortalPublisher{w.Bus, k}, ledger: mortalLedger{env.Ledger(w.Bus, name), k},
			})
			if !errors.Is(err, errKilled) {
				t.Fatalf("write %d: %v", at, err)
			}
			must(t, w.start(t))
			w.pool(t)
			if n := len(bustest.Stored(t, w.Server, event.AuthorityActivated)); n != 2 {
				t.Errorf("write %d, after %v: %d facts", at, after, n)
			}
		}
	}
}

// A missing key-encryption key is an alarm with a remedy, never a fresh start.
func TestBackupMissingTheKey(t *testing.T) {
	w := newWorld(t)
	must(t, w.start(t))
	before := w.authority(t).CAs[0].ID
	saved := w.config.KeyFile + ".saved"
	must(t, os.Rename(w.config.KeyFile, saved))
	if err := w.start(t); err == nil || !strings.Contains(err.Error(), "restore the file") || !strings.Contains(err.Error(), "ALARM") {
		t.Errorf("without the file: %v", err)
	}
	if _, err := os.Stat(w.config.KeyFile); err == nil {
		t.Fatal("a new key was made")
	}
	must(t, keystore.MakeKEK(w.config.KeyFile))
	if err := w.start(t); !errors.Is(err, keystore.ErrUnreadable) || !strings.Contains(err.Error(), "restore") {
		t.Errorf("with another key: %v", err)
	}
	must(t, os.Rename(saved, w.config.KeyFile))
	must(t, w.start(t))
	if w.authority(t).CAs[0].ID != before {
		t.Error("another CA")
	}
	must(t, os.Chmod(w.config.KeyFile, 0o644))
	if err := w.start(t); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("with mode 0644: %v", err)
	}
}

// A store that lost the authority of a fleet at work is an alarm.
func TestLostAuthority(t *testing.T) {
	w := newWorld(t)
	_, err := w.credentials.Create(t.Context(), cluster, fleet.Credentials{})
	must(t, err)
	if err := w.start(t); err == nil || !strings.Contains(err.Error(), "ALARM") {
		t.Errorf("%v", err)
	}
}

func TestLostKeys(t *testing.T) {
	w := newWorld(t)
	must(t, w.start(t))
	keys := bucket[keystore.Box](t, w, bus.Keys)
	e, err := keys.Get(t.Context(), keyDerivation)
	must(t, err)
	must(t, keys.Delete(t.Context(), keyDerivation, e.Revision))
	if err := w.start(t); !errors.Is(err, fleet.ErrNotFound) || !strings.Contains(err.Error(), "ALARM") {
		t.Errorf("%v", err)
	}
	if _, err := keys.Get(t.Context(), keyDerivation); !errors.Is(err, fleet.ErrNotFound) {
		t.Error("a new key was made: the serials of the fleet would repeat or change")
	}
}

func TestChangedConfiguration(t *testing.T) {
	w := newWorld(t)
	must(t, w.start(t))
	w.config.TokenIssuer, w.config.Audience = "https://rotor.example", []string{"a", "b"}
	must(t, w.start(t))
	if doc := w.authority(t); doc.TokenIssuer != "https://rotor.example" || len(doc.Audience) != 2 || doc.Bundle.Version != 1 {
		t.Errorf("issuer %s, audience %v, bundle %d", doc.TokenIssuer, doc.Audience, doc.Bundle.Version)
	}
	w.config.TrustDomain = "other.internal"
	if err := w.start(t); !errors.Is(err, fleet.ErrInvalid) || !strings.Contains(err.Error(), "rotor.internal") {
		t.Errorf("another trust domain: %v", err)
	}
}

// A running issuer sees what was changed in the authority.
func TestAuthorityIsReadAgain(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	first, err := s.authority.current(t.Context())
	must(t, err)
	_, err = bucket[fleet.Authority](t, w, bus.Authority).Edit(t.Context(), fleet.AuthorityKey, func(doc *fleet.Authority) error {
		doc.TokenIssuer = "https://changed.example"
		return nil
	})
	must(t, err)
	second, err := s.authority.current(t.Context())
	must(t, err)
	if first.minter.Issuer == second.minter.Issuer || second.minter.Issuer != "https://changed.example" {
		t.Errorf("issuer is %s", second.minter.Issuer)
	}
}

func certify(t testing.TB, at time.Time, csr []byte, names ...string) event.Event {
	t.Helper()
	e, err := event.Certify.New(event.Meta{Source: "gateway", Cluster: "_gateway-a", Key: []string{at.String()}, Time: at},
		event.CertifyCommand{CSR: csr, Names: names, At: at})
	must(t, err)
	return e
}

func TestCertify(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	at := clock.Wall().Truncate(time.Second)
	key, csr := newCSR(t)
	first := certify(t, at, csr, "localhost", "127.0.0.1")
	must(t, s.command(t.Context(), first))
	entry := w.server(t)
	c := leaf(t, entry.Value.Server.Chain)
	if _, err := c.Verify(x509.VerifyOptions{Roots: w.pool(t), DNSName: "localhost", KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		t.Error(err)
	}
	if !key.PublicKey.Equal(c.PublicKey) || !entry.Value.Server.NotAfter.Equal(c.NotAfter) {
		t.Error("certificate is for another key, or another end")
	}
	must(t, w.service2(t).command(t.Context(), first))
	if w.server(t).Revision != entry.Revision {
		t.Error("a repeat wrote something")
	}
	// The gateway has restarted: the command before comes late.
	_, later := newCSR(t)
	must(t, s.command(t.Context(), certify(t, at.Add(time.Minute), later, "localhost")))
	must(t, s.command(t.Context(), first))
	if leaf(t, w.server(t).Value.Server.Chain).Equal(c) {
		t.Error("an old command replaced the newer certificate")
	}
	for name, bad := range map[string]event.Event{
		"no request": certify(t, at, nil, "localhost"), "no names": certify(t, at, csr), "no moment": certify(t, time.Time{}, csr, "localhost"),
	} {
		if err := s.command(t.Context(), bad); !bus.IsPermanent(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	first.SetSubject(cluster)
	if err := s.command(t.Context(), first); !bus.IsPermanent(err) {
		t.Errorf("a server certificate among the pick-ups of a cluster: %v", err)
	}
}

func TestWhichServerCertificateStays(t *testing.T) {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	stored := &fleet.ServerCertificate{CA: "a", Key: "k", At: at}
	for name, c := range map[string]struct {
		stored, next *fleet.ServerCertificate
		want         bool
	}{
		"the first":                  {nil, stored, true},
		"a repeat":                   {stored, stored, false},
		"asked for later":            {stored, &fleet.ServerCertificate{CA: "a", Key: "k", At: at.Add(time.Second)}, true},
		"asked for before":           {stored, &fleet.ServerCertificate{CA: "a", Key: "old", At: at.Add(-time.Second)}, false},
		"started again at once":      {stored, &fleet.ServerCertificate{CA: "a", Key: "new", At: at}, true},
		"of the CA that signs now":   {stored, &fleet.ServerCertificate{CA: "b", Key: "k", At: at.Add(-time.Minute)}, true},
		"stored by a version before": {&fleet.ServerCertificate{CA: "a", Key: "k"}, stored, true},
	} {
		if got := replaces(c.next, c.stored); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func (w *world) server(t testing.TB) kv.Entry[fleet.Bundles] {
	t.Helper()
	e, err := w.bundles.Get(t.Context(), "_gateway-a")
	must(t, err)
	return e
}

func TestKeyFileInAMissingFolder(t *testing.T) {
	w := newWorld(t)
	w.config.KeyFile = filepath.Join(t.TempDir(), "a", "b", "key")
	must(t, w.start(t))
}
