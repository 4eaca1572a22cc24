package inspect

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// place is where a piece of material was found.
type place struct{ source, item string }

// sub is a place within a place.
func (p place) sub(item string) place {
	if p.item != "" {
		item = p.item + " " + item
	}
	return place{p.source, item}
}

// text looks at a text that may be PEM, base64 of PEM or DER, or a signed token.
// It reports whether it was any of these.
func (r *run) text(at place, text []byte) bool {
	trimmed := bytes.TrimSpace(text)
	if bytes.Contains(trimmed, []byte("-----BEGIN ")) {
		return r.pem(at, trimmed)
	}
	if r.token(at, string(trimmed)) {
		return true
	}
	if len(trimmed) < 64 {
		return false
	}
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding} {
		// Base64 is often broken into lines.
		decoded, err := encoding.DecodeString(strings.Join(strings.Fields(string(trimmed)), ""))
		if err != nil {
			continue
		}
		decoded = bytes.TrimSpace(decoded)
		if bytes.Contains(decoded, []byte("-----BEGIN ")) {
			return r.pem(at, decoded)
		}
		return r.token(at, string(decoded)) || r.der(at, decoded)
	}
	return false
}

// pem looks at the blocks of a PEM text (RFC 7468). It reports whether one of
// them is something that ends.
func (r *run) pem(at place, text []byte) bool {
	var blocks []*pem.Block
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE", "X509 CRL":
			blocks = append(blocks, block)
		}
	}
	any := false
	for i, block := range blocks {
		where := at
		if len(blocks) > 1 {
			where = at.sub(fmt.Sprintf("%d of %d", i+1, len(blocks)))
		}
		if r.der(where, block.Bytes) {
			any = true
			continue
		}
		r.fail(strings.TrimSpace(where.source+" "+where.item), errors.New("a PEM block that says it is a certificate or a revocation list, and is none"))
	}
	return any
}

// der looks at a certificate or revocation list in DER.
func (r *run) der(at place, raw []byte) bool {
	if c, err := x509.ParseCertificate(raw); err == nil {
		r.found(certificate(at, c, ""))
		return true
	}
	list, err := x509.ParseRevocationList(raw)
	if err != nil {
		return false
	}
	f := Finding{
		Source: at.source, Item: at.item, Kind: CRL, Subject: fmt.Sprintf("%d revoked", len(list.RevokedCertificateEntries)),
		Issuer: list.Issuer.String(), NotBefore: list.ThisUpdate, NotAfter: list.NextUpdate,
	}
	if list.Number != nil {
		f.Serial = list.Number.Text(16)
	}
	if list.NextUpdate.IsZero() {
		return true // it names no end
	}
	r.found(f)
	return true
}

func certificate(at place, c *x509.Certificate, note string) Finding {
	sum := sha256.Sum256(c.Raw)
	f := Finding{
		Source: at.source, Item: at.item, Kind: Certificate, Subject: c.Subject.String(), Issuer: c.Issuer.String(),
		Serial: c.SerialNumber.Text(16), Fingerprint: hex.EncodeToString(sum[:]), Key: keyOf(c.PublicKey),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Note: note, Names: append([]string{}, c.DNSNames...),
	}
	for _, ip := range c.IPAddresses {
		f.Names = append(f.Names, ip.String())
	}
	for _, uri := range c.URIs {
		f.Names = append(f.Names, uri.String())
	}
	f.Names = append(f.Names, c.EmailAddresses...)
	if f.Subject == "" && len(f.Names) > 0 {
		f.Subject = f.Names[0]
	}
	if c.IsCA {
		f.Kind = Authority
	}
	return f
}

func keyOf(public any) string {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	default:
		return fmt.Sprintf("%T", public)
	}
}

// claims are the parts of a token that are looked at (RFC 7519, 4.1).
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	ID        string   `json:"jti"`
	NotBefore *float64 `json:"nbf"`
	IssuedAt  *float64 `json:"iat"`
	Expiry    *float64 `json:"exp"`
}

// maxToken bounds what is taken for a token.
const maxToken = 64 << 10

// token looks at a text that may be a signed token in compact form (RFC 7515,
// 7.1). Its signature is not checked: who made it is not known here. Nothing of
// it is kept but its claims.
func (r *run) token(at place, text string) bool {
	parts := strings.Split(text, ".")
	if len(parts) != 3 || len(text) > maxToken || !strings.HasPrefix(parts[0], "eyJ") {
		return false
	}
	var header struct {
		Algorithm string `json:"alg"`
	}
	var c claims
	if !segment(parts[0], &header) || header.Algorithm == "" || !segment(parts[1], &c) {
		return false
	}
	f := Finding{
		Source: at.source, Item: at.item, Kind: Token, Subject: c.Subject, Issuer: c.Issuer, Serial: c.ID,
		Key: header.Algorithm,
	}
	if c.Expiry == nil {
		return true // it never ends, as the old tokens of service accounts
	}
	f.NotAfter = moment(*c.Expiry)
	if begin := firstSet(c.NotBefore, c.IssuedAt); begin != nil {
		f.NotBefore = moment(*begin)
	}
	r.found(f)
	return true
}

func firstSet(values ...*float64) *float64 {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}

// latest is the end of the year 9999, beyond which no date can be written.
const latest = 253402300799

// moment converts a NumericDate (RFC 7519, 2).
func moment(seconds float64) time.Time {
	return time.Unix(int64(max(min(seconds, latest), 0)), 0)
}

func segment(text string, into any) bool {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	return err == nil && json.Unmarshal(raw, into) == nil
}
