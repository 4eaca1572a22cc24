package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/agent/internal/kube/kubetest"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testCluster = "edge-01"
	secretPath  = "secrets/rotor-kms"
)

var kms = fleet.ClientKey{Kind: "kms"}

// newSet returns a set whose token names its generation.
func newSet(t testing.TB, number int) install.Set {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(int64(1000 + number)), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return install.Set{
		Certificate: certificate, CA: certificate, Token: secret.New(tokenOf(number)),
		Key: secret.New(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))),
		Metadata: install.Metadata{
			Cluster: testCluster, Client: kms, Generation: number, Serial: template.SerialNumber.Text(16), Fleet: "sha256:00", Bundle: 1,
			NotAfter: template.NotAfter, ExpiresAt: template.NotAfter,
		},
	}
}

func tokenOf(number int) string { return fmt.Sprintf("the-token-of-%d", number) }

type world struct {
	*kubetest.Server
	t      testing.TB
	folder string
	log    *slog.Logger
}

func newWorld(t testing.TB) *world {
	return &world{Server: kubetest.New(t), t: t, folder: filepath.Join(t.TempDir(), "secrets", "kms"), log: slog.New(slog.DiscardHandler)}
}

func (w *world) client() *Client {
	c := New(Options{Kubeconfig: w.Kubeconfig})
	w.t.Cleanup(c.Close)
	return c
}

// secret returns the target as a process that has just started has it.
func (w *world) secret() *Secret {
	return NewSecret(SecretOptions{
		Client: w.client(), Log: w.log, Name: SecretName("rotor-", kms), Cluster: testCluster, Key: kms, Folder: install.New(w.folder),
	})
}

// wants checks that readers see one whole set of a generation.
func (w *world) wants(t testing.TB, generation int) {
	t.Helper()
	u := w.Get(secretPath)
	if u == nil {
		t.Fatal("there is no Secret")
	}
	s, err := install.Parse(decode(u))
	if err != nil || s.Metadata.Generation != generation || s.Token.Reveal() != tokenOf(generation) {
		t.Fatalf("the Secret holds generation %d, want %d: %v", s.Metadata.Generation, generation, err)
	}
}
