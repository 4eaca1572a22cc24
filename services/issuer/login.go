package issuer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/telemetry"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

// stale is the age from which nobody waits for the answer to a command, however
// much the clocks of two machines differ. What it asks for is not made then: the
// program has gone on, perhaps with another key.
const stale = 15 * time.Minute

// login issues the next generation of a client whose program has signed in: the
// record, then the answer to the gateway, then the fact. Each of them finds what
// an interrupted run before has done, and a program that asks again with the
// same key gets the same certificate.
func (s *service) login(ctx context.Context, e event.Event) error {
	l, err := newSignIn(e)
	if err != nil {
		return bus.Permanent(err)
	}
	ctx, span := s.env.Tracer.Start(ctx, telemetry.Internal, "login")
	telemetry.Set(span, "rotor.cluster", l.cluster, "rotor.client", l.command.Client.String(), "rotor.reason", string(l.command.Reason))
	l.trace = telemetry.Traceparent(ctx)
	err = s.signIn(ctx, l)
	telemetry.End(span, err)
	if err != nil {
		return fmt.Errorf("login of %s/%s: %w", l.cluster, l.command.Client, err)
	}
	return nil
}

// signIn is one run of a login command.
type signIn struct {
	id        string
	cluster   string
	by        string // who gave the command
	command   event.LoginCommand
	key       string // thumbprint of the key that asks
	trace     string
	now       time.Time
	agent     string
	authority *authority
	draft     *draft // that is in the ledger
	made      *signed
	issued    bool  // by this command, now or in a run before
	refused   error // why there is no generation for it
}

// newSignIn reads a command. An error is one that no repetition mends.
func newSignIn(e event.Event) (*signIn, error) {
	c, err := event.Login.Decode(e)
	if err != nil {
		return nil, err
	}
	if err := fleet.CheckName("cluster", e.Subject()); err != nil {
		return nil, fmt.Errorf("command %s: %w", e.ID(), err)
	}
	if _, err := fleet.ParseClientKey(c.Client.String()); err != nil {
		return nil, fmt.Errorf("command %s: %w", e.ID(), err)
	}
	if c.Reason != fleet.ReasonLogin && c.Reason != fleet.ReasonRecovery || c.Generation < 1 || c.At.IsZero() {
		return nil, fmt.Errorf("%w: command %s: reason %q, generation %d, at %s: want login or recovery, at least 1, and a moment",
			fleet.ErrInvalid, e.ID(), c.Reason, c.Generation, c.At)
	}
	if err := secret.CheckSealKey(c.SealTo); err != nil {
		return nil, fmt.Errorf("%w: command %s: %w", fleet.ErrInvalid, e.ID(), err)
	}
	c.At = c.At.UTC().Truncate(time.Second)
	return &signIn{id: e.ID(), cluster: e.Subject(), by: requester(e), command: c}, nil
}

func (s *service) signIn(ctx context.Context, l *signIn) error {
	var err error
	l.now = s.env.Clock.Now()
	if l.authority, err = s.authority.current(ctx); err != nil {
		return err
	}
	agent, err := s.agents.Get(ctx, l.cluster)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		return err
	}
	l.agent = agent.Value.ID
	doc := fleet.Credentials{}
	if l.key, l.refused = keyOf(l.command.CSR); l.refused == nil {
		stored, err := s.credentials.Edit(ctx, l.cluster, func(doc *fleet.Credentials) error { return l.record(ctx, s.ledger, doc) })
		if err != nil {
			return fmt.Errorf("record: %w", err)
		}
		if l.draft != nil && !l.draft.onRecord(&stored.Value) {
			if err := withhold(ctx, s.ledger, l.entry(), []*draft{l.draft}); err != nil {
				return err
			}
		}
		doc = stored.Value
	}
	if errors.Is(l.refused, errStale) {
		s.log.WarnContext(ctx, "a program has waited too long, and was not issued anything", "cluster", l.cluster, "client", l.command.Client.String())
		return nil
	}
	answer, err := l.answer(doc)
	if err != nil {
		return err
	}
	if _, err := s.bundles.Edit(ctx, l.cluster, func(doc *fleet.Bundles) error {
		doc.PutAnswer(answer)
		return nil
	}); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	s.answers.wrote(l.cluster)
	if l.refused == nil {
		if err := s.barRecovered(ctx, doc.Record(l.command.Client), l.command.Reason); err != nil {
			return err
		}
	}
	return s.tellSignIn(ctx, l, doc)
}

// keyOf returns the thumbprint of the key of a request whose sender holds it.
func keyOf(csr []byte) (string, error) {
	public, err := ca.CheckCSR(csr)
	if err != nil {
		return "", err
	}
	return identity.Thumbprint(public)
}

var errStale = errors.New("nobody waits for it any more")

// record adds the generation, unless it is there. It may be called again with
// what somebody else has written meanwhile.
func (l *signIn) record(ctx context.Context, ledger ledger, doc *fleet.Credentials) error {
	l.refused, l.issued = nil, false
	record := doc.Record(l.command.Client)
	claim := fleet.Claim{Shown: l.command.Shown, Key: l.key, Agent: l.agent}
	if claim.Shown == 0 {
		claim.Recovery = l.command.Generation
	}
	number, repeat, err := record.Claim(claim, l.now)
	switch {
	case err != nil:
		l.refused = err
	case repeat && number == l.command.Generation:
		l.issued = record.Find(number).Operation == l.id
	case number != l.command.Generation:
		l.refused = fmt.Errorf("%w: generation %d was asked for, and the next is %d by now: sign in again", fleet.ErrConflict, l.command.Generation, number)
	case clock.Wall().Sub(l.command.AskedAt) > stale:
		l.refused = errStale
	case used(doc, l.key):
		l.refused = fmt.Errorf("%w: the key was used before, by a client of this cluster: each generation has a key of its own: make a new one", fleet.ErrInvalid)
	case !l.now.Before(l.authority.ca.NotAfter()):
		l.refused = fmt.Errorf("%w: CA %s has expired at %s: rotate the CA", fleet.ErrConflict, l.authority.ca.ID(), l.authority.ca.NotAfter().Format(time.RFC3339))
	default:
		if err := l.announce(ctx, ledger); err != nil {
			return err
		}
		if l.refused == nil {
			l.refused = l.sign()
		}
		if keystore.Held(l.refused) {
			return l.refused // it is not thrown away: the command comes again and signs what is announced
		}
		if l.refused == nil {
			l.add(doc)
			return nil
		}
	}
	return kv.Keep
}

// entry is what the entries of this command have in common.
func (l *signIn) entry() audit.Entry {
	e := audit.Entry{Actor: l.by, Action: "credential.sign", Request: l.id, Reason: string(l.command.Reason)}
	return e.About(l.cluster, l.command.Client)
}

// announce prepares the generation and writes down that it is about to be signed,
// once, however often the record must be written.
func (l *signIn) announce(ctx context.Context, ledger ledger) error {
	if l.draft != nil {
		return nil
	}
	c := l.command
	var d *draft
	if d, l.refused = newDraft(l.authority.ca, l.authority.minter, order{
		cluster: l.cluster, client: c.Client, generation: c.Generation, csr: c.CSR, at: c.At, life: c.Life,
	}); l.refused != nil {
		return nil
	}
	if err := announce(ctx, ledger, l.entry(), d.named()...); err != nil {
		return err
	}
	l.draft = d
	return nil
}

// sign signs the generation once.
func (l *signIn) sign() error {
	if l.made != nil {
		return nil
	}
	made, err := l.draft.sign()
	if err != nil {
		return err
	}
	l.made = &made
	return nil
}

// add puts what was signed on record. It belongs to no agent: the program keeps
// the key, and renews it.
func (l *signIn) add(doc *fleet.Credentials) {
	c := l.command
	g := l.authority.generation(*l.made)
	g.Number, g.Reason, g.Operation, g.Rotation = c.Generation, c.Reason, l.id, c.Rotation
	g.At, g.Life, g.RenewAt, g.Trace = c.At, c.Life, c.RenewAt.UTC().Truncate(time.Second), l.trace
	if g.Cut {
		g.RenewAt = moved(g)
	}
	record := doc.Record(c.Client)
	if record == nil {
		if doc.Clients == nil {
			doc.Clients = map[fleet.ClientKey]*fleet.Record{}
		}
		record = &fleet.Record{}
		doc.Clients[c.Client] = record
	}
	record.Generations = append(record.Generations, g)
	record.Trim(l.now)
	l.issued = true
}

// answer returns what the gateway gets. What an interrupted run has signed, or
// an earlier command with the same key, is made again from the record.
func (l *signIn) answer(doc fleet.Credentials) (fleet.Answer, error) {
	a := fleet.Answer{Command: l.id, At: clock.Wall()}
	var made signed
	if l.refused == nil {
		g := doc.Record(l.command.Client).Find(l.command.Generation)
		if g == nil {
			return a, fmt.Errorf("generation %d is not on record any more", l.command.Generation)
		}
		made, l.refused = l.again(g)
	}
	if l.refused != nil {
		a.Kind, a.Error = fleet.KindOf(l.refused), l.refused.Error()
		if a.Kind == "" {
			return a, l.refused // ours to mend: the command comes again
		}
		return a, nil
	}
	number := l.command.Generation
	box, err := secret.Seal(l.command.SealTo, secret.TokenContext(l.cluster, l.command.Client.String(), number), made.token.Text)
	if err != nil {
		return a, err
	}
	a.Generation, a.Chain, a.Token = number, made.certificate.Chain, box
	return a, nil
}

// again returns what the record says was signed.
func (l *signIn) again(g *fleet.Generation) (signed, error) {
	if l.made != nil && identity.Fingerprint(l.made.certificate.X509.Raw) == g.Certificate.Fingerprint {
		return *l.made, nil
	}
	return l.authority.again(order{cluster: l.cluster, client: l.command.Client, csr: l.command.CSR}, g)
}

// tellSignIn tells of a generation that this command has led to. The id depends
// on the command that made it, so that a repeat is the same fact.
func (s *service) tellSignIn(ctx context.Context, l *signIn, doc fleet.Credentials) error {
	client := l.command.Client.String()
	switch {
	case l.refused != nil:
		s.log.WarnContext(ctx, "sign-in refused", "cluster", l.cluster, "client", client, "err", l.refused)
		return nil
	case !l.issued:
		return nil // the command that made it tells
	}
	g := doc.Record(l.command.Client).Find(l.command.Generation)
	fact, err := event.CredentialIssued.New(event.Meta{Source: name, Cluster: l.cluster, Key: []string{l.id, client}, Time: g.At}, event.Credentials{
		Operation: l.id, Rotation: g.Rotation, Reason: g.Reason, Clients: []event.Client{{
			Client: l.command.Client, Generation: g.Number, Serial: g.Certificate.Serial, TokenID: g.Token.ID,
			NotAfter: g.Certificate.NotAfter, ExpiresAt: g.Token.ExpiresAt, RenewAt: g.RenewAt, Cut: g.Cut,
		}},
	})
	if err != nil {
		return bus.Permanent(err)
	}
	if err := s.facts.Publish(ctx, fact); err != nil {
		return err
	}
	s.metrics.issued.Inc()
	s.log.InfoContext(ctx, "issued to a program", "cluster", l.cluster, "client", client, "generation", g.Number, "reason", g.Reason)
	return nil
}
