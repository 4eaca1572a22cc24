package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// privateCAKey finds the CA of a script's certificates.
type privateCAKey struct{}

type privateCA struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// cmdCertificate writes the certificate of a server and its key, NAME.crt and
// NAME.key, of a CA in ca.pem: certificate NAME HOST [expired].
func cmdCertificate(ts *testscript.TestScript, _ bool, args []string) {
	values := worldOf(ts).env.Values
	ca, ok := values[privateCAKey{}].(*privateCA)
	if !ok {
		ca = &privateCA{}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Private CA"}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, NotBefore: clock.Wall().Add(-2 * time.Hour), NotAfter: clock.Wall().Add(time.Hour),
		}
		ca.certificate, ca.key = signedBy(ts, template, nil)
		writeFile(ts, "ca.pem", pemText("CERTIFICATE", ca.certificate.Raw))
		values[privateCAKey{}] = ca
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(clock.Wall().UnixNano()), NotBefore: clock.Wall().Add(-time.Hour), NotAfter: clock.Wall().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(args[1]); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{args[1]}
	}
	if len(args) > 2 {
		template.NotAfter = clock.Wall().Add(-time.Minute)
	}
	leaf, key := signedBy(ts, template, ca)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	// As whoever renews certificates does: aside, then renamed.
	writeFile(ts, "new", pemText("CERTIFICATE", leaf.Raw))
	ts.Check(os.Rename(ts.MkAbs("new"), ts.MkAbs(args[0]+".crt")))
	writeFile(ts, "new", pemText("PRIVATE KEY", raw))
	ts.Check(os.Rename(ts.MkAbs("new"), ts.MkAbs(args[0]+".key")))
}

// signedBy makes a key and its certificate, by itself without a CA.
func signedBy(ts *testscript.TestScript, template *x509.Certificate, ca *privateCA) (*x509.Certificate, crypto.Signer) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	if ca == nil {
		ca = &privateCA{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate, key.Public(), ca.key)
	ts.Check(err)
	c, err := x509.ParseCertificate(der)
	ts.Check(err)
	return c, key
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
