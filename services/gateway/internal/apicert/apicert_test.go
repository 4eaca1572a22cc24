package apicert

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// write puts a certificate that is valid for a day around a moment into files,
// and returns its serial number.
func write(t *testing.T, f Files, serial int64, at time.Time) {
	t.Helper()
	cert, key := pair(t, serial, at)
	for path, text := range map[string][]byte{f.Cert: cert, f.Key: key} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func pair(t *testing.T, serial int64, at time.Time) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "api"}, DNSNames: []string{"rotor.example.com"},
		NotBefore: at.Add(-12 * time.Hour), NotAfter: at.Add(12 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func files(t *testing.T) Files {
	t.Helper()
	dir := t.TempDir()
	return Files{Cert: filepath.Join(dir, "api.crt"), Key: filepath.Join(dir, "api.key")}
}

// What is wrong with the files is said, with the file.
func TestFilesThatWillNotDo(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, f Files)
		want  string
	}{
		"all is well":      {func(*testing.T, Files) {}, ""},
		"no certificate":   {func(t *testing.T, f Files) { t.Helper(); remove(t, f.Cert) }, "certFile: open "},
		"no key":           {func(t *testing.T, f Files) { t.Helper(); remove(t, f.Key) }, "keyFile: open "},
		"another key":      {func(t *testing.T, f Files) { t.Helper(); _, key := pair(t, 2, now); put(t, f.Key, key) }, "private key does not match"},
		"a folder":         {func(t *testing.T, f Files) { t.Helper(); remove(t, f.Key); mkdir(t, f.Key) }, "keyFile: read "},
		"no PEM":           {func(t *testing.T, f Files) { t.Helper(); put(t, f.Cert, []byte("DER?")) }, "failed to find any PEM data"},
		"expired":          {func(t *testing.T, f Files) { t.Helper(); write(t, f, 1, now.Add(-fortnight)) }, "expired at 2026-02-16T00:00:00Z"},
		"valid in the end": {func(t *testing.T, f Files) { t.Helper(); write(t, f, 1, now.Add(fortnight)) }, "not valid before 2026-03-15T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			f := files(t)
			write(t, f, 1, now)
			c.spoil(t, f)
			_, _, err := f.load(now)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

const fortnight = 14 * 24 * time.Hour

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

// The pair of before stays in use until both files are new and will do; what is
// wrong is said once.
func TestPairFollowsItsFiles(t *testing.T) {
	f, at := files(t), clock.Wall()
	write(t, f, 1, at)
	var log bytes.Buffer
	p, err := Open(f, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	serves := func(step string, serial int64) {
		t.Helper()
		c, err := p.Certificate(nil)
		if err != nil || c.Leaf.SerialNumber.Int64() != serial {
			t.Errorf("%s: serves %v, %v; want %d", step, c.Leaf.SerialNumber, err, serial)
		}
		if _, err := tls.X509KeyPair(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), keyOf(t, c)); err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
	serves("at the start", 1)
	p.look(at)
	serves("nothing has changed", 1)
	cert, key := pair(t, 2, at)
	put(t, f.Cert, cert)
	p.look(at)
	p.look(at)
	serves("half of it", 1)
	if n := strings.Count(log.String(), "stays in use"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
	put(t, f.Key, key)
	p.look(at)
	serves("all of it", 2)
	remove(t, f.Cert)
	p.look(at)
	serves("gone", 2)
	write(t, f, 3, at.Add(-fortnight))
	p.look(at)
	serves("expired", 2)
	if !p.NotAfter().Equal(at.Add(12 * time.Hour).Truncate(time.Second)) {
		t.Errorf("ends at %s", p.NotAfter())
	}

	p.every = time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	write(t, f, 4, at)
	for deadline := time.After(10 * time.Second); ; {
		c, _ := p.Certificate(nil)
		if c.Leaf.SerialNumber.Int64() == 4 {
			break
		}
		select {
		case <-deadline:
			t.Fatal("the new pair is not served")
		case <-time.After(time.Millisecond):
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func keyOf(t *testing.T, c *tls.Certificate) []byte {
	t.Helper()
	raw, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}
