package gateway_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
)

// writePair puts a self-signed certificate for 127.0.0.1 into files.
func writePair(t *testing.T, dir string) *x509.Certificate {
	t.Helper()
	key, now := newKey(t), clock.Wall()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "api"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"api.crt": pemOf(der), "api.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return leaf
}

// The API over TLS: ready, live events over HTTP/2, and a certificate that is read
// again while it runs.
func TestAPIOverTLS(t *testing.T) {
	w := &world{bus: bustest.New(t), dir: t.TempDir()}
	w.env, w.issuer = w.bus.Env(t, "gateway", clock.Real()), newIssuer(t, w.bus)
	leaf := writePair(t, w.dir)
	config := gateway.Defaults()
	config.AdminTokenFile = filepath.Join(w.dir, "admin.token")
	config.CertFile, config.KeyFile = filepath.Join(w.dir, "api.crt"), filepath.Join(w.dir, "api.key")
	config.APIListener, config.AgentsListener = listen(t), listen(t)
	url := config.APIURL(config.APIListener.Addr())
	if !strings.HasPrefix(url, "https://127.0.0.1:") {
		t.Fatalf("URL %s", url)
	}
	bustest.Run(t, func(ctx context.Context) error { return gateway.Run(ctx, w.env, config) })
	ready := func(client *http.Client) (protocol string, err error) {
		response, err := client.Get(url + "/readyz")
		if err != nil {
			return "", err
		}
		defer func() { _ = response.Body.Close() }()
		if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
			return "", fmt.Errorf("not ready: %s", body)
		}
		return response.Proto, nil
	}
	client := trusting(t, leaf)
	bustest.Eventually(t, func() error {
		protocol, err := ready(client)
		if err == nil && protocol != "HTTP/2.0" {
			return errors.New(protocol)
		}
		return err
	})
	token, err := os.ReadFile(config.AdminTokenFile)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	stream, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Body.Close() }()
	if line, err := bufio.NewReader(stream.Body).ReadString('\n'); err != nil || line != ": rotor\n" || stream.ProtoMajor != 2 {
		t.Fatalf("stream: %q, %v, %s", line, err, stream.Proto)
	}

	next := writePair(t, w.dir)
	bustest.Eventually(t, func() error {
		_, err := ready(trusting(t, next))
		return err
	})
	if _, err := ready(trusting(t, leaf)); err == nil {
		t.Error("the certificate of before is shown as well")
	}
}

// trusting returns a client that trusts one server certificate.
func trusting(t *testing.T, leaf *x509.Certificate) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// A certificate that will not do is an error at the start, and of --check-config.
func TestAPICertificateThatWillNotDo(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	writePair(t, dir)
	writePair(t, other)
	config := gateway.Defaults()
	config.AdminTokenFile = filepath.Join(dir, "admin.token")
	config.CertFile, config.KeyFile = filepath.Join(dir, "api.crt"), filepath.Join(dir, "api.key")
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	config.KeyFile = filepath.Join(other, "api.key")
	server := bustest.New(t)
	for name, err := range map[string]error{
		"check": config.Validate(), "start": gateway.Run(t.Context(), server.Env(t, "gateway", clock.Real()), config),
	} {
		if err == nil || !strings.Contains(err.Error(), "private key does not match") || !strings.Contains(err.Error(), config.KeyFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(config.AdminTokenFile); err == nil {
		t.Error("the start had begun already")
	}
}
