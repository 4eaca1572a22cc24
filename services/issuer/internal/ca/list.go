package ca

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// ListRequest asks for a CRL (RFC 5280, 5): a full one, of certificates that this
// CA has signed.
type ListRequest struct {
	Number     int64
	ThisUpdate time.Time
	NextUpdate time.Time
	Entries    []ListEntry
}

// ListEntry is one revoked certificate.
type ListEntry struct {
	Serial string // hexadecimal
	At     time.Time
	Reason int       // CRLReason code (RFC 5280, 5.3.1); 0 is left out, as 5.3.1 asks
	Ends   time.Time // end of the certificate; not part of the CRL
}

// SignList signs a CRL, once it is announced, and returns its DER form with the
// entries in its order. The same request gives the same bytes, where the key signs
// deterministically.
func (a *Authority) SignList(r ListRequest, announce Announce) (der []byte, entries []ListEntry, err error) {
	if r.Number < 1 || !r.NextUpdate.After(r.ThisUpdate) {
		return nil, nil, fmt.Errorf("%w: CRL %d from %s to %s", fleet.ErrInvalid, r.Number, r.ThisUpdate.Format(time.RFC3339), r.NextUpdate.Format(time.RFC3339))
	}
	template := &x509.RevocationList{Number: big.NewInt(r.Number), ThisUpdate: r.ThisUpdate.UTC(), NextUpdate: r.NextUpdate.UTC()}
	entries = slices.SortedFunc(slices.Values(r.Entries), func(x, y ListEntry) int {
		return cmp.Or(cmp.Compare(len(x.Serial), len(y.Serial)), cmp.Compare(x.Serial, y.Serial))
	})
	for _, e := range entries {
		serial, ok := new(big.Int).SetString(e.Serial, 16)
		if !ok || serial.Sign() <= 0 {
			return nil, nil, fmt.Errorf("%w: CRL: serial number %q", fleet.ErrInvalid, e.Serial)
		}
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: serial, RevocationTime: e.At.UTC().Truncate(time.Second), ReasonCode: e.Reason,
		})
	}
	// The bytes to be signed are those that are announced.
	draft := &recorder{public: a.signer.Public()}
	if _, err := x509.CreateRevocationList(nil, template, a.certificate, draft); !errors.Is(err, errRecorded) {
		return nil, nil, fmt.Errorf("build CRL of CA %s: %w", a.id, err)
	}
	if err := announce(audit.Signed{
		Kind: audit.KindList, ID: strconv.FormatInt(r.Number, 10), Issuer: a.id, Content: audit.Content(draft.message), NotAfter: template.NextUpdate,
	}); err != nil {
		return nil, nil, err
	}
	if der, err = x509.CreateRevocationList(rand.Reader, template, a.certificate, a.signer); err != nil {
		return nil, nil, fmt.Errorf("sign CRL of CA %s: %w", a.id, err)
	}
	// What a faulty signer gives away could betray the key.
	list, err := x509.ParseRevocationList(der)
	if err == nil {
		err = list.CheckSignatureFrom(a.certificate)
	}
	if err == nil && !bytes.Equal(list.RawTBSRevocationList, draft.message) {
		err = errors.New("what was signed is not what was announced")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("sign CRL of CA %s: %w", a.id, err)
	}
	return der, entries, nil
}

// ReadList returns the entries of a CRL that this CA has signed, in its order and
// without the ends of their certificates.
func (a *Authority) ReadList(der []byte) ([]ListEntry, error) {
	list, err := x509.ParseRevocationList(der)
	if err == nil {
		err = list.CheckSignatureFrom(a.certificate)
	}
	if err != nil {
		return nil, fmt.Errorf("CRL of CA %s: %w", a.id, err)
	}
	var entries []ListEntry
	for _, e := range list.RevokedCertificateEntries {
		entries = append(entries, ListEntry{Serial: e.SerialNumber.Text(16), At: e.RevocationTime, Reason: e.ReasonCode})
	}
	return entries, nil
}
