package scheduler

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/waves"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/measure"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// progress is how far a rotation has come, as of one revision of it.
type progress struct {
	*waves.Progress
	revision uint64
}

// progressOf returns the progress of a running rotation, or nil if it has ended.
// It is counted anew from the parts when another has written the rotation.
func (l *leader) progressOf(id string) *waves.Progress {
	e, ok := l.state.running.get(id)
	if !ok {
		return nil
	}
	p := l.memory.progress[id]
	if p == nil || p.revision != e.Revision {
		p = &progress{revision: e.Revision, Progress: waves.New(&e.Value, func(cluster string) fleet.ClusterRotation {
			return l.memory.parts.get(id + "." + cluster).Value
		})}
		l.memory.progress[id] = p
	}
	return p.Progress
}

// proceed goes on with the rotation of a part that was looked at.
func (l *leader) proceed(ctx context.Context, p *part, look waves.Look) error {
	progress := l.progressOf(p.rotation.ID)
	if progress == nil {
		return nil
	}
	if p.stored.Revision > 0 {
		progress.Note(&p.rotation, p.stored.Value, look)
	}
	return l.decide(ctx, p.rotation.ID)
}

// decide carries out what follows from the progress of a rotation. It is called
// under memory.rotating.
func (l *leader) decide(ctx context.Context, id string) error {
	e, ok := l.state.running.get(id)
	if !ok {
		return nil
	}
	progress := l.progressOf(id)
	d := progress.Decide(&e.Value, l.env.Clock.Now())
	switch {
	case d.Ended:
		return l.finish(ctx, id)
	case d.Halt != nil:
		return l.halt(ctx, e, *d.Halt)
	case d.Wave != 0 && d.Wave != e.Value.Wave:
		e.Value.Wave = d.Wave
		if err := l.change(ctx, e, progress); err != nil {
			return err
		}
		l.env.Log.InfoContext(ctx, "rotation goes on to its next wave", "rotation", id, "wave", d.Wave)
	}
	l.state.changes.add(d.Begin...)
	return nil
}

// change stores a rotation in place of the revision that was decided about. The
// progress, if it is not nil, stays good for what is stored then.
func (l *leader) change(ctx context.Context, e kv.Entry[fleet.Rotation], p *waves.Progress) error {
	if p != nil {
		e.Value.Rotated, e.Value.Failed = p.Counts()
	}
	revision, err := l.documents.rotations.Update(ctx, e.Key, e.Value, e.Revision)
	if err != nil {
		if errors.Is(err, fleet.ErrConflict) { // another has written it: what is stored holds
			if stored, readErr := l.documents.rotations.Get(ctx, e.Key); readErr == nil {
				l.state.running.set(stored)
			}
		}
		delete(l.memory.progress, e.Key)
		return err
	}
	e.Revision = revision
	if l.state.running.set(e); p != nil {
		l.memory.progress[e.Key] = &progress{p, revision}
	} else {
		delete(l.memory.progress, e.Key)
	}
	return nil
}

// halt tells that a rotation begins nothing more, and stores it, in this order.
func (l *leader) halt(ctx context.Context, e kv.Entry[fleet.Rotation], h fleet.Halt) error {
	r := e.Value
	if err := r.Move(fleet.RotationHalted); err != nil {
		return err
	}
	fact := factOf(r)
	fact.Wave, fact.Halt, fact.Why = h.Wave, h.Number, h.Reason
	fact.Rotated, fact.Failed = l.progressOf(r.ID).Counts()
	fact.Failures = l.failures(&r)
	m := meta(r, h.At)
	m.Key = append(m.Key, strconv.Itoa(h.Number))
	ctx = telemetry.Follow(ctx, r.Trace)
	if err := bus.Publish(ctx, l.bus, event.RotationHalted, m, fact); err != nil {
		return err
	}
	r.Halt = &h
	e.Value = r
	if err := l.change(ctx, e, l.progressOf(r.ID)); err != nil {
		return err
	}
	l.env.Log.WarnContext(ctx, "rotation halted", "rotation", r.ID, "wave", h.Wave, "why", h.Reason)
	return nil
}

// finish tells the result of a rotation and stores it, in this order: what is
// stored as ended was told of.
func (l *leader) finish(ctx context.Context, id string) error {
	stored, err := l.documents.rotations.Get(ctx, id)
	if errors.Is(err, fleet.ErrNotFound) {
		e, _ := l.state.running.get(id)
		l.state.running.set(kv.Entry[fleet.Rotation]{Key: id, Revision: e.Revision + 1, Deleted: true})
		l.drop(e.Value)
		return nil
	}
	if err != nil {
		return err
	}
	r := stored.Value
	if !r.State.Done() {
		if err := r.Move(l.tally(&r)); err != nil {
			return err
		}
		r.EndedAt = l.env.Clock.Now()
		kind := event.RotationCompleted
		fact := factOf(r)
		switch r.State {
		case fleet.RotationFailed:
			kind = event.RotationFailed
		case fleet.RotationCancelled:
			kind = event.RotationCancelled
			fact.By = r.Cancel.By
		}
		fact.Failures = l.failures(&r)
		ctx := telemetry.Follow(ctx, r.Trace)
		if err := bus.Publish(ctx, l.bus, kind, meta(r, r.EndedAt), fact); err != nil {
			return err
		}
		revision, err := l.documents.rotations.Update(ctx, id, r, stored.Revision)
		if err != nil {
			return err
		}
		stored.Value, stored.Revision = r, revision
		took := time.Duration(float64(r.EndedAt.Sub(r.CreatedAt)) / l.env.Clock.Rate())
		measure.Observe(ctx, l.metrics.rotations.WithLabelValues(string(r.Reason), string(r.State)), took.Seconds())
		l.env.Log.InfoContext(ctx, "rotation ended", "rotation", id, "state", string(r.State), "rotated", r.Rotated, "failed", r.Failed, "total", r.Total)
	}
	l.state.running.set(stored)
	l.drop(r)
	return l.prune(ctx)
}

// tally counts the results of a rotation and returns the state that follows. One
// that was ended before its end keeps its total: not all of it was planned.
func (l *leader) tally(r *fleet.Rotation) fleet.RotationState {
	state, total := fleet.RotationCompleted, 0
	r.Rotated, r.Failed = 0, 0
	for _, name := range r.Clusters {
		for _, result := range l.memory.parts.get(r.ID + "." + name).Value.Clients {
			total++
			switch {
			case result.Outcome == fleet.OutcomeRotated:
				r.Rotated++
			case r.Fails(result.Outcome):
				r.Failed++
				state = fleet.RotationFailed
			}
		}
	}
	if r.Cancel != nil {
		return fleet.RotationCancelled
	}
	r.Total = total
	return state
}

// failures returns the first failures of a rotation.
func (l *leader) failures(r *fleet.Rotation) []event.Failure {
	var failures []event.Failure
	for _, name := range r.Clusters {
		for _, result := range l.memory.parts.get(r.ID + "." + name).Value.Clients {
			if r.Fails(result.Outcome) {
				failures = append(failures, event.Failure{Cluster: name, Client: result.Client, Reason: result.Reason, Outcome: result.Outcome})
			}
			if len(failures) == event.MaxFailures {
				return failures
			}
		}
	}
	return failures
}

// drop forgets a rotation that has ended.
func (l *leader) drop(r fleet.Rotation) {
	for _, name := range r.Clusters {
		l.memory.parts.drop(r.ID + "." + name)
	}
	delete(l.memory.progress, r.ID)
}

// prune deletes the oldest rotations that have ended, their parts first: a
// rotation whose parts are gone is found and deleted by the next prune.
func (l *leader) prune(ctx context.Context) error {
	var done []kv.Entry[operation]
	for _, e := range l.state.operations.All() {
		if !strings.Contains(e.Key, ".") && !fleet.IsRollout(e.Key) && e.Value.rotation.State.Done() {
			done = append(done, e)
		}
	}
	if len(done) <= keepRotations {
		return nil
	}
	slices.SortFunc(done, func(a, b kv.Entry[operation]) int {
		return b.Value.rotation.EndedAt.Compare(a.Value.rotation.EndedAt)
	})
	for _, old := range done[keepRotations:] {
		for _, name := range old.Value.rotation.Clusters {
			key := old.Key + "." + name
			if e, ok := l.state.operations.Get(key); ok {
				if err := l.documents.parts.Delete(ctx, key, e.Revision); err != nil && !errors.Is(err, fleet.ErrConflict) {
					return err
				}
			}
		}
		if err := l.documents.rotations.Delete(ctx, old.Key, old.Revision); err != nil && !errors.Is(err, fleet.ErrConflict) {
			return err
		}
	}
	return nil
}
