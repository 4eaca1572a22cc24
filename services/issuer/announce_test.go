package issuer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/health"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// signedOf returns what the entries of an action name.
func (w *world) signedOf(t testing.TB, action string) []audit.Signed {
	t.Helper()
	var all []audit.Signed
	for _, e := range w.chain(t) {
		if e.Action == action {
			all = append(all, e.Signed...)
		}
	}
	return all
}

// All that an issuer signs from its first start on is in the ledger, as it is on
// record, once.
func TestEverySignatureHasAnEntry(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.file(t, 1, kms, csi)
	e := w.order(t, "first", 1, kms, csi, nodeAgent)
	must(t, s.issue(t.Context(), e))
	must(t, w.service2(t).issue(t.Context(), e))
	must(t, s.lists.add(t.Context(), nil))
	must(t, s.revoke(t.Context(), w.revocation(t, "r", csi, fleet.Superseded)))
	doc := w.authority(t)

	cas := w.signedOf(t, "authority.sign")
	root := leaf(t, doc.CAs[0].Certificate)
	if len(cas) != 1 || cas[0].Kind != audit.KindCA || cas[0].ID != root.SerialNumber.Text(16) || cas[0].Issuer != doc.CAs[0].ID || cas[0].Content != audit.Content(root.RawTBSCertificate) {
		t.Errorf("CA: %+v", cas)
	}
	bundles := w.signedOf(t, "bundle.sign")
	payload, err := trust.Bundle{Version: 1, Certificates: doc.Bundle.Certificates}.Payload()
	must(t, err)
	if len(bundles) != 1 || bundles[0].ID != "1" || bundles[0].Issuer != doc.Bundle.FleetKey || bundles[0].Content != audit.Content(payload) {
		t.Errorf("bundle: %+v", bundles)
	}
	list := w.list(t)
	lists := w.signedOf(t, "crl.sign")
	if len(lists) == 0 || lists[len(lists)-1].ID != list.Number.String() || lists[len(lists)-1].Content != audit.Content(list.RawTBSRevocationList) {
		t.Errorf("CRL %s: %+v", list.Number, lists)
	}
	passes := w.signedOf(t, "credential.sign")
	if len(passes) != 4 {
		t.Fatalf("two generations: %+v", passes)
	}
	for i, key := range []fleet.ClientKey{kms, csi} {
		g := w.record(t, key).Newest()
		c, token := passes[2*i], passes[2*i+1]
		want := audit.Signed{
			Kind: audit.KindCertificate, ID: g.Certificate.Serial, Subject: cluster + "/" + key.String(), Generation: 1,
			Issuer: doc.CAs[0].ID, Content: g.Certificate.TBS, NotAfter: g.Certificate.NotAfter,
		}
		if c != want || want.Content == "" {
			t.Errorf("%s: %+v, want %+v", key, c, want)
		}
		want = audit.Signed{Kind: audit.KindToken, ID: g.Token.ID, Subject: want.Subject, Generation: 1, Issuer: doc.Keys[0].ID, NotAfter: g.Token.ExpiresAt}
		if token != want {
			t.Errorf("%s: %+v, want %+v", key, token, want)
		}
	}
	for _, e := range w.chain(t) {
		if e.Action == "credential.sign" && (e.Actor != "scheduler" || e.Cluster != cluster || e.Reason != string(fleet.ReasonRenewal)) {
			t.Errorf("%+v", e)
		}
	}
}

// broken is a ledger that cannot be written.
type broken struct{}

func (broken) Append(context.Context, audit.Entry) error { return errors.New("no space on the disk") }

// What cannot be written down is not signed, comes again, and is on /readyz until
// the ledger can be written.
func TestNoEntryNoSignature(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.file(t, 1, kms)
	board := health.New()
	whole := &telling{ledger: s.ledger, health: board.Part("issuer")}
	s.ledger = &telling{ledger: broken{}, health: board.Part("issuer")}
	s.lists.ledger = s.ledger
	e := w.order(t, "first", 1, kms)
	_, csr := newCSR(t)
	for name, run := range map[string]func() error{
		"a pass":  func() error { return s.issue(t.Context(), e) },
		"a login": func() error { return s.login(t.Context(), ask(t, newKey(t), nil).e) },
		"a CRL": func() error {
			_, err := s.lists.sign(t.Context(), s.authority.known.ca, nil, false)
			return err
		},
		"a server certificate": func() error { return s.certify(t.Context(), certify(t, clock.Wall(), csr, "localhost")) },
	} {
		if err := run(); err == nil || bus.IsPermanent(err) {
			t.Errorf("%s: %v", name, err)
		}
		if why := fmt.Sprint(board.Status().Parts); !strings.Contains(why, "no space on the disk") {
			t.Errorf("%s: /readyz says %s", name, why)
		}
	}
	if _, err := w.credentials.Get(t.Context(), cluster); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("something is on record: %v", err)
	}
	if _, err := w.bundles.Get(t.Context(), cluster); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("something waits for pick-up: %v", err)
	}
	s.ledger = whole
	must(t, s.issue(t.Context(), e))
	if w.record(t, kms).Newest() == nil {
		t.Error("not issued once the ledger was back")
	}
	if !board.Status().Ready {
		t.Error("not ready though the ledger is back")
	}
}

// overtaking is a bucket of records in which another is first.
type overtaking struct {
	documents[fleet.Credentials]
	meanwhile func()
}

func (o *overtaking) Edit(ctx context.Context, key string, f func(*fleet.Credentials) error) (kv.Entry[fleet.Credentials], error) {
	return o.documents.Edit(ctx, key, func(doc *fleet.Credentials) error {
		err := f(doc)
		if then := o.meanwhile; then != nil {
			o.meanwhile = nil
			then()
		}
		return err
	})
}

// What was announced and did not get on record, as another was first, is said to
// be withheld.
func TestOvertakenIsWithheld(t *testing.T) {
	w := newWorld(t)
	s, other := w.service(t), w.service(t)
	w.file(t, 1, kms, csi)
	slow := *s
	slow.credentials = &overtaking{s.credentials, func() {
		must(t, other.issue(t.Context(), w.order(t, "quick", 1, kms)))
	}}
	at := clock.Wall().Truncate(time.Second).Add(-time.Hour)
	command := event.IssueCommand{Reason: fleet.ReasonRenewal, At: at}
	for _, key := range []fleet.ClientKey{kms, csi} {
		command.Clients = append(command.Clients, event.IssueClient{
			Client: key, Generation: 1, Life: fleet.Life{Certificate: at.Add(90 * fleet.Day), Token: at.Add(90 * fleet.Day)}, RenewAt: at.Add(50 * fleet.Day),
		})
	}
	must(t, slow.issue(t.Context(), issueEvent(t, "slow", command)))
	withheld := w.signedOf(t, "credential.withhold")
	if len(withheld) != 2 || withheld[0].Subject != cluster+"/kms" || withheld[0].ID == w.record(t, kms).Newest().Certificate.Serial {
		t.Errorf("%+v", withheld)
	}
	if n := len(w.signedOf(t, "credential.sign")); n != 6 {
		t.Errorf("%d announced", n)
	}
}

// A pass that is too large for one entry makes several.
func TestALargePassIsSplit(t *testing.T) {
	var signed []audit.Signed
	for i := range 1001 {
		signed = append(signed, audit.Signed{Kind: audit.KindToken, ID: fmt.Sprint(i)})
	}
	entries, err := audit.Entry{Request: "a b"}.Signing(signed...)
	must(t, err)
	n := 0
	requests := map[string]bool{}
	for _, e := range entries {
		n += len(e.Signed)
		requests[e.Request] = true
		if e.Command() != "a b" {
			t.Errorf("command %q", e.Command())
		}
	}
	if n != 1001 || len(entries) != 3 || len(requests) != 3 {
		t.Errorf("%d in %d entries, %d requests", n, len(entries), len(requests))
	}
}
