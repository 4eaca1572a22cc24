package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type deriver string

func (d deriver) Derive(parts ...string) []byte {
	h := hmac.New(sha256.New, []byte(d))
	for _, p := range parts {
		h.Write([]byte(p + "\x00"))
	}
	return h.Sum(nil)
}

// repeatable signs as a keystore does: without randomness.
type repeatable struct{ *ecdsa.PrivateKey }

func (r repeatable) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return r.PrivateKey.Sign(nil, digest, opts)
}

func newAuthority(t testing.TB) *Authority {
	t.Helper()
	linter, err := NewLinter()
	must(t, err)
	tool := Tool{Linter: linter, Serial: deriver("test")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	root, err := tool.NewRoot(repeatable{key}, RootRequest{Number: 1, At: now}, func(audit.Signed) error { return nil })
	must(t, err)
	a, err := Open(root.Certificate, repeatable{key}, "rotor.internal", tool)
	must(t, err)
	if a.ID() != root.ID {
		t.Fatalf("id is %s, want %s", a.ID(), root.ID)
	}
	return a
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(t, err)
	return k
}

// csr asks for everything that a request must not get.
func csr(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "hq/kva", Organization: []string{"system:masters"}}, DNSNames: []string{"kubernetes"},
		IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}, URIs: []*url.URL{{Scheme: "spiffe", Host: "rotor.internal", Path: "/hq/kva"}},
	}, key)
	must(t, err)
	return der
}

func request(t testing.TB) ClientRequest {
	t.Helper()
	return ClientRequest{
		Cluster: "edge-01", Client: fleet.ClientKey{Kind: "kms"}, Generation: 1, CSR: csr(t, newKey(t, elliptic.P256())),
		At: now.Add(time.Hour), NotAfter: now.Add(time.Hour + 90*fleet.Day),
	}
}

func issue(t testing.TB, a *Authority, r ClientRequest) (*Prepared, *x509.Certificate) {
	t.Helper()
	p, err := a.PrepareClient(r)
	must(t, err)
	c, err := a.Sign(p)
	must(t, err)
	return p, c.X509
}

func TestClientProfile(t *testing.T) {
	a := newAuthority(t)
	r := request(t)
	_, c := issue(t, a, r)
	switch {
	case c.Subject.String() != "CN=edge-01/kms":
		t.Errorf("subject is %s: something was taken from the request", c.Subject)
	case len(c.URIs) != 1 || c.URIs[0].String() != "spiffe://rotor.internal/edge-01/kms":
		t.Errorf("URI names are %v", c.URIs)
	case len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) != 0:
		t.Errorf("names %v %v %v were taken from the request", c.DNSNames, c.IPAddresses, c.EmailAddresses)
	case c.KeyUsage != x509.KeyUsageDigitalSignature:
		t.Errorf("H13: key usage is %b", c.KeyUsage)
	case !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || len(c.UnknownExtKeyUsage) != 0:
		t.Errorf("extended key usage is %v", c.ExtKeyUsage)
	case c.IsCA || !c.BasicConstraintsValid:
		t.Errorf("CA bit %v, basic constraints %v", c.IsCA, c.BasicConstraintsValid)
	case c.SerialNumber.Sign() <= 0 || c.SerialNumber.BitLen() > 127 || c.SerialNumber.BitLen() < 64:
		t.Errorf("serial %s", c.SerialNumber)
	case !c.NotBefore.Equal(r.At.Add(-fleet.Backdate)) || !c.NotAfter.Equal(r.NotAfter):
		t.Errorf("valid from %s to %s", c.NotBefore, c.NotAfter)
	case len(c.SubjectKeyId) != 20 || !bytes.Equal(c.AuthorityKeyId, a.certificate.SubjectKeyId):
		t.Errorf("key ids %x, %x", c.SubjectKeyId, c.AuthorityKeyId)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	for usage, good := range map[x509.ExtKeyUsage]bool{x509.ExtKeyUsageClientAuth: true, x509.ExtKeyUsageServerAuth: false} {
		_, err := c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: r.At, KeyUsages: []x509.ExtKeyUsage{usage}})
		if (err == nil) != good {
			t.Errorf("usage %d: %v", usage, err)
		}
	}
}

func TestRootProfile(t *testing.T) {
	c := newAuthority(t).certificate
	if !c.IsCA || c.MaxPathLen != 1 || c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("CA %v, path length %d, usage %b", c.IsCA, c.MaxPathLen, c.KeyUsage)
	}
	if c.Subject.CommonName != "Rotor CA 1" || !c.NotAfter.Equal(now.Add(fleet.AuthorityLife)) || c.CheckSignatureFrom(c) != nil {
		t.Errorf("%s until %s", c.Subject, c.NotAfter)
	}
}

func TestServerProfile(t *testing.T) {
	a := newAuthority(t)
	r := ServerRequest{Gateway: "_gateway-a", CSR: csr(t, newKey(t, elliptic.P256())), Names: []string{"localhost", "127.0.0.1", "rotor.example.org", "::1"}, At: now}
	p, err := a.PrepareServer(r)
	must(t, err)
	signed, err := a.Sign(p)
	must(t, err)
	c := signed.X509
	if !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) || len(c.URIs) != 0 || c.IsCA {
		t.Errorf("usage %v, URIs %v, CA %v", c.ExtKeyUsage, c.URIs, c.IsCA)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "rotor.example.org", "::1"} {
		if err := c.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if c.VerifyHostname("kubernetes") == nil {
		t.Error("a name was taken from the request")
	}
	for name, bad := range map[string][]string{
		"none": nil, "wildcard": {"*.example.org"}, "empty": {""}, "upper case": {"LOCALHOST"}, "too many": slices.Repeat([]string{"a"}, 33),
	} {
		r.Names = bad
		if _, err := a.PrepareServer(r); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValidity(t *testing.T) {
	a := newAuthority(t)
	end := a.NotAfter()
	for _, test := range []struct {
		name         string
		at, notAfter time.Time
		want         time.Time // zero: refused
		cut          bool
	}{
		{"whole life", now, now.Add(90 * fleet.Day), now.Add(90 * fleet.Day), false},
		{"ends with the CA", end.Add(-90 * fleet.Day), end, end, false},
		{"LeafOutlivingCA: one second longer than the CA", end.Add(-fleet.Day), end.Add(time.Second), end, true},
		{"LeafOutlivingCA: CA with 80 d left", end.Add(-80 * fleet.Day), end.Add(10 * fleet.Day), end, true},
		{"SigningUnderAnExpiredRoot: last second", end.Add(-time.Second), end.Add(fleet.Day), end, true},
		{"SigningUnderAnExpiredRoot: at its end", end, end.Add(fleet.Day), time.Time{}, false},
		{"SigningUnderAnExpiredRoot: after", end.Add(fleet.Day), end.Add(2 * fleet.Day), time.Time{}, false},
		{"no life", now, now, time.Time{}, false},
		{"negative life", now, now.Add(-time.Hour), time.Time{}, false},
		{"no end", now, time.Time{}, time.Time{}, false},
		{"longer than any CA", now, now.Add(fleet.AuthorityLife + time.Second), time.Time{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := request(t)
			r.At, r.NotAfter = test.at, test.notAfter
			p, err := a.PrepareClient(r)
			if test.want.IsZero() {
				if !errors.Is(err, fleet.ErrInvalid) {
					t.Fatalf("want a refusal, got %v", err)
				}
				return
			}
			must(t, err)
			c, err := a.Sign(p)
			must(t, err)
			if !c.X509.NotAfter.Equal(test.want) || p.Cut != test.cut {
				t.Errorf("until %s, cut %v; want %s, %v", c.X509.NotAfter, p.Cut, test.want, test.cut)
			}
		})
	}
}

func TestCommonNameLimits(t *testing.T) {
	a := newAuthority(t)
	r := request(t)
	r.Cluster = strings.Repeat("c", 63)
	r.Client = fleet.ClientKey{Kind: strings.Repeat("k", 63), Instance: strings.Repeat("i", 63)}
	_, c := issue(t, a, r)
	if n := len(c.Subject.CommonName); n > 64 {
		t.Errorf("common name of %d characters", n)
	}
	gotCluster, gotClient, err := identity.FromCertificate(c, "rotor.internal")
	if err != nil || gotCluster != r.Cluster || gotClient != r.Client {
		t.Errorf("URI name gives %s %s %v", gotCluster, gotClient, err)
	}
}

func TestRefusedNames(t *testing.T) {
	a := newAuthority(t)
	for name, change := range map[string]func(*ClientRequest){
		"cluster":            func(r *ClientRequest) { r.Cluster = "edge/01" },
		"cluster of gateway": func(r *ClientRequest) { r.Cluster = "_gateway-a" },
		"client":             func(r *ClientRequest) { r.Client.Kind = "kms/../kva" },
		"generation":         func(r *ClientRequest) { r.Generation = 0 },
	} {
		r := request(t)
		change(&r)
		if _, err := a.PrepareClient(r); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRequests(t *testing.T) {
	a := newAuthority(t)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	weak := must1(rsa.GenerateKey(rand.Reader, 1024))(t)
	strong := must1(rsa.GenerateKey(rand.Reader, 2048))(t)
	good := csr(t, newKey(t, elliptic.P256()))
	forged := slices.Clone(good)
	forged[len(forged)-1] ^= 1
	for _, test := range []struct {
		name string
		csr  []byte
		want error
	}{
		{"P-256", good, nil},
		{"P-384", csr(t, newKey(t, elliptic.P384())), nil},
		{"Ed25519", csr(t, ed), nil},
		{"P-224", csr(t, newKey(t, elliptic.P224())), fleet.ErrInvalid},
		{"P-521", csr(t, newKey(t, elliptic.P521())), fleet.ErrInvalid},
		{"RSA 1024", csr(t, weak), fleet.ErrInvalid},
		{"RSA 2048", csr(t, strong), fleet.ErrInvalid},
		{"forged", forged, fleet.ErrDenied},
		{"key of the CA itself", csr(t, a.signer.(repeatable).PrivateKey), fleet.ErrDenied},
		{"empty", nil, fleet.ErrInvalid},
		{"trailing bytes", append(slices.Clone(good), 0), fleet.ErrInvalid},
		{"unbounded request", make([]byte, maxCSR+1), fleet.ErrInvalid},
	} {
		r := request(t)
		r.CSR = test.csr
		if _, err := a.PrepareClient(r); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
}

func must1[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T { t.Helper(); must(t, err); return v }
}

func TestSameRequestSameBytes(t *testing.T) {
	a := newAuthority(t)
	r := request(t)
	_, first := issue(t, a, r)
	if _, second := issue(t, a, r); !bytes.Equal(first.Raw, second.Raw) {
		t.Error("the same request gave other bytes")
	}
	serials := map[string]string{first.SerialNumber.String(): "first"}
	for name, change := range map[string]func(*ClientRequest){
		"cluster":    func(r *ClientRequest) { r.Cluster = "edge-02" },
		"client":     func(r *ClientRequest) { r.Client.Kind = "csi" },
		"generation": func(r *ClientRequest) { r.Generation = 2 },
		"moment":     func(r *ClientRequest) { r.At = r.At.Add(time.Second) },
	} {
		r := r
		change(&r)
		_, c := issue(t, a, r)
		if same, ok := serials[c.SerialNumber.String()]; ok {
			t.Errorf("H6: %s has the serial of %s", name, same)
		}
		serials[c.SerialNumber.String()] = name
	}
}

// Nothing but what was linted is ever signed: what is signed are the very bytes
// that were linted, and they are those that crypto/x509 would have signed.
func TestSignOnlyWhatWasLinted(t *testing.T) {
	a := newAuthority(t)
	p, c := issue(t, a, request(t))
	if !bytes.Equal(c.RawTBSCertificate, p.linted) {
		t.Error("signed other bytes than were linted")
	}
	must(t, c.CheckSignatureFrom(a.certificate))
	for name, p := range map[string]*Prepared{"nothing": nil, "not linted": {Key: p.Key}} {
		if _, err := a.Sign(p); !errors.Is(err, errNotLinted) {
			t.Errorf("%s: signed (%v)", name, err)
		}
	}
	for i := range p.linted {
		changed := &Prepared{linted: bytes.Clone(p.linted)}
		changed.linted[i] ^= 1
		if other, err := a.Sign(changed); err == nil && bytes.Equal(other.X509.Signature, c.Signature) {
			t.Fatalf("byte %d is not signed", i)
		}
	}
}

func TestBuiltIsWhatTheLibraryBuilds(t *testing.T) {
	a := newAuthority(t)
	key := newKey(t, elliptic.P256())
	for name, template := range map[string]*x509.Certificate{
		"leaf": {SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "x"}, NotBefore: now, NotAfter: now.Add(time.Hour)},
		"CA":   {SerialNumber: big.NewInt(7), NotBefore: now, NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true},
	} {
		tbs, err := build(template, a.certificate, key.Public(), a.signer.Public())
		must(t, err)
		der, err := x509.CreateCertificate(nil, template, a.certificate, key.Public(), a.signer)
		must(t, err)
		c, err := sign(&Prepared{linted: tbs}, a.signer)
		must(t, err)
		if !bytes.Equal(c.Raw, der) {
			t.Errorf("%s: differs from what the library makes", name)
		}
	}
	if _, err := build(&x509.Certificate{}, a.certificate, key.Public(), a.signer.Public()); err == nil {
		t.Error("built a certificate without a serial number")
	}
}

// faulty signs wrongly, as hardware can.
type faulty struct{ crypto.Signer }

func (f faulty) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	signature, err := f.Signer.Sign(r, digest, o)
	if err == nil {
		signature[len(signature)-1] ^= 1
	}
	return signature, err
}

func TestWrongSignatureIsNotLetOut(t *testing.T) {
	a := newAuthority(t)
	p, err := a.PrepareClient(request(t))
	must(t, err)
	a.signer = faulty{a.signer}
	if _, err := a.Sign(p); err == nil {
		t.Error("let out a certificate whose signature does not verify")
	}
}

// The linter is not asleep: each of these breaks one rule.
func TestLint(t *testing.T) {
	a := newAuthority(t)
	key := newKey(t, elliptic.P256())
	for name, change := range map[string]func(*x509.Certificate){
		"negative life":                 func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(-time.Hour) },
		"cert sign without CA":          func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"serial beyond 20 octets":       func(c *x509.Certificate) { c.SerialNumber.Lsh(c.SerialNumber, 80) },
		"common name of 65 characters":  func(c *x509.Certificate) { c.Subject.CommonName = strings.Repeat("c", 65) },
		"no subject and no other names": func(c *x509.Certificate) { c.Subject, c.URIs = pkix.Name{}, nil },
	} {
		template := x509.Certificate{
			SerialNumber: new(big.Int).Lsh(big.NewInt(1), 120), Subject: pkix.Name{CommonName: "edge-01/kms"},
			URIs:      []*url.URL{{Scheme: "spiffe", Host: "rotor.internal", Path: "/edge-01/kms"}},
			NotBefore: now, NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
			BasicConstraintsValid: true, SubjectKeyId: bytes.Repeat([]byte{1}, 20), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		if _, err := a.prepare(&template, key.Public()); err != nil {
			t.Fatalf("%s: refused before it was broken: %v", name, err)
		}
		change(&template)
		if _, err := a.prepare(&template, key.Public()); err == nil {
			t.Errorf("%s: not found", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	if n := len(a.tool.Linter.rules); n < 100 {
		t.Errorf("only %d rules are in force", n)
	}
}

func TestOpenRefusesAnotherKey(t *testing.T) {
	a := newAuthority(t)
	for name, stored := range map[string][]byte{"other key": a.pem, "not PEM": []byte("x"), "not a certificate": encode([]byte("x"))} {
		if _, err := Open(stored, newKey(t, elliptic.P256()), "rotor.internal", a.tool); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
