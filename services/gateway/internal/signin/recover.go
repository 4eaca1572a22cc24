package signin

import (
	"context"
	"crypto/subtle"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/services/gateway/internal/operate"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// redeem lets a client back that shows a recovery token. The key that redeemed
// the token may repeat the call: its reply may have been lost.
func (s *Service) redeem(ctx context.Context, c *caller, in api.RecoverRequest) (api.SignInReply, error) {
	if err := s.admit(c); err != nil {
		return api.SignInReply{}, err
	}
	if _, err := s.authority(); err != nil {
		return api.SignInReply{}, err
	}
	r, err := parseRequest(in.CSR)
	if err != nil {
		return api.SignInReply{}, err
	}
	hash := operate.HashToken(strings.TrimSpace(in.Token))
	cluster, key, ok := s.env.State.Recoveries.Find(hash)
	if !ok { // made a moment ago, at another gateway
		s.env.State.Agents.Fresh(ctx)
		cluster, key, ok = s.env.State.Recoveries.Find(hash)
	}
	if !ok {
		return api.SignInReply{}, unknownToken()
	}
	declared, err := s.client(cluster, key)
	if err != nil {
		return api.SignInReply{}, err
	}
	a := ask{
		cluster: cluster, client: key, reason: fleet.ReasonRecovery, request: r,
		policy: fleet.PolicyOf(s.env.State.FleetSettings(), &declared),
	}
	if wait, ok := s.clients.take("recover " + a.subject()); !ok {
		return api.SignInReply{}, slower(wait)
	}
	if err := s.spend(ctx, &a, hash); err != nil {
		return api.SignInReply{}, err
	}
	return s.issue(ctx, a)
}

func unknownToken() error {
	return huma.NewError(http.StatusForbidden, "the recovery token is not known: a later one has taken its place, or it is not of this Rotor: ask an operator for a new one")
}

// spend writes down that the key has redeemed the token, before the issuer is
// asked. A token is not spent on what cannot be issued.
func (s *Service) spend(ctx context.Context, a *ask, hash string) error {
	record, err := s.record(ctx, a.cluster, a.client)
	if err != nil {
		return err
	}
	stolen := false
	_, err = s.env.State.Agents.Bucket.Edit(ctx, a.cluster, func(doc *fleet.Agent) error {
		recovery, ok := doc.Recoveries[a.client]
		if !ok || subtle.ConstantTimeCompare([]byte(recovery.Hash), []byte(hash)) != 1 {
			return unknownToken()
		}
		a.recovery, a.rotation, stolen = recovery.Generation, recovery.Operation, false
		if recovery.UsedBy != "" && recovery.UsedBy != a.request.key {
			stolen = true
			return fmt.Errorf("%w: the recovery token was redeemed %s by another key: if that was not you, revoke client %s at once",
				fleet.ErrDenied, recovery.UsedAt.UTC().Format(time.RFC3339), a.subject())
		}
		if _, _, err := record.Claim(a.claim(doc), s.env.Clock.Now()); err != nil {
			return err
		}
		now := s.env.Clock.Now()
		switch {
		case recovery.UsedBy == a.request.key:
			return kv.Keep
		case !now.Before(recovery.ExpiresAt):
			return huma.NewError(http.StatusForbidden, fmt.Sprintf("the recovery token has expired %s: ask an operator for a new one", recovery.ExpiresAt.UTC().Format(time.RFC3339)))
		}
		recovery.UsedBy, recovery.UsedAt = a.request.key, now.Truncate(time.Second)
		doc.Recoveries[a.client] = recovery
		return nil
	})
	if stolen {
		s.refused(ctx, *a, err)
		return err
	}
	if err != nil {
		return s.refuse(ctx, *a, err)
	}
	return nil
}
