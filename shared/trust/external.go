package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Issuing is a CA of Rotor that an offline root has signed, checked.
type Issuing struct {
	X509        *x509.Certificate
	ID          string // key identifier (RFC 5280, 4.2.1.2), hexadecimal
	Certificate []byte // PEM
	Chain       []byte // PEM: the certificates between it and the root, in their order; without the root
	Anchor      []byte // PEM: the offline root
}

// The bounds of what is imported.
const (
	maxImport = 64 << 10 // bytes; a certificate with an RSA key of 4096 bits has about 2 KiB
	maxChain  = 4        // certificates between the CA and its root
	maxKeyID  = 31       // bytes: in hexadecimal it has to fit into one label of a DNS name
)

// CheckIssuingCA checks the answer of an offline root to a request of Rotor.
// Certificate is PEM: the CA first, then each certificate's issuer up to the root,
// which may be left out. Anchor is the root, PEM. CSR is what waits to be
// signed (PKCS #10, DER). What is wrong is a fleet.ErrInvalid that says where it
// is and what would be right.
func CheckIssuingCA(certificate, anchor, csr []byte, now time.Time) (Issuing, error) {
	root, err := anchorOf(anchor, now)
	if err != nil {
		return Issuing{}, err
	}
	chain, err := certificates("certificate", certificate, maxChain+2)
	if err != nil {
		return Issuing{}, err
	}
	if last := len(chain) - 1; last > 0 && chain[last].Equal(root) {
		chain = chain[:last]
	}
	if len(chain) > maxChain+1 {
		return Issuing{}, invalid("certificate: %d certificates between the CA and its root: at most %d", len(chain)-1, maxChain)
	}
	own := chain[0]
	if err := checkRequest(own, csr); err != nil {
		return Issuing{}, err
	}
	if err := checkIssuing(own, root, now); err != nil {
		return Issuing{}, err
	}
	if err := checkPath(chain, root, now); err != nil {
		return Issuing{}, err
	}
	made := Issuing{X509: own, ID: hex.EncodeToString(own.SubjectKeyId), Certificate: encode(own), Anchor: encode(root)}
	for _, between := range chain[1:] {
		made.Chain = append(made.Chain, encode(between)...)
	}
	return made, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{fleet.ErrInvalid}, args...)...)
}

// certificates reads PEM that holds certificates and nothing else.
func certificates(what string, text []byte, most int) ([]*x509.Certificate, error) {
	if len(text) > maxImport {
		return nil, invalid("%s: %d bytes: at most %d are read", what, len(text), maxImport)
	}
	var all []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		block, after := pem.Decode(rest)
		switch {
		case block == nil:
			return nil, invalid("%s: what follows on certificate %d is not PEM: give PEM blocks of type CERTIFICATE", what, len(all))
		case strings.Contains(block.Type, "PRIVATE KEY"):
			return nil, invalid("%s: holds a private key: give certificates alone; that key is to be seen as lost", what)
		case block.Type != "CERTIFICATE":
			return nil, invalid("%s: block %d is a %.40q: give PEM blocks of type CERTIFICATE", what, len(all)+1, block.Type)
		case len(all) == most:
			return nil, invalid("%s: more than %d certificates", what, most)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, invalid("%s: certificate %d: %w", what, len(all)+1, err)
		}
		all, rest = append(all, c), after
	}
	if len(all) == 0 {
		return nil, invalid("%s: empty: give it as PEM", what)
	}
	return all, nil
}

// anchorOf checks the offline root.
func anchorOf(text []byte, now time.Time) (*x509.Certificate, error) {
	all, err := certificates("root", text, 1)
	if err != nil {
		return nil, err
	}
	root := all[0]
	name := "root " + title(root)
	switch {
	case !bytes.Equal(root.RawSubject, root.RawIssuer):
		return nil, invalid("%s: was issued by %q: give the self-signed root, and put what is between into the file of the CA", name, root.Issuer)
	case !root.BasicConstraintsValid || !root.IsCA:
		return nil, invalid("%s: is not a CA: its basicConstraints must say CA:TRUE (RFC 5280, 4.2.1.9)", name)
	case root.KeyUsage != 0 && root.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, invalid("%s: its keyUsage has no keyCertSign (RFC 5280, 4.2.1.3)", name)
	}
	if err := checkAnchorKey(name, root.PublicKey); err != nil {
		return nil, err
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return nil, invalid("%s: is not signed by its own key: %w", name, err)
	}
	return root, checkValidity(name, root, now)
}

func title(c *x509.Certificate) string { return fmt.Sprintf("%.200q", c.Subject.String()) }

// checkAnchorKey accepts the keys of offline roots and of those between: more
// kinds than Rotor makes itself, as an HSM may make no other.
func checkAnchorKey(name string, public crypto.PublicKey) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
		return invalid("%s: key on curve %s: use ECDSA on P-256 or P-384, or RSA of 2048 bits and more", name, k.Curve.Params().Name)
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits >= 2048 && bits <= 8192 {
			return nil
		}
		return invalid("%s: RSA key of %d bits: use 2048 to 8192, or ECDSA on P-256 or P-384", name, k.N.BitLen())
	default:
		return invalid("%s: key of type %T: use ECDSA on P-256 or P-384, or RSA of 2048 bits and more", name, public)
	}
}

func checkValidity(name string, c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return invalid("%s: expired at %s", name, c.NotAfter.UTC().Format(time.RFC3339))
	case now.Add(fleet.Backdate).Before(c.NotBefore):
		return invalid("%s: is not valid before %s, and it is %s: sign it again with an earlier notBefore", name,
			c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkRequest demands that the CA is for the key that waits.
func checkRequest(own *x509.Certificate, csr []byte) error {
	if len(csr) == 0 {
		return invalid("no request waits for a signature: make one first, with `rotor authority csr`")
	}
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return invalid("the request that waits: %w", err)
	}
	if key, ok := own.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(request.PublicKey) {
		return invalid("certificate %s: is for another key than that of the request %q which waits: sign that request, and put its certificate first",
			title(own), request.Subject.CommonName)
	}
	return nil
}

// checkIssuing checks the CA itself.
func checkIssuing(own, root *x509.Certificate, now time.Time) error {
	name := "certificate " + title(own)
	if err := checkValidity(name, own, now); err != nil {
		return err
	}
	const usages = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	switch left := own.NotAfter.Sub(now); {
	case own.Equal(root) || bytes.Equal(own.RawSubject, own.RawIssuer):
		return invalid("%s: has signed itself: it must be signed by the root", name)
	case len(own.RawSubject) <= 2: // an empty SEQUENCE (RFC 5280, 4.1.2.6)
		return invalid("%s: has no subject: a CA must have one (RFC 5280, 4.1.2.6)", name)
	case !own.BasicConstraintsValid || !own.IsCA:
		return invalid("%s: is not a CA: its basicConstraints must say CA:TRUE (RFC 5280, 4.2.1.9); with openssl, copy the extensions of the request", name)
	case own.KeyUsage&usages != usages:
		return invalid("%s: its keyUsage must have keyCertSign and cRLSign (RFC 5280, 4.2.1.3); with openssl, copy the extensions of the request", name)
	case len(own.SubjectKeyId) == 0 || len(own.SubjectKeyId) > maxKeyID:
		return invalid("%s: its subjectKeyIdentifier has %d bytes: it must have 1 to %d (RFC 5280, 4.2.1.2)", name, len(own.SubjectKeyId), maxKeyID)
	case left < fleet.MinAuthorityLife:
		return invalid("%s: ends at %s: it must be good for %s at least", name, own.NotAfter.UTC().Format(time.RFC3339), fleet.Duration(fleet.MinAuthorityLife))
	case own.NotAfter.After(root.NotAfter):
		return invalid("%s: ends at %s, after its root at %s: sign it for less", name,
			own.NotAfter.UTC().Format(time.RFC3339), root.NotAfter.UTC().Format(time.RFC3339))
	case !signsBoth(own):
		return invalid("%s: its extKeyUsage does not have clientAuth and serverAuth: leave it out", name)
	}
	return checkUnhandled(name, own)
}

// signsBoth reports whether the extended key usage, if there is any, allows the
// certificates of clients and of servers.
func signsBoth(c *x509.Certificate) bool {
	client, server := len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0, len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0
	for _, usage := range c.ExtKeyUsage {
		client = client || usage == x509.ExtKeyUsageClientAuth || usage == x509.ExtKeyUsageAny
		server = server || usage == x509.ExtKeyUsageServerAuth || usage == x509.ExtKeyUsageAny
	}
	return client && server
}

// checkUnhandled refuses what would make verifiers refuse the leaves later.
func checkUnhandled(name string, c *x509.Certificate) error {
	if len(c.UnhandledCriticalExtensions) > 0 {
		return invalid("%s: has the critical extension %s, which verifiers do not know: leave it out", name, c.UnhandledCriticalExtensions[0])
	}
	constraints := len(c.PermittedDNSDomains) + len(c.ExcludedDNSDomains) + len(c.PermittedIPRanges) + len(c.ExcludedIPRanges) +
		len(c.PermittedURIDomains) + len(c.ExcludedURIDomains) + len(c.PermittedEmailAddresses) + len(c.ExcludedEmailAddresses)
	if constraints > 0 {
		return invalid("%s: has nameConstraints, and not every verifier knows them for the URI names of clients: leave them out (RFC 5280, 4.2.1.10)", name)
	}
	return nil
}

// checkPath demands that each certificate is signed by the next and the last by
// the root, and that the path may end in leaves (RFC 5280, 6.1).
func checkPath(chain []*x509.Certificate, root *x509.Certificate, now time.Time) error {
	between := x509.NewCertPool()
	for i, c := range chain {
		name, next := fmt.Sprintf("certificate %d, %s", i+1, title(c)), root
		if i+1 < len(chain) {
			next = chain[i+1]
		}
		if err := c.CheckSignatureFrom(next); err != nil {
			return invalid("%s: is not signed by %s, which comes next: put the CA first, then the issuer of each, and give the right root: %w", name, title(next), err)
		}
		if i == 0 {
			continue
		}
		if err := checkValidity(name, c, now); err != nil {
			return err
		}
		if err := checkAnchorKey(name, c.PublicKey); err != nil {
			return err
		}
		if err := checkUnhandled(name, c); err != nil {
			return err
		}
		if c.NotAfter.Before(chain[0].NotAfter) {
			return invalid("%s: ends at %s, before the CA at %s: sign the CA for less", name,
				c.NotAfter.UTC().Format(time.RFC3339), chain[0].NotAfter.UTC().Format(time.RFC3339))
		}
		between.AddCert(c)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	at := now
	if at.Before(chain[0].NotBefore) {
		at = chain[0].NotBefore // within the skew that is allowed
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return invalid("certificate %s: no path leads to root %s: %w", title(chain[0]), title(root), err)
	}
	return pathLengths(chain, root)
}

// pathLengths demands that no pathLenConstraint is shorter than the number of CAs
// below it (RFC 5280, 4.2.1.9), which verification looks at for leaves alone.
func pathLengths(chain []*x509.Certificate, root *x509.Certificate) error {
	all := append(append([]*x509.Certificate(nil), chain...), root)
	for below, c := range all {
		if limit, limited := pathLength(c); below > 0 && limited && limit < below {
			return invalid("%s: its pathLenConstraint is %d, and %d CAs stand below it: no verifier would accept the leaves (RFC 5280, 4.2.1.9)",
				title(c), c.MaxPathLen, below)
		}
	}
	return nil
}

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
