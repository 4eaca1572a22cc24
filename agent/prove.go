package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

const proofAttempts = 3

// proveAll proves what is installed and not proven yet.
func (a *agent) proveAll(ctx context.Context, jobs []*job) {
	each(jobs, func(j *job) {
		if !j.plan.Prove || j.set == nil {
			return
		}
		ctx, span := a.span(ctx, j, "prove")
		err := a.prove(ctx, j.set)
		telemetry.End(span, err)
		if err != nil {
			a.notProven(ctx, j, err)
			return
		}
		j.plan.Settle = true
	})
	now := clock.Wall()
	for _, j := range jobs {
		switch {
		case j.plan.Prove && j.plan.Settle && j.err == nil:
			j.note.proof = told{generation: j.work.Generation, at: now}
			j.note.expect(now)
			a.env.Log.InfoContext(telemetry.Follow(ctx, j.trace()), "credentials proven", "client", j.work.Client.String(), "generation", j.work.Generation)
			a.say("%s: generation %d is installed and proven, valid until %s", j.work.Client, j.work.Generation, ending(j.set.Metadata))
		case j.step == fleet.StepProven && j.err != nil:
			j.err = a.heal(ctx, j.err)
		}
	}
}

// proofPatience is for how long a server may refuse a generation before it is
// given up, in real time: its record may lag behind.
const proofPatience = 5 * time.Minute

// notProven keeps why a proof failed. What the server keeps refusing is as bad
// for the client as what it cannot load; that there was no answer says nothing
// about the generation.
func (a *agent) notProven(ctx context.Context, j *job, err error) {
	problem, answered := errors.AsType[*api.Problem](err)
	if !answered || problem.Status >= http.StatusInternalServerError || problem.Status == http.StatusTooManyRequests || !j.onTrial() {
		j.fail(fleet.StepProven, err)
		return
	}
	t, now := j.note.trial, clock.Wall()
	if t.Generation != j.work.Generation {
		t = state.Trial{Loaded: t.Loaded, Generation: j.work.Generation, InARow: t.InARow}
	}
	t.Attempts++
	t.Failed(now, err)
	a.onFailure(ctx, j, t, failure{err: err, last: t.Attempts >= a.how(j).Reload.Attempts && now.Sub(t.Since) >= proofPatience})
}

// prove makes the call that shows that certificate and token work. The server's
// record may lag behind the pick-up, so a refusal is tried again for a moment.
func (a *agent) prove(ctx context.Context, s *install.Set) error {
	pair, err := s.KeyPair()
	if err != nil {
		return err
	}
	var pause backoff
	for attempt := 1; ; attempt++ {
		reply, err := a.link.Prove(ctx, pair, s.Token)
		if err == nil {
			return seen(reply, s.Metadata)
		}
		_, answered := errors.AsType[*api.Problem](err)
		if !answered || attempt == proofAttempts {
			return fmt.Errorf("prove generation %d: %w", s.Metadata.Generation, err)
		}
		pause.wait(ctx, nil)
	}
}

// seen reports whether the server has seen what was installed, and no other.
func seen(r api.ProveReply, m install.Metadata) error {
	if r.Cluster != m.Cluster || r.Client != m.Client || r.Generation != m.Generation || r.Serial != m.Serial {
		return fmt.Errorf("prove generation %d: the server has seen %s/%s generation %d with certificate %s", m.Generation, r.Cluster, r.Client, r.Generation, r.Serial)
	}
	return nil
}
