package issuer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/trust"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

// newCA makes the CA that a rollout wants, or takes the one that it brings. The
// same command gives the same bytes.
func (m *mover) newCA(ctx context.Context, doc fleet.Authority, command event.PhaseCommand) (*fleet.CA, error) {
	if len(command.Certificate) > 0 {
		return m.importCA(ctx, doc, command)
	}
	number := doc.NextCA()
	root, err := m.root(ctx, doc, ca.RootRequest{Number: number, At: command.At, Life: command.Life.Std()})
	if err != nil {
		return nil, unfit(err)
	}
	return &fleet.CA{
		ID: root.ID, Number: number, Certificate: root.Certificate, NotBefore: root.NotBefore, NotAfter: root.NotAfter, CreatedAt: command.At,
	}, nil
}

// importCA takes the answer of an offline root to the request that waits.
func (m *mover) importCA(ctx context.Context, doc fleet.Authority, command event.PhaseCommand) (*fleet.CA, error) {
	var csr []byte
	if doc.Pending != nil {
		csr = doc.Pending.CSR
	}
	issuing, err := trust.CheckIssuingCA(command.Certificate, command.Anchor, csr, m.env.Clock.Now())
	if err != nil {
		return nil, unfit(err)
	}
	signer, err := m.keys.Signer(ctx, keyCA(doc.Pending.Number))
	if err != nil {
		return nil, alarm(err)
	}
	if _, err := ca.Open(issuing.Certificate, signer, doc.TrustDomain, m.tool); err != nil {
		return nil, unfit(err)
	}
	return &fleet.CA{
		ID: issuing.ID, Number: doc.Pending.Number, Certificate: issuing.Certificate, Chain: issuing.Chain, Anchor: issuing.Anchor,
		NotBefore: issuing.X509.NotBefore, NotAfter: issuing.X509.NotAfter, CreatedAt: command.At,
	}, nil
}

// unfit makes of what is wrong with a new generation a refusal: the authority
// stays as it is, and the scheduler sees why.
func unfit(err error) error {
	if errors.Is(err, fleet.ErrInvalid) {
		return fmt.Errorf("%w: prepare: %w", fleet.ErrConflict, err)
	}
	return err
}

// external makes the key of a CA that an offline root shall sign, and its
// request. While one waits, it is the answer.
func (s *service) external(ctx context.Context, e event.Event) error {
	command, err := event.External.Decode(e)
	if err != nil {
		return bus.Permanent(err)
	}
	if command.At.IsZero() {
		return bus.Permanent(fmt.Errorf("%w: command %s: at is missing", fleet.ErrInvalid, e.ID()))
	}
	for attempt := 1; ; attempt++ {
		err := s.mover.request(ctx, command)
		switch {
		case errors.Is(err, errMoved) && attempt < 10:
			continue
		case err != nil:
			return fmt.Errorf("request of a CA for an offline root: %w", err)
		}
		return nil
	}
}

// request writes the request into the document, unless one waits.
func (m *mover) request(ctx context.Context, command event.ExternalCommand) error {
	known, err := m.documents.Get(ctx, fleet.AuthorityKey)
	switch {
	case err != nil:
		return err
	case known.Value.Restoring:
		return errRestoring
	case known.Value.Pending != nil:
		return nil
	}
	number := known.Value.NextCA()
	if err := m.keys.Create(ctx, keyCA(number), keystore.ECDSAP256); err != nil {
		return alarm(err)
	}
	signer, err := m.keys.Signer(ctx, keyCA(number))
	if err != nil {
		return alarm(err)
	}
	actor := command.By
	if actor == "" {
		actor = "gateway"
	}
	entry := audit.Entry{
		Actor: actor, Action: "authority.request", Reason: "offline root",
		Request: fmt.Sprintf("external %d %s %s", number, known.Value.Epoch, command.By), Details: map[string]string{"number": strconv.Itoa(number)},
	}
	csr, err := ca.NewRequest(signer, number, func(s audit.Signed) error { return announce(ctx, m.ledger, entry, s) })
	if err != nil {
		return err
	}
	made := false
	_, err = m.documents.Edit(ctx, fleet.AuthorityKey, func(doc *fleet.Authority) error {
		made = false
		switch {
		case doc.Pending != nil && bytes.Equal(doc.Pending.CSR, csr):
			return kv.Keep
		case !unmoved(*doc, known.Value):
			return errMoved
		}
		doc.Pending = &fleet.PendingCA{Number: number, CSR: csr, CreatedAt: command.At.UTC().Truncate(time.Second)}
		made = true
		return nil
	})
	if err == nil && made {
		m.env.Log.InfoContext(ctx, "a request of a CA waits for an offline root", "number", number, "by", command.By)
	}
	return err
}
