package issuer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/secret"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

// operation is a command of the scheduler with its place.
type operation struct {
	id      string
	cluster string
	by      string    // who gave the command
	time    time.Time // when the command was given
	command event.IssueCommand
}

// pass is one run of a command. What it has signed it keeps, in case that the
// record must be written again.
type pass struct {
	operation
	trace     string // traceparent of this run; the record keeps that of the run that has signed
	now       time.Time
	agent     fleet.Agent
	authority *authority
	sealer    *secret.Sealer             // to the agent; made when it is needed
	drafts    map[fleet.ClientKey]*draft // that are in the ledger
	signed    map[fleet.ClientKey]signed
	failures  map[fleet.ClientKey]failure
}

// failure is why one client was not issued anything.
type failure struct {
	reason string // for the metric
	err    error  // for people: what is wrong and what would help
}

// newPass reads a command. An error is one that no repetition mends.
func newPass(e event.Event) (*pass, error) {
	command, err := event.Issue.Decode(e)
	if err != nil {
		return nil, err
	}
	if err := fleet.CheckName("cluster", e.Subject()); err != nil {
		return nil, fmt.Errorf("command %s: %w", e.ID(), err)
	}
	if command.At.IsZero() {
		return nil, fmt.Errorf("%w: command %s: at is missing", fleet.ErrInvalid, e.ID())
	}
	command.At = command.At.UTC().Truncate(time.Second)
	for _, c := range command.Clients {
		if _, err := fleet.ParseClientKey(c.Client.String()); err != nil {
			return nil, fmt.Errorf("command %s: %w", e.ID(), err)
		}
		if c.Generation < 1 {
			return nil, fmt.Errorf("%w: command %s: client %s: generation %d: the first one is 1", fleet.ErrInvalid, e.ID(), c.Client, c.Generation)
		}
	}
	when := e.Time()
	if when.IsZero() {
		when = command.At
	}
	return &pass{
		operation: operation{id: e.ID(), cluster: e.Subject(), by: requester(e), time: when, command: command},
		drafts:    map[fleet.ClientKey]*draft{}, signed: map[fleet.ClientKey]signed{}, failures: map[fleet.ClientKey]failure{},
	}, nil
}

// record adds the generations that are missing, once the ledger says that they
// are about to be signed. It may be called again with what somebody else has
// written meanwhile.
func (p *pass) record(ctx context.Context, l ledger, doc *fleet.Credentials) error {
	clear(p.failures)
	todo := p.todo(doc)
	if err := p.announce(ctx, l, todo); err != nil {
		return err
	}
	changed := false
	for _, c := range todo {
		g, err := p.make(c)
		if keystore.Held(err) {
			return err // it is not refused: the command comes again
		}
		if err != nil {
			p.fail(c, failure{"refused", err})
			continue
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
		record.Trim(p.now)
		changed = true
	}
	if !changed {
		return kv.Keep
	}
	return nil
}

// todo returns what has to be signed, and prepares it.
func (p *pass) todo(doc *fleet.Credentials) []event.IssueClient {
	var todo []event.IssueClient
	keys := map[string]bool{}
	for _, c := range p.command.Clients {
		if doc.Record(c.Client).Number() >= c.Generation {
			continue // made before, by this command or by another
		}
		why, ok := p.refusal(c, doc)
		if ok && keys[p.agent.Requests[c.Client].Key] {
			why, ok = keyUsed(), false
		}
		if !ok {
			p.fail(c, why)
			continue
		}
		if err := p.prepare(c); err != nil {
			p.fail(c, failure{"refused", err})
			continue
		}
		keys[p.agent.Requests[c.Client].Key] = true
		todo = append(todo, c)
	}
	return todo
}

// prepare settles what is signed for a client, once, however often the record must
// be written.
func (p *pass) prepare(c event.IssueClient) error {
	if p.drafts[c.Client] != nil {
		return nil
	}
	request := p.agent.Requests[c.Client]
	d, err := newDraft(p.authority.ca, p.authority.minter, order{
		cluster: p.cluster, client: c.Client, generation: c.Generation, csr: request.CSR, at: p.command.At, life: c.Life,
	})
	if err != nil {
		return err
	}
	if request.Key != d.certificate.Key {
		return fmt.Errorf("%w: certificate request is for key %s, and was filed as %s: file it again", fleet.ErrInvalid, d.certificate.Key, request.Key)
	}
	p.drafts[c.Client] = d
	return nil
}

// entry is what the entries of this command have in common.
func (p *pass) entry() audit.Entry {
	e := audit.Entry{Actor: p.by, Action: "credential.sign", Cluster: p.cluster, Request: p.id, Reason: string(p.command.Reason)}
	if p.command.Rotation != "" {
		e.Details = map[string]string{"rotation": p.command.Rotation}
	}
	return e
}

// announce writes down what is about to be signed and was not announced by this
// run.
func (p *pass) announce(ctx context.Context, l ledger, todo []event.IssueClient) error {
	var all []audit.Signed
	for _, c := range todo {
		if d := p.drafts[c.Client]; !d.announced {
			all = append(all, d.named()...)
		}
	}
	if err := announce(ctx, l, p.entry(), all...); err != nil {
		return err
	}
	for _, c := range todo {
		p.drafts[c.Client].announced = true
	}
	return nil
}

// overtaken returns what was announced and is not on record.
func (p *pass) overtaken(doc *fleet.Credentials) []*draft {
	var all []*draft
	for _, d := range p.drafts {
		if d.announced && !d.onRecord(doc) {
			all = append(all, d)
		}
	}
	return all
}

func (p *pass) fail(c event.IssueClient, f failure) { p.failures[c.Client] = f }

// refusal says why a generation must not be made.
func (p *pass) refusal(c event.IssueClient, doc *fleet.Credentials) (failure, bool) {
	record := doc.Record(c.Client)
	request, filed := p.agent.Requests[c.Client]
	switch {
	case record != nil && record.Revoked != nil:
		return failure{"revoked", fmt.Errorf("%w: revoked since %s (%s): only an explicit reinstatement brings it back",
			fleet.ErrDenied, record.Revoked.At.Format(time.RFC3339), record.Revoked.Reason)}, false
	case record.Next(request) != c.Generation:
		return failure{"gap", fmt.Errorf("%w: generation %d was asked for, and the newest is %d: ask for %d",
			fleet.ErrConflict, c.Generation, record.Number(), record.Next(request))}, false
	case p.agent.ID == "" || len(p.agent.SealKey) == 0:
		return failure{"no-agent", fmt.Errorf("%w: no agent has joined for cluster %s: join one", fleet.ErrNotFound, p.cluster)}, false
	case !filed || request.Generation != c.Generation:
		return failure{"no-request", fmt.Errorf("%w: no certificate request for generation %d is on file: its agent files one when it is back; "+
			"until then the credential in use stays", fleet.ErrNotFound, c.Generation)}, false
	case used(doc, request.Key):
		return keyUsed(), false
	case !p.now.Before(p.authority.ca.NotAfter()):
		return failure{"authority-expired", fmt.Errorf("%w: CA %s has expired at %s: rotate the CA",
			fleet.ErrInvalid, p.authority.ca.ID(), p.authority.ca.NotAfter().Format(time.RFC3339))}, false
	}
	return failure{}, true
}

func keyUsed() failure {
	return failure{"key-used", fmt.Errorf("%w: its key was used before: each generation has a key of its own; file a request with a new one", fleet.ErrDenied)}
}

// used reports whether a generation of any client of the cluster has this key.
// That the thumbprint is that of the request is checked when it is signed.
func used(doc *fleet.Credentials, key string) bool {
	for _, record := range doc.Clients {
		if record != nil && slices.ContainsFunc(record.Generations, func(g fleet.Generation) bool { return g.Key == key }) {
			return true
		}
	}
	return false
}

// make signs a new generation, which the ledger has, and returns its record.
func (p *pass) make(c event.IssueClient) (fleet.Generation, error) {
	made, ok := p.signed[c.Client]
	if !ok {
		var err error
		if made, err = p.drafts[c.Client].sign(); err != nil {
			return fleet.Generation{}, err
		}
		p.signed[c.Client] = made
	}
	g := p.authority.generation(made)
	g.Number, g.Reason, g.Operation, g.Rotation = c.Generation, p.command.Reason, p.id, p.command.Rotation
	g.At, g.Life, g.RenewAt = p.command.At, c.Life, c.RenewAt.UTC().Truncate(time.Second)
	g.Agent, g.Trace = p.agent.ID, p.trace
	if g.Cut {
		g.RenewAt = moved(g)
	}
	return g, nil
}

// generation returns what the record says of what was just signed.
func (a *authority) generation(made signed) fleet.Generation {
	leaf := made.certificate.X509
	return fleet.Generation{
		Step: fleet.StepIssued, Key: made.key, Token: made.token.Record, Cut: made.cut, Signature: leaf.Signature,
		Certificate: fleet.Certificate{
			Serial: identity.Serial(leaf), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
			Issuer: a.ca.ID(), Fingerprint: identity.Fingerprint(leaf.Raw), TBS: audit.Content(leaf.RawTBSCertificate),
		},
	}
}

// moved returns the renewal moment at the same share of a life that was cut.
func moved(g fleet.Generation) time.Time {
	asked := g.Life.Certificate
	if g.Life.Token.Before(asked) {
		asked = g.Life.Token
	}
	wanted, life := asked.Sub(g.At), g.Expiry().Sub(g.At)
	if wanted <= 0 || life >= wanted {
		return g.RenewAt
	}
	share := float64(g.RenewAt.Sub(g.At)) / float64(wanted)
	return g.At.Add(time.Duration(share * float64(life))).Truncate(time.Second)
}
