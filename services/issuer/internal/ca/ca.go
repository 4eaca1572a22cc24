// Package ca builds, checks and signs certificates: pure decisions and
// cryptography, no network and no clock.
//
// Every certificate goes one way: Prepare* checks the request, builds the
// certificate and lints exactly the bytes to be signed; Sign signs those bytes
// and no others. There is no other path to the key but that of SignList, for CRLs.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

// Deriver gives values that look random and depend on nothing but a secret key
// and the parts.
type Deriver interface{ Derive(parts ...string) []byte }

// Authority is one generation of the CA, ready to sign. It is safe for
// concurrent use.
type Authority struct {
	id          string
	certificate *x509.Certificate
	pem         []byte
	signer      crypto.Signer
	tool        Tool
	trustDomain string
}

// Tool is what all generations share.
type Tool struct {
	Linter *Linter
	Serial Deriver
}

// Open returns the authority of a stored CA certificate (PEM) and its key. Where
// an offline root has signed the CA, the certificates between them follow on its
// own: they go into each chain.
func Open(stored []byte, signer crypto.Signer, trustDomain string, tool Tool) (*Authority, error) {
	block, between := pem.Decode(stored)
	if block == nil {
		return nil, fmt.Errorf("%w: CA certificate is not PEM", fleet.ErrInvalid)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: CA certificate: %w", fleet.ErrInvalid, err)
	}
	public, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || !public.Equal(signer.Public()) {
		return nil, fmt.Errorf("%w: the key does not belong to CA %s", fleet.ErrInvalid, c.Subject.CommonName)
	}
	return &Authority{
		id: hex.EncodeToString(c.SubjectKeyId), certificate: c, pem: append(encode(c.Raw), between...),
		signer: signer, tool: tool, trustDomain: trustDomain,
	}, nil
}

// ID returns the key identifier of the CA certificate, hexadecimal.
func (a *Authority) ID() string { return a.id }

// NotAfter returns the last moment of the CA's validity, inclusive.
func (a *Authority) NotAfter() time.Time { return a.certificate.NotAfter }

// Prepared is a certificate that was checked and linted, but not signed.
type Prepared struct {
	Key string // JWK thumbprint of the subject's key (RFC 7638)
	Cut bool   // its life was cut to that of the CA

	linted []byte // the TBSCertificate that was linted (RFC 5280, 4.1.1.1)
	signed audit.Signed
}

// Signed returns what the ledger says of the certificate. Whoever has it signed
// adds whose it is, and writes it down before.
func (p *Prepared) Signed(kind audit.SignedKind) audit.Signed {
	s := p.signed
	s.Kind = kind
	return s
}

// described is what the ledger says of a certificate that a CA is about to sign.
func described(template *x509.Certificate, tbs []byte, issuer string) audit.Signed {
	return audit.Signed{
		ID: template.SerialNumber.Text(16), Subject: template.Subject.CommonName, Issuer: issuer,
		Content: audit.Content(tbs), NotAfter: template.NotAfter.UTC(),
	}
}

// Certificate is a signed certificate.
type Certificate struct {
	X509  *x509.Certificate
	Chain []byte // itself, its issuer, and those up to an offline root, PEM
}

// prepare completes a certificate that this CA shall sign, and lints it.
func (a *Authority) prepare(template *x509.Certificate, public crypto.PublicKey) (*Prepared, error) {
	key, err := identity.Thumbprint(public)
	if err != nil {
		return nil, err
	}
	p := &Prepared{Key: key}
	if p.linted, err = a.tool.rehearse(template, a.certificate, public, a.signer.Public()); err != nil {
		return nil, err
	}
	p.signed = described(template, p.linted, a.id)
	return p, nil
}

// rehearse builds a certificate up to its signature, lints it, and returns the
// bytes to be signed.
func (t Tool) rehearse(template, parent *x509.Certificate, public, signer crypto.PublicKey) ([]byte, error) {
	tbs, err := build(template, parent, public, signer)
	if err != nil {
		return nil, fmt.Errorf("build certificate: %w", err)
	}
	if err := t.Linter.check(tbs); err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", template.Subject.CommonName, err)
	}
	return tbs, nil
}

// Sign signs what was prepared. Called again it may give another signature: an
// HSM signs with randomness. Whoever has stored the first one calls Complete.
func (a *Authority) Sign(p *Prepared) (Certificate, error) {
	c, err := sign(p, a.signer)
	if err != nil {
		return Certificate{}, err
	}
	return Certificate{X509: c, Chain: append(encode(c.Raw), a.pem...)}, nil
}

// Complete returns the certificate of what was prepared and a signature of
// before, which must be one of just that. The key is not used.
func (a *Authority) Complete(p *Prepared, signature []byte) (Certificate, error) {
	c, err := complete(p, signature, a.signer.Public())
	if err != nil {
		return Certificate{}, err
	}
	return Certificate{X509: c, Chain: append(encode(c.Raw), a.pem...)}, nil
}

// serial derives a serial number of at most 127 bits: positive, not zero, and
// not to be guessed without the key (RFC 5280, 4.1.2.2).
func (t Tool) serial(parts ...string) *big.Int {
	sum := t.Serial.Derive(append([]string{"rotor serial"}, parts...)...)[:16]
	sum[0] &= 0x7f
	n := new(big.Int).SetBytes(sum)
	if n.Sign() == 0 {
		n.SetInt64(1)
	}
	return n
}

// keyID returns the key identifier of a public key: the leftmost 160 bits of
// the SHA-256 of its BIT STRING (RFC 7093, 2, method 1).
func keyID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("key identifier: %w", err)
	}
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("key identifier: %w", err)
	}
	sum := sha256.Sum256(info.Key.Bytes)
	return sum[:20], nil
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
