package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/link"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// roundState is what the loop carries from one round to the next.
type roundState struct {
	work     api.Work  // the newest that was heard
	known    bool      // something was heard
	enrolled bool      // the server was last seen to know this agent
	word     word      // what the server was told of the agent's trust
	wordAt   time.Time // when, in real time
	skewed   bool      // the clocks were seen to differ
	complete int       // how many clients were proven when it was said that all are
}

// loop polls for work and does it, until ctx ends. Each round compares what the
// server knows with what lies on the disk, so a round that was cut short, or a
// report that was lost, is made up for by the next.
func (a *agent) loop(ctx context.Context) {
	var pause backoff
	for ctx.Err() == nil {
		quiet, err := a.turn(ctx)
		if ctx.Err() != nil {
			return
		}
		a.env.Health.Check(conditionServer, err)
		switch {
		case err != nil:
			a.wait(ctx, &pause, a.warn("cannot work with the server; trying again", err))
		case quiet:
			// The server answered without work and without waiting, as one that
			// stops does. Asked again at once it would be asked in a circle.
			a.wait(ctx, &pause, nil)
		default:
			pause.reset()
		}
	}
}

// turn is one poll and the round that follows from it. It returns quiet when
// the poll came back early with nothing.
func (a *agent) turn(ctx context.Context) (quiet bool, err error) {
	a.follow()
	pollCtx, cancel := a.untilChange(ctx)
	defer cancel()
	asked := clock.Wall()
	wait := a.pollWait(asked)
	work, changed, err := a.link.Work(pollCtx, a.heard, a.round.work.Tag, wait)
	if pollCtx.Err() != nil && ctx.Err() == nil {
		return false, nil // the settings have changed
	}
	if err != nil {
		a.env.Metrics.unheard()
		a.keep(ctx)
		// After an enrolment a pause: the server may need a moment to know of it.
		return true, a.unknown(ctx, a.heal(ctx, err))
	}
	if err := a.noteEnrolled(true); err != nil {
		return false, err
	}
	a.checkClock(work.Now)
	if err := a.keepTime(ctx); err != nil {
		return false, err
	}
	a.counted(work.Starts)
	if changed {
		if work.Cluster != a.config.Cluster {
			return false, fmt.Errorf("the server takes this agent for one of cluster %q: %w", work.Cluster, fleet.ErrConflict)
		}
		a.round.work, a.round.known = work, true
	}
	quiet = !changed && clock.Wall().Sub(asked) < wait/2
	if !a.round.known {
		return quiet, nil
	}
	err = a.work(ctx, a.round.work)
	if err != nil {
		a.round.work.Tag = "" // what was not told must not wait for news
	}
	return quiet, err
}

// pollWait returns how long to wait for news: until something that failed, or
// that the server has not confirmed, is due again.
func (a *agent) pollWait(now time.Time) time.Duration {
	wait := a.config.PollWait
	for _, n := range a.notes {
		if !n.next.IsZero() {
			wait = min(wait, n.next.Sub(now))
		}
	}
	if !a.spreading.next.IsZero() {
		wait = min(wait, a.spreading.next.Sub(now))
	}
	if !a.canary.next.IsZero() {
		wait = min(wait, a.canary.next.Sub(now))
	}
	if a.unnoted(a.round.word) {
		wait = min(wait, a.round.wordAt.Add(resend).Sub(now))
	}
	// A moment that has just passed still leaves the server time to answer.
	return max(wait, shortest)
}

// heal fetches the trust bundle if an error says that the present one does not
// cover the server, as after a rotation of the CA that this agent has slept
// through. It returns the error; the next attempt uses the new bundle.
func (a *agent) heal(ctx context.Context, err error) error {
	if !link.Untrusted(err) {
		return err
	}
	_, before := a.link.Bundle()
	if refreshErr := a.refresh(ctx); refreshErr != nil {
		return errors.Join(err, refreshErr)
	}
	if _, after := a.link.Bundle(); after == before && foreign(err) {
		a.doubt(fmt.Errorf("%w: %w", errForeign, err))
	}
	if link.Expired(err) {
		return fmt.Errorf("%w: is the clock of this machine right? It says %s", err, a.env.Clock.Now().UTC().Format(time.RFC3339))
	}
	return err
}

// unknown enrols again if the server does not know this agent, as after it was
// replaced or the server was made anew.
func (a *agent) unknown(ctx context.Context, err error) error {
	problem, ok := errors.AsType[*api.Problem](err)
	if !ok || problem.Status != http.StatusUnauthorized {
		return err
	}
	enrolErr := errors.Join(a.noteEnrolled(false), a.enrol(ctx))
	a.env.Health.Check(conditionEnrolment, enrolErr)
	if enrolErr != nil {
		return fmt.Errorf("the server says: %s; %w", problem.Detail, enrolErr)
	}
	a.round = roundState{enrolled: a.round.enrolled}
	return nil
}

// noteEnrolled keeps whether the server knows this agent.
func (a *agent) noteEnrolled(yes bool) error {
	if yes {
		a.env.Health.Met(conditionEnrolment)
	}
	a.env.Metrics.joined(yes)
	if a.round.enrolled == yes {
		return nil
	}
	record := a.store.Record()
	record.Cluster, record.Agent, record.Server, record.Pin = a.config.Cluster, a.me.ID, a.config.Server, a.config.Pin
	record.Enrolled = yes
	if err := a.store.SaveRecord(record); err != nil {
		return err
	}
	a.round.enrolled = yes
	return nil
}

// counted goes on with the server's count of starts where the own one is lost.
func (a *agent) counted(starts int) {
	if a.heard.Starts > 0 || starts == 0 {
		return
	}
	record := a.store.Record()
	record.Starts = starts
	if err := a.store.SaveRecord(record); err != nil {
		return // on a full disk, perhaps; the next answer brings it again
	}
	a.heard.Starts = starts
}

// skew is the difference of the clocks at which certificates begin to be taken
// for not yet valid or for expired.
const skew = 5 * time.Minute

// checkClock warns when the server's clock and ours differ by so much that the
// one may take for expired what the other has just issued.
func (a *agent) checkClock(now time.Time) {
	off := a.env.Clock.Now().Sub(now)
	limit := time.Duration(float64(skew) * a.env.Clock.Rate())
	a.env.Metrics.heard(a.env.Clock.Now(), off, !now.IsZero())
	if a.link != nil {
		bundle, _ := a.link.Bundle()
		a.env.Metrics.loaded(bundle.Version)
	}
	skewed := off.Abs() > limit && !now.IsZero()
	if skewed && !a.round.skewed {
		a.env.Log.Warn("the clock of this machine differs from the server's: set it, or credentials will be refused", "ahead", off.Round(time.Second))
	}
	a.round.skewed = skewed
}

// followBundle loads the trust bundle that the server speaks of.
func (a *agent) followBundle(ctx context.Context, version int) error {
	have, _ := a.link.Bundle()
	if version <= have.Version {
		return nil
	}
	if err := a.refresh(ctx); err != nil {
		return err
	}
	if have, _ = a.link.Bundle(); have.Version < version {
		return fmt.Errorf("trust bundle %d is announced, and the server still hands out %d", version, have.Version)
	}
	return nil
}
