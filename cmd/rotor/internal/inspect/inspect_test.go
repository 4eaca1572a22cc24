package inspect

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func options() Options {
	return Options{Now: now, Warn: 30 * fleet.Day, Critical: 7 * fleet.Day, Timeout: 10 * time.Second}
}

// pair is a certificate with its key.
type pair struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func (p pair) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.certificate.Raw})
}

func (p pair) keyPEM(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func ending(t *testing.T, name string, notAfter time.Time) pair {
	t.Helper()
	return valid(t, name, now.Add(-90*fleet.Day), notAfter)
}

func valid(t *testing.T, name string, notBefore, notAfter time.Time) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0xabc), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		NotBefore: notBefore, NotAfter: notAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair{c, key}
}

func token(expires time.Time) string {
	segment := func(v any) string {
		raw, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	return segment(map[string]any{"alg": "RS256"}) + "." +
		segment(map[string]any{"iss": "https://issuer", "sub": "system:serviceaccount:a:b", "exp": expires.Unix()}) + ".c2ln"
}

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// subjects returns "state subject" of each finding, in their order.
func subjects(r Result) []string {
	var all []string
	for _, f := range r.Findings {
		all = append(all, string(f.State)+" "+strings.TrimPrefix(f.Subject, "CN="))
	}
	return all
}

// The thresholds count, and the exit code is that of the worst. Certificates are
// valid at their notAfter, tokens are not at their exp.
func TestStateAtEachThreshold(t *testing.T) {
	for _, c := range []struct {
		left  time.Duration
		state State
		token State
		days  int
		code  int
	}{
		{31 * fleet.Day, Well, Well, 31, 0},
		{30*fleet.Day + time.Second, Well, Well, 30, 0},
		{30 * fleet.Day, Warning, Warning, 30, 1},
		{7*fleet.Day + time.Second, Warning, Warning, 7, 1},
		{7 * fleet.Day, Critical, Critical, 7, 2},
		{time.Second, Critical, Critical, 0, 2},
		{0, Critical, Expired, 0, 2},
		{-time.Second, Expired, Expired, -1, 2},
		{-fleet.Day, Expired, Expired, -1, 2},
		{-25 * time.Hour, Expired, Expired, -2, 2},
	} {
		dir := t.TempDir()
		certificate := write(t, filepath.Join(dir, "a.crt"), ending(t, "a", now.Add(c.left)).pem())
		r := Run(t.Context(), []string{certificate}, options())
		if len(r.Findings) != 1 || r.Findings[0].State != c.state || r.Findings[0].DaysLeft != c.days || r.Worst() != c.code {
			t.Errorf("certificate, %s left: %+v, exit %d; want %s, %d days, exit %d", c.left, r, r.Worst(), c.state, c.days, c.code)
		}
		jwt := write(t, filepath.Join(dir, "token"), []byte(token(now.Add(c.left))))
		if r := Run(t.Context(), []string{jwt}, options()); len(r.Findings) != 1 || r.Findings[0].State != c.token {
			t.Errorf("token, %s left: %+v; want %s", c.left, r, c.token)
		}
	}
	file := write(t, filepath.Join(t.TempDir(), "future.crt"), valid(t, "future", now.Add(time.Second), now.Add(91*fleet.Day)).pem())
	if r := Run(t.Context(), []string{file}, options()); r.Findings[0].State != NotYet || r.Worst() != 1 {
		t.Errorf("%+v", r)
	}
}

// A folder as kubeadm makes it: certificates, keys, kubeconfigs with data and
// with names of files, a key store, and what is none of these.
func TestFolderOfACluster(t *testing.T) {
	dir := t.TempDir()
	at := func(name ...string) string { return filepath.Join(append([]string{dir}, name...)...) }
	api := ending(t, "kube-apiserver", now.Add(20*fleet.Day))
	write(t, at("pki", "apiserver.crt"), append(api.pem(), ending(t, "chain", now.Add(300*fleet.Day)).pem()...))
	write(t, at("pki", "apiserver.key"), api.keyPEM(t))
	write(t, at("pki", "etcd", "server.crt"), ending(t, "etcd", now.Add(5*fleet.Day)).pem())
	write(t, at("pki", "der.cer"), ending(t, "der", now.Add(100*fleet.Day)).certificate.Raw)
	admin := ending(t, "kubernetes-admin", now.Add(-fleet.Day))
	write(t, at("ca.pem"), ending(t, "cluster-ca", now.Add(3000*fleet.Day)).pem())
	write(t, at("admin.conf"), fmt.Appendf(nil, `
apiVersion: v1
kind: Config
clusters: [{name: hq, cluster: {certificate-authority: ca.pem, server: https://127.0.0.1:1}}]
users:
- name: admin
  user: {client-certificate-data: %s, client-key-data: %s}
- name: robot
  user: {token: %s}
`, base64.StdEncoding.EncodeToString(admin.pem()), base64.StdEncoding.EncodeToString(admin.keyPEM(t)), token(now.Add(2*fleet.Day))))
	store, err := pkcs12.Modern.Encode(api.key, api.certificate, nil, "hunter2")
	if err != nil {
		t.Fatal(err)
	}
	write(t, at("store.p12"), store)
	write(t, at("notes.txt"), []byte("nothing of interest: really"))
	write(t, at("..hidden", "tls.crt"), admin.pem())
	if err := os.Symlink("nowhere", at("dangling")); err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Password = secret.New("hunter2")
	r := Run(t.Context(), []string{dir}, o)
	want := []string{
		"expired kubernetes-admin", "critical system:serviceaccount:a:b", "critical etcd", "warning kube-apiserver",
		"warning kube-apiserver", "ok der", "ok chain", "ok cluster-ca", "ok cluster-ca",
	}
	if got := subjects(r); !slices.Equal(got, want) || len(r.Failures) > 0 || r.Worst() != 2 {
		t.Errorf("%v\nwant %v\nfailures %v", got, want, r.Failures)
	}
	if item := r.Findings[0].Item; item != "users[admin].user.client-certificate-data" {
		t.Errorf("found at %q", item)
	}
	raw, _ := json.Marshal(r)
	if bytes.Contains(raw, []byte("PRIVATE")) || bytes.Contains(raw, []byte("c2ln")) || bytes.Contains(raw, []byte("hunter2")) {
		t.Error("something secret was kept")
	}
}

func TestWhatCannotBeLookedAtIsSaid(t *testing.T) {
	dir := t.TempDir()
	store, err := pkcs12.Modern.Encode(ending(t, "a", now).key, ending(t, "a", now).certificate, nil, "hunter2")
	if err != nil {
		t.Fatal(err)
	}
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = refused.Close()
	for target, want := range map[string]string{
		filepath.Join(dir, "none"):                             "neither a file or folder nor host:port",
		write(t, filepath.Join(dir, "empty"), nil):             "no certificate",
		write(t, filepath.Join(dir, "s.p12"), store):           "--password-file",
		write(t, filepath.Join(dir, "bad.crt"), badPEM()):      "is none",
		write(t, filepath.Join(dir, "k.conf"), danglingFile()): "no such file",
		refused.Addr().String():                                "refused",
	} {
		r := Run(t.Context(), []string{target}, options())
		if len(r.Failures) == 0 || !strings.Contains(r.Failures[0].Error, want) || r.Worst() != 1 {
			t.Errorf("%s: %+v, exit %d; want %q", target, r.Failures, r.Worst(), want)
		}
	}
}

func badPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("not a certificate")})
}

func danglingFile() []byte {
	return []byte("kind: Config\nusers: [{name: a, user: {client-certificate: gone.crt}}]\n")
}

// A server is looked at whatever it shows, also one that demands a certificate
// of its callers.
func TestServer(t *testing.T) {
	own := ending(t, "server", now.Add(3*fleet.Day))
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{own.certificate.Raw}, PrivateKey: own.key}},
		ClientAuth:   tls.RequireAnyClientCert,
	}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.StartTLS()
	t.Cleanup(s.Close)
	for _, target := range []string{s.Listener.Addr().String(), s.URL, s.URL + "/path"} {
		r := Run(t.Context(), []string{target}, options())
		if len(r.Findings) != 1 || r.Findings[0].State != Critical || !strings.Contains(r.Findings[0].Note, "not for the name") {
			t.Errorf("%s: %+v", target, r)
		}
	}
	o := options()
	o.ServerName = "localhost"
	r := Run(t.Context(), []string{s.Listener.Addr().String()}, o)
	if len(r.Findings) != 1 || r.Findings[0].Note != "its authority is not trusted by this machine" {
		t.Errorf("%+v", r)
	}
}

// Secrets are read in pages, from the cluster that the context names.
func TestSecrets(t *testing.T) {
	list := func(next string, name string, data map[string][]byte) string {
		raw, _ := json.Marshal(map[string]any{
			"kind": "SecretList", "apiVersion": "v1", "metadata": map[string]any{"continue": next},
			"items": []any{map[string]any{"metadata": map[string]any{"namespace": "kube-system", "name": name}, "data": data}},
		})
		return string(raw)
	}
	tlsData := map[string][]byte{"tls.crt": ending(t, "ingress", now.Add(fleet.Day)).pem(), "tls.key": ending(t, "x", now).keyPEM(t)}
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path != "/api/v1/namespaces/kube-system/secrets" || r.Header.Get("Authorization") != "Bearer letmein":
			http.Error(w, `{"kind":"Status","status":"Failure","reason":"Forbidden","code":403}`, http.StatusForbidden)
		case r.URL.Query().Get("continue") == "":
			_, _ = w.Write([]byte(list("more", "first", tlsData)))
		default:
			_, _ = w.Write([]byte(list("", "second", map[string][]byte{"token": []byte(token(now.Add(-time.Hour)))})))
		}
	}))
	t.Cleanup(s.Close)
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	config := write(t, filepath.Join(t.TempDir(), "config"), fmt.Appendf(nil, `
apiVersion: v1
kind: Config
clusters: [{name: a, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: a, user: {token: letmein}}]
contexts: [{name: hq, context: {cluster: a, user: a}}]
`, s.URL, base64.StdEncoding.EncodeToString(authority)))
	o := options()
	o.Cluster = &Cluster{Kubeconfig: config, Context: "hq", Namespace: "kube-system"}
	r := Run(t.Context(), nil, o)
	want := []string{"expired system:serviceaccount:a:b", "critical ingress"}
	if got := subjects(r); !slices.Equal(got, want) || r.Findings[1].Source != "secret kube-system/first" {
		t.Errorf("%v, failures %v", got, r.Failures)
	}
	o.Cluster = &Cluster{Kubeconfig: config, Context: "hq"}
	if r := Run(t.Context(), nil, o); len(r.Failures) != 1 || !strings.Contains(r.Failures[0].Error, "list secrets") {
		t.Errorf("%+v", r)
	}
}

// A few lines of aliases that stand for more than there is memory.
func TestAliasesAreNotFollowed(t *testing.T) {
	text := "a: &a [x]\n"
	for c := 'b'; c <= 'p'; c++ {
		one := "*" + string(c-1)
		text += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.Join(slices.Repeat([]string{one}, 9), ","))
	}
	text += "token: " + token(now) + "\n"
	file := write(t, filepath.Join(t.TempDir(), "laughs.yaml"), []byte(text))
	if r := Run(t.Context(), []string{file}, options()); len(r.Findings) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestRevocationList(t *testing.T) {
	issuer := ending(t, "ca", now.Add(100*fleet.Day))
	issuer.certificate.KeyUsage, issuer.certificate.SubjectKeyId = x509.KeyUsageCRLSign, []byte{1}
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(7), ThisUpdate: now.Add(-fleet.Day), NextUpdate: now.Add(fleet.Day),
	}, issuer.certificate, issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(t.TempDir(), "list.crl"), list)
	r := Run(t.Context(), []string{file}, options())
	if len(r.Findings) != 1 || r.Findings[0].Kind != CRL || r.Findings[0].State != Critical {
		t.Errorf("%+v", r)
	}
}

// Whatever lies in a file, a look at it ends without a panic.
func FuzzFile(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"))
	f.Add([]byte(token(now)))
	f.Add(danglingFile())
	f.Add([]byte("a: [*x, {b: &x c}]"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, name := range []string{"a.yaml", "a.crt", "a.p12"} {
			file := write(t, filepath.Join(dir, name), content)
			Run(t.Context(), []string{file}, options())
		}
	})
}
