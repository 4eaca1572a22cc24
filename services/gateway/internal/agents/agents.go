// Package agents serves the agents: enrolment, work, requests, reports and
// proofs. An agent is known by its enrolment key, which never expires, so that
// it cannot lock itself out.
package agents

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rotor-fleet/rotor/services/gateway/internal/denial"
	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/services/gateway/internal/state"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

// Service serves agents. It is safe for concurrent use.
type Service struct {
	State   *state.State
	Bus     *bus.Bus
	Clock   clock.Clock
	Log     *slog.Logger
	Stop    <-chan struct{}  // closed when the gateway ends
	Waiting prometheus.Gauge // long polls open now
	Seen    Throttle
	Ledger  ledger.Log

	Refusals denial.Teller
}

// caller is the part of each request that tells who calls: the certificate of
// the TLS connection.
type caller struct {
	tls *tls.ConnectionState
}

// Resolve takes the state of the connection before the operation begins.
func (c *caller) Resolve(ctx huma.Context) []error {
	c.tls = ctx.TLS()
	return nil
}

var _ huma.Resolver = (*caller)(nil)

// id returns the id of the agent that holds the key of the certificate; TLS 1.3
// has proven that it does.
func (c *caller) id() (string, error) {
	if c.tls == nil || len(c.tls.PeerCertificates) == 0 {
		return "", unauthorized("present a TLS client certificate of the enrolment key")
	}
	return identity.AgentID(c.tls.PeerCertificates[0].RawSubjectPublicKeyInfo), nil
}

// who returns the enrolled agent that calls and its cluster.
func (s *Service) who(ctx context.Context, c *caller) (id, cluster string, err error) {
	if id, err = c.id(); err != nil {
		return "", "", err
	}
	if cluster, ok := s.State.Index.Cluster(id); ok {
		return id, cluster, nil
	}
	if cluster, ok := s.State.Index.Replaced(id); ok {
		return "", "", s.replaced(ctx, cluster, id)
	}
	return "", "", unauthorized("no agent with this key is enrolled: enrol with a join token")
}

// replaced turns away an agent that was replaced, and tells of it: either it was
// left running, or somebody has its key.
func (s *Service) replaced(ctx context.Context, cluster, id string) error {
	s.Refusals.Tell(ctx, cluster, "", event.Refusal{What: event.RefusedAgent, Agent: id, Reason: "it was replaced by another agent"})
	return unauthorized("another agent has taken the place of this one: stop it, or let it take its place back with a join token: rotor join " + cluster + " --replace")
}

func unauthorized(detail string) error { return huma.NewError(http.StatusUnauthorized, detail) }

// edit changes the document of an agent that is enrolled. The agent may have
// been replaced meanwhile; what it still says must not touch its successor.
func (s *Service) edit(ctx context.Context, cluster, id string, change func(*fleet.Agent) error) error {
	gone := false
	_, err := s.State.Agents.Bucket.Edit(ctx, cluster, func(a *fleet.Agent) error {
		gone = slices.Contains(a.Replaced, id)
		if a.ID != id {
			return unauthorized("this is not the agent of the cluster any more")
		}
		err := change(a)
		if err == nil {
			a.LastSeen = s.Clock.Now().Truncate(time.Second)
			s.Seen.Mark(id)
		}
		return err
	})
	switch {
	case gone:
		return s.replaced(ctx, cluster, id)
	case err != nil:
		return fmt.Errorf("agent of %s: %w", cluster, err)
	}
	return nil
}

// records reads the records of a cluster from the bucket itself: what an agent
// reports may be newer than a mirror.
func (s *Service) records(ctx context.Context, cluster string) (*fleet.Credentials, error) {
	e, err := s.State.Credentials.Bucket.Get(ctx, cluster)
	if errors.Is(err, fleet.ErrNotFound) {
		return &fleet.Credentials{}, nil
	}
	return &e.Value, err
}

// tell publishes one fact about clients of a cluster.
func tell(ctx context.Context, s *Service, kind event.Kind[event.Credentials], cluster string, clients []event.Client) error {
	key := make([]string, len(clients))
	for i, c := range clients {
		key[i] = fmt.Sprintf("%s@%d", c.Client, c.Generation)
	}
	m := event.Meta{Source: "gateway", Cluster: cluster, Key: key, Time: s.Clock.Now()}
	return bus.Publish(ctx, s.Bus, kind, m, event.Credentials{Clients: clients})
}

// described is what facts say of a generation.
func described(key fleet.ClientKey, g *fleet.Generation) event.Client {
	return event.Client{
		Client: key, Generation: g.Number, Serial: g.Certificate.Serial, TokenID: g.Token.ID,
		NotAfter: g.Certificate.NotAfter, ExpiresAt: g.Token.ExpiresAt, RenewAt: g.RenewAt,
	}
}

// Throttle lets each agent's last call be stored once in a while, on the
// machine's time: it bounds writes, not policy. The zero value is ready.
type Throttle struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// every is how often at most the last call of an agent is stored.
const every = 2 * time.Minute

// Due reports whether the last call was stored long enough ago.
func (t *Throttle) Due(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return clock.Wall().Sub(t.last[id]) >= every
}

// Mark says that a call is stored now.
func (t *Throttle) Mark(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := clock.Wall()
	if t.last == nil {
		t.last = map[string]time.Time{}
	}
	if len(t.last) > 1<<16 { // agents come and go: forget those that are due anyway
		for other, at := range t.last {
			if now.Sub(at) >= every {
				delete(t.last, other)
			}
		}
	}
	t.last[id] = now
}
