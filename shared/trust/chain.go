package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Chain returns a certificate chain (PEM, the leaf first) with the bridges that
// lead to its leaf's issuer, in place of those of before: a verifier that trusts
// only the other CA builds a path through them. Bridges are those of a Bundle.
// What is no chain stays as it is.
//
// The bridges come before an issuer that has signed itself, and behind one that an
// offline root has signed: OpenSSL takes the first certificate with the right name
// and looks for no other, unless it trusts one with that name, and Go tries them all.
func Chain(chain []byte, bridges []string) []byte {
	certificates := parse(chain)
	if len(certificates) == 0 {
		return chain
	}
	leaf, own := certificates[0], issuers(certificates)
	var between []*x509.Certificate
	for _, text := range bridges {
		path := parse([]byte(text))
		if len(path) > 0 && certifies(path[0], leaf) && !slices.ContainsFunc(own, path[0].Equal) {
			between = append(between, path...)
		}
	}
	order := slices.Concat(certificates[:1], between, own)
	if len(own) > 0 && !selfSigned(own[0]) {
		order = slices.Concat(certificates[:1], own, between)
	}
	var out bytes.Buffer
	for _, c := range order {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return out.Bytes()
}

// issuers returns what a chain is without its bridges and its leaf: the issuer
// that has signed itself; or else the first, with those that follow as each has
// signed the one before, which is how an issuer of an offline root comes.
func issuers(chain []*x509.Certificate) []*x509.Certificate {
	leaf := chain[0]
	own := -1
	for i, c := range chain[1:] {
		if !certifies(c, leaf) {
			continue
		}
		if selfSigned(c) {
			return []*x509.Certificate{c}
		}
		if own < 0 {
			own = i + 1
		}
	}
	if own < 0 {
		return nil
	}
	end := own + 1
	for end < len(chain) && certifies(chain[end], chain[end-1]) {
		end++
	}
	return chain[own:end]
}

// certifies reports whether a certificate has the name and the key identifier of
// the issuer of another (RFC 5280, 4.2.1.1). It verifies nothing.
func certifies(issuer, c *x509.Certificate) bool {
	return bytes.Equal(issuer.RawSubject, c.RawIssuer) &&
		(len(issuer.SubjectKeyId) == 0 || len(c.AuthorityKeyId) == 0 || bytes.Equal(issuer.SubjectKeyId, c.AuthorityKeyId))
}

// selfSigned looks at the signature: two CAs may bear one name, and a bridge
// between them then looks as if it had signed itself.
func selfSigned(c *x509.Certificate) bool {
	return certifies(c, c) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// MayBridge reports, as a fleet.ErrInvalid, what keeps a CA from having a bridge
// below it: a pathLenConstraint of its own certificate, or of one above it, that
// leaves no room for one more CA (RFC 5280, 4.2.1.9).
func MayBridge(by *fleet.CA) error {
	path := slices.Concat(parse(by.Certificate), parse(by.Chain), parse(by.Anchor))
	if len(path) == 0 {
		return invalid("CA %s: its certificate is not PEM", by.ID)
	}
	for i, c := range path {
		if limit, limited := pathLength(c); limited && limit < i+1 {
			return invalid("CA %s may have no CA below it: the pathLenConstraint of %s is %d", by.ID, title(c), limit)
		}
	}
	return nil
}

// pathLength returns how many CAs may stand below one, if that is limited.
func pathLength(c *x509.Certificate) (limit int, limited bool) {
	return c.MaxPathLen, c.MaxPathLen > 0 || c.MaxPathLen == 0 && c.MaxPathLenZero
}

// Same reports whether two texts (PEM) hold the same certificates, in whatever
// order.
func Same(a, b []byte) bool {
	x, y := parse(a), parse(b)
	within := func(all []*x509.Certificate) func(*x509.Certificate) bool {
		return func(c *x509.Certificate) bool { return !slices.ContainsFunc(all, c.Equal) }
	}
	return len(x) > 0 && len(y) > 0 && !slices.ContainsFunc(x, within(y)) && !slices.ContainsFunc(y, within(x))
}

// parse returns the certificates of a text, none if one of them cannot be read.
func parse(text []byte) []*x509.Certificate {
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil
		}
		all = append(all, c)
	}
	return all
}
