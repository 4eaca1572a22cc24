package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// The limits of the pauses after an error, in real time. What the server
// refuses is asked again more slowly in the end: an operator may change it,
// repeating will not.
const (
	shortest = 250 * time.Millisecond
	longest  = 30 * time.Second
	slowest  = time.Minute
)

// backoff draws the pauses between attempts. The zero value is ready.
type backoff struct{ attempts int }

// next returns the pause after one more failure: a random one between the
// shortest and a limit that doubles with each failure, so that a fleet that
// lost its server does not return in step.
func (b *backoff) next(err error) time.Duration {
	limit := longest
	if lasting(err) {
		limit = slowest
	}
	if b.attempts < 8 { // later the shift would exceed any limit
		limit = min(limit, shortest<<(b.attempts+1))
	}
	b.attempts++
	if lasting(err) {
		return limit/2 + rand.N(limit/2)
	}
	return shortest + rand.N(limit-shortest)
}

func (b *backoff) reset() { b.attempts = 0 }

// wait pauses after err. It returns early when ctx ends.
func (b *backoff) wait(ctx context.Context, err error) {
	_ = clock.Sleep(ctx, b.next(err))
}

// lasting reports whether an error will not pass by itself.
func lasting(err error) bool {
	return errors.Is(err, fleet.ErrDenied) || errors.Is(err, fleet.ErrConflict) || errors.Is(err, errNoToken)
}

// jittered returns a random duration between half of d and d.
func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
