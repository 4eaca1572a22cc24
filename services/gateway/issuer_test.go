package gateway_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// issuer stands in for the issuer: it answers certify commands and signs what a
// test asks for.
type issuer struct {
	ca       *x509.Certificate
	caKey    crypto.Signer
	tokenKey ed25519.PrivateKey
	doc      fleet.Authority
	serial   int64
	programs programs
	csr      atomic.Pointer[[]byte] // of the CA to come, once it is asked for

	signer   atomic.Pointer[testCA]        // signs instead of ca; nil before a rotation
	busy     atomic.Pointer[chan struct{}] // certifies nobody until it is closed; nil for well
	incoming atomic.Pointer[testCA]        // signs canaries; nil while there is none, or it does not answer
}

// testCA is a CA of another number.
type testCA struct {
	id   string
	cert *x509.Certificate
	key  crypto.Signer
}

const trustDomain = "rotor.test"

func newIssuer(t *testing.T, s *bustest.Server) *issuer {
	t.Helper()
	i := &issuer{serial: 100}
	i.ca, i.caKey = newCA(t)
	public, tokenKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.tokenKey = tokenKey
	jwk, err := jose.JSONWebKey{Key: public, KeyID: "token-1", Use: "sig", Algorithm: "EdDSA"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	_, fleetKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := trust.Pin(fleetKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	text := string(pemOf(i.ca.Raw))
	signed, err := trust.Sign(fleetKey, trust.Bundle{Version: 1, Certificates: []string{text}})
	if err != nil {
		t.Fatal(err)
	}
	i.doc = fleet.Authority{
		CAs:         []fleet.CA{{ID: "ca-1", Number: 1, Phase: fleet.PhaseActive, Certificate: []byte(text), NotBefore: i.ca.NotBefore, NotAfter: i.ca.NotAfter}},
		Keys:        []fleet.SigningKey{{ID: "token-1", Number: 1, Phase: fleet.PhaseActive, JWK: jwk}},
		TokenIssuer: "http://issuer.test", Audience: []string{"rotor"}, TrustDomain: trustDomain,
		Bundle: fleet.TrustBundle{Version: 1, Certificates: []string{text}, FleetKey: pin, Signed: signed},
	}
	b, err := kv.Open[fleet.Authority](t.Context(), s.NATS, bus.Authority)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Create(t.Context(), fleet.AuthorityKey, i.doc); err != nil {
		t.Fatal(err)
	}
	bundles, err := kv.Open[fleet.Bundles](t.Context(), s.NATS, bus.Bundles)
	if err != nil {
		t.Fatal(err)
	}
	records, err := kv.Open[fleet.Credentials](t.Context(), s.NATS, bus.Credentials)
	if err != nil {
		t.Fatal(err)
	}
	consumer := bus.Consumer{
		Stream: bus.Commands, Name: "issuer", Log: bustest.Quiet(),
		Subjects: []string{event.Certify.Subject("*"), event.Login.Subject("*"), event.Revoke.Subject("*"), event.Reinstate.Subject("*"), event.External.Subject("*")},
	}
	lists, err := kv.Open[fleet.RevocationList](t.Context(), s.NATS, bus.Authority)
	if err != nil {
		t.Fatal(err)
	}
	bustest.Run(t, func(ctx context.Context) error {
		return s.Bus.Consume(ctx, consumer, func(ctx context.Context, e event.Event) error {
			if event.Login.Is(e) {
				return i.login(t, e, records, bundles)
			}
			if event.Revoke.Is(e) || event.Reinstate.Is(e) {
				return i.stand(ctx, e, records, lists)
			}
			if event.External.Is(e) {
				_, err := b.Edit(ctx, fleet.AuthorityKey, func(a *fleet.Authority) error {
					a.Pending = &fleet.PendingCA{Number: 2, CSR: *i.csr.Load(), CreatedAt: e.Time()}
					return nil
				})
				return err
			}
			return i.certify(ctx, bundles, e)
		})
	})
	return i
}

func (i *issuer) certify(ctx context.Context, bundles *kv.Bucket[fleet.Bundles], e event.Event) error {
	command, err := event.Certify.Decode(e)
	if err != nil {
		return err
	}
	if busy := i.busy.Load(); busy != nil {
		<-*busy
	}
	by, of := i.signer.Load(), command.CA
	if by == nil {
		by = &testCA{"ca-1", i.ca, i.caKey}
	}
	if of != "" {
		if by = i.incoming.Load(); by == nil || by.id != of {
			return nil // as the issuer does not answer for a CA that is not incoming
		}
	}
	csr, err := x509.ParseCertificateRequest(command.CSR)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: command.Names[0]},
		NotBefore: command.At.Add(-fleet.Backdate), NotAfter: command.At.Add(90 * fleet.Day),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range command.Names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, csr.PublicKey, by.key)
	if err != nil {
		return err
	}
	thumbprint, err := identity.Thumbprint(csr.PublicKey)
	if err != nil {
		return err
	}
	_, err = bundles.Edit(ctx, e.Subject(), func(b *fleet.Bundles) error {
		c := &fleet.ServerCertificate{CA: by.id, Key: thumbprint, Chain: append(pemOf(der), pemOf(by.cert.Raw)...), NotAfter: template.NotAfter}
		if of != "" {
			b.Canary = c
		} else {
			b.Server = c
		}
		return nil
	})
	return err
}

func newCA(t *testing.T) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key := newKey(t)
	now := clock.Wall()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(fleet.AuthorityLife),
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "Test CA"}}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca, key
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func csrOf(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "client"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// selfSigned makes the certificate of an enrolment key and the agent's id.
func selfSigned(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "agent"}, NotAfter: day("2100-01-01")}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, identity.AgentID(c.RawSubjectPublicKeyInfo)
}

// issued is one generation with its secrets.
type issued struct {
	fleet.Generation
	pair  tls.Certificate
	token string
}

// leaf and claims can be changed by a test before they are signed.
type order struct {
	cluster string
	client  fleet.ClientKey
	number  int
	agent   string
	step    fleet.Step
	leaf    func(*x509.Certificate)
	claims  func(map[string]any)
	typ     string
	public  crypto.PublicKey // of a program; nil makes a key
}

// sign makes a generation, valid from now.
func (i *issuer) sign(t *testing.T, o order) issued {
	t.Helper()
	i.serial++
	key, now := newKey(t), clock.Wall().Truncate(time.Second)
	if o.public == nil {
		o.public = key.Public()
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(i.serial), Subject: pkix.Name{CommonName: identity.CommonName(o.cluster, o.client)},
		URIs:      []*url.URL{identity.URI(trustDomain, o.cluster, o.client)},
		NotBefore: now.Add(-fleet.Backdate), NotAfter: now.Add(90 * fleet.Day), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if o.leaf != nil {
		o.leaf(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.ca, o.public, i.caKey)
	if err != nil {
		t.Fatal(err)
	}
	thumbprint, err := identity.Thumbprint(o.public)
	if err != nil {
		t.Fatal(err)
	}
	id := "jti-" + template.SerialNumber.Text(16)
	claims := map[string]any{
		"iss": i.doc.TokenIssuer, "aud": "rotor", "sub": identity.Subject(o.cluster, o.client), "jti": id,
		"nbf": now.Add(-fleet.Backdate).Unix(), "exp": now.Add(90 * fleet.Day).Unix(), "cnf": map[string]string{"jkt": thumbprint},
	}
	if o.claims != nil {
		o.claims(claims)
	}
	if o.typ == "" {
		o.typ = "at+jwt"
	}
	g := issued{pair: tls.Certificate{Certificate: [][]byte{der, i.ca.Raw}, PrivateKey: key}}
	g.token = i.mint(t, i.tokenKey, o.typ, claims)
	g.Generation = fleet.Generation{
		Number: o.number, Step: o.step, Reason: fleet.ReasonEnrolment, At: now, RenewAt: now.Add(45 * fleet.Day), Agent: o.agent, Key: thumbprint,
		Certificate: fleet.Certificate{Serial: template.SerialNumber.Text(16), NotBefore: template.NotBefore, NotAfter: template.NotAfter, Issuer: "ca-1"},
		Token:       fleet.Token{ID: id, NotBefore: now.Add(-fleet.Backdate), ExpiresAt: now.Add(90 * fleet.Day), KeyID: "token-1"},
	}
	return g
}

func (i *issuer) mint(t *testing.T, key ed25519.PrivateKey, typ string, claims map[string]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType(jose.ContentType(typ)).WithHeader("kid", "token-1")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// record puts generations of a client on record and, where they are not proven,
// up for pick-up.
func (w *world) record(t *testing.T, cluster string, client fleet.ClientKey, generations ...issued) {
	t.Helper()
	_, err := open[fleet.Credentials](t, w, bus.Credentials).Edit(t.Context(), cluster, func(c *fleet.Credentials) error {
		if c.Clients == nil {
			c.Clients = map[fleet.ClientKey]*fleet.Record{}
		}
		r := &fleet.Record{}
		for _, g := range generations {
			r.Generations = append(r.Generations, g.Generation)
		}
		c.Clients[client] = r
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	last := generations[len(generations)-1]
	_, err = open[fleet.Bundles](t, w, bus.Bundles).Edit(t.Context(), cluster, func(b *fleet.Bundles) error {
		if b.Clients == nil {
			b.Clients = map[fleet.ClientKey]fleet.Pickup{}
		}
		b.Clients[client] = fleet.Pickup{Generation: last.Number, Agent: last.Agent, Chain: pemOf(last.pair.Certificate[0]), Token: []byte("sealed")}
		return nil
	})
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
