package plan

import (
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// crossing is a threshold in the life of a generation.
type crossing struct {
	stage Stage
	from  time.Time // first moment at which it is crossed
	told  time.Time // the moment as it is told
	kind  event.Kind[event.Credentials]
	level int
}

// crossings returns the thresholds of a generation in use. One for which a
// newer generation is on its way is not due for another.
func crossings(g *fleet.Generation, p fleet.Policy, newest bool) []crossing {
	warning, critical := g.Moment(p.Warning), g.Moment(p.Critical)
	all := []crossing{
		{StageWarning, warning, warning, event.CredentialExpiring, 1},
		{StageCritical, critical, critical, event.CredentialExpiring, 2},
	}
	if newest {
		all = append([]crossing{{StageDue, g.RenewAt, g.RenewAt, event.CredentialDue, 0}}, all...)
	}
	// A certificate is valid at its notAfter (RFC 5280, 4.1.2.5), a token is not
	// at its exp (RFC 7519, 4.1.4).
	token, certificate := g.Token.ExpiresAt, g.Certificate.NotAfter
	past := certificate.Add(time.Nanosecond)
	if sameSecond(g) {
		return append(all, crossing{StageBoth, later(token, past), later(token, certificate), event.CredentialExpired, 0})
	}
	return append(all,
		crossing{StageToken, token, token, event.CredentialExpired, 0},
		crossing{StageCertificate, past, certificate, event.CredentialExpired, 0})
}

// sameSecond reports whether both credentials end together, but for the instant
// that lies between an inclusive and an exclusive end.
func sameSecond(g *fleet.Generation) bool {
	return g.Token.ExpiresAt.Sub(g.Certificate.NotAfter).Abs() < time.Second
}

// tell adds the facts about what was crossed and not told yet.
func (e *evaluation) tell(key fleet.ClientKey, record *fleet.Record) {
	told, known := e.Told.Clients[key]
	g := record.InUse()
	if g == nil {
		// A recovery has ended what it used, and the next is on its way: that it was
		// locked out must not be forgotten, or nobody hears that it is well again.
		if known {
			e.out.Told.Clients[key] = told
		}
		return
	}
	if told.Generation != g.Number {
		told = ToldClient{Generation: g.Number, State: told.State}
	}
	told.Stages = slices.Clone(told.Stages)
	for _, c := range crossings(g, e.policy, g == record.Newest()) {
		if !e.passed(c.from) || slices.Contains(told.Stages, c.stage) {
			continue
		}
		told.Stages = append(told.Stages, c.stage)
		client := clientOf(key, g)
		client.Level = c.level
		if c.kind.Type() == event.CredentialExpired.Type() {
			client.Credential = string(c.stage)
		}
		e.fact(c.kind, string(c.stage), c.told, client)
	}
	told.State = e.tellState(key, record, told.State)
	e.out.Told.Clients[key] = told
}

// tellState adds the fact about a change of state, and returns the state that
// was told last: empty once the client has recovered.
func (e *evaluation) tellState(key fleet.ClientKey, record *fleet.Record, told fleet.State) fleet.State {
	g, state := record.InUse(), fleet.StateOf(record, e.Now)
	switch state {
	case fleet.StateDegraded:
		if told != state && !sameSecond(g) {
			e.fact(event.ClientDegraded, string(state), g.Token.ExpiresAt, clientOf(key, g))
			return state
		}
	case fleet.StateLockedOut:
		if told != state {
			e.fact(event.ClientLockedOut, string(state), later(g.Token.ExpiresAt, g.Certificate.NotAfter), clientOf(key, g))
			return state
		}
	case fleet.StateHealthy, fleet.StateDue:
		if told != "" && !g.Step.Before(fleet.StepProven) {
			e.fact(event.ClientRecovered, "recovered from "+string(told), g.ProvenAt, clientOf(key, g))
			return ""
		}
	}
	return told
}

func clientOf(key fleet.ClientKey, g *fleet.Generation) event.Client {
	return event.Client{
		Client: key, Generation: g.Number, Serial: g.Certificate.Serial, TokenID: g.Token.ID,
		NotAfter: g.Certificate.NotAfter, ExpiresAt: g.Token.ExpiresAt, RenewAt: g.RenewAt, Cut: g.Cut,
	}
}

// fact adds a client to the fact of the same stage and moment. Facts are not
// joined across moments: what one says must not depend on when it was noticed.
func (e *evaluation) fact(kind event.Kind[event.Credentials], stage string, at time.Time, client event.Client) {
	for i := range e.out.Facts {
		f := &e.out.Facts[i]
		if f.Kind.Type() == kind.Type() && f.Meta.Key[0] == stage && f.Meta.Time.Equal(at) {
			f.Data.Clients = append(f.Data.Clients, client)
			return
		}
	}
	e.out.Facts = append(e.out.Facts, Fact[event.Credentials]{
		Kind: kind, Data: event.Credentials{Clients: []event.Client{client}},
		Meta: event.Meta{Source: source, Cluster: e.Cluster.Name, Key: []string{stage}, Time: at.UTC()},
	})
}

// nameFacts completes the ids: stage, and every client with its generation.
// The facts are put in the order of their moments.
func (e *evaluation) nameFacts() {
	for i := range e.out.Facts {
		f := &e.out.Facts[i]
		for _, client := range f.Data.Clients {
			f.Meta.Key = append(f.Meta.Key, fmt.Sprintf("%s#%d", client.Client, client.Generation))
		}
	}
	slices.SortStableFunc(e.out.Facts, func(a, b Fact[event.Credentials]) int { return a.Meta.Time.Compare(b.Meta.Time) })
}
