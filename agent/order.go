package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// heldError says that a client keeps what it has because others failed.
type heldError struct {
	behind fleet.ClientKey
	why    string
}

// maxCause bounds what is told of a failure in what is said of another client.
const maxCause = 200

func (e *heldError) Error() string {
	return fmt.Sprintf("held behind %s, which failed: %s", e.behind, e.why[:min(len(e.why), maxCause)])
}

// advance brings clients to their proof, side by side: what was prepared is
// installed, loaded and proven.
func (a *agent) advance(ctx context.Context, jobs []*job) error {
	each(jobs, func(j *job) { a.install(ctx, j) })
	err := a.sendReports(ctx, jobs)
	each(jobs, func(j *job) { a.load(ctx, j) })
	a.proveAll(ctx, jobs)
	return err
}

// inOrder brings clients to their proof. Those that have nothing to lose go side
// by side; those that have go one by one, in the order of the server, the next
// only after the last is proven, or has failed and that is within what is
// allowed. So a bad issuance meets one client before it meets the next.
func (a *agent) inOrder(ctx context.Context, jobs []*job) error {
	var together, queue []*job
	for _, j := range jobs {
		switch {
		case j.err != nil:
		case j.had != nil && a.risky(j):
			queue = append(queue, j)
		default:
			together = append(together, j)
		}
	}
	err := a.advance(ctx, together)
	// What takes time and changes nothing for anybody need not be done in order.
	var ready []*job
	for _, j := range queue {
		if err == nil && j.plan.Install && a.behind(jobs, j) == nil {
			ready = append(ready, j)
		}
	}
	each(ready, a.stage)
	for _, j := range queue {
		if j.err != nil {
			continue
		}
		if ctx.Err() != nil || err != nil {
			// Nothing more is put at risk while the server cannot be told.
			j.plan = plan{}
			a.unstage(j)
			continue
		}
		if held := a.behind(jobs, j); held != nil {
			j.fail(fleet.StepInstalled, held)
			a.unstage(j)
			continue
		}
		err = a.advance(ctx, []*job{j})
	}
	return err
}

// risky reports whether the job changes what a client uses, so that it can lose
// what it has.
func (a *agent) risky(j *job) bool {
	switch {
	case j.plan.Back:
		return false // the way out of a risk
	case j.plan.Install, j.plan.Prove:
		return true
	default:
		bundle, _ := a.link.Bundle()
		how := a.how(j)
		return j.set != nil && j.set.Metadata.Bundle < bundle.Version && (how.Reload.Some() || how.Verify.Address != "")
	}
}

// emergency is the share of its life below which a client is not held back any
// more: it soon has nothing left to lose.
const emergency = 0.05

// behind returns why a client is held back, nil if it is not. A client that has
// its new set already goes on: it can only get better.
func (a *agent) behind(jobs []*job, j *job) error {
	if !j.plan.Install && j.plan.Prove {
		return nil
	}
	m := j.had.Metadata
	life := m.Expiry().Sub(m.NotBefore)
	if !a.env.Clock.Now().Before(m.Expiry().Add(-time.Duration(emergency * float64(life)))) {
		return nil
	}
	failed := a.failing(jobs, j)
	if len(failed) <= a.config.Settings.Allowed() {
		return nil
	}
	return failed[0]
}

// failing returns which clients, beside one, are failing now: in this round, or
// in the last that they were in.
func (a *agent) failing(jobs []*job, but *job) []*heldError {
	now := map[fleet.ClientKey]*job{}
	for _, j := range jobs {
		now[j.work.Client] = j
	}
	var failed []*heldError
	for _, w := range a.round.work.Clients {
		why := ""
		// What failed with a generation before says nothing about this one.
		if n := a.notes[w.Client]; n != nil && !n.held && n.failed == w.Generation {
			why = n.why
		}
		if j := now[w.Client]; j != nil && (j.err != nil || j.plan.Settle) {
			why = j.failureText()
			if _, held := j.err.(*heldError); held { //nolint:errorlint // made in inOrder, and never wrapped
				why = ""
			}
		}
		if why != "" && (but == nil || w.Client != but.work.Client) {
			failed = append(failed, &heldError{w.Client, why})
		}
	}
	return failed
}

// release asks for another round if clients are held back that need not be any
// more, because one that comes after them in the order is well again.
func (a *agent) release(w api.Work) {
	if len(a.failing(nil, nil)) > a.config.Settings.Allowed() {
		return
	}
	for _, c := range w.Clients {
		if n := a.notes[c.Client]; n != nil && n.held {
			n.next = clock.Wall()
		}
	}
}
