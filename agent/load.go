package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/config"
	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/agent/internal/reload"
	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/telemetry"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// loadError says that a client could not be made to use what is installed.
type loadError struct {
	err   error
	pause time.Duration // until the next attempt
}

func (e *loadError) Error() string { return e.err.Error() }
func (e *loadError) Unwrap() error { return e.err }

// load makes the client use what readers see, unless it is known to: it reloads
// it, and looks at what it serves. Only then is the generation proven, so that a
// reload that failed is never taken for a success.
//
// That the client has loaded a set is written down after the fact, so a crash in
// between costs a second reload and nothing else.
func (a *agent) load(ctx context.Context, j *job) {
	how, t := a.how(j), j.note.trial
	if j.set == nil || !how.Reload.Some() && how.Verify.Address == "" {
		j.loaded = true
		return
	}
	m := j.set.Metadata
	want := state.Loaded{Generation: m.Generation, Bundle: m.Bundle}
	if t.Loaded == want {
		j.loaded = true
		return
	}
	if a.unchanged(j, t.Loaded) {
		t.Loaded, j.loaded = want, true
		if err := a.keepTrial(j, t); err != nil {
			j.fail(fleet.StepProven, err)
		}
		return
	}
	onTrial := j.onTrial()
	if onTrial && t.Generation != m.Generation {
		t = state.Trial{Generation: m.Generation, InARow: t.InARow}
	}
	// Before the attempt: a reload may be the end of this very process.
	t.Loaded = state.Loaded{}
	if onTrial {
		t.Attempts++
	}
	if err := a.keepTrial(j, t); err != nil {
		j.fail(fleet.StepProven, err)
		return
	}
	err := a.apply(ctx, j, how)
	if err == nil {
		t.Loaded, j.loaded = want, true
		if onTrial {
			t.Attempts, t.Since, t.Error = 0, time.Time{}, ""
		}
		j.note.loads = 0
		if err := a.keepTrial(j, t); err != nil {
			j.fail(fleet.StepProven, err)
		}
		return
	}
	j.note.loads++ // only for the pause
	pause := loadPause(how.Reload.Backoff, j.note.loads)
	switch {
	case ctx.Err() != nil: // stopped by us: this was no attempt
		if onTrial {
			t.Attempts--
		}
		j.fail(fleet.StepProven, errors.Join(ctx.Err(), a.keepTrial(j, t)))
	case !onTrial:
		j.fail(fleet.StepInstalled, &loadError{fmt.Errorf("generation %d, trust bundle %d: %w", m.Generation, m.Bundle, err), pause})
	default:
		t.Failed(clock.Wall(), err)
		what := fmt.Errorf("generation %d: attempt %d of %d: %w", m.Generation, t.Attempts, how.Reload.Attempts, err)
		a.onFailure(ctx, j, t, failure{err: &loadError{what, pause}, last: t.Attempts >= how.Reload.Attempts})
	}
}

// unchanged reports whether a client that uses what readers saw when the round
// began has nothing to load: the trust bundle is another, and neither the
// certificates that are trusted nor the chain have changed. So it is when a CA
// begins to sign that was trusted before: a rotation of the CA costs a client two
// reloads beside that of its new certificate, when the two CAs come together and
// when they part, and the bridges come and go with these.
func (a *agent) unchanged(j *job, loaded state.Loaded) bool {
	if j.had == nil || loaded != (state.Loaded{Generation: j.had.Metadata.Generation, Bundle: j.had.Metadata.Bundle}) {
		return false
	}
	return j.set.Metadata.Generation == loaded.Generation && bytes.Equal(j.set.Certificate, j.had.Certificate) && trust.Same(j.set.CA, j.had.CA)
}

// onTrial reports whether readers see the server's newest generation and it is
// not proven yet, so that the set of before is still the way back.
func (j *job) onTrial() bool {
	return j.set.Metadata.Generation == j.work.Generation && j.work.Step.Before(fleet.StepProven)
}

// apply runs the reload of a client, then waits until it serves what is
// installed.
func (a *agent) apply(ctx context.Context, j *job, how config.Client) (err error) {
	ctx, span := a.span(ctx, j, "reload")
	defer func() { telemetry.End(span, err) }()
	if err := a.reload(ctx, j, how); err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	if how.Verify.Address == "" {
		return nil
	}
	pair, err := j.set.KeyPair()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, how.Verify.Timeout)
	defer cancel()
	if err := reload.Served(ctx, how.Verify.Address, how.Verify.ServerName, pair); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	return nil
}

func (a *agent) reload(ctx context.Context, j *job, how config.Client) error {
	ctx, cancel := context.WithTimeout(ctx, how.Reload.Timeout)
	defer cancel()
	switch r := how.Reload; {
	case len(r.Command) > 0:
		c := reload.Client{
			Cluster: a.config.Cluster, Client: j.work.Client.String(), Generation: j.set.Metadata.Generation,
			Secrets: j.secrets(),
		}
		if how.Kubernetes == nil {
			c.Directory = a.folderOf(j.work.Client, how.Directory)
		}
		return reload.Command(ctx, r.Command, c)
	case r.Signal != nil:
		return reload.Signal(r.Signal.PIDFile, r.Signal.Signal)
	case len(r.Rollout) > 0:
		return a.rollout(ctx, how, j.set.Metadata)
	default:
		return nil // only looked at
	}
}

// secrets are what no output of a program may show.
func (j *job) secrets() []secret.Text {
	var all []secret.Text
	for _, s := range []*install.Set{j.set, j.had} {
		if s != nil {
			all = append(all, s.Token, s.Key)
		}
	}
	return all
}

// The limits of the pauses between attempts to load, in real time.
const longestLoadPause = 5 * time.Minute

// loadPause returns the pause after so many failures: twice as long each time,
// with a random part so that clients that failed together return apart.
func loadPause(first time.Duration, failures int) time.Duration {
	return jittered(min(first<<min(failures-1, 16), max(longestLoadPause, first)))
}
