package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/rotor-fleet/rotor/shared/audit"
)

// The extensions that a CA asks for (RFC 5280, 4.2.1.9 and 4.2.1.3).
var (
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
)

// NewRequest returns, once it is announced, the request of a CA whose certificate an offline root signs
// (PKCS #10, DER, RFC 2986). It asks for the extensions that the certificate must
// have, so that the root only has to copy them: one CA may stand below, which is
// the certificate by which the next CA is trusted as well.
func NewRequest(signer crypto.Signer, number int, announce Announce) ([]byte, error) {
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
	id, err := keyID(signer.Public())
	if err != nil {
		return nil, err
	}
	template := &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "Rotor CA " + strconv.Itoa(number)},
		ExtraExtensions: []pkix.Extension{
			{Id: oidBasicConstraints, Critical: true, Value: constraints},
			{Id: oidKeyUsage, Critical: true, Value: usage},
		},
	}
	// The bytes to be signed are those that are announced.
	draft := &recorder{public: signer.Public()}
	if _, err := x509.CreateCertificateRequest(nil, template, draft); !errors.Is(err, errRecorded) {
		return nil, fmt.Errorf("build request of a CA: %w", err)
	}
	if err := announce(audit.Signed{
		Kind: audit.KindRequest, ID: strconv.Itoa(number), Subject: template.Subject.CommonName, Issuer: hex.EncodeToString(id), Content: audit.Content(draft.message),
	}); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, signer)
	if err != nil {
		return nil, fmt.Errorf("request of a CA: %w", err)
	}
	made, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = made.CheckSignature()
	}
	if err == nil && !bytes.Equal(made.RawTBSCertificateRequest, draft.message) {
		err = errors.New("what was signed is not what was announced")
	}
	if err != nil {
		return nil, fmt.Errorf("request of a CA: %w", err)
	}
	return der, nil
}
