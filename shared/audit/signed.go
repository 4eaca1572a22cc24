package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// SignedKind says what was signed.
type SignedKind string

// The kinds of what is signed.
const (
	KindCertificate SignedKind = "certificate" // of a client
	KindServer      SignedKind = "server"      // certificate of a gateway
	KindToken       SignedKind = "token"       // of a client
	KindCA          SignedKind = "ca"          // certificate of a CA, by itself or by another: a root, or a bridge
	KindList        SignedKind = "list"        // CRL
	KindBundle      SignedKind = "bundle"      // trust bundle
	KindRequest     SignedKind = "request"     // of a CA whose certificate an offline root signs (PKCS #10)
)

// Signed is one thing that the issuer signs. What an entry says of it is known
// before the signature is made: there is none without the entry.
type Signed struct {
	Kind       SignedKind `json:"kind" enum:"certificate,server,token,ca,list,bundle,request"`
	ID         string     `json:"id" doc:"serial number of a certificate in hexadecimal, jti of a token, number of a CRL, version of a trust bundle, number of the CA that a request is for"`
	Subject    string     `json:"subject,omitempty" doc:"<cluster>/<client>; of a server certificate the gateway, of a CA and its request the common name"`
	Generation int        `json:"generation,omitempty" doc:"of the client"`
	Issuer     string     `json:"issuer,omitempty" doc:"what signs: id of the CA, kid of the token key, pin of the fleet key"`
	Content    string     `json:"sha256,omitempty" doc:"SHA-256, in hexadecimal, of the bytes that are signed: TBSCertificate of a certificate (RFC 5280, 4.1.1.1), TBSCertList of a CRL (5.1.1.1), payload of a bundle (RFC 7515), CertificationRequestInfo of a request (RFC 2986, 4.1)"`
	NotAfter   time.Time  `json:"notAfter,omitzero" doc:"end of its validity"`
}

func (s Signed) equal(o Signed) bool {
	same := s.NotAfter.Equal(o.NotAfter)
	s.NotAfter = o.NotAfter
	return same && s == o
}

// Content returns what Signed says of the bytes that are signed.
func Content(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// maxSigned bounds what one entry names: at about 350 bytes each it stays far
// below maxEntry.
const maxSigned = 400

// Signing returns the entries that name what is about to be signed: one, or more
// where there is too much for one. The request of each depends on what the entry
// had as its request and on all that is signed: a repeat that comes to the same
// makes no second entry, one that comes to something else makes another.
func (e Entry) Signing(signed ...Signed) ([]Entry, error) {
	var all []Entry
	for len(signed) > 0 {
		n := min(len(signed), maxSigned)
		part := e
		part.Signed = signed[:n:n]
		signed = signed[n:]
		raw, err := json.Marshal(part.Signed)
		if err != nil {
			return nil, fmt.Errorf("audit %s: %w", e.Action, err)
		}
		part.Request = strings.TrimSpace(e.Request + " " + Content(raw)[:32])
		all = append(all, part)
	}
	return all, nil
}

// Command returns the request that Signing was given, of an entry that it made.
func (e Entry) Command() string {
	if len(e.Signed) == 0 {
		return e.Request
	}
	if at := strings.LastIndexByte(e.Request, ' '); at > 0 {
		return e.Request[:at]
	}
	return e.Request
}
