package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// maxCSR bounds a request in bytes: one with a P-384 key and a long name stays
// below 1 KiB.
const maxCSR = 8 << 10

// CheckCSR returns the public key of a request (PKCS #10, DER, RFC 2986) whose
// sender has proven to hold the private key. Nothing else of a request is ever
// used: names and extensions are the authority's to say.
func CheckCSR(der []byte) (crypto.PublicKey, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("%w: certificate request of %d bytes: at most %d are read", fleet.ErrInvalid, len(der), maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: certificate request: %w", fleet.ErrInvalid, err)
	}
	// Before its signature is checked: the check with an oversized key is work.
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: certificate request is not signed by its key: %w", fleet.ErrDenied, err)
	}
	return csr.PublicKey, nil
}

// checkKey accepts what is strong and quick. RSA of any size is refused: no
// client of ours makes such keys, and making them is slow.
func checkKey(public crypto.PublicKey) error {
	const remedy = "make an ECDSA key on P-256 or P-384, or an Ed25519 key"
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("%w: key on curve %s: %s", fleet.ErrInvalid, k.Curve.Params().Name, remedy)
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		return fmt.Errorf("%w: RSA key of %d bits: %s", fleet.ErrInvalid, k.N.BitLen(), remedy)
	default:
		return fmt.Errorf("%w: key of type %T: %s", fleet.ErrInvalid, public, remedy)
	}
}
