package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

// ClientRequest asks for the certificate of one generation of a client.
type ClientRequest struct {
	Cluster    string
	Client     fleet.ClientKey
	Generation int
	CSR        []byte    // PKCS #10, DER; only its key is used
	At         time.Time // moment from which validity counts
	NotAfter   time.Time // last moment of validity that is wanted
}

// PrepareClient builds the certificate of a client: for signing in, and for
// nothing else. A life that would outlast the CA is cut to it.
func (a *Authority) PrepareClient(r ClientRequest) (*Prepared, error) {
	if err := fleet.CheckName("cluster", r.Cluster); err != nil {
		return nil, err
	}
	if _, err := fleet.ParseClientKey(r.Client.String()); err != nil {
		return nil, err
	}
	if r.Generation < 1 {
		return nil, fmt.Errorf("%w: generation %d: the first one is 1", fleet.ErrInvalid, r.Generation)
	}
	public, template, cut, err := a.leaf(r.CSR, r.At, r.NotAfter)
	if err != nil {
		return nil, err
	}
	template.SerialNumber = a.tool.serial(a.id, r.Cluster, r.Client.String(), strconv.Itoa(r.Generation), stamp(r.At))
	template.Subject = pkix.Name{CommonName: identity.CommonName(r.Cluster, r.Client)}
	template.URIs = []*url.URL{identity.URI(a.trustDomain, r.Cluster, r.Client)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	p, err := a.prepare(template, public)
	if err != nil {
		return nil, err
	}
	p.Cut = cut
	return p, nil
}

// ServerLife is the life of a gateway's certificate. It asks for the next one
// long before the end.
const ServerLife = 90 * fleet.Day

// maxNames bounds the names in a server certificate.
const maxNames = 32

// ServerRequest asks for the certificate of a gateway.
type ServerRequest struct {
	Gateway string // name of the gateway, for the serial number
	CSR     []byte
	Names   []string // DNS names and IP addresses
	At      time.Time
}

// PrepareServer builds the certificate of a gateway: for serving under the
// given names, and for nothing else.
func (a *Authority) PrepareServer(r ServerRequest) (*Prepared, error) {
	if len(r.Names) == 0 || len(r.Names) > maxNames {
		return nil, fmt.Errorf("%w: server certificate for %d names: ask for 1 to %d", fleet.ErrInvalid, len(r.Names), maxNames)
	}
	public, template, cut, err := a.leaf(r.CSR, r.At, r.At.Add(ServerLife))
	if err != nil {
		return nil, err
	}
	for _, name := range r.Names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		for label := range strings.SplitSeq(name, ".") {
			if err := fleet.CheckName("label of the DNS name "+strconv.Quote(name)+":", label); err != nil {
				return nil, err
			}
		}
		if !slices.Contains(template.DNSNames, name) {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if len(r.Names[0]) <= maxCommonName {
		template.Subject = pkix.Name{CommonName: r.Names[0]}
	}
	key, err := identity.Thumbprint(public)
	if err != nil {
		return nil, err
	}
	parts := append([]string{a.id, r.Gateway, key, stamp(r.At)}, r.Names...)
	template.SerialNumber = a.tool.serial(append([]string{"server"}, parts...)...)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	p, err := a.prepare(template, public)
	if err != nil {
		return nil, err
	}
	p.Cut = cut
	return p, nil
}

// maxCommonName is ub-common-name of RFC 5280, appendix A.1.
const maxCommonName = 64

// leaf returns what all leaves have in common: the key, the validity and the
// key identifiers; cut says that the validity was cut to that of the CA.
func (a *Authority) leaf(csr []byte, at, notAfter time.Time) (crypto.PublicKey, *x509.Certificate, bool, error) {
	at, notAfter = at.UTC().Truncate(time.Second), notAfter.UTC().Truncate(time.Second)
	ca := a.certificate
	switch {
	case !at.Before(ca.NotAfter):
		return nil, nil, false, fmt.Errorf("%w: CA %s has expired at %s: rotate the CA", fleet.ErrInvalid, a.id, ca.NotAfter.Format(time.RFC3339))
	case !notAfter.After(at):
		return nil, nil, false, fmt.Errorf("%w: a certificate from %s to %s has no life", fleet.ErrInvalid, at.Format(time.RFC3339), notAfter.Format(time.RFC3339))
	case notAfter.Sub(at) > fleet.AuthorityLife:
		return nil, nil, false, fmt.Errorf("%w: life of %s: at most %s, the life of a CA", fleet.ErrInvalid, notAfter.Sub(at), fleet.Duration(fleet.AuthorityLife))
	}
	public, err := CheckCSR(csr)
	if err != nil {
		return nil, nil, false, err
	}
	if own, ok := ca.PublicKey.(*ecdsa.PublicKey); ok && own.Equal(public) {
		return nil, nil, false, fmt.Errorf("%w: certificate request for the key of the CA itself", fleet.ErrDenied)
	}
	id, err := keyID(public)
	if err != nil {
		return nil, nil, false, err
	}
	cut := notAfter.After(ca.NotAfter)
	if cut {
		notAfter = ca.NotAfter
	}
	notBefore := at.Add(-fleet.Backdate)
	if notBefore.Before(ca.NotBefore) {
		notBefore = ca.NotBefore // no verifier accepts the chain before that
	}
	return public, &x509.Certificate{
		NotBefore: notBefore, NotAfter: notAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true, SubjectKeyId: id,
	}, cut, nil
}

// Root is a new CA.
type Root struct {
	ID          string // key identifier, hexadecimal
	Certificate []byte // PEM
	NotBefore   time.Time
	NotAfter    time.Time
}

// Announce writes down what is about to be signed. With an error nothing is signed.
type Announce func(audit.Signed) error

// RootRequest asks for the certificate of a new CA.
type RootRequest struct {
	Number int
	At     time.Time     // moment from which its life counts
	Life   time.Duration // 0 for fleet.AuthorityLife
}

// NewRoot makes the self-signed certificate of a CA. It signs leaves, and
// bridges to its predecessor and successor. The same request gives the same bytes.
func (t Tool) NewRoot(signer crypto.Signer, r RootRequest, announce Announce) (Root, error) {
	number, now, life := r.Number, r.At.UTC().Truncate(time.Second), r.Life.Truncate(time.Second)
	if life == 0 {
		life = fleet.AuthorityLife
	}
	if life < fleet.MinAuthorityLife || life > 10*fleet.AuthorityLife {
		return Root{}, fmt.Errorf("%w: life of a CA %s: use %s to %s", fleet.ErrInvalid, life,
			fleet.Duration(fleet.MinAuthorityLife), fleet.Duration(10*fleet.AuthorityLife))
	}
	public := signer.Public()
	id, err := keyID(public)
	if err != nil {
		return Root{}, err
	}
	template := &x509.Certificate{
		SerialNumber: t.serial("ca", hex.EncodeToString(id), strconv.Itoa(number), stamp(now)),
		Subject:      pkix.Name{CommonName: "Rotor CA " + strconv.Itoa(number)},
		NotBefore:    now.Add(-fleet.Backdate), NotAfter: now.Add(life),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: 1, // it signs leaves, and bridges to other CAs of this authority
		SubjectKeyId: id, AuthorityKeyId: id,
	}
	linted, err := t.rehearse(template, template, public, public)
	if err != nil {
		return Root{}, err
	}
	p := &Prepared{linted: linted, signed: described(template, linted, hex.EncodeToString(id))}
	if err := announce(p.Signed(audit.KindCA)); err != nil {
		return Root{}, err
	}
	c, err := sign(p, signer)
	if err != nil {
		return Root{}, err
	}
	return Root{ID: hex.EncodeToString(id), Certificate: encode(c.Raw), NotBefore: c.NotBefore, NotAfter: c.NotAfter}, nil
}

// stamp is the form in which moments enter derivations.
func stamp(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }
