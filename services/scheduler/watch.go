package scheduler

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// looksAtOnce is how many clusters are looked at side by side: a look waits for
// a few writes to disk, one after the other, and those of others fit in between.
const looksAtOnce = 16

// maxActed bounds how many notes wait, and so how much is told again after a
// crash: to no effect, as the streams know what they have.
const maxActed = 4096

// watch looks at each cluster when its moment has come or a document of it has
// changed. While many are due at once, what was told of them is noted when the
// last of them was acted upon: a note can wait, its cluster has been served.
func (l *leader) watch(ctx context.Context) error {
	defer func() {
		for _, names := range []iter.Seq[string]{maps.Keys(l.memory.pending), maps.Keys(l.memory.acted)} {
			l.state.changes.add(slices.Collect(names)...) // whoever leads next in this process finds them
		}
	}()
	l.state.leading.Store(l)
	defer l.state.leading.Store(nil)
	l.takeOver()
	failures := 0
	for ctx.Err() == nil {
		seen := l.state.seen.checkpoint()
		l.drain()
		l.mark(ctx, seen)
		names, first := l.due()
		var well bool
		switch {
		case len(first) > 0:
			well = l.noteAll(ctx, first, failures+1)
		case len(names) > 0:
			well = l.lookAtAll(ctx, names, failures+1)
		case len(l.memory.acted) > 0:
			well = l.noteAll(ctx, slices.Collect(maps.Keys(l.memory.acted)), failures+1)
		default:
			l.wait(ctx)
			continue
		}
		if well {
			failures = 0
			continue
		}
		failures++
		_ = clock.Sleep(ctx, bus.Backoff(failures, time.Second))
	}
	return nil
}

// due takes the clusters whose moment has come, the most urgent first, a few
// for each that is looked at side by side. If some of them are to be noted first,
// it returns those, and leaves all in the queue.
func (l *leader) due() (names, first []string) {
	now := l.env.Clock.Now()
	moments := map[string]time.Time{}
	for len(names) < 4*looksAtOnce && len(l.memory.acted)+len(names) < maxActed {
		moment, _ := l.memory.queue.Next()
		name, due := l.memory.queue.Pop(now)
		if !due {
			break
		}
		moments[name] = moment
		if _, ok := l.memory.acted[name]; ok {
			first = append(first, name)
		}
		names = append(names, name)
	}
	if len(first) == 0 {
		return names, nil
	}
	for _, name := range names {
		l.memory.queue.Set(name, moments[name])
	}
	return nil, first
}

// sideBySide calls f for each name, for some of them at a time, and returns the
// errors.
func sideBySide(names []string, f func(i int, name string) error) []error {
	errs := make([]error, len(names))
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(looksAtOnce, len(names)) {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(names); i = int(next.Add(1)) - 1 {
				errs[i] = f(i, names[i])
			}
		})
	}
	all.Wait()
	return errs
}

// lookAtAll looks at clusters side by side. What was told of them is left to be
// noted. It reports whether all went well.
func (l *leader) lookAtAll(ctx context.Context, names []string, attempt int) bool {
	results := make([]acted, len(names))
	errs := sideBySide(names, func(i int, name string) (err error) {
		results[i], err = l.act(ctx, name)
		return err
	})
	well := true
	for i, name := range names {
		switch {
		case errs[i] != nil:
			well = false
			l.retry(ctx, name, attempt, errs[i])
		case results[i].noted():
			delete(l.memory.pending, name)
			l.done(name, results[i].next)
		default:
			delete(l.memory.pending, name) // what has changed was seen; the checkpoint waits for the note
			l.memory.acted[name] = results[i]
		}
	}
	return well
}

// noteAll notes what was told of the clusters that were acted upon.
func (l *leader) noteAll(ctx context.Context, names []string, attempt int) bool {
	errs := sideBySide(names, func(_ int, name string) error { return l.note(ctx, l.memory.acted[name]) })
	well := true
	for i, name := range names {
		a := l.memory.acted[name]
		delete(l.memory.acted, name)
		if errs[i] != nil {
			well = false
			l.retry(ctx, name, attempt, errs[i])
			continue
		}
		l.done(name, a.next)
	}
	return well
}

// retry has a cluster looked at again after an error: NATS is away, or this copy
// of the state is old. The others are not held up for long by one cluster, nor
// all tried in vain at full speed.
func (l *leader) retry(ctx context.Context, name string, attempt int, err error) {
	if ctx.Err() == nil && !errors.Is(err, bus.ErrFenced) && !errors.Is(err, kv.ErrLeaseLost) {
		l.env.Log.Warn("cluster will be looked at again", "cluster", name, "err", err)
	}
	l.memory.pending[name] = struct{}{}
	l.memory.queue.Set(name, l.realTime(l.env.Clock.Now(), bus.Backoff(attempt, 5*time.Second)))
}

// done puts a cluster that was looked at back into the queue.
func (l *leader) done(name string, next time.Time) {
	delete(l.memory.round.waiting, name)
	if !next.IsZero() {
		l.memory.queue.Advance(name, next)
	}
}

// wait waits for the next moment or a change. It never waits longer than
// clock.MaxWait, so that a suspended machine or a stepped clock is noticed.
func (l *leader) wait(ctx context.Context) {
	pause := clock.MaxWait
	if next, ok := l.memory.queue.Next(); ok {
		pause = l.env.Clock.Until(next)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-l.state.changes.signal:
	}
}
