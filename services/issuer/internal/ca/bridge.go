package ca

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Bridge returns, as PEM, a certificate of another CA of this authority that this
// one has signed: with the name and the key of the other, valid while both are
// (a cross-certificate, RFC 5280, 3.2). A verifier that trusts this CA alone
// builds a path through it to the leaves of the other. The same two CAs give the
// same bytes, where the key signs deterministically.
//
// A CA whose certificate allows no CA below it is fleet.ErrInvalid.
func (a *Authority) Bridge(of *Authority, announce Announce) ([]byte, error) {
	if !a.MayBridge() {
		return nil, fmt.Errorf("%w: CA %s may sign no CA: its pathLenConstraint is 0", fleet.ErrInvalid, a.id)
	}
	from, to := latest(a.certificate.NotBefore, of.certificate.NotBefore), a.certificate.NotAfter
	if of.certificate.NotAfter.Before(to) {
		to = of.certificate.NotAfter
	}
	if a.id == of.id || !to.After(from) {
		return nil, fmt.Errorf("%w: bridge from CA %s to %s: they are never valid together", fleet.ErrInvalid, a.id, of.id)
	}
	template := &x509.Certificate{
		SerialNumber: a.tool.serial("bridge", a.id, of.id, stamp(from), stamp(to)),
		RawSubject:   of.certificate.RawSubject,
		NotBefore:    from, NotAfter: to,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, // it leads to leaves, and to no other bridge
		SubjectKeyId:   of.certificate.SubjectKeyId,
		AuthorityKeyId: a.certificate.SubjectKeyId, // which crypto/x509 leaves out where both have one name
	}
	p, err := a.prepare(template, of.certificate.PublicKey)
	if err != nil {
		return nil, err
	}
	p.signed.Subject = of.certificate.Subject.CommonName
	if err := announce(p.Signed(audit.KindCA)); err != nil {
		return nil, err
	}
	c, err := sign(p, a.signer)
	if err != nil {
		return nil, err
	}
	return encode(c.Raw), nil
}

// MayBridge reports whether the certificate of the CA allows a CA below it.
// Those that were made before there were bridges do not.
func (a *Authority) MayBridge() bool {
	return a.certificate.MaxPathLen != 0 || !a.certificate.MaxPathLenZero
}

func latest(x, y time.Time) time.Time {
	if x.Before(y) {
		return y
	}
	return x
}
