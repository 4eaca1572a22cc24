package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strconv"
)

// The extensions that a CA asks for (RFC 5280, 4.2.1.9 and 4.2.1.3).
var (
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
)

// NewRequest returns the request of a CA whose certificate an offline root signs
// (PKCS #10, DER, RFC 2986). It asks for the extensions that the certificate must
// have, so that the root only has to copy them: one CA may stand below, which is
// the certificate by which the next CA is trusted as well.
func NewRequest(signer crypto.Signer, number int) ([]byte, error) {
	constraints, err := asn1.Marshal(struct {
		CA         bool
		MaxPathLen int
	}{true, 1})
	if err != nil {
		return nil, fmt.Errorf("request of a CA: %w", err)
	}
	usage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0x06}, BitLength: 7}) // keyCertSign (5) and cRLSign (6)
	if err != nil {
		return nil, fmt.Errorf("request of a CA: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "Rotor CA " + strconv.Itoa(number)},
		ExtraExtensions: []pkix.Extension{
			{Id: oidBasicConstraints, Critical: true, Value: constraints},
			{Id: oidKeyUsage, Critical: true, Value: usage},
		},
	}, signer)
	if err != nil {
		return nil, fmt.Errorf("request of a CA: %w", err)
	}
	return der, nil
}
