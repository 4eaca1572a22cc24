package issuer

import (
	"context"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/event"
)

// When people are told of an HSM that cannot be used, on the machine's time.
const (
	awayFor   = 5 * time.Minute // one that is restarted is no trouble
	awayAgain = time.Hour       // in case that another issuer has said that it can use it
)

// lookout tells of an HSM that cannot be used for a while, and that it can again.
// It belongs to one issuer, which knows of itself alone, and is not safe for
// concurrent use.
type lookout struct {
	env   daemon.Env
	facts publisher
	grace time.Duration

	since time.Time // when it could not be used first, by the machine's time
	began time.Time // the same by the clock of the fleet
	next  time.Time // when to tell, by the machine's time
	told  bool      // that it cannot, and not yet that it can
}

func newLookout(env daemon.Env, facts publisher) *lookout {
	return &lookout{env: env, facts: facts, grace: awayFor}
}

// away notes that the HSM cannot be used. What cannot be told now is told at the
// next look.
func (l *lookout) away(ctx context.Context, why error) {
	now := clock.Wall()
	if l.since.IsZero() {
		l.since, l.began, l.next = now, l.env.Clock.Now().UTC().Truncate(time.Second), now.Add(l.grace)
	}
	if now.Before(l.next) {
		return
	}
	if l.tell(ctx, event.AuthorityUnavailable, event.Keystore{Since: l.began, Why: why.Error()}) {
		l.told, l.next = true, now.Add(awayAgain)
	}
}

// back notes that it can be used.
func (l *lookout) back(ctx context.Context) {
	l.since = time.Time{}
	if l.told && l.tell(ctx, event.AuthorityAvailable, event.Keystore{}) {
		l.told = false
	}
}

// tell publishes a fact of now: each is another.
func (l *lookout) tell(ctx context.Context, kind event.Kind[event.Keystore], data event.Keystore) bool {
	at := l.env.Clock.Now()
	fact, err := kind.New(event.Meta{Source: name, Cluster: event.FleetWide, Key: []string{at.UTC().Format(time.RFC3339Nano)}, Time: at}, data)
	if err == nil {
		err = l.facts.Publish(ctx, fact)
	}
	if err != nil && ctx.Err() == nil {
		l.env.Log.WarnContext(ctx, "could not tell whether the HSM can be used; trying again", "err", err)
	}
	return err == nil
}
