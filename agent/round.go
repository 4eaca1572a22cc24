package agent

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/telemetry"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// job is the work on one client in one round.
type job struct {
	work    api.ClientWork
	note    *note
	target  target
	set     *install.Set  // what readers see or are to see, nil for nothing whole
	had     *install.Set  // what they saw when the round began
	next    *install.Set  // what they are to see instead, once it is made ready
	key     crypto.Signer // that waits for the server's newest generation, nil for none
	plan    plan
	absent  bool  // readers saw nothing of ours when the round began
	loaded  bool  // readers see the set, and the client uses it, as far as anybody can tell
	done    bool  // it has ended well
	err     error // why the job has ended early
	step    fleet.Step
	reports []api.StepReport // not sent yet
}

// fail ends the job. Step is what was not reached; the server is told of it.
func (j *job) fail(step fleet.Step, err error) { j.step, j.err = step, err }

// work is one round over all clients. Clients fail one by one; the error is
// only about what concerns all of them.
func (a *agent) work(ctx context.Context, w api.Work) error {
	now := clock.Wall()
	// A bundle that cannot be had yet is no reason to let a client wait that can
	// do without it.
	bundleErr := a.followBundle(ctx, w.Bundle)
	a.spread(ctx)
	known := map[fleet.ClientKey]bool{}
	var jobs []*job
	clashes := a.clashes(w)
	for _, c := range w.Clients {
		known[c.Client] = true
		n := a.note(c.Client)
		if a.revoked(c, n) || !n.ready(now, c.Generation) {
			continue
		}
		j := &job{work: c, note: n}
		if err := clashes[c.Client]; err != nil {
			j.fail(fleet.StepInstalled, err)
		} else {
			a.look(ctx, j)
		}
		jobs = append(jobs, j)
	}
	// What waits for a client that is gone must not keep the loop awake.
	maps.DeleteFunc(a.notes, func(key fleet.ClientKey, _ *note) bool {
		if !known[key] {
			a.env.Metrics.gone(key)
		}
		return !known[key]
	})
	each(jobs, a.prepare)
	errs := []error{bundleErr, a.sendReports(ctx, jobs)}
	for _, j := range jobs {
		if j.plan.Back {
			a.goBack(ctx, j)
		}
	}
	errs = append(errs, a.inOrder(ctx, jobs))
	each(jobs, func(j *job) {
		j.done = true
		a.settle(ctx, j)
	})
	errs = append(errs, a.file(ctx, jobs))
	if ctx.Err() != nil {
		return nil
	}
	a.acknowledge(w, jobs)
	errs = append(errs, a.sendReports(ctx, jobs))
	// After the reports, which do not wait for a server that is slow.
	a.proveTrust(ctx, w)
	errs = append(errs, a.sendReports(ctx, nil))
	if ctx.Err() != nil {
		return nil
	}
	for _, j := range jobs {
		a.conclude(j)
	}
	a.release(w)
	a.showClients(w)
	return errors.Join(errs...)
}

// sideBySide is how many clients of one agent are worked on at the same time.
// Most of it passes in waiting for the disk, which takes several as quickly as
// one.
const sideBySide = 4

// atOnce runs f for 0 to n-1, some at the same time.
func atOnce(n int, f func(int)) {
	var running sync.WaitGroup
	free := make(chan struct{}, sideBySide)
	for i := range n {
		free <- struct{}{}
		running.Go(func() {
			defer func() { <-free }()
			f(i)
		})
	}
	running.Wait()
}

// each runs f for the jobs that have not failed.
func each(jobs []*job, f func(*job)) {
	atOnce(len(jobs), func(i int) {
		if jobs[i].err == nil {
			f(jobs[i])
		}
	})
}

// look reads what the disk has of a client, and decides.
func (a *agent) look(ctx context.Context, j *job) {
	now := clock.Wall()
	w, n := j.work, j.note
	j.target = a.target(w.Client)
	if !n.cleaned {
		if err := j.target.Clean(ctx); err != nil {
			j.fail(fleet.StepInstalled, err)
			return
		}
		n.cleaned = true
	}
	set, err := j.target.Read(ctx)
	damaged := error(nil)
	switch {
	case err == nil && a.owns(set.Metadata, w.Client):
		j.set, j.had = &set, &set
	case err == nil || errors.Is(err, fs.ErrNotExist):
		j.absent = true
	case errors.Is(err, install.ErrDamaged):
		damaged = err
	default:
		j.fail(fleet.StepInstalled, err)
		return
	}
	trial := a.trial(j)
	l := local{Restored: a.round.work.Restore != "", GivenUp: trial.GivenUp && trial.Generation == w.Generation, Ask: !now.Before(trial.AskAt)}
	if j.set != nil {
		l.Installed = j.set.Metadata.Generation
	}
	if w.Generation > l.Installed {
		if j.key, err = a.store.NextKey(w.Client, w.Generation); err != nil {
			j.fail(fleet.StepInstalled, err)
			return
		}
		l.Pending = j.key != nil
	}
	j.plan = decide(w, l)
	if j.plan.Lost != "" && damaged != nil {
		j.plan.Lost += fmt.Sprintf(": %v", damaged)
	}
	if j.plan.Prove && !j.plan.Install && !n.proof.again(w.Generation, "", now) {
		j.plan.Prove, j.plan.Settle = false, true // the record has yet to catch up
		n.expect(now)
	}
}

// owns reports whether a set is one of this client, of this fleet.
func (a *agent) owns(m install.Metadata, key fleet.ClientKey) bool {
	return m.Fleet == a.config.Pin && m.Cluster == a.config.Cluster && m.Client == key
}

// newer returns what a client is to have, with the newest bundle, nil for what
// it has.
func (a *agent) newer(j *job) *install.Set {
	bundle, _ := a.link.Bundle()
	if j.set == nil || !j.plan.Install && j.set.Metadata.Bundle >= bundle.Version {
		return nil
	}
	s := *j.set
	s.CA, s.Metadata.Bundle = bundle.PEM(), bundle.Version
	s.Certificate = trust.Chain(s.Certificate, bundle.Bridges)
	s.Metadata.InstalledAt = a.env.Clock.Now().Truncate(time.Second)
	return &s
}

// stage makes ready what is to be installed in a moment.
func (a *agent) stage(j *job) {
	t, ok := j.target.(staged)
	if !ok {
		return
	}
	if j.next = a.newer(j); j.next == nil {
		return
	}
	if err := t.Stage(*j.next); err != nil {
		j.fail(fleet.StepInstalled, err)
	}
}

// unstage takes away what was made ready and is not to be installed now.
func (a *agent) unstage(j *job) {
	if t, ok := j.target.(staged); ok {
		if err := t.Unstage(); err != nil {
			a.env.Log.Warn("cannot clean up", "client", j.work.Client.String(), "err", err)
		}
	}
}

// install puts what was prepared, or what is there with a newer bundle, where
// readers see it.
func (a *agent) install(ctx context.Context, j *job) {
	if j.set == nil {
		return
	}
	if j.next == nil {
		j.next = a.newer(j)
	}
	if s := j.next; s != nil {
		ctx, span := a.span(ctx, j, "install")
		err := j.target.Install(ctx, *s)
		telemetry.End(span, err)
		if err != nil {
			j.fail(fleet.StepInstalled, err)
			return
		}
		j.set = s
		a.env.Log.InfoContext(ctx, "credentials installed", "client", j.work.Client.String(), "generation", s.Metadata.Generation, "bundle", s.Metadata.Bundle)
	} else if err := j.target.Mend(ctx); err != nil {
		j.fail(fleet.StepInstalled, err)
		return
	}
	j.report(j.plan.Report...)
	if j.plan.Install {
		j.report(fleet.StepInstalled)
	}
}

// settle forgets what only an unproven generation needs.
func (a *agent) settle(ctx context.Context, j *job) {
	if !j.plan.Settle {
		return
	}
	err := a.store.DropNextKeys(j.work.Client, j.work.Generation)
	if err == nil {
		err = j.target.Prune(ctx)
	}
	if t := j.note.trial; err == nil && t != (state.Trial{Loaded: t.Loaded}) {
		err = a.keepTrial(j, state.Trial{Loaded: t.Loaded})
	}
	if err != nil {
		// The client is well; what is left is taken away by a later round.
		a.env.Log.Warn("cannot clean up", "client", j.work.Client.String(), "err", err)
	}
}

// trace returns the traceparent of the issuance that the job is about, empty if
// it is not known.
func (j *job) trace() string {
	if j.work.Pickup == nil {
		return ""
	}
	return j.work.Pickup.Trace
}

// span begins a span of the work on one client, in the trace of its issuance.
func (a *agent) span(ctx context.Context, j *job, name string) (context.Context, trace.Span) {
	ctx, span := a.env.Tracer.Start(telemetry.Follow(ctx, j.trace()), telemetry.Internal, name)
	telemetry.Set(span, "rotor.cluster", a.config.Cluster, "rotor.client", j.work.Client.String())
	telemetry.Count(span, "rotor.generation", j.work.Generation)
	return ctx, span
}

// conclude keeps what the round has shown about a client.
func (a *agent) conclude(j *job) {
	switch {
	case j.err == nil && j.plan.Settle:
		j.note.well()
	case j.err != nil && !errors.Is(j.err, context.Canceled):
		if j.note.why != j.err.Error() {
			a.env.Log.Warn("a client is not well; trying again", "client", j.work.Client.String(), "err", j.err)
		}
		j.note.fail(clock.Wall(), j.work.Generation, j.err)
		a.env.Metrics.failed(j.work.Client)
	}
	if j.note.why == "" {
		a.env.Metrics.well(j.work.Client)
	}
	switch {
	case j.err == nil && j.set != nil:
		a.env.Metrics.installed(j.work.Client, j.set.Metadata)
	case j.had != nil:
		a.env.Metrics.installed(j.work.Client, j.had.Metadata)
	}
}

// showClients sets the condition of the clients in the health.
func (a *agent) showClients(w api.Work) {
	var why []string
	waiting := 0
	for _, c := range w.Clients {
		n := a.note(c.Client)
		if c.Revoked != nil {
			continue // somebody wanted it so
		}
		if n.why != "" {
			why = append(why, fmt.Sprintf("; %s: %s", c.Client, n.why))
		}
		unproven := c.Generation == 0 || c.Step.Before(fleet.StepProven) && n.proof.generation != c.Generation
		if n.why != "" || c.Barred || !c.Program && unproven {
			waiting++
		}
	}
	if waiting == 0 {
		a.sayAll(len(w.Clients))
		a.env.Health.Met(conditionClients)
		return
	}
	a.env.Health.Wait(conditionClients, fmt.Sprintf("%d of %d clients wait for a credential that is proven%s", waiting, len(w.Clients), strings.Join(why, "")))
}
