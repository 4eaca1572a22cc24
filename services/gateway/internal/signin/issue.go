package signin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// ask is what a program wants that may have it.
type ask struct {
	cluster  string
	client   fleet.ClientKey
	reason   fleet.Reason
	rotation string            // of a recovery
	shown    *fleet.Generation // whose token was shown; nil with a recovery token
	recovery int               // generation that the recovery token is for
	request  request
	policy   fleet.Policy
	life     fleet.Duration
}

func (a ask) subject() string { return identity.Subject(a.cluster, a.client) }

// claim says the same to the record.
func (a ask) claim(agent *fleet.Agent) fleet.Claim {
	c := fleet.Claim{Recovery: a.recovery, Key: a.request.key}
	if a.shown != nil {
		c.Shown = a.shown.Number
	}
	if agent != nil {
		c.Agent = agent.ID
	}
	return c
}

// issue gets the generation of an ask from the issuer.
func (s *Service) issue(ctx context.Context, a ask) (api.SignInReply, error) {
	record, err := s.record(ctx, a.cluster, a.client)
	if err != nil {
		return api.SignInReply{}, err
	}
	// The issuer decides again, under its compare-and-set. Here it keeps work
	// from it that leads to nothing.
	number, _, err := record.Claim(a.claim(s.env.State.Agent(a.cluster)), s.env.Clock.Now())
	if err != nil {
		return api.SignInReply{}, s.refuse(ctx, a, err)
	}
	if err := s.prove(ctx, a); err != nil {
		return api.SignInReply{}, err
	}
	answer, err := s.answer(ctx, a, number)
	if err != nil {
		return api.SignInReply{}, s.refuse(ctx, a, err)
	}
	return s.reply(ctx, a, answer)
}

// prove tells that the generation whose token was shown is in use, unless that
// is known: a call was seen with its token and its key, while its certificate is
// valid.
func (s *Service) prove(ctx context.Context, a ask) error {
	if a.shown == nil || !a.shown.Step.Before(fleet.StepProven) || !a.shown.Certificate.ValidAt(s.env.Clock.Now()) {
		return nil
	}
	return s.tell(ctx, event.CredentialProven, a, a.shown, "")
}

// tell publishes a fact about a generation of the client.
func (s *Service) tell(ctx context.Context, kind event.Kind[event.Credentials], a ask, g *fleet.Generation, operation string) error {
	m := event.Meta{Source: "gateway", Cluster: a.cluster, Key: []string{fmt.Sprintf("%s@%d", a.client, g.Number)}, Time: s.env.Clock.Now()}
	e, err := kind.New(m, event.Credentials{Operation: operation, Clients: []event.Client{{
		Client: a.client, Generation: g.Number, Serial: g.Certificate.Serial, TokenID: g.Token.ID,
		NotAfter: g.Certificate.NotAfter, ExpiresAt: g.Token.ExpiresAt, RenewAt: g.RenewAt,
	}}})
	if err != nil {
		return err
	}
	return s.env.Bus.Publish(ctx, e)
}

// opened is an answer of the issuer.
type opened struct {
	command    string
	generation int
	chain      []byte
	token      secret.Text
}

// answer asks the issuer and waits for what it says. The key that opens the
// token lives as long as this call.
func (s *Service) answer(ctx context.Context, a ask, number int) (opened, error) {
	e, open, err := s.command(a, number)
	if err != nil {
		return opened{}, err
	}
	if err := s.env.Bus.Publish(ctx, e); err != nil {
		return opened{}, err
	}
	timer := time.NewTimer(s.env.Patience)
	defer timer.Stop()
	for {
		changed := s.env.State.Work.Wait(a.cluster)
		doc, err := s.env.State.Bundles.Get(ctx, a.cluster)
		if err != nil && !errors.Is(err, fleet.ErrNotFound) {
			return opened{}, err
		}
		if found := doc.Value.Answer(e.ID()); found != nil {
			if found.Error != "" {
				return opened{}, found.Kind.Error(found.Error)
			}
			text, err := open.Open(secret.TokenContext(a.cluster, a.client.String(), found.Generation), found.Token)
			authority, _ := s.env.State.TheAuthority()
			return opened{e.ID(), found.Generation, trust.Chain(found.Chain, authority.Bundle.Bridges), text}, err
		}
		select {
		case <-changed:
		case <-timer.C:
			s.env.Log.WarnContext(ctx, "the issuer has not answered; the program will ask again", "cluster", a.cluster, "client", a.client.String())
			return opened{}, unavailable("the issuer has not answered: send the same request again, with the same key, and you get what it has made")
		case <-ctx.Done():
			return opened{}, ctx.Err()
		}
	}
}

// command returns the command for an ask, and the key that opens its answer.
func (s *Service) command(a ask, number int) (event.Event, secret.OpenKey, error) {
	open, err := secret.NewOpenKey()
	if err != nil {
		return event.Event{}, open, err
	}
	at := s.env.Clock.Now().UTC().Truncate(time.Second)
	life, err := lifeOf(a.life, a.policy, at)
	if err != nil {
		return event.Event{}, open, err
	}
	first := life.Certificate
	if life.Token.Before(first) {
		first = life.Token
	}
	command := event.LoginCommand{
		Client: a.client, Reason: a.reason, Rotation: a.rotation, Generation: number, CSR: a.request.der, At: at, Life: life,
		RenewAt: fleet.DrawRenewal(a.cluster, a.client, number, a.policy, at, first),
		SealTo:  open.SealKey(), AskedAt: clock.Wall(),
	}
	if a.shown != nil {
		command.Shown = a.shown.Number
	}
	// Each call waits for an answer of its own.
	e, err := event.Login.New(event.Meta{Source: "gateway", Cluster: a.cluster, Key: []string{uuid.NewString()}, Time: at}, command)
	return e, open, err
}

// entry says in the ledger that a program was let in. A repeat, which gets the
// same generation for the same key, is the same entry.
func (a ask) entry(g *fleet.Generation) audit.Entry {
	e := audit.Entry{
		Actor: "client " + a.subject(), Action: "client." + string(a.reason), Request: fmt.Sprintf("%s %s %d %s", a.reason, a.subject(), g.Number, a.request.key),
		Details: map[string]string{"generation": strconv.Itoa(g.Number), "key": a.request.key},
	}
	if a.rotation != "" {
		e.Details["rotation"] = a.rotation
	}
	return e.About(a.cluster, a.client)
}

// reply tells that the generation was handed out, and returns it.
func (s *Service) reply(ctx context.Context, a ask, o opened) (api.SignInReply, error) {
	authority, err := s.authority()
	if err != nil {
		return api.SignInReply{}, err
	}
	record, err := s.record(ctx, a.cluster, a.client)
	if err != nil {
		return api.SignInReply{}, err
	}
	if record != nil && record.Revoked != nil {
		return api.SignInReply{}, huma.NewError(http.StatusForbidden, fmt.Sprintf("client %s was revoked just now: %s", a.subject(), record.Revoked.Reason))
	}
	g := record.Find(o.generation)
	if g == nil {
		return api.SignInReply{}, unavailable("the record is behind the issuer: send the same request again, with the same key")
	}
	if err := ledger.Seen(ctx, s.env.Ledger, a.entry(g)); err != nil {
		return api.SignInReply{}, err
	}
	if g.Step.Before(fleet.StepDelivered) {
		// What is not told now is told when the program asks again, or proves.
		if err := s.tell(ctx, event.CredentialDelivered, a, g, o.command); err != nil {
			s.env.Log.WarnContext(ctx, "delivery not told", "cluster", a.cluster, "client", a.client.String(), "err", err)
		}
	}
	s.env.Log.InfoContext(ctx, "program signed in", "cluster", a.cluster, "client", a.client.String(), "generation", g.Number, "reason", a.reason)
	return api.SignInReply{
		Cluster: a.cluster, Client: a.client, Generation: g.Number, Certificate: string(o.chain), Token: o.token.Reveal(),
		CA: strings.Join(authority.Bundle.Certificates, ""), NotAfter: g.Certificate.NotAfter, ExpiresAt: g.Token.ExpiresAt, RenewAt: g.RenewAt,
	}, nil
}

// refuse turns what the record says into the answer to the program, and tells
// people where somebody else holds what this program alone may hold.
func (s *Service) refuse(ctx context.Context, a ask, err error) error {
	record, readErr := s.record(ctx, a.cluster, a.client) // as it is by now
	if readErr != nil {
		return err
	}
	switch {
	case record != nil && record.Revoked != nil:
		err = huma.NewError(http.StatusForbidden, fmt.Sprintf("client %s is %s", a.subject(), strings.TrimPrefix(err.Error(), "denied: ")))
	case errors.Is(err, fleet.ErrDenied) && a.shown != nil:
		return unauthorized(invalidToken, "token: "+err.Error())
	case !errors.Is(err, fleet.ErrConflict) || !contested(a, record):
		return err
	}
	s.refused(ctx, a, err)
	return err
}

// contested reports whether another key has got the generation that follows from
// the token that was shown: so two hold it.
func contested(a ask, record *fleet.Record) bool {
	newest := record.Newest()
	return a.shown != nil && newest.ByProgram() && newest.Number > a.shown.Number && newest.Key != a.request.key
}

// refused tells people of a refusal. Each key that was refused is told for
// itself.
func (s *Service) refused(ctx context.Context, a ask, why error) {
	r := event.Refusal{What: event.RefusedRecovery, Client: &a.client, Generation: a.recovery, Agent: a.request.key, Reason: why.Error()}
	about := a.rotation
	if a.shown != nil {
		r.What, r.Generation, about = event.RefusedLogin, a.shown.Number+1, a.shown.Token.ID
	}
	s.env.Refusals.Tell(ctx, a.cluster, about, r)
}
