package signin

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

// request is a certificate request that was checked: whoever sent it holds its
// key.
type request struct {
	der []byte
	key string // JWK thumbprint
}

// maxCSR is what the issuer reads of a request, in bytes.
const maxCSR = 8 << 10

// parseRequest reads a request (PKCS #10, RFC 2986) in PEM, or in DER as base64.
func parseRequest(text string) (request, error) {
	der, err := decode(strings.TrimSpace(text))
	if err != nil || len(der) > maxCSR {
		return request{}, fmt.Errorf("%w: csr: want a PKCS #10 request, as PEM or as base64 of DER", fleet.ErrInvalid)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return request{}, fmt.Errorf("%w: csr: want a PKCS #10 request, as PEM or as base64 of DER", fleet.ErrInvalid)
	}
	// Before the signature: to check one of an oversized key is work.
	if err := checkKey(csr.PublicKey); err != nil {
		return request{}, err
	}
	if err := csr.CheckSignature(); err != nil {
		return request{}, fmt.Errorf("%w: csr: its signature does not belong to its key", fleet.ErrInvalid)
	}
	key, err := identity.Thumbprint(csr.PublicKey)
	if err != nil {
		return request{}, fmt.Errorf("%w: csr: %w", fleet.ErrInvalid, err)
	}
	return request{der: der, key: key}, nil
}

func decode(text string) ([]byte, error) {
	if !strings.HasPrefix(text, "-----BEGIN") {
		return base64.StdEncoding.DecodeString(text)
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(strings.TrimSpace(string(rest))) > 0 || !strings.HasSuffix(block.Type, "CERTIFICATE REQUEST") {
		return nil, fleet.ErrInvalid
	}
	return block.Bytes, nil
}

func checkKey(public any) error {
	switch key := public.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
	}
	return fmt.Errorf("%w: csr: key %T: use ECDSA P-256 or P-384, or Ed25519", fleet.ErrInvalid, public)
}

// minLife is the shortest life that can be asked for: below it, two clocks that
// differ as far as they may would already disagree.
const minLife = 2 * fleet.Backdate

// lifeOf returns the life of a generation: that of the policy, or a shorter one
// that was asked for.
func lifeOf(asked fleet.Duration, p fleet.Policy, at time.Time) (fleet.Life, error) {
	certificate, token := p.CertificateLife, p.TokenLife
	if asked != 0 {
		if asked.Std() < minLife || asked > max(certificate, token) {
			return fleet.Life{}, fmt.Errorf("%w: life %s: ask for %s to %s", fleet.ErrInvalid, asked, fleet.Duration(minLife), max(certificate, token))
		}
		certificate, token = min(certificate, asked), min(token, asked)
	}
	return fleet.Life{Certificate: at.Add(certificate.Std()), Token: at.Add(token.Std())}, nil
}
