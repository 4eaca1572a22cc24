package issuer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// standing is a command about whether a client may have credentials at all.
type standing struct {
	id      string // of the command
	cluster string
	client  fleet.ClientKey
	by      string
	at      time.Time
}

func newStanding(e event.Event, client fleet.ClientKey, by string, at time.Time) (standing, error) {
	if err := fleet.CheckName("cluster", e.Subject()); err != nil {
		return standing{}, fmt.Errorf("command %s: %w", e.ID(), err)
	}
	if _, err := fleet.ParseClientKey(client.String()); err != nil {
		return standing{}, fmt.Errorf("command %s: %w", e.ID(), err)
	}
	if at.IsZero() || by == "" {
		return standing{}, fmt.Errorf("%w: command %s: who asks, and when, is missing", fleet.ErrInvalid, e.ID())
	}
	return standing{id: e.ID(), cluster: e.Subject(), client: client, by: by, at: at.UTC().Truncate(time.Second)}, nil
}

// revoke carries out the command to revoke a client. Its steps come in the order
// in which they matter: an entry in the ledger, or nothing is done; the record,
// after which nobody is let in and nothing is issued; what waits for pick-up; the
// CRL; the fact. Killed anywhere it goes on where it was.
func (s *service) revoke(ctx context.Context, e event.Event) error {
	command, err := event.Revoke.Decode(e)
	if err != nil {
		return bus.Permanent(err)
	}
	c, err := newStanding(e, command.Client, command.By, command.At)
	if err != nil {
		return bus.Permanent(err)
	}
	reason, err := fleet.ParseCRLReason(string(command.Reason))
	if err != nil {
		return bus.Permanent(fmt.Errorf("command %s: %w", e.ID(), err))
	}
	revocation := fleet.Revocation{At: c.at, Reason: reason, By: c.by, Operation: c.id}
	record, err := s.change(ctx, c, change{
		entry: audit.Entry{Action: "client.revoke", Reason: string(reason)},
		open:  func(r *fleet.Record) bool { return r == nil || r.Revoked == nil && r.Revocation(c.id) == nil },
		do:    func(r *fleet.Record) { r.Revoked = &revocation },
	})
	if err != nil {
		return fmt.Errorf("revoke %s/%s: %w", c.cluster, c.client, err)
	}
	if err := s.withdraw(ctx, c); err != nil {
		return fmt.Errorf("pick-ups of %s: %w", c.cluster, err)
	}
	if err := s.lists.add(ctx, record.Barred(s.env.Clock.Now())); err != nil {
		return fmt.Errorf("revoke %s/%s: %w", c.cluster, c.client, err)
	}
	made := record.Revocation(c.id)
	if made == nil {
		return nil // revoked by another command before: that one tells
	}
	return s.tellStanding(ctx, event.CredentialRevoked, c, event.Revocation{
		Operation: c.id, Client: c.client, Reason: made.Reason, By: made.By, Since: made.At, Credentials: s.barred(c.client, record, made),
	})
}

// reinstate carries out the command to issue credentials to a revoked client
// again. What it had stays revoked and on the CRL.
func (s *service) reinstate(ctx context.Context, e event.Event) error {
	command, err := event.Reinstate.Decode(e)
	if err != nil {
		return bus.Permanent(err)
	}
	c, err := newStanding(e, command.Client, command.By, command.At)
	if err != nil {
		return bus.Permanent(err)
	}
	record, err := s.change(ctx, c, change{
		entry: audit.Entry{Action: "client.reinstate"},
		open: func(r *fleet.Record) bool {
			return r != nil && r.Revoked != nil && (r.Reinstated == nil || r.Reinstated.Operation != c.id)
		},
		do: func(r *fleet.Record) { r.Reinstate(fleet.Reinstatement{At: c.at, By: c.by, Operation: c.id}) },
	})
	if err != nil {
		return fmt.Errorf("reinstate %s/%s: %w", c.cluster, c.client, err)
	}
	if record == nil || record.Reinstated == nil || record.Reinstated.Operation != c.id {
		return nil // it was not revoked
	}
	lifted := record.Reinstated.Lifted
	return s.tellStanding(ctx, event.ClientReinstated, c, event.Revocation{
		Operation: c.id, Client: c.client, Reason: lifted.Reason, By: c.by, Since: lifted.At, Credentials: s.barred(c.client, record, lifted),
	})
}

// change is what a command changes in a record, while it is open to it.
type change struct {
	entry audit.Entry
	open  func(*fleet.Record) bool // also asked about no record
	do    func(*fleet.Record)
}

// change writes the entry in the ledger and then the record, and returns the
// record as it is stored. Where there is nothing to change there is no entry.
func (s *service) change(ctx context.Context, c standing, todo change) (*fleet.Record, error) {
	stored, err := s.credentials.Get(ctx, c.cluster)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		return nil, err
	}
	before := stored.Value.Record(c.client)
	if !todo.open(before) {
		return before, nil
	}
	entry := todo.entry.About(c.cluster, c.client)
	if entry.Reason == "" && before != nil && before.Revoked != nil {
		entry.Reason = string(before.Revoked.Reason)
	}
	entry.Actor, entry.Request, entry.Details = c.by, c.id, serials(before, s.env.Clock.Now())
	if err := s.ledger.Append(ctx, entry); err != nil {
		return nil, err
	}
	changed := false
	stored, err = s.credentials.Edit(ctx, c.cluster, func(doc *fleet.Credentials) error {
		record := doc.Record(c.client)
		if changed = todo.open(record); !changed {
			return kv.Keep
		}
		if record == nil {
			if doc.Clients == nil {
				doc.Clients = map[fleet.ClientKey]*fleet.Record{}
			}
			record = &fleet.Record{}
			doc.Clients[c.client] = record
		}
		todo.do(record)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if changed {
		s.log.InfoContext(ctx, "standing of a client changed", "action", todo.entry.Action, "cluster", c.cluster, "client", c.client.String(), "by", c.by, "reason", todo.entry.Reason)
	}
	return stored.Value.Record(c.client), nil
}

// serials names in the ledger what is concerned.
func serials(record *fleet.Record, now time.Time) map[string]string {
	if record == nil {
		return nil
	}
	all := *record
	if all.Revoked == nil {
		all.Revoked = &fleet.Revocation{}
	}
	var certificates, tokens []string
	for _, f := range all.Barred(now) {
		certificates, tokens = append(certificates, f.Serial), append(tokens, f.TokenID)
	}
	details := map[string]string{"serials": strings.Join(certificates, " "), "tokens": strings.Join(tokens, " ")}
	maps.DeleteFunc(details, func(_, value string) bool { return value == "" })
	return details
}

// withdraw removes what waits for pick-up by a revoked client. It writes also
// where there is nothing: who is putting a pick-up in place at this moment then
// has to look at the record again, and finds it revoked.
func (s *service) withdraw(ctx context.Context, c standing) error {
	_, err := s.bundles.Edit(ctx, c.cluster, func(doc *fleet.Bundles) error {
		record, err := s.credentials.Get(ctx, c.cluster)
		if err != nil {
			return ignoreMissing(err)
		}
		if r := record.Value.Record(c.client); r == nil || r.Revoked == nil {
			return kv.Keep // reinstated meanwhile
		}
		delete(doc.Clients, c.client)
		return nil
	})
	return err
}

// barRecovered puts what a recovery has revoked on the CRL.
func (s *service) barRecovered(ctx context.Context, record *fleet.Record, reason fleet.Reason) error {
	if reason != fleet.ReasonRecovery {
		return nil
	}
	return s.lists.add(ctx, record.Barred(s.env.Clock.Now()))
}

// barred returns what one revocation has barred, for a fact.
func (s *service) barred(client fleet.ClientKey, record *fleet.Record, by *fleet.Revocation) []event.Client {
	var all []event.Client
	for _, f := range record.Barred(s.env.Clock.Now()) {
		if f.Revoked.Operation == by.Operation {
			all = append(all, event.Client{
				Client: client, Generation: f.Number, Serial: f.Serial, TokenID: f.TokenID, NotAfter: f.NotAfter, ExpiresAt: f.ExpiresAt,
			})
		}
	}
	return all
}

func (s *service) tellStanding(ctx context.Context, kind event.Kind[event.Revocation], c standing, data event.Revocation) error {
	fact, err := kind.New(event.Meta{Source: name, Cluster: c.cluster, Key: []string{c.id}, Time: c.at}, data)
	if err != nil {
		return bus.Permanent(err)
	}
	return s.facts.Publish(ctx, fact)
}
