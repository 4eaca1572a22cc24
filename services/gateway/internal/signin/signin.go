// Package signin lets programs sign in by themselves: with the token of a
// generation and a proof of its key, or with a recovery token, and a certificate
// request for a new key. The gateway decides who may; the issuer signs.
//
// What makes a repeat safe is that the key settles the generation: the same key
// gets the same certificate and token, another key gets neither. So it does not
// matter where a reply was lost or which gateway was killed.
package signin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/services/gateway/internal/denial"
	"github.com/rotor-fleet/rotor/services/gateway/internal/dpop"
	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/services/gateway/internal/state"
	"github.com/rotor-fleet/rotor/services/gateway/internal/token"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

// publisher is what is needed of a bus.Bus.
type publisher interface {
	Publish(ctx context.Context, e event.Event) error
}

// Env is what a Service works with.
type Env struct {
	State    *state.State
	Bus      publisher
	Clock    clock.Clock
	Log      *slog.Logger
	Refusals denial.Teller
	Ledger   ledger.Log
	URLs     []string      // base URLs at which programs reach the gateway
	Patience time.Duration // how long the issuer has to answer; 10 s, if zero
}

// Service signs programs in. It is safe for concurrent use.
type Service struct {
	env       Env
	places    []string
	addresses limiter
	clients   limiter
	used      dpop.Memory
}

// patience is how long the issuer has to answer, before the program is told to
// try again.
const patience = 10 * time.Second

// New returns a service.
func New(env Env) *Service {
	s := &Service{
		env:       env,
		addresses: limiter{rate: addressRate, burst: addressBurst},
		clients:   limiter{rate: clientRate, burst: clientBurst},
	}
	if s.env.Patience == 0 {
		s.env.Patience = patience
	}
	for _, base := range env.URLs {
		if place, err := dpop.Place(strings.TrimSuffix(base, "/") + api.PathLogin); err == nil && !slices.Contains(s.places, place) {
			s.places = append(s.places, place)
		}
	}
	return s
}

// login signs a program in that shows a token and proves that it holds its key.
func (s *Service) login(ctx context.Context, c *caller, in api.LoginRequest) (api.SignInReply, error) {
	if err := s.admit(c); err != nil {
		return api.SignInReply{}, err
	}
	authority, err := s.authority()
	if err != nil {
		return api.SignInReply{}, err
	}
	shown, err := c.token()
	if err != nil {
		return api.SignInReply{}, err
	}
	claims, err := token.Verify(shown, authority, s.env.Clock.Now())
	if err != nil {
		return api.SignInReply{}, unauthorized(invalidToken, "token: "+err.Error()+remedy(claims))
	}
	cluster, key, err := identity.ParseSubject(claims.Subject)
	if err != nil {
		return api.SignInReply{}, unauthorized(invalidToken, "token: sub: "+err.Error())
	}
	declared, err := s.client(cluster, key)
	if err != nil {
		return api.SignInReply{}, err
	}
	policy := fleet.PolicyOf(s.env.State.FleetSettings(), &declared)
	if err := s.possess(c, shown, claims, policy.ClockSkew.Std()); err != nil {
		return api.SignInReply{}, err
	}
	if wait, ok := s.clients.take(claims.Subject); !ok {
		return api.SignInReply{}, slower(wait)
	}
	r, err := parseRequest(in.CSR)
	if err != nil {
		return api.SignInReply{}, err
	}
	g, err := s.shown(ctx, cluster, key, claims.ID)
	if err != nil {
		return api.SignInReply{}, err
	}
	return s.issue(ctx, ask{cluster: cluster, client: key, reason: fleet.ReasonLogin, shown: g, request: r, policy: policy, life: in.Life})
}

// remedy says what helps a client whose token was signed by Rotor and is of no use
// any more. Of one that was not, the claims say nothing.
func remedy(c token.Claims) string {
	cluster, key, err := identity.ParseSubject(c.Subject)
	if err != nil {
		return ""
	}
	return ": its agent renews it without; a program needs a recovery token: " + fleet.RecoverCommand(cluster, key) + " --token"
}

// client returns the cluster of a client that the fleet has.
func (s *Service) client(cluster string, key fleet.ClientKey) (fleet.Cluster, error) {
	declared, err := s.env.State.Cluster(cluster)
	if err != nil || !slices.Contains(declared.ClientKeys(), key) {
		return declared, huma.NewError(http.StatusForbidden, fmt.Sprintf("client %s is not in the fleet any more", identity.Subject(cluster, key)))
	}
	return declared, nil
}

// possess demands a proof that was made for this call and this token, and that
// was not used before. Its freshness passes on the machine's time: it is about
// the way of a message, and its maker knows no other clock.
func (s *Service) possess(c *caller, shown string, claims token.Claims, skew time.Duration) error {
	if c.proofs > 1 {
		return unauthorized(invalidProof, "send one header DPoP, not several")
	}
	now := clock.Wall()
	proof, err := dpop.Call{
		Method: http.MethodPost, URLs: s.places, Token: shown, Key: claims.Confirmation.Thumbprint, Now: now, Skew: skew,
	}.Check(c.proof)
	if err != nil {
		return unauthorized(invalidProof, "proof of possession (RFC 9449): "+err.Error())
	}
	first, err := s.used.Use(proof, proof.IssuedAt.Add(skew), now)
	if err != nil {
		return unavailable("more programs sign in than can be served: " + err.Error())
	}
	if !first {
		return unauthorized(invalidProof, "the proof was used before: make one with a new jti for each call")
	}
	return nil
}

// looks is how often a record is read before a token counts as unknown: a
// replica of the bucket may be a moment behind.
const looks = 3

// shown returns the generation whose token was shown.
func (s *Service) shown(ctx context.Context, cluster string, key fleet.ClientKey, id string) (*fleet.Generation, error) {
	for look := 1; ; look++ {
		record, err := s.record(ctx, cluster, key)
		if err != nil {
			return nil, err
		}
		if record != nil {
			i := slices.IndexFunc(record.Generations, func(g fleet.Generation) bool { return g.Token.ID == id })
			if i >= 0 {
				return &record.Generations[i], nil
			}
		}
		if look == looks || clock.Sleep(ctx, bus.Backoff(look, 250*time.Millisecond)) != nil {
			return nil, unauthorized(invalidToken, fmt.Sprintf("token: it is not on record for %s: later ones have replaced it, or the fleet was restored from a backup", identity.Subject(cluster, key)))
		}
	}
}

// record reads the record of a client from the bucket itself: a mirror may be
// behind what the program has got.
func (s *Service) record(ctx context.Context, cluster string, key fleet.ClientKey) (*fleet.Record, error) {
	e, err := s.env.State.Credentials.Bucket.Get(ctx, cluster)
	if errors.Is(err, fleet.ErrNotFound) {
		return nil, nil
	}
	return e.Value.Record(key), err
}

func (s *Service) authority() (fleet.Authority, error) {
	a, ok := s.env.State.TheAuthority()
	if !ok {
		return a, unavailable("the issuer has made no authority yet")
	}
	return a, nil
}
