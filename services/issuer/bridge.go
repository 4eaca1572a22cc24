package issuer

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
)

// bridge gives a document the bridges between the CAs that it trusts: those that
// are there stay as they are, those of CAs that are trusted no more go. It is
// called where a trust bundle is made, so that both change together.
//
// Where no bridge can be made there is none, and the log says so: no rotation and
// no succession waits for it. A verifier that has only the one CA then has to load
// the new trust bundle.
func (f founder) bridge(ctx context.Context, doc *fleet.Authority, tool ca.Tool) error {
	var bridges []fleet.Bridge
	for _, wanted := range doc.BridgesWanted() {
		if have := doc.Bridge(wanted.Of, wanted.By); have != nil {
			bridges = append(bridges, *have)
			continue
		}
		var err error
		wanted.Certificate, err = f.newBridge(ctx, doc, wanted, tool)
		if errors.Is(err, fleet.ErrInvalid) {
			f.env.Log.WarnContext(ctx, "no bridge between two CAs", "of", wanted.Of, "by", wanted.By, "err", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("bridge of CA %s by %s: %w", wanted.Of, wanted.By, err)
		}
		bridges = append(bridges, wanted)
	}
	if err := sever(doc, bridges, f.env.Clock.Now()); err != nil {
		return err
	}
	doc.Bridges = bridges
	return nil
}

// sever notes the bridges of a document that are not among those to come, so that
// they get on the CRL: they would outlive the trust in their CA. Those that have
// ended are forgotten.
func sever(doc *fleet.Authority, keep []fleet.Bridge, now time.Time) error {
	doc.Severed = slices.DeleteFunc(doc.Severed, func(s fleet.SeveredBridge) bool { return now.After(s.NotAfter) })
	for _, b := range doc.Bridges {
		of := doc.FindCA(b.Of)
		gone := of == nil || of.Phase == fleet.PhaseRetired || !of.TaintedAt.IsZero()
		if !gone || slices.ContainsFunc(keep, func(k fleet.Bridge) bool { return k.Of == b.Of && k.By == b.By }) {
			continue // one that leads from the CA that goes still serves who has not heard of it
		}
		block, _ := pem.Decode(b.Certificate)
		if block == nil {
			return fmt.Errorf("%w: bridge from %s to %s is not PEM", fleet.ErrInvalid, b.By, b.Of)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("%w: bridge from %s to %s: %w", fleet.ErrInvalid, b.By, b.Of, err)
		}
		reason := fleet.CessationOfOperation
		if of != nil && !of.TaintedAt.IsZero() {
			reason = fleet.CACompromise
		}
		doc.Severed = append(doc.Severed, fleet.SeveredBridge{
			By: b.By, Serial: c.SerialNumber.Text(16), NotAfter: c.NotAfter, At: now.UTC().Truncate(time.Second), Reason: reason,
		})
	}
	return nil
}

// newBridge makes one bridge. It is fleet.ErrInvalid that there can be none.
func (f founder) newBridge(ctx context.Context, doc *fleet.Authority, wanted fleet.Bridge, tool ca.Tool) ([]byte, error) {
	// CAs that were made before there were bridges may sign no CA, and an offline
	// root decides for itself what it allows.
	if err := trust.MayBridge(doc.FindCA(wanted.By)); err != nil {
		return nil, err
	}
	by, err := f.openCA(ctx, doc, wanted.By, tool)
	if err != nil {
		return nil, err
	}
	of, err := f.openCA(ctx, doc, wanted.Of, tool)
	if err != nil {
		return nil, err
	}
	return by.Bridge(of, announceCA(ctx, f.ledger))
}

// openCA opens a CA of a document with its key.
func (f founder) openCA(ctx context.Context, doc *fleet.Authority, id string, tool ca.Tool) (*ca.Authority, error) {
	c := doc.FindCA(id)
	if c == nil {
		return nil, fmt.Errorf("CA %s: %w", id, fleet.ErrNotFound)
	}
	signer, err := f.keys.Signer(ctx, keyCA(c.Number))
	if err != nil {
		return nil, alarm(err)
	}
	secret, err := f.keys.Secret(ctx, keyDerivation)
	if err != nil {
		return nil, alarm(err)
	}
	tool.Serial = epoch{secret, doc.Epoch}
	return ca.Open(c.Certificate, signer, doc.TrustDomain, tool)
}
