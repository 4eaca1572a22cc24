package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// authority is a CA.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newAuthority() authority {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: clock.Wall().Add(-time.Hour), NotAfter: clock.Wall().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return authority{key, must(x509.ParseCertificate(der)), string(encodePEM(der))}
}

func encodePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (a authority) sign(template *x509.Certificate, public crypto.PublicKey) []byte {
	template.NotBefore = clock.Wall().Add(-5 * time.Minute)
	if template.NotAfter.IsZero() {
		template.NotAfter = clock.Wall().Add(time.Hour)
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	return must(x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key))
}

// server returns a certificate for 127.0.0.1.
func (a authority) server() *tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key.Public())
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func makeToken(subject, thumbprint string, expires time.Time) string {
	encode := base64.RawURLEncoding.EncodeToString
	payload := fmt.Sprintf(`{"sub":%q,"jti":%q,"exp":%d,"cnf":{"jkt":%q}}`, subject, rand.Text(), expires.Unix(), thumbprint)
	return encode([]byte(`{"alg":"EdDSA"}`)) + "." + encode([]byte(payload)) + "." + encode([]byte(rand.Text()))
}
