// Package identity holds how a client is named in certificates and tokens, and
// how keys are named. Issuer, gateway and agent must agree on it to the byte.
package identity

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Subject returns the name of a client in full: "edge-01/kms" or
// "hq/node-agent/host-1". It is the sub of its tokens.
func Subject(cluster string, key fleet.ClientKey) string { return cluster + "/" + key.String() }

// ParseSubject is the inverse of Subject.
func ParseSubject(s string) (cluster string, key fleet.ClientKey, err error) {
	cluster, rest, ok := strings.Cut(s, "/")
	if !ok {
		return "", key, fmt.Errorf("%w: subject %q: want cluster/client", fleet.ErrInvalid, s)
	}
	if err := fleet.CheckName("cluster", cluster); err != nil {
		return "", key, err
	}
	key, err = fleet.ParseClientKey(rest)
	return cluster, key, err
}

// maxCommonName is ub-common-name of RFC 5280, appendix A.1.
const maxCommonName = 64

// CommonName returns the subject, cut to the 64 characters of a common name and
// kept unique by a hash where it is longer. The URI name is always in full.
func CommonName(cluster string, key fleet.ClientKey) string {
	name := Subject(cluster, key)
	if len(name) <= maxCommonName {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:maxCommonName-17] + "." + hex.EncodeToString(sum[:8])
}

// URI returns the URI name of a client in its certificate, in the form of a
// SPIFFE id: spiffe://<trust domain>/<cluster>/<kind>[/<instance>].
func URI(trustDomain, cluster string, key fleet.ClientKey) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/" + Subject(cluster, key)}
}

// CanaryName returns the one DNS name for which a CA that signs nothing yet may
// certify a server: the canary, by which agents prove that they trust it.
func CanaryName(caID string) string { return caID + ".canary.rotor.internal" }

// CanaryCA returns the CA whose canary has this name; ok is false for any other.
func CanaryCA(name string) (caID string, ok bool) {
	caID, ok = strings.CutSuffix(name, ".canary.rotor.internal")
	return caID, ok && caID != "" && !strings.Contains(caID, ".")
}

// FromCertificate returns the client that a certificate names.
func FromCertificate(c *x509.Certificate, trustDomain string) (cluster string, key fleet.ClientKey, err error) {
	if len(c.URIs) != 1 {
		return "", key, fmt.Errorf("%w: certificate has %d URI names, want 1", fleet.ErrDenied, len(c.URIs))
	}
	uri := c.URIs[0]
	if uri.Scheme != "spiffe" || uri.Host != trustDomain {
		return "", key, fmt.Errorf("%w: certificate is for %s, want trust domain %s", fleet.ErrDenied, uri, trustDomain)
	}
	return ParseSubject(strings.TrimPrefix(uri.Path, "/"))
}

// Thumbprint returns the JWK thumbprint of a public key with SHA-256, base64url
// (RFC 7638). It is the jkt of a token's cnf (RFC 9449, 6.1).
func Thumbprint(public crypto.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("thumbprint: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// Serial returns the form in which serial numbers are shown: lower-case
// hexadecimal without leading zeros.
func Serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// Fingerprint returns the SHA-256 of a DER certificate, hexadecimal.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// AgentID returns the name of an agent: the SHA-256 of its enrolment key's
// SubjectPublicKeyInfo, base64url.
func AgentID(spki []byte) string {
	sum := sha256.Sum256(spki)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
