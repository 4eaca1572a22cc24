package agents

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/services/gateway/internal/operate"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// enrol lets an agent join with a one-time token. The agent that redeemed the
// token may repeat the call: its reply may have been lost.
func (s *Service) enrol(ctx context.Context, c *caller, request api.EnrolRequest) (api.EnrolReply, error) {
	id, err := c.id()
	if err != nil {
		return api.EnrolReply{}, err
	}
	if err := secret.CheckSealKey(request.SealKey); err != nil {
		return api.EnrolReply{}, fmt.Errorf("%w: sealKey: %w", fleet.ErrInvalid, err)
	}
	if err := fleet.CheckName("cluster", request.Cluster); err != nil {
		return api.EnrolReply{}, err
	}
	if other, ok := s.State.Index.Cluster(id); ok && other != request.Cluster {
		return api.EnrolReply{}, fmt.Errorf("%w: this key is enrolled for cluster %s: an agent needs a key of its own for each cluster", fleet.ErrConflict, other)
	}
	again := false
	e, err := s.State.Agents.Bucket.Edit(ctx, request.Cluster, func(a *fleet.Agent) error {
		// Its reply was lost, and a token made since has taken the place of its own.
		if again = a.ID == id && bytes.Equal(a.SealKey, request.SealKey) && !redeems(a, request.Token); again {
			return kv.Keep
		}
		if err := s.admit(a, id, request); err != nil {
			return err
		}
		if err := ledger.Seen(ctx, s.Ledger, audit.Entry{
			Actor: "agent " + id, Action: "agent.enrol", Cluster: request.Cluster, Request: "enrol " + id + " " + a.Join.Hash,
			Details: map[string]string{"replace": strconv.FormatBool(a.Join.Replace)},
		}); err != nil {
			return err
		}
		now := s.Clock.Now().Truncate(time.Second)
		a.TakeOver(id)
		if a.Join.UsedBy == "" {
			// To the moment: it ends what was told of the agent before until then.
			a.EnrolledAt = s.Clock.Now().Truncate(time.Millisecond)
		}
		a.SealKey, a.Version, a.LastSeen, a.Join.UsedBy = request.SealKey, cut(request.Version, 100), now, id
		return nil
	})
	if err != nil {
		if errors.Is(err, errRedeemed) {
			s.Refusals.Tell(ctx, request.Cluster, operate.HashToken(request.Token), event.Refusal{
				What: event.RefusedJoin, Agent: id, Reason: "a join token is good for one agent",
			})
		}
		s.Log.Warn("enrolment refused", "cluster", request.Cluster, "agent", id, "err", err)
		return api.EnrolReply{}, err
	}
	if again {
		return api.EnrolReply{Cluster: request.Cluster, Agent: id}, nil
	}
	s.State.Index.Set(request.Cluster, &e.Value)
	s.Seen.Mark(id)
	m := event.Meta{Source: "gateway", Cluster: request.Cluster, Key: []string{id, e.Value.Join.Hash}, Time: e.Value.EnrolledAt}
	if err := bus.Publish(ctx, s.Bus, event.AgentEnrolled, m, event.Agent{
		Agent: id, Version: e.Value.Version, Replace: e.Value.Join.Replace,
	}); err != nil {
		return api.EnrolReply{}, err
	}
	s.Log.Info("agent enrolled", "cluster", request.Cluster, "agent", id)
	return api.EnrolReply{Cluster: request.Cluster, Agent: id}, nil
}

// errRedeemed says that a token was redeemed by another key. One of the two that
// had the token should not have it.
var errRedeemed = errors.New("the join token was redeemed by another key")

// admit says whether a token lets this agent in. What is wrong with a token is
// told only to whoever has the right one.
func (s *Service) admit(a *fleet.Agent, id string, request api.EnrolRequest) error {
	if !redeems(a, request.Token) {
		return fmt.Errorf("%w: the join token is not the one of cluster %s", fleet.ErrDenied, request.Cluster)
	}
	switch {
	case a.Join.UsedBy == id:
		return nil
	case a.Join.UsedBy != "":
		return fmt.Errorf("%w: %w: if that was not you, replace the agent of %s at once: rotor join %s --replace", fleet.ErrDenied, errRedeemed, request.Cluster, request.Cluster)
	case !s.Clock.Now().Before(a.Join.ExpiresAt):
		return fmt.Errorf("%w: the join token has expired %s: ask for a new one", fleet.ErrDenied, a.Join.ExpiresAt.UTC().Format(time.RFC3339))
	case a.ID != "" && a.ID != id && !a.Join.Replace:
		return fmt.Errorf("%w: cluster %s has an agent: ask for a join token that may replace it: rotor join %s --replace", fleet.ErrConflict, request.Cluster, request.Cluster)
	}
	return nil
}

// redeems reports whether a token is the cluster's.
func redeems(a *fleet.Agent, token string) bool {
	return a.Join != nil && subtle.ConstantTimeCompare([]byte(operate.HashToken(token)), []byte(a.Join.Hash)) == 1
}

// cut bounds what strangers write into documents.
func cut(s string, limit int) string {
	runes := []rune(s)
	if len(runes) > limit {
		return string(runes[:limit]) + "..."
	}
	return s
}
