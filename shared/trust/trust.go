// Package trust holds the signed form of the trust bundle, the one object that
// an agent believes without believing the connection it came over, and that of
// the checkpoints of the audit ledger.
//
// The bundle is a JWS in compact form (RFC 7515), signed by the fleet key
// (Ed25519), whose public half stands in the header. Agents pin the SHA-256 of
// that key's SubjectPublicKeyInfo at enrolment; the key outlives every CA.
package trust

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Type is the typ of the signed bundle.
const Type = "rotor-trust-bundle+jws"

// Bundle is the set of CA certificates trusted now.
type Bundle struct {
	Version      int      `json:"version"`
	Certificates []string `json:"certificates"` // PEM

	// Bridges lead from one of them to another, for verifiers that have only one.
	// They are trusted by nobody for themselves. PEM, the bridge first, then those
	// that lead from its issuer to an offline root.
	Bridges []string `json:"bridges,omitempty"`
}

// PEM returns the certificates one after the other.
func (b Bundle) PEM() []byte { return []byte(strings.Join(b.Certificates, "")) }

// Pool returns the certificates as a pool for verification.
func (b Bundle) Pool() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for i, text := range b.Certificates {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, fmt.Errorf("trust bundle %d: certificate %d is not PEM", b.Version, i+1)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("trust bundle %d: certificate %d: %w", b.Version, i+1, err)
		}
		pool.AddCert(certificate)
	}
	if len(b.Certificates) == 0 {
		return nil, fmt.Errorf("trust bundle %d: empty", b.Version)
	}
	return pool, nil
}

// Payload returns the bytes that the fleet key signs.
func (b Bundle) Payload() ([]byte, error) {
	payload, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("sign trust bundle: %w", err)
	}
	return payload, nil
}

// Hash names the signed form of a bundle, as fleet.TrustBundle does.
func Hash(signed string) string { return (&fleet.TrustBundle{Signed: signed}).Hash() }

// Pin returns the name of a fleet key: "sha256:" and the hexadecimal SHA-256 of
// its SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
func Pin(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("pin fleet key: %w", err)
	}
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// Sign returns the signed form of a bundle. The signer holds the fleet key.
func Sign(signer crypto.Signer, b Bundle) (string, error) {
	payload, err := b.Payload()
	if err != nil {
		return "", err
	}
	signed, err := signJWS(signer, Type, payload)
	if err != nil {
		return "", fmt.Errorf("sign trust bundle: %w", err)
	}
	return signed, nil
}

// ErrUntrusted says that a bundle was not signed by the pinned fleet key.
var ErrUntrusted = errors.New("not signed by the pinned fleet key")

// Verify returns the bundle if the key with this pin has signed it.
func Verify(signed, pin string) (Bundle, error) {
	if pin == "" {
		return Bundle{}, fmt.Errorf("trust bundle: no key is pinned: %w", ErrUntrusted)
	}
	var b Bundle
	if _, err := openJWS(signed, Type, pin, &b); err != nil {
		return Bundle{}, fmt.Errorf("trust bundle: %w", err)
	}
	if _, err := b.Pool(); err != nil {
		return Bundle{}, err
	}
	for i, text := range b.Bridges {
		if len(parse([]byte(text))) == 0 {
			return Bundle{}, fmt.Errorf("trust bundle %d: bridge %d is not PEM with certificates", b.Version, i+1)
		}
	}
	return b, nil
}
