package ca

import (
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
)

// counting counts the signatures of a key.
type counting struct {
	repeatable
	signed *int
}

func (c counting) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	*c.signed++
	return c.repeatable.Sign(random, digest, opts)
}

// What signs and takes an announcement signs nothing that was not announced, and
// exactly what was.
func TestNothingIsSignedBeforeItIsAnnounced(t *testing.T) {
	signed := 0
	a, other := newAuthority(t), newAuthority(t)
	own, ok := a.signer.(repeatable)
	if !ok {
		t.Fatalf("%T", a.signer)
	}
	a.signer = counting{own, &signed}
	for name, sign := range map[string]func(Announce) (tbs []byte, err error){
		"a root": func(announce Announce) ([]byte, error) {
			key := counting{repeatable{newKey(t, elliptic.P256())}, &signed}
			root, err := a.tool.NewRoot(key, RootRequest{Number: 2, At: now}, announce)
			if err != nil {
				return nil, err
			}
			made, err := Open(root.Certificate, key, a.trustDomain, a.tool)
			must(t, err)
			return made.certificate.RawTBSCertificate, nil
		},
		"a bridge": func(announce Announce) ([]byte, error) {
			text, err := a.Bridge(other, announce)
			if err != nil {
				return nil, err
			}
			block, _ := pem.Decode(text)
			made, err := x509.ParseCertificate(block.Bytes)
			must(t, err)
			return made.RawTBSCertificate, nil
		},
		"a CRL": func(announce Announce) ([]byte, error) {
			der, _, err := a.SignList(ListRequest{Number: 1, ThisUpdate: now, NextUpdate: now.Add(time.Hour)}, announce)
			if err != nil {
				return nil, err
			}
			list, err := x509.ParseRevocationList(der)
			must(t, err)
			return list.RawTBSRevocationList, nil
		},
		"a request": func(announce Announce) ([]byte, error) {
			der, err := NewRequest(a.signer, 2, announce)
			if err != nil {
				return nil, err
			}
			request, err := x509.ParseCertificateRequest(der)
			must(t, err)
			return request.RawTBSCertificateRequest, nil
		},
	} {
		signed = 0
		full := errors.New("no space on the disk")
		if _, err := sign(func(audit.Signed) error { return full }); !errors.Is(err, full) || signed != 0 {
			t.Errorf("%s: %d signatures without an entry: %v", name, signed, err)
		}
		var named audit.Signed
		before := -1
		tbs, err := sign(func(s audit.Signed) error { named, before = s, signed; return nil })
		must(t, err)
		if before != 0 || signed != 1 || named.Content != audit.Content(tbs) {
			t.Errorf("%s: %d signatures before the entry, %d in all; it names %+v", name, before, signed, named)
		}
	}
}
