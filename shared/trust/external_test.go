package trust_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

var today = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// offline is what an operator's offline authority has made.
type offline struct {
	root, between, own                 *x509.Certificate // templates
	rootKey, betweenKey, ownKey, other crypto.Signer
	csr                                []byte
}

func ecKey(t testing.TB, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newOffline(t testing.TB) *offline {
	t.Helper()
	o := &offline{rootKey: ecKey(t, elliptic.P384()), betweenKey: ecKey(t, elliptic.P256()), ownKey: ecKey(t, elliptic.P256()), other: ecKey(t, elliptic.P256())}
	ca := func(name string, serial int64, years int) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: today.Add(-time.Hour), NotAfter: today.AddDate(years, 0, 0),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
	}
	o.root, o.between, o.own = ca("Offline Root", 1, 20), ca("Between", 2, 5), ca("Rotor CA 2", 3, 1)
	o.request(t, o.ownKey)
	return o
}

func (o *offline) request(t testing.TB, key crypto.Signer) {
	t.Helper()
	var err error
	if o.csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "Rotor CA 2"}}, key); err != nil {
		t.Fatal(err)
	}
}

func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// files returns the parts of the import.
func (o *offline) files(t testing.TB) (own, between, root []byte) {
	t.Helper()
	root = sign(t, o.root, o.root, o.rootKey.Public(), o.rootKey)
	between = sign(t, o.between, o.root, o.betweenKey.Public(), o.rootKey)
	own = sign(t, o.own, o.between, o.ownKey.Public(), o.betweenKey)
	return own, between, root
}

func TestCheckIssuingCA(t *testing.T) {
	o := newOffline(t)
	own, between, root := o.files(t)
	for name, certificate := range map[string][]byte{
		"without the root": bytes.Join([][]byte{own, between}, nil),
		"with the root":    bytes.Join([][]byte{own, between, root}, []byte("\n")),
	} {
		made, err := trust.CheckIssuingCA(certificate, root, o.csr, today)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(made.Certificate, own) || !bytes.Equal(made.Chain, between) || !bytes.Equal(made.Anchor, root) || len(made.ID) == 0 || made.X509.Subject.CommonName != "Rotor CA 2" {
			t.Errorf("%s: %+v", name, made)
		}
	}
	// Straight from the root, with RSA.
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaRoot := sign(t, o.root, o.root, key.Public(), key)
	if made, err := trust.CheckIssuingCA(sign(t, o.own, o.root, o.ownKey.Public(), key), rsaRoot, o.csr, today); err != nil || made.Chain != nil {
		t.Errorf("straight from an RSA root: %v", err)
	}
}

func TestCheckIssuingCARefuses(t *testing.T) {
	rsaWeak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*offline)
		give   func(own, between, root []byte) (certificate, anchor []byte) // nil: as it should be
		want   string
	}{
		{"no certificate", nil, func(_, _, root []byte) ([]byte, []byte) { return nil, root }, "certificate: empty"},
		{"no root", nil, func(own, between, _ []byte) ([]byte, []byte) { return append(own, between...), nil }, "root: empty"},
		{"not PEM", nil, func(own, _, root []byte) ([]byte, []byte) { return append(own, "garbage"...), root }, "follows on certificate 1 is not PEM"},
		{"a private key", nil, func(own, _, root []byte) ([]byte, []byte) {
			return append(own, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("x")})...), root
		}, "holds a private key"},
		{"a request", nil, func(_, _, root []byte) ([]byte, []byte) {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")}), root
		}, "type CERTIFICATE"},
		{"not a certificate", nil, func(_, _, root []byte) ([]byte, []byte) {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), root
		}, "certificate 1"},
		{"long", nil, func(own, _, root []byte) ([]byte, []byte) { return bytes.Repeat(own, 7), root }, "more than 6 certificates"},
		{"huge", nil, func(_, _, root []byte) ([]byte, []byte) { return make([]byte, 1<<17), root }, "at most"},
		{"nothing between", nil, func(own, _, root []byte) ([]byte, []byte) { return own, root }, "is not signed by"},
		{"wrong order", nil, func(own, between, root []byte) ([]byte, []byte) { return append(between, own...), root }, "another key than that of the request"},
		{"two roots", nil, func(own, between, root []byte) ([]byte, []byte) {
			return append(own, between...), append(root, root...)
		}, "more than 1 certificates"},
		{"root is not one", nil, func(own, between, _ []byte) ([]byte, []byte) { return own, between }, "was issued by"},
		{"the root itself", func(o *offline) { o.ownKey = o.rootKey }, func(_, _, root []byte) ([]byte, []byte) { return root, root }, "another key"},
		{"another key", func(o *offline) { o.ownKey = o.other }, nil, "another key than that of the request"},
		{"no CA", func(o *offline) { o.own.IsCA = false }, nil, "CA:TRUE"},
		{"no cRLSign", func(o *offline) { o.own.KeyUsage = x509.KeyUsageCertSign }, nil, "keyCertSign and cRLSign"},
		{"no keyCertSign", func(o *offline) { o.own.KeyUsage = x509.KeyUsageCRLSign }, nil, "keyCertSign and cRLSign"},
		{"expired", func(o *offline) { o.own.NotAfter = today.Add(-time.Second) }, nil, "expired at"},
		{"not valid yet", func(o *offline) { o.own.NotBefore = today.Add(time.Hour) }, nil, "is not valid before"},
		{"short", func(o *offline) { o.own.NotAfter = today.Add(fleet.MinAuthorityLife - time.Second) }, nil, "must be good for"},
		{"outlives what is between", func(o *offline) { o.own.NotAfter = o.between.NotAfter.Add(time.Second) }, nil, "before the CA at"},
		{"outlives the root", func(o *offline) { o.own.NotAfter = o.root.NotAfter.Add(time.Second) }, nil, "after its root"},
		{"no subject", func(o *offline) { o.own.Subject = pkix.Name{} }, nil, "no subject"},
		{"long key id", func(o *offline) { o.own.SubjectKeyId = make([]byte, 32) }, nil, "1 to 31"},
		{"client only", func(o *offline) { o.own.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, nil, "extKeyUsage"},
		{"constraints", func(o *offline) {
			o.own.PermittedDNSDomains, o.own.PermittedDNSDomainsCritical = []string{"example.com"}, true
		}, nil, "nameConstraints"},
		{"critical", func(o *offline) {
			o.own.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}, nil, "critical extension 1.2.3.4"},
		{"path between", func(o *offline) { o.between.MaxPathLenZero = true }, nil, "pathLenConstraint is 0"},
		{"path of the root", func(o *offline) { o.root.MaxPathLen = 1 }, nil, "pathLenConstraint is 1"},
		{"root expired", func(o *offline) { o.root.NotAfter = today.Add(-time.Second) }, nil, "root \"CN=Offline Root\": expired"},
		{"root is no CA", func(o *offline) { o.root.IsCA = false }, nil, "CA:TRUE"},
		{"root is weak", func(o *offline) { o.rootKey = rsaWeak }, nil, "RSA key of 1024 bits"},
		{"root on another curve", func(o *offline) { o.rootKey = ecKey(t, elliptic.P521()) }, nil, "P-521"},
		{"between with another key", func(o *offline) { o.betweenKey = ed }, nil, "ed25519"},
		{"nothing waits", func(o *offline) { o.csr = nil }, nil, "no request waits"},
		{"request damaged", func(o *offline) { o.csr = []byte{1} }, nil, "the request that waits"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOffline(t)
			if tt.change != nil {
				tt.change(o)
			}
			own, between, root := o.files(t)
			certificate, anchor := append(bytes.Clone(own), between...), root
			if tt.give != nil {
				certificate, anchor = tt.give(own, between, root)
			}
			_, err := trust.CheckIssuingCA(certificate, anchor, o.csr, today)
			if !errors.Is(err, fleet.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v; want %q", err, tt.want)
			}
		})
	}
}

// What operators import may be anything.
func FuzzCheckIssuingCA(f *testing.F) {
	o := newOffline(f)
	own, between, root := o.files(f)
	f.Add(append(bytes.Clone(own), between...), root)
	f.Add(own, between)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"), []byte{})
	f.Fuzz(func(t *testing.T, certificate, anchor []byte) {
		made, err := trust.CheckIssuingCA(certificate, anchor, o.csr, today)
		if (err == nil) == (made.X509 == nil) {
			t.Errorf("%v with %+v", err, made)
		}
		if err != nil && !errors.Is(err, fleet.ErrInvalid) {
			t.Error(err)
		}
	})
}
