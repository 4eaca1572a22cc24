// Package chain says which CA of the fleet has signed a certificate.
package chain

import (
	"crypto/x509"
	"encoding/pem"
	"slices"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Signed reports whether a CA has signed a certificate.
func Signed(ca *fleet.CA, leaf *x509.Certificate) bool {
	block, _ := pem.Decode(ca.Certificate)
	if block == nil {
		return false
	}
	issuer, err := x509.ParseCertificate(block.Bytes)
	return err == nil && leaf.CheckSignatureFrom(issuer) == nil
}

// Trusted reports whether a CA has signed a certificate that is not retired. A path
// to the trust bundle does not say so: an offline root may have signed other CAs than
// ours, and a bridge of before may still lead to one that is retired.
func Trusted(authority *fleet.Authority, leaf *x509.Certificate) bool {
	return slices.ContainsFunc(authority.CAs, func(ca fleet.CA) bool { return ca.Phase != fleet.PhaseRetired && Signed(&ca, leaf) })
}
