// Package denial tells of sign-ins that were refused although whoever tried
// held something that only one may hold: people must hear of it, as it may have
// been stolen. What a stranger tries who holds nothing is not told: anybody
// could fill the stream with it.
package denial

import (
	"context"
	"log/slog"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
)

// Teller tells of refusals. It is safe for concurrent use.
type Teller struct {
	Bus   *bus.Bus
	Clock clock.Clock
	Log   *slog.Logger
}

// again is how long the same refusal is told once only, on the machine's time:
// whoever is refused tries again, and at another gateway.
const again = time.Hour

// Tell publishes signin.refused. About says what was tried, so that each is told
// for itself: for instance the hash under which a token is stored, never a
// secret. Whoever called is refused in any case, so a failure is only logged.
func (t Teller) Tell(ctx context.Context, cluster, about string, r event.Refusal) {
	client := ""
	if r.Client != nil {
		client = r.Client.String()
	}
	now := t.Clock.Now()
	span := time.Duration(float64(again) * t.Clock.Rate())
	m := event.Meta{
		Source: "gateway", Cluster: cluster, Time: now,
		Key: []string{r.What, client, r.Agent, about, now.Truncate(span).UTC().Format(time.RFC3339)},
	}
	t.Log.Warn("sign-in refused", "what", r.What, "cluster", cluster, "client", client, "agent", r.Agent, "reason", r.Reason)
	if err := bus.Publish(ctx, t.Bus, event.SigninRefused, m, r); err != nil && ctx.Err() == nil {
		t.Log.Error("sign-in refused, and nobody was told", "cluster", cluster, "err", err)
	}
}
