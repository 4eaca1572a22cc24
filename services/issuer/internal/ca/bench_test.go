package ca

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"testing"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

func FuzzCheckCSR(f *testing.F) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(f, err)
	f.Add(csr(f, newKey(f, elliptic.P256())))
	f.Add(csr(f, ed))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		public, err := CheckCSR(der)
		if err == nil && checkKey(public) != nil {
			t.Error("accepted a key that is not allowed")
		}
		if err != nil && !errors.Is(err, fleet.ErrInvalid) && !errors.Is(err, fleet.ErrDenied) {
			t.Errorf("error of no kind: %v", err)
		}
	})
}

// BenchmarkRawSign is the measure: the request read and checked, a certificate
// built and signed by the standard library, and nothing else.
func BenchmarkRawSign(b *testing.B) {
	a := newAuthority(b)
	r := request(b)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "edge-01/kms"}, NotBefore: r.At, NotAfter: r.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	for b.Loop() {
		public, err := CheckCSR(r.CSR)
		must(b, err)
		if _, err := x509.CreateCertificate(nil, template, a.certificate, public, a.signer); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLint(b *testing.B) {
	a := newAuthority(b)
	p, _ := issue(b, a, request(b))
	for b.Loop() {
		must(b, a.tool.Linter.check(p.linted))
	}
}

func BenchmarkPrepareLintSign(b *testing.B) {
	a := newAuthority(b)
	r := request(b)
	for b.Loop() {
		p, err := a.PrepareClient(r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := a.Sign(p); err != nil {
			b.Fatal(err)
		}
	}
}
