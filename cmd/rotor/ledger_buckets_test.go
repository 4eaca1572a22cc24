package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/trust"
)

func bucketOf[T any](t *testing.T, s *bustest.Server, name string) *kv.Bucket[T] {
	t.Helper()
	b, err := kv.Open[T](t.Context(), s.NATS, name)
	fine(t, err)
	return b
}

func fine(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// told publishes a command and waits until its effect is there.
func told[T, D any](t *testing.T, s *bustest.Server, kind event.Kind[T], cluster string, command T, b *kv.Bucket[D], key string, done func(D) bool) D {
	t.Helper()
	fine(t, bus.Publish(t.Context(), s.Bus, kind, event.Meta{Source: "test", Cluster: cluster, Key: []string{cluster, fmt.Sprintf("%+v", command)}, Time: clock.Wall()}, command))
	var found D
	bustest.Eventually(t, func() error {
		e, err := b.Get(t.Context(), key)
		if err == nil && !done(e.Value) {
			err = errors.New("no effect yet")
		}
		found = e.Value
		return err
	})
	return found
}

// forger signs with a key of his own what looks like a certificate of the fleet.
type forger struct {
	key *ecdsa.PrivateKey
	csr []byte
}

func newForger(t *testing.T) forger {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fine(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "Rotor CA 3"}}, key)
	fine(t, err)
	return forger{key, csr}
}

// like returns a chain whose first certificate says what the first of another says,
// and has the forger's key.
func (f forger) like(t *testing.T, chain []byte) []byte {
	t.Helper()
	block, rest := pem.Decode(chain)
	c, err := x509.ParseCertificate(block.Bytes)
	fine(t, err)
	parent := &x509.Certificate{Subject: c.Issuer, SubjectKeyId: c.AuthorityKeyId}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: c.SerialNumber, Subject: c.Subject, NotBefore: c.NotBefore, NotAfter: c.NotAfter, KeyUsage: c.KeyUsage, ExtKeyUsage: c.ExtKeyUsage,
		URIs: c.URIs, DNSNames: c.DNSNames, IsCA: c.IsCA, BasicConstraintsValid: true, SubjectKeyId: c.SubjectKeyId, AuthorityKeyId: c.AuthorityKeyId,
	}, parent, f.key.Public(), f.key)
	fine(t, err)
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), rest...)
}

// list returns an empty CRL that names a CA as its issuer.
func (f forger) list(t *testing.T, l fleet.RevocationList) []byte {
	t.Helper()
	was, err := x509.ParseRevocationList(l.DER)
	fine(t, err)
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: was.Number, ThisUpdate: was.ThisUpdate, NextUpdate: was.NextUpdate.Add(time.Hour)},
		&x509.Certificate{RawSubject: was.RawIssuer, SubjectKeyId: was.AuthorityKeyId, KeyUsage: x509.KeyUsageCRLSign}, f.key)
	fine(t, err)
	return der
}

// Whatever lies signed in a bucket is in the ledger, and what the ledger names lies
// there: each kind of thing that somebody forges, takes away or puts back is named.
func TestATamperedBucketIsFound(t *testing.T) {
	t.Parallel()
	const gateway = "_gateway-a"
	client := fleet.ClientKey{Kind: "kms"}
	made := bustest.New(t)
	fleetOn(t, made)
	authorities, bundles := bucketOf[fleet.Authority](t, made, bus.Authority), bucketOf[fleet.Bundles](t, made, bus.Bundles)
	lists := bucketOf[fleet.RevocationList](t, made, bus.Authority)
	e, err := authorities.Get(t.Context(), fleet.AuthorityKey)
	fine(t, err)
	first, before := e.Value.ActiveCA().ID, e.Value
	var le kv.Entry[fleet.RevocationList]
	bustest.Eventually(t, func() (err error) {
		le, err = lists.Get(t.Context(), fleet.ListKey(first))
		return err
	})
	at := clock.Wall().Truncate(time.Second)
	after := told(t, made, event.Phase, event.FleetWide, event.PhaseCommand{
		Rollout: "r", Kind: fleet.RolloutCA, Move: fleet.MovePrepare, From: first, At: at,
	}, authorities, fleet.AuthorityKey, func(a fleet.Authority) bool { return a.IncomingCA() != nil && len(a.Bridges) == 2 })
	second := after.IncomingCA().ID
	f, owner := newForger(t), newForger(t)
	told(t, made, event.Certify, gateway, event.CertifyCommand{CSR: owner.csr, Names: []string{"localhost"}, At: at}, bundles, gateway,
		func(b fleet.Bundles) bool { return b.Server != nil })
	told(t, made, event.Certify, gateway, event.CertifyCommand{CSR: owner.csr, Names: []string{identity.CanaryName(second)}, At: at, CA: second}, bundles, gateway,
		func(b fleet.Bundles) bool { return b.Canary != nil })
	waiting, err := bundles.Get(t.Context(), "edge-01")
	fine(t, err)
	told(t, made, event.Revoke, "edge-01", event.RevokeCommand{Client: client, Reason: fleet.KeyCompromise, By: "admin", At: at}, lists, fleet.ListKey(first),
		func(l fleet.RevocationList) bool { return l.Number > le.Value.Number })

	// Two days later it is looked at by a gateway alone.
	s := bustest.NewEmpty(t)
	url, token := dump(t, made).serveOn(t, s, clock.Fast(clock.Wall(), clock.Wall().Add(48*time.Hour), 1))
	authorities, bundles, lists = bucketOf[fleet.Authority](t, s, bus.Authority), bucketOf[fleet.Bundles](t, s, bus.Bundles), bucketOf[fleet.RevocationList](t, s, bus.Authority)
	edited(t, bundles, "edge-01", func(b *fleet.Bundles) { *b = waiting.Value })() // what the revocation took away
	inAuthority := func(change func(*fleet.Authority)) func() func() {
		return edited(t, authorities, fleet.AuthorityKey, change)
	}
	inBundles := func(key string, change func(*fleet.Bundles)) func() func() { return edited(t, bundles, key, change) }
	_, foreign, err := ed25519.GenerateKey(nil)
	fine(t, err)
	for _, test := range []struct {
		name string
		do   func() (undo func())
		says string
	}{
		{name: "as written"},
		{"a CA", inAuthority(func(a *fleet.Authority) { a.CAs[0].Certificate = f.like(t, a.CAs[0].Certificate) }), "authority/ca/" + first + ": CA "},
		{"a CA beside", inAuthority(func(a *fleet.Authority) {
			c := a.CAs[0]
			c.ID, c.Phase, c.Anchor = "f0", fleet.PhaseOutgoing, f.like(t, c.Certificate)
			a.CAs = append(a.CAs, c)
		}), "authority/ca/f0: CA f0 is outgoing, and the trust bundle does not have it"},
		{"a CA taken away", inAuthority(func(a *fleet.Authority) { a.CAs = a.CAs[:1] }), " of Rotor CA 2 by CA " + second + ", which entry "},
		{"a bridge", inAuthority(func(a *fleet.Authority) { a.Bridges[0].Certificate = f.like(t, a.Bridges[0].Certificate) }), "authority/bridge/"},
		{"a bridge taken away", inAuthority(func(a *fleet.Authority) { a.Bridges = a.Bridges[:1] }), "lies in no bucket"},
		{"a severed bridge", inAuthority(func(a *fleet.Authority) {
			a.Severed = []fleet.SeveredBridge{{By: first, Serial: "77", NotAfter: clock.Wall().AddDate(1, 0, 0)}}
		}), "authority/severed/" + first + "/77"},
		{"the trust bundle in clear", inAuthority(func(a *fleet.Authority) {
			a.Bundle.Certificates = append(slices.Clone(a.Bundle.Certificates), string(f.like(t, a.CAs[0].Certificate)))
		}), "authority/bundle: trust bundle 2 has another content"},
		{"the trust bundle, signed", inAuthority(func(a *fleet.Authority) {
			signed, err := trust.Sign(foreign, trust.Bundle{Version: a.Bundle.Version, Certificates: []string{string(f.like(t, a.CAs[0].Certificate))}})
			fine(t, err)
			a.Bundle.Signed = signed
		}), "authority/bundle.jws: trust bundle 2 has another content"},
		{"the authority of before", inAuthority(func(a *fleet.Authority) { checkpoint := a.Checkpoint; *a = before; a.Checkpoint = checkpoint }), "trust bundle 2, which entry "},
		{"a request", inAuthority(func(a *fleet.Authority) { a.Pending = &fleet.PendingCA{Number: 3, CSR: f.csr} }), "authority/request: the request of CA 3"},
		{"a CRL", edited(t, lists, fleet.ListKey(first), func(l *fleet.RevocationList) { l.DER = f.list(t, *l) }), "authority/crl-" + first},
		{"a CRL of before", edited(t, lists, fleet.ListKey(first), func(l *fleet.RevocationList) { *l = le.Value }), "is not handed out, and " + fmt.Sprint(le.Value.Number) + " is"},
		{"a gateway", inBundles(gateway, func(b *fleet.Bundles) { b.Server.Chain = f.like(t, b.Server.Chain) }), "bundles/_gateway-a/server: server "},
		{"a gateway taken away", inBundles(gateway, func(b *fleet.Bundles) { b.Server, b.Canary = nil, nil }), "of _gateway-a, which entry "},
		{"a canary", inBundles(gateway, func(b *fleet.Bundles) { b.Canary.Chain = f.like(t, b.Canary.Chain) }), "bundles/_gateway-a/canary: server "},
		{"what is no certificate", inBundles(gateway, func(b *fleet.Bundles) { b.Canary.Chain = []byte("none") }), "bundles/_gateway-a/canary"},
		{"a pick-up", inBundles("edge-01", func(b *fleet.Bundles) {
			b.Clients[client] = fleet.Pickup{Generation: 2, Chain: f.like(t, b.Clients[client].Chain)}
		}), "bundles/edge-01/client/kms: certificate "},
		{"a pick-up of another", inBundles("edge-01", func(b *fleet.Bundles) { b.Clients[fleet.ClientKey{Kind: "csi"}] = b.Clients[client] }), "bundles/edge-01/client/csi: certificate "},
		{"an issuer in a pick-up", inBundles("edge-01", func(b *fleet.Bundles) {
			p := b.Clients[client]
			p.Chain = append(bytes.Clone(p.Chain), f.like(t, after.CAs[0].Certificate)...)
			b.Clients[client] = p
		}), "bundles/edge-01/client/kms/issuer/2: CA certificate "},
		{"an answer", inBundles("edge-01", func(b *fleet.Bundles) {
			b.Answers = []fleet.Answer{{Command: "c", Generation: 2, Chain: f.like(t, b.Clients[client].Chain)}}
		}), "bundles/edge-01/answer/c: certificate "},
	} {
		undo := func() {}
		if test.do != nil {
			undo = test.do()
		}
		code, out := rotorWith(t, url, token, "audit", "verify")
		undo()
		switch {
		case test.says == "" && (code != 0 || !strings.Contains(out, "11 signatures of CAs, gateways")):
			t.Errorf("%s: exit code %d: %s", test.name, code, out)
		case test.says != "" && (code != 1 || !strings.Contains(out, test.says)):
			t.Errorf("%s: exit code %d, and not %q: %s", test.name, code, test.says, out)
		}
	}
}

// edited changes a document, and gives back how to undo it.
func edited[T any](t *testing.T, b *kv.Bucket[T], key string, change func(*T)) func() func() {
	return func() func() {
		was, err := b.Get(t.Context(), key)
		fine(t, err)
		_, err = b.Edit(t.Context(), key, func(v *T) error { change(v); return nil })
		fine(t, err)
		return func() {
			_, err := b.Edit(t.Context(), key, func(v *T) error { *v = was.Value; return nil })
			fine(t, err)
		}
	}
}
