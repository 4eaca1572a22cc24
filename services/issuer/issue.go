package issuer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/measure"
	"github.com/rotor-fleet/rotor/shared/telemetry"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

// issue carries out one command: record, then pick-ups, then facts, each of
// which finds what an interrupted run before has done. What is on record first
// is what is handed over, so there is never a second certificate of one
// generation.
func (s *service) issue(ctx context.Context, e event.Event) error {
	p, err := newPass(e)
	if err != nil {
		return bus.Permanent(err)
	}
	ctx, span := s.env.Tracer.Start(ctx, telemetry.Internal, "issue")
	telemetry.Set(span, "rotor.cluster", p.cluster, "rotor.reason", string(p.command.Reason), "rotor.rotation", p.command.Rotation)
	telemetry.Count(span, "rotor.clients", len(p.command.Clients))
	p.trace = telemetry.Traceparent(ctx)
	err = s.carryOut(ctx, p)
	telemetry.End(span, err)
	return err
}

func (s *service) carryOut(ctx context.Context, p *pass) error {
	start := clock.Wall()
	var err error
	p.now = s.env.Clock.Now()
	if p.authority, err = s.authority.current(ctx); err != nil {
		return fmt.Errorf("issue for %s: %w", p.cluster, err)
	}
	agent, err := s.agents.Get(ctx, p.cluster)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		return fmt.Errorf("issue for %s: %w", p.cluster, err)
	}
	p.agent = agent.Value

	stored, err := s.credentials.Edit(ctx, p.cluster, func(doc *fleet.Credentials) error { return p.record(ctx, s.ledger, doc) })
	if err != nil {
		return fmt.Errorf("record of %s: %w", p.cluster, err)
	}
	if err := withhold(ctx, s.ledger, p.entry(), p.overtaken(&stored.Value)); err != nil {
		return fmt.Errorf("issue for %s: %w", p.cluster, err)
	}
	if len(p.issued(stored.Value)) > 0 {
		if err := s.deliver(ctx, p); err != nil {
			return fmt.Errorf("pick-ups of %s: %w", p.cluster, err)
		}
	}
	issued := p.issued(stored.Value)
	for _, c := range issued {
		if err := s.barRecovered(ctx, stored.Value.Record(c.Client), p.command.Reason); err != nil {
			return err
		}
	}
	if err := s.tell(ctx, event.CredentialIssued, p, issued); err != nil {
		return err
	}
	if err := s.tell(ctx, event.CredentialFailed, p, p.failed()); err != nil {
		return err
	}
	s.count(ctx, p, issued, clock.Wall().Sub(start))
	return nil
}

// deliver puts a pick-up in place for each generation of this command that is
// not proven yet. It never replaces one of a later generation.
func (s *service) deliver(ctx context.Context, p *pass) error {
	_, err := s.bundles.Edit(ctx, p.cluster, func(doc *fleet.Bundles) error {
		// The record is read after the pick-ups: whoever proves a generation
		// writes the record first and removes the pick-up then, so a pick-up
		// that was removed is never put back.
		record, err := s.credentials.Get(ctx, p.cluster)
		if err != nil {
			return err
		}
		changed := false
		for _, c := range p.command.Clients {
			r := record.Value.Record(c.Client)
			g := r.Newest()
			if g == nil || r.Revoked != nil || g.Revoked != nil || g.Operation != p.id || !g.Step.Before(fleet.StepProven) || doc.Clients[c.Client].Generation >= g.Number {
				continue
			}
			pickup, err := p.pickup(c.Client, g)
			if keystore.Held(err) {
				return err
			}
			if err != nil {
				p.fail(c, failure{"undeliverable", err})
				continue
			}
			if doc.Clients == nil {
				doc.Clients = map[fleet.ClientKey]fleet.Pickup{}
			}
			doc.Clients[c.Client], changed = pickup, true
		}
		if !changed {
			return kv.Keep
		}
		return nil
	})
	return err
}

// tell publishes a fact about clients, if there are any. Its id depends on the
// command and on the clients: a repeat that comes to the same is the same fact,
// one that comes further is another.
func (s *service) tell(ctx context.Context, kind event.Kind[event.Credentials], p *pass, clients []event.Client) error {
	if len(clients) == 0 {
		return nil
	}
	key := []string{p.id}
	for _, c := range clients {
		key = append(key, c.Client.String(), strconv.Itoa(c.Generation))
	}
	fact, err := kind.New(event.Meta{Source: name, Cluster: p.cluster, Key: key, Time: p.time}, event.Credentials{
		Operation: p.id, Rotation: p.command.Rotation, Reason: p.command.Reason, Clients: clients,
	})
	if err != nil {
		return err
	}
	return s.facts.Publish(ctx, fact)
}

func (s *service) count(ctx context.Context, p *pass, issued []event.Client, took time.Duration) {
	measure.Observe(ctx, s.metrics.seconds, took.Seconds())
	s.metrics.issued.Add(float64(len(issued)))
	for _, f := range p.failures {
		s.metrics.failed.WithLabelValues(f.reason).Inc()
	}
	if len(issued) > 0 || len(p.failures) > 0 {
		s.log.InfoContext(ctx, "issued", "cluster", p.cluster, "reason", p.command.Reason, "issued", len(issued), "failed", len(p.failures), "took", took)
	}
	for key, f := range p.failures {
		s.log.WarnContext(ctx, "not issued", "cluster", p.cluster, "client", key.String(), "err", f.err)
	}
}
