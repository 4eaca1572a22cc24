package issuer

import (
	"context"
	"fmt"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// stepOf returns the step that a fact reports.
func stepOf(e event.Event) (fleet.Step, event.Credentials, error) {
	for _, row := range []struct {
		kind event.Kind[event.Credentials]
		step fleet.Step
	}{
		{event.CredentialDelivered, fleet.StepDelivered},
		{event.CredentialInstalled, fleet.StepInstalled},
		{event.CredentialProven, fleet.StepProven},
	} {
		if row.kind.Is(e) {
			data, err := row.kind.Decode(e)
			return row.step, data, err
		}
	}
	return "", event.Credentials{}, fmt.Errorf("%w: fact of type %q reports no step", fleet.ErrInvalid, e.Type())
}

// step applies what the gateway reports about generations. A report may come
// again, late or out of order: a step only ever moves forward.
func (s *service) step(ctx context.Context, e event.Event) error {
	step, data, err := stepOf(e)
	if err != nil {
		return bus.Permanent(err)
	}
	cluster := e.Subject()
	stored, err := s.credentials.Edit(ctx, cluster, func(doc *fleet.Credentials) error {
		changed := false
		for _, c := range data.Clients {
			if g := matching(doc, c); g != nil && advance(doc.Record(c.Client), g, step, e) {
				changed = true
			}
		}
		if !changed {
			return kv.Keep
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("step %s of %s: %w", step, cluster, err)
	}
	if step == fleet.StepDelivered && data.Operation != "" {
		return s.collected(ctx, cluster, data.Operation)
	}
	if step != fleet.StepProven {
		return nil
	}
	if err := s.supersede(ctx, e, data, stored.Value); err != nil {
		return err
	}
	if err := s.condemn(ctx, data, stored.Value); err != nil {
		return fmt.Errorf("CRL after step %s of %s: %w", step, cluster, err)
	}
	if err := s.clean(ctx, cluster, data); err != nil {
		return fmt.Errorf("pick-ups of %s: %w", cluster, err)
	}
	return nil
}

// matching returns the generation that a report is about, or nil: one that is
// not on record any more, or one of another certificate or token, changes
// nothing.
func matching(doc *fleet.Credentials, c event.Client) *fleet.Generation {
	g := doc.Record(c.Client).Find(c.Generation)
	if g == nil || (c.Serial != "" && c.Serial != g.Certificate.Serial) || (c.TokenID != "" && c.TokenID != g.Token.ID) {
		return nil
	}
	return g
}

// advance moves a generation forward, and with a proof every older one to
// superseded. It reports whether anything changed.
func advance(record *fleet.Record, g *fleet.Generation, step fleet.Step, e event.Event) bool {
	if !g.Step.Before(step) {
		return false
	}
	g.Step = step
	if step != fleet.StepProven {
		return true
	}
	g.ProvenAt = e.Time().UTC()
	for i := range record.Generations {
		if older := &record.Generations[i]; older.Number < g.Number {
			older.Step = fleet.StepSuperseded
		}
	}
	return true
}

// superseded returns the generations that this proof has replaced: those after
// the one that was proven before. It gives the same on a repeat.
func superseded(record *fleet.Record, g *fleet.Generation) []fleet.Generation {
	var replaced []fleet.Generation
	for _, older := range record.Generations {
		if older.Number >= g.Number {
			break
		}
		if !older.ProvenAt.IsZero() {
			replaced = nil // what came before it, it has replaced itself
		}
		replaced = append(replaced, older)
	}
	return replaced
}

// supersede tells of the generations that were replaced by the proofs of a
// fact. Only the fact that made a generation proven tells; others are repeats.
func (s *service) supersede(ctx context.Context, e event.Event, data event.Credentials, doc fleet.Credentials) error {
	var clients []event.Client
	for _, c := range data.Clients {
		g := matching(&doc, c)
		if g == nil || !g.ProvenAt.Equal(e.Time()) {
			continue
		}
		for _, old := range superseded(doc.Record(c.Client), g) {
			clients = append(clients, event.Client{
				Client: c.Client, Generation: old.Number, Serial: old.Certificate.Serial, TokenID: old.Token.ID,
				NotAfter: old.Certificate.NotAfter, ExpiresAt: old.Token.ExpiresAt,
			})
		}
	}
	if len(clients) == 0 {
		return nil
	}
	fact, err := event.CredentialSuperseded.New(event.Meta{
		Source: name, Cluster: e.Subject(), Key: []string{e.ID()}, Time: e.Time(),
	}, event.Credentials{Operation: data.Operation, Rotation: data.Rotation, Reason: data.Reason, Clients: clients})
	if err != nil {
		return bus.Permanent(err)
	}
	return s.facts.Publish(ctx, fact)
}

// condemn puts on the CRL of a CA that is compromised what these proofs have
// replaced. It gives the same on a repeat.
func (s *service) condemn(ctx context.Context, data event.Credentials, doc fleet.Credentials) error {
	authority, err := s.authority.current(ctx)
	if err != nil || len(authority.tainted) == 0 {
		return err
	}
	var replaced []fleet.Former
	for _, c := range data.Clients {
		replaced = append(replaced, authority.condemned(doc.Record(c.Client), s.env.Clock.Now())...)
	}
	if len(replaced) == 0 {
		return nil
	}
	return s.lists.add(ctx, replaced)
}

// clean removes the pick-ups of what is proven: nobody fetches them again, and
// no secret lies about longer than it must.
func (s *service) clean(ctx context.Context, cluster string, data event.Credentials) error {
	_, err := s.bundles.Edit(ctx, cluster, func(doc *fleet.Bundles) error {
		record, err := s.credentials.Get(ctx, cluster)
		if err != nil {
			return ignoreMissing(err)
		}
		changed := false
		for _, c := range data.Clients {
			pickup, waits := doc.Clients[c.Client]
			if !waits {
				continue
			}
			g := record.Value.Record(c.Client).Find(pickup.Generation)
			if g == nil || !g.Step.Before(fleet.StepProven) {
				delete(doc.Clients, c.Client)
				changed = true
			}
		}
		if !changed {
			return kv.Keep
		}
		return nil
	})
	return err
}
