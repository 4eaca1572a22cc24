package issuer

import (
	"context"
	"crypto"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/health"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/trust"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
)

// ledger is what is needed of an audit.Log.
type ledger interface {
	Append(ctx context.Context, e audit.Entry) error
}

// telling is a ledger that says on /readyz while it cannot be written: then
// nothing is signed.
type telling struct {
	ledger
	health health.Part
	down   atomic.Bool // the last entry was not written
}

// Append implements ledger.
func (t *telling) Append(ctx context.Context, e audit.Entry) error {
	err := t.ledger.Append(ctx, e)
	switch {
	case err == nil:
		t.down.Store(false)
		t.health.Met("ledger")
	case ctx.Err() == nil && fleet.KindOf(err) == "": // not the fault of this one entry
		t.down.Store(true)
		t.health.Wait("ledger", "nothing is signed, as it cannot be written down: "+err.Error())
	}
	return err
}

// requester names the service that has given a command.
func requester(e event.Event) string { return strings.TrimPrefix(e.Source(), "/rotor/") }

// announce writes down what is about to be signed. Whoever signs calls it before,
// and signs nothing when the error is not nil. The same command with the same
// content makes no second entry.
func announce(ctx context.Context, l ledger, e audit.Entry, signed ...audit.Signed) error {
	entries, err := e.Signing(signed...)
	if err != nil {
		return err
	}
	for _, part := range entries {
		if err := l.Append(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// announceCA announces certificates of CAs, each by itself.
func announceCA(ctx context.Context, l ledger) ca.Announce {
	return func(s audit.Signed) error {
		return announce(ctx, l, audit.Entry{Actor: name, Action: "authority.sign", Request: "ca " + s.ID}, s)
	}
}

// announceList announces CRLs.
func announceList(ctx context.Context, l ledger) ca.Announce {
	return func(s audit.Signed) error {
		return announce(ctx, l, audit.Entry{Actor: name, Action: "crl.sign", Request: "crl " + s.Issuer + " " + s.ID}, s)
	}
}

// signBundle announces a trust bundle and signs it.
func signBundle(ctx context.Context, l ledger, fleetKey crypto.Signer, b trust.Bundle) (fleet.TrustBundle, error) {
	pin, err := trust.Pin(fleetKey.Public())
	if err != nil {
		return fleet.TrustBundle{}, err
	}
	payload, err := b.Payload()
	if err != nil {
		return fleet.TrustBundle{}, err
	}
	version := strconv.Itoa(b.Version)
	if err := announce(ctx, l, audit.Entry{Actor: name, Action: "bundle.sign", Request: "bundle " + version}, audit.Signed{
		Kind: audit.KindBundle, ID: version, Issuer: pin, Content: audit.Content(payload),
	}); err != nil {
		return fleet.TrustBundle{}, err
	}
	signed, err := trust.Sign(fleetKey, b)
	if err != nil {
		return fleet.TrustBundle{}, err
	}
	return fleet.TrustBundle{Version: b.Version, Certificates: b.Certificates, Bridges: b.Bridges, FleetKey: pin, Signed: signed}, nil
}

// named is what the ledger says of a generation: its certificate and its token.
func (d *draft) named() []audit.Signed {
	subject := identity.Subject(d.cluster, d.client)
	certificate := d.certificate.Signed(audit.KindCertificate)
	certificate.Subject, certificate.Generation = subject, d.generation
	record := d.token.Record
	return []audit.Signed{certificate, {
		Kind: audit.KindToken, ID: record.ID, Subject: subject, Generation: d.generation, Issuer: record.KeyID, NotAfter: record.ExpiresAt,
	}}
}

// onRecord reports whether a record has what was announced.
func (d *draft) onRecord(doc *fleet.Credentials) bool {
	g := doc.Record(d.client).Find(d.generation)
	return g != nil && g.Certificate.Serial == d.certificate.Signed(audit.KindCertificate).ID && g.Token.ID == d.token.Record.ID
}

// withhold writes down what was announced and did not get on record, as another
// was first: it is thrown away, and nobody has seen it.
func withhold(ctx context.Context, l ledger, e audit.Entry, drafts []*draft) error {
	var signed []audit.Signed
	for _, d := range drafts {
		signed = append(signed, d.named()...)
	}
	e.Action, e.Request = "credential.withhold", "withhold "+e.Request
	return announce(ctx, l, e, signed...)
}
