package agent

import (
	"errors"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// resend is how long the server may take to show what it was told, in real
// time, before it is told again.
const resend = 30 * time.Second

// told is something that the server was told about a client.
type told struct {
	generation int
	what       string
	at         time.Time // real time
}

// again reports whether it is to be told now: it is new, or the server has not
// taken notice for long.
func (t told) again(generation int, what string, now time.Time) bool {
	return t.generation != generation || t.what != what || now.Sub(t.at) >= resend
}

// note is what an agent remembers of a client from round to round. Losing it
// costs a repeat and nothing else.
type note struct {
	pause   backoff
	next    time.Time // when to look again, in real time; zero for "on news"
	blocked bool      // nothing is tried before next
	loading bool      // only the load of one generation is blocked
	why     string    // why the client is not well; empty when it is
	revoked bool      // the client is revoked, and that was said
	failed  int       // generation that is not well
	held    bool      // it is only held back
	cleaned bool      // what a crash had left behind is gone
	loads   int       // that failed one after the other
	bundle  int       // newest trust bundle that it is known to have, or, without a set, not to need

	trial state.Trial // as on the disk
	tried bool        // it was read

	report  told // steps
	failure told // a failure
	proof   told // a proof that was accepted
	request told // a request that was taken
}

// fail remembers that something went wrong and keeps the client out of the
// rounds for a while.
func (n *note) fail(now time.Time, generation int, err error) {
	n.why, n.failed, n.held = err.Error(), generation, false
	if load, ok := errors.AsType[*loadError](err); ok {
		n.blocked, n.loading, n.next = true, true, now.Add(load.pause)
		return
	}
	if gone, ok := errors.AsType[*givenUp](err); ok && now.Before(gone.trial.AskAt) {
		n.next = gone.trial.AskAt // news of another generation is taken at once
		return
	}
	if _, n.held = errors.AsType[*heldError](err); n.held {
		return // it waits for others
	}
	n.blocked = true
	n.next = now.Add(n.pause.next(err))
}

// expect asks for another look in case the server does not show in time what it
// was told.
func (n *note) expect(now time.Time) {
	if at := now.Add(resend); n.next.IsZero() || at.Before(n.next) {
		n.next = at
	}
}

// well forgets what went wrong.
func (n *note) well() {
	n.pause.reset()
	n.why, n.held = "", false
}

// ready reports whether the client may be worked on now, and if so clears the
// moment of the next look. A generation that nobody has tried to load yet does
// not wait for one before it.
func (n *note) ready(now time.Time, generation int) bool {
	another := n.loading && n.failed != generation
	if n.blocked && now.Before(n.next) && !another {
		return false
	}
	n.blocked, n.loading, n.next = false, false, time.Time{}
	return true
}

// note returns what is remembered of a client.
func (a *agent) note(key fleet.ClientKey) *note {
	n := a.notes[key]
	if n == nil {
		n = &note{}
		a.notes[key] = n
	}
	return n
}
