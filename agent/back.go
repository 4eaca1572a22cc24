package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/config"
	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// failure is an attempt at a generation on trial that did not succeed.
type failure struct {
	err  error
	last bool // the limit of attempts is reached
}

// onFailure keeps the failure, and at the limit takes the client back to the set
// of before.
func (a *agent) onFailure(ctx context.Context, j *job, t state.Trial, f failure) {
	if !f.last {
		j.fail(fleet.StepProven, errors.Join(f.err, a.keepTrial(j, t)))
		return
	}
	if err := a.mayGoBack(ctx, j); err != nil {
		err = fmt.Errorf("%w; it stays in place: %w", f.err, err)
		j.fail(fleet.StepProven, errors.Join(&loadError{err, jittered(longestLoadPause)}, a.keepTrial(j, t)))
		return
	}
	t.GivenUp, t.InARow = true, t.InARow+1
	t.AskAt = clock.Wall().Add(askPause(t.InARow)).UTC().Truncate(time.Second)
	// First: what is given up must stay so, whatever happens on the way back.
	if err := a.keepTrial(j, t); err != nil {
		j.fail(fleet.StepProven, errors.Join(f.err, err))
		return
	}
	a.goBack(ctx, j)
}

// mayGoBack says why a client must not go back to the set of before, nil if it
// may.
func (a *agent) mayGoBack(ctx context.Context, j *job) error {
	if !a.how(j).Rollback {
		return errors.New("rollback is off")
	}
	before, err := j.target.Previous(ctx)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("there is no set of before to go back to")
		}
		return err
	}
	if m := before.Metadata; !a.owns(m, j.work.Client) || !a.env.Clock.Now().Before(m.Expiry()) {
		return fmt.Errorf("the set of before, generation %d, is of no use: it has ended at %s", m.Generation, m.Expiry().Format(time.RFC3339))
	}
	return nil
}

// goBack makes readers see the set of before a generation that was given up,
// and the client use it. When the time has come it asks for another generation.
func (a *agent) goBack(ctx context.Context, j *job) {
	t, file := j.note.trial, j.plan.File
	j.plan = plan{}
	if err := j.target.Back(ctx, t.Generation); err != nil {
		if errors.Is(err, fs.ErrNotExist) { // taken away since by somebody else
			t.GivenUp = false
			err = errors.Join(&loadError{err, longestLoadPause}, a.keepTrial(j, t))
		}
		j.fail(fleet.StepInstalled, err)
		return
	}
	set, err := j.target.Read(ctx)
	if err != nil {
		j.fail(fleet.StepInstalled, err)
		return
	}
	if j.set == nil || j.set.Metadata.Generation != set.Metadata.Generation {
		a.env.Log.WarnContext(ctx, "a client goes back to the set of before", "client", j.work.Client.String(),
			"givenUp", t.Generation, "generation", set.Metadata.Generation, "err", t.Error)
	}
	// Loaded anew from this moment on, whenever it was installed first.
	set.Metadata.InstalledAt = a.env.Clock.Now().Truncate(time.Second)
	j.had, j.set = j.set, &set
	// The set of before may be in use for long, and trust goes on. Where there is no
	// room for it, the client is well with what it has.
	if s := a.newer(j); s != nil {
		if err = j.target.Install(ctx, *s); err == nil {
			j.had, j.set = &set, s
		}
	}
	a.load(ctx, j)
	gone := &givenUp{trial: t, back: set.Metadata, err: errors.Join(err, j.err)}
	if file != 0 {
		j.plan = plan{Lost: gone.Error(), File: file}
	}
	j.fail(fleet.StepInstalled, gone)
}

// givenUp says that a generation was given up and the one before is in use.
type givenUp struct {
	trial state.Trial
	back  install.Metadata
	err   error // why the client does not use the set of before
}

func (e *givenUp) Error() string {
	text := fmt.Sprintf("generation %d was given up after %d attempts since %s: %s; generation %d is back, valid until %s",
		e.trial.Generation, e.trial.Attempts, e.trial.Since.UTC().Format(time.RFC3339), e.trial.Error, e.back.Generation, e.back.Expiry().UTC().Format(time.RFC3339))
	if e.err != nil {
		text += fmt.Sprintf(", but the client has not loaded it: %v", e.err)
	}
	return text + fmt.Sprintf("; another generation is asked for at %s", e.trial.AskAt.UTC().Format(time.RFC3339))
}

func (e *givenUp) Unwrap() error { return e.err }

// The pauses before another generation is asked for (in real time): a cause
// that lasts must not fill the record with generations.
const (
	firstAsk   = time.Minute
	longestAsk = time.Hour
)

func askPause(inARow int) time.Duration {
	return jittered(min(firstAsk<<min(inARow-1, 10), longestAsk))
}

// how returns the configuration of the job's client.
func (a *agent) how(j *job) config.Client { return a.config.Settings.Clients.For(j.work.Client) }

// name names a configuration: what failed with one may go well with another.
func name(how config.Client) string {
	text, err := json.Marshal(how)
	if err != nil {
		return "" // the types always marshal
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// trial returns what was tried with a client: from the disk, when it is asked
// for the first time. With another configuration the attempts begin anew.
func (a *agent) trial(j *job) state.Trial {
	n := j.note
	if !n.tried {
		n.trial, n.tried = a.store.Trial(j.work.Client), true
	}
	if t := n.trial; t.How != name(a.how(j)) && t.Generation != 0 {
		n.trial = state.Trial{Loaded: t.Loaded, InARow: t.InARow}
	}
	return n.trial
}

// keepTrial keeps what was tried, on the disk and in memory.
func (a *agent) keepTrial(j *job, t state.Trial) error {
	if t.Generation != 0 {
		t.How = name(a.how(j))
	}
	if t == j.note.trial {
		return nil
	}
	if err := a.store.SaveTrial(j.work.Client, t); err != nil {
		return err
	}
	j.note.trial = t
	return nil
}
