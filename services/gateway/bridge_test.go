package gateway_test

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// crossed returns a certificate of one CA that another has signed, PEM.
func crossed(t *testing.T, of *x509.Certificate, by *x509.Certificate, signer crypto.Signer) string {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(11), Subject: of.Subject, SubjectKeyId: of.SubjectKeyId, AuthorityKeyId: by.SubjectKeyId, IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: by.NotBefore, NotAfter: by.NotAfter,
	}, by, of.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(pemOf(der))
}

// edit changes the authority as the issuer would, and waits until the gateway knows.
func (w *world) edit(t *testing.T, f func(*fleet.Authority)) {
	t.Helper()
	if _, err := open[fleet.Authority](t, w, bus.Authority).Edit(t.Context(), fleet.AuthorityKey, func(a *fleet.Authority) error {
		f(a)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// shows makes a connection to the agents' listener as one who trusts a CA alone.
func (w *world) shows(only *x509.Certificate) error {
	roots := x509.NewCertPool()
	roots.AddCert(only)
	c, err := tls.Dial("tcp", w.agents, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "localhost"})
	if err == nil {
		err = c.Close()
	}
	return err
}

// While two CAs are trusted the gateway shows the bridges to its CA, and a program
// that signs in gets them; afterwards they go. The paths for people have the same.
func TestBridgesAreShownAndHandedOut(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	next, nextKey := newCA(t)
	get := func(path string, status int) string {
		t.Helper()
		response, body := w.call(t, http.MethodGet, path, "")
		if response.StatusCode != status || status == http.StatusOK && response.Header.Get("Content-Type") != "application/pem-certificate-chain" {
			t.Errorf("%s: %s %v", path, response.Status, response.Header)
		}
		return body
	}
	if body := get(api.PathBridges, http.StatusOK); body != "" {
		t.Errorf("bridges with one CA: %s", body)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](w.shows(next)); !ok {
		t.Fatal("who trusts another CA alone trusts the gateway")
	}
	// To the CA that signs here: the old one, by the new.
	forward, back := crossed(t, next, w.issuer.ca, w.issuer.caKey), crossed(t, w.issuer.ca, next, nextKey)
	w.edit(t, func(a *fleet.Authority) {
		a.CAs = append(a.CAs, fleet.CA{ID: "ca-2", Number: 2, Phase: fleet.PhaseIncoming, Certificate: pemOf(next.Raw), Chain: pemOf(w.issuer.ca.Raw), NotBefore: next.NotBefore, NotAfter: next.NotAfter})
		a.Bundle.Version, a.Bundle.Bridges = 2, []string{back, forward}
	})
	bustest.Eventually(t, func() error { return w.shows(next) })
	if err := w.shows(w.issuer.ca); err != nil {
		t.Errorf("who trusts the CA of before alone: %v", err)
	}
	bustest.Eventually(t, func() error {
		if body := get(api.PathBridges, http.StatusOK); body != back+forward {
			return fmt.Errorf("bridges: %s", body)
		}
		return nil
	})
	if body := get(api.PathCA+"/ca-1.pem", http.StatusOK); body != string(pemOf(w.issuer.ca.Raw)) {
		t.Errorf("CA 1: %s", body)
	}
	if body := get(api.PathCA+"/ca-2.pem", http.StatusOK); body != string(pemOf(next.Raw))+string(pemOf(w.issuer.ca.Raw)) {
		t.Errorf("CA 2, with what lies above it: %s", body)
	}
	for _, path := range []string{"/ca-3.pem", "/ca-1", "/.pem"} {
		get(api.PathCA+path, http.StatusNotFound)
	}
	p := w.signedIn(t, order{})
	reply, err := p.Login(t.Context(), p.with, newKey(t))
	if err != nil || !strings.Contains(reply.Certificate, back) || strings.Contains(reply.Certificate, forward) {
		t.Errorf("a program that signs in gets, %v:\n%s", err, reply.Certificate)
	}
	w.edit(t, func(a *fleet.Authority) {
		a.Bundle.Version, a.Bundle.Bridges, a.CAs[1].Phase = 3, nil, fleet.PhaseRetired
	})
	bustest.Eventually(t, func() error {
		if w.shows(next) == nil {
			return errors.New("the bridge is still shown")
		}
		return nil
	})
	get(api.PathCA+"/ca-2.pem", http.StatusOK) // also of one that is retired
}

// An offline root signs whom it likes: a call is proven only by what a CA of the
// fleet has signed that is trusted now.
func TestProofNeedsACAOfTheFleet(t *testing.T) {
	w := start(t)
	w.apply(t, fleetFile)
	root, rootKey := newCA(t)
	under := func(name string) (*x509.Certificate, crypto.Signer) {
		key := newKey(t)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(12), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		}, root, key.Public(), rootKey)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	own, ownKey := under("Rotor CA 2")
	other, otherKey := under("a CA of somebody else")
	anchor := string(pemOf(root.Raw))
	w.edit(t, func(a *fleet.Authority) {
		a.CAs = append(a.CAs, fleet.CA{ID: "ca-2", Number: 2, Phase: fleet.PhaseIncoming, Certificate: pemOf(own.Raw), Anchor: []byte(anchor), NotBefore: own.NotBefore, NotAfter: own.NotAfter})
		a.Bundle.Version, a.Bundle.Certificates = 2, append(a.Bundle.Certificates, anchor)
	})
	leafOf := func(ca *x509.Certificate, signer crypto.Signer) tls.Certificate {
		key := newKey(t)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(13), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotBefore: clock.Wall().Add(-time.Minute), NotAfter: clock.Wall().Add(time.Hour),
		}, ca, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Certificate{Certificate: [][]byte{der, ca.Raw}, PrivateKey: key}
	}
	refusal := func(pair tls.Certificate) string {
		_, err := w.prove(t, pair, "x")
		return fmt.Sprint(err)
	}
	// Its certificate names no client, which is looked at next.
	bustest.Eventually(t, func() error {
		if text := refusal(leafOf(own, ownKey)); !strings.Contains(text, "URI") {
			return fmt.Errorf("of our own CA: %s", text)
		}
		return nil
	})
	if text := refusal(leafOf(other, otherKey)); !strings.Contains(text, "no CA of this fleet that is trusted now has signed it") {
		t.Errorf("of another CA below the root: %s", text)
	}
	w.edit(t, func(a *fleet.Authority) { a.CAs[1].Phase = fleet.PhaseRetired })
	bustest.Eventually(t, func() error {
		if text := refusal(leafOf(own, ownKey)); !strings.Contains(text, "no CA of this fleet") {
			return fmt.Errorf("of our own CA, which is retired: %s", text)
		}
		return nil
	})
	if n := len(bustest.Stored(t, w.bus, event.CredentialProven)); n != 0 {
		t.Errorf("%d proofs", n)
	}
}
