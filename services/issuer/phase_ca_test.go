package issuer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

// A CA that signs nothing yet certifies its canary, and nothing else; the one that
// signs certifies no canary.
func TestCertifyTheCanary(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	active := w.authority(t).CAs[0].ID
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MovePrepare, From: active})))
	incoming := w.authority(t).CAs[1].ID
	at := clock.Wall().Truncate(time.Second)
	_, csr := newCSR(t)
	canary := func(ca string, names ...string) error {
		e, err := event.Certify.New(event.Meta{Source: "gateway", Cluster: "_gateway-a", Key: append(names, ca), Time: at},
			event.CertifyCommand{CSR: csr, Names: names, At: at, CA: ca})
		must(t, err)
		return s.command(t.Context(), e)
	}
	must(t, canary("", "localhost"))
	must(t, canary(incoming, identity.CanaryName(incoming)))
	must(t, canary(incoming, identity.CanaryName(incoming)))
	stored, err := w.bundles.Get(t.Context(), "_gateway-a")
	must(t, err)
	server, made := stored.Value.Server, stored.Value.Canary
	if server == nil || made == nil || server.CA != active || made.CA != incoming || stored.Revision > 4 {
		t.Fatalf("%+v, %+v at %d", server, made, stored.Revision)
	}
	if _, err := leaf(t, made.Chain).Verify(x509.VerifyOptions{Roots: w.pool(t), DNSName: identity.CanaryName(incoming)}); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another name":           canary(incoming, "localhost"),
		"another name beside it": canary(incoming, identity.CanaryName(incoming), "localhost"),
		"the name of another":    canary(incoming, identity.CanaryName(active)),
		"by the one that signs":  canary("", identity.CanaryName(incoming)),
		"beside another name":    canary("", "localhost", strings.ToUpper(identity.CanaryName(incoming))),
	} {
		if !bus.IsPermanent(err) || !errors.Is(err, fleet.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Of another phase: nothing is made, and nothing is given up either.
	must(t, canary(active, identity.CanaryName(active)))
	must(t, canary("0000", identity.CanaryName("0000")))
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MoveWithdraw, ID: incoming, From: active})))
	must(t, canary(incoming, identity.CanaryName(incoming)))
	after, err := w.bundles.Get(t.Context(), "_gateway-a")
	must(t, err)
	if after.Revision != stored.Revision {
		t.Errorf("%+v", after.Value)
	}
}

// offlineRoot is an authority apart from Rotor.
type offlineRoot struct {
	key  *ecdsa.PrivateKey
	x509 *x509.Certificate
	pem  []byte
}

func newOfflineRoot(t testing.TB) offlineRoot {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Offline Root"}, NotBefore: clock.Wall().Add(-time.Hour), NotAfter: clock.Wall().AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return offlineRoot{key, c, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// sign answers a request as `openssl x509 -req -copy_extensions copyall` does.
func (o offlineRoot) sign(t testing.TB, csr []byte) []byte {
	t.Helper()
	request, err := x509.ParseCertificateRequest(csr)
	must(t, err)
	must(t, request.CheckSignature())
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: request.Subject, NotBefore: clock.Wall().Add(-time.Hour), NotAfter: clock.Wall().AddDate(1, 0, 0),
		ExtraExtensions: request.Extensions, SubjectKeyId: []byte{1, 2, 3, 4},
	}, o.x509, request.PublicKey, o.key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func external(t testing.TB, by string) event.Event {
	t.Helper()
	at := clock.Wall()
	e, err := event.External.New(event.Meta{Source: "gateway", Cluster: event.FleetWide, Key: []string{by, at.String()}, Time: at}, event.ExternalCommand{By: by, At: at})
	must(t, err)
	return e
}

// A CA that an offline root has signed: one request waits, however often and by
// whom it is asked for; its answer is taken over by a rotation, and what it signs
// verifies with the root alone.
func TestExternalCA(t *testing.T) {
	w := newWorld(t)
	all := []*service{w.service(t), w.service(t)}
	s := all[0]
	errs := make([]error, len(all))
	var group sync.WaitGroup
	for i, each := range all {
		e := external(t, "admin")
		group.Go(func() { errs[i] = each.command(t.Context(), e) })
	}
	group.Wait()
	must(t, errors.Join(errs...))
	doc := w.authority(t)
	if doc.Pending == nil || doc.Pending.Number != 2 || phasesOf(doc) != "active" {
		t.Fatalf("%+v", doc.Pending)
	}
	must(t, s.command(t.Context(), external(t, "somebody else")))
	if again := w.authority(t).Pending; !bytes.Equal(again.CSR, doc.Pending.CSR) {
		t.Error("another request")
	}
	request, err := x509.ParseCertificateRequest(doc.Pending.CSR)
	must(t, err)
	if named := w.signedOf(t, "authority.request"); len(named) == 0 || !slices.ContainsFunc(named, func(s audit.Signed) bool {
		return s.Kind == audit.KindRequest && s.ID == "2" && s.Content == audit.Content(request.RawTBSCertificateRequest)
	}) {
		t.Errorf("the ledger names %+v", named)
	}
	if request.Subject.String() != "CN=Rotor CA 2" {
		t.Errorf("%s", request.Subject)
	}
	// A rotation of Rotor's own goes by, and takes another number.
	w.swap(t, s, "own", false)
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Rollout: "own", Move: fleet.MoveRetire, ID: doc.CAs[0].ID, From: doc.CAs[0].ID})))
	doc = w.authority(t)
	if phasesOf(doc) != "retired active" || doc.CAs[1].Number != 3 || doc.Pending == nil {
		t.Fatalf("%s: %+v; %s", phasesOf(doc), doc.CAs[1], w.refused(t))
	}
	root, stranger := newOfflineRoot(t), newOfflineRoot(t)
	prepare := event.PhaseCommand{Move: fleet.MovePrepare, From: doc.CAs[1].ID, Certificate: stranger.sign(t, doc.Pending.CSR), Anchor: root.pem}
	must(t, s.phase(t.Context(), phaseEvent(t, prepare)))
	if got := w.refused(t); !strings.Contains(got, "is not signed by") || phasesOf(w.authority(t)) != "retired active" {
		t.Fatalf("refused: %q", got)
	}
	prepare.Certificate = root.sign(t, doc.Pending.CSR)
	for _, each := range all {
		must(t, each.phase(t.Context(), phaseEvent(t, prepare)))
	}
	doc = w.authority(t)
	if phasesOf(doc) != "retired active incoming" || doc.Pending != nil || doc.CAs[2].Number != 2 || doc.CAs[2].ID != "01020304" || doc.CAs[2].CreatedAt.IsZero() {
		t.Fatalf("%s: %+v; %s", phasesOf(doc), doc.CAs[2], w.refused(t))
	}
	if len(doc.Bundle.Certificates) != 2 || doc.Bundle.Certificates[1] != string(root.pem) {
		t.Errorf("the bundle does not have the offline root: %s", doc.Bundle.Certificates)
	}
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MoveActivate, ID: "01020304", From: doc.CAs[1].ID, Bundle: doc.Bundle.Version})))
	w.file(t, 1, kms)
	must(t, s.issue(t.Context(), w.order(t, "first", 1, kms)))
	p, ok := w.pickup(t, kms)
	if !ok {
		t.Fatal(w.refused(t))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root.x509)
	between.AppendCertsFromPEM(p.Chain)
	if _, err := leaf(t, p.Chain).Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if g := w.record(t, kms).Newest(); g.Certificate.Issuer != "01020304" {
		t.Errorf("by %s", g.Certificate.Issuer)
	}
}

// After a restore, no proof of before counts: it may be of a version that was lost
// with what came after the backup.
func TestProofsOfBeforeARestore(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	old := w.authority(t).CAs[0].ID
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MovePrepare, From: old})))
	_, err := bucket[fleet.Authority](t, w, bus.Authority).Edit(t.Context(), fleet.AuthorityKey, func(doc *fleet.Authority) error {
		doc.Epoch, doc.BundleFloor = "restored", 40
		return nil
	})
	must(t, err)
	s = w.service2(t)
	doc := w.authority(t)
	if doc.Bundle.Version != 40 || doc.CAs[1].Bundle != 40 {
		t.Fatalf("bundle %d, %+v", doc.Bundle.Version, doc.CAs[1])
	}
	w.pool(t)
	activate := event.PhaseCommand{Move: fleet.MoveActivate, ID: doc.CAs[1].ID, From: old, Bundle: 5}
	must(t, s.phase(t.Context(), phaseEvent(t, activate)))
	if got := w.refused(t); !strings.Contains(got, "from version 40 on") {
		t.Fatalf("refused: %q", got)
	}
	activate.Bundle = 40
	must(t, s.phase(t.Context(), phaseEvent(t, activate)))
	if got := phasesOf(w.authority(t)); got != "outgoing active" {
		t.Error(got, w.refused(t))
	}
}
