package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// checkpointKey is the key of the checkpoint in the bucket "schedule". No
// cluster can have such a name.
const checkpointKey = "_checkpoint"

// checkpoint says how far the buckets were looked at: each change up to there
// has had its effect, and what remains to be done of it is a moment in the
// document of its cluster. So a scheduler that starts reads what has changed
// since, and not the records of the whole fleet.
type checkpoint struct {
	Buckets map[string]mark `json:"buckets"`
}

// mark is the place in one bucket.
type mark struct {
	Revision uint64    `json:"revision"`
	Made     time.Time `json:"made" doc:"when the bucket was made: another one has other revisions"`
}

// watched are the buckets whose changes are looked at.
func watched() []string { return []string{bus.Clusters, bus.Releases, bus.Credentials, bus.Agents} }

// seen is how far the copy of the state has come. It is safe for concurrent use.
type seen struct {
	mu    sync.Mutex
	marks map[string]mark
	void  bool // there was no checkpoint that holds: every cluster is to be looked at
}

func newSeen() *seen { return &seen{marks: map[string]mark{}} }

func (s *seen) get(bucket string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marks[bucket].Revision
}

// before reports whether nothing as new as a revision was seen.
func (s *seen) before(bucket string, revision uint64) bool { return s.get(bucket) < revision }

func (s *seen) set(bucket string, revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.marks[bucket]; m.Revision < revision {
		m.Revision = revision
		s.marks[bucket] = m
	}
}

func (s *seen) checkpoint() checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := checkpoint{Buckets: map[string]mark{}}
	for _, bucket := range watched() {
		c.Buckets[bucket] = s.marks[bucket]
	}
	return c
}

// resume reads the checkpoint. One that does not fit the buckets, as they were
// restored or made anew, is none.
func (s *state) resume(ctx context.Context, env daemon.Env) error {
	stored, err := s.documents.checkpoints.Get(ctx, checkpointKey)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		return err
	}
	fits := true
	for _, bucket := range watched() {
		now, err := origin(ctx, env, bucket)
		if err != nil {
			return err
		}
		then := stored.Value.Buckets[bucket]
		fits = fits && then.Made.Equal(now.Made) && then.Revision <= now.Revision
		if !fits {
			break
		}
	}
	s.seen.void = !fits
	for _, bucket := range watched() {
		now, err := origin(ctx, env, bucket)
		if err != nil {
			return err
		}
		if fits {
			now.Revision = stored.Value.Buckets[bucket].Revision
		}
		s.seen.marks[bucket] = now // without a checkpoint every cluster is looked at, whatever has changed until now
	}
	if !fits {
		env.Log.Info("no checkpoint holds; every cluster will be looked at")
	}
	return nil
}

func origin(ctx context.Context, env daemon.Env, bucket string) (mark, error) {
	b, err := kv.Open[struct{}](ctx, env.NATS, bucket)
	if err != nil {
		return mark{}, err
	}
	var m mark
	err = bus.Retry(ctx, func(ctx context.Context) (err error) {
		m.Revision, m.Made, err = b.Origin(ctx)
		return err
	})
	return m, err
}

// round is the way from one checkpoint to the next: it ends when each cluster
// that was waiting at its beginning was looked at.
type round struct {
	at      checkpoint
	waiting map[string]struct{}
	open    bool
	written time.Time // the checkpoint before, by the machine's time
}

// checkpointEvery bounds how much has to be looked at again after a crash.
const checkpointEvery = 10 * time.Second

// mark begins a round when it is time for one, and ends it when it is over.
// seen is what the state had seen before the changes were last taken.
func (l *leader) mark(ctx context.Context, seen checkpoint) {
	r := &l.memory.round
	if !r.open && clock.Wall().Sub(r.written) >= checkpointEvery {
		r.open, r.at, r.waiting = true, seen, maps.Clone(l.memory.pending)
		for name := range l.memory.acted {
			r.waiting[name] = struct{}{}
		}
	}
	if !r.open || len(r.waiting) > 0 {
		return
	}
	r.open, r.written = false, clock.Wall()
	if err := l.saveCheckpoint(ctx, r.at); err != nil && ctx.Err() == nil {
		l.env.Log.Warn("checkpoint not stored; a restart will look at more", "err", err)
	}
}

func (l *leader) saveCheckpoint(ctx context.Context, c checkpoint) error {
	_, err := l.documents.checkpoints.Edit(ctx, checkpointKey, func(stored *checkpoint) error {
		if maps.Equal(stored.Buckets, c.Buckets) {
			return kv.Keep
		}
		*stored = c
		return nil
	})
	if err != nil {
		return fmt.Errorf("store checkpoint: %w", err)
	}
	return nil
}
