package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
)

// build returns the TBSCertificate (RFC 5280, 4.1.2) that crypto/x509 makes of
// a template. It has x509.CreateCertificate do all of the work and stops it at
// the signature: so what is linted and what is signed are the same bytes, and
// neither a second signature nor its verification is spent on them.
func build(template, parent *x509.Certificate, public, signer crypto.PublicKey) ([]byte, error) {
	if template.SerialNumber == nil {
		return nil, errors.New("no serial number") // a random one would be another at each repeat
	}
	r := &recorder{public: signer}
	_, err := x509.CreateCertificate(nil, template, parent, public, r)
	if !errors.Is(err, errRecorded) {
		return nil, err // before it came to the signature, for nothing is ever signed
	}
	return r.message, nil
}

var errRecorded = errors.New("recorded")

// recorder is a crypto.MessageSigner that holds no key: it keeps the message
// and signs nothing.
type recorder struct {
	public  crypto.PublicKey
	message []byte
}

func (r *recorder) Public() crypto.PublicKey { return r.public }

func (r *recorder) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("record certificate: asked to sign a digest and not the message")
}

// SignMessage implements crypto.MessageSigner.
func (r *recorder) SignMessage(_ io.Reader, message []byte, _ crypto.SignerOpts) ([]byte, error) {
	r.message = message
	return nil, errRecorded
}

// algorithm is ecdsa-with-SHA256 (RFC 5758, 3.2): no parameters. The keystore
// makes CA keys on P-256 only.
func algorithm() pkix.AlgorithmIdentifier {
	return pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}
}

// assemble puts a signature to a TBSCertificate (RFC 5280, 4.1).
func assemble(tbs, signature []byte) ([]byte, error) {
	return asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, algorithm(), asn1.BitString{Bytes: signature, BitLength: len(signature) * 8}})
}

var errNotLinted = errors.New("sign certificate: was not linted")

// sign signs the bytes that were linted.
func sign(p *Prepared, signer crypto.Signer) (*x509.Certificate, error) {
	if p == nil || len(p.linted) == 0 {
		return nil, errNotLinted
	}
	digest := sha256.Sum256(p.linted)
	signature, err := signer.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return complete(p, signature, signer.Public())
}

// complete makes the certificate of a signature. The signature is verified before
// the certificate is let out: what a faulty signer gives away could betray the key.
func complete(p *Prepared, signature []byte, signer crypto.PublicKey) (*x509.Certificate, error) {
	if p == nil || len(p.linted) == 0 {
		return nil, errNotLinted
	}
	digest := sha256.Sum256(p.linted)
	public, ok := signer.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(public, digest[:], signature) {
		return nil, errors.New("sign certificate: the signature does not verify")
	}
	der, err := assemble(p.linted, signature)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	if c.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, fmt.Errorf("sign certificate: built for %s, and signed with ECDSA and SHA-256", c.SignatureAlgorithm)
	}
	return c, nil
}
