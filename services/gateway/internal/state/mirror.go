package state

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rotor-fleet/rotor/shared/health"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// Mirror is a copy of a bucket that knows how far it has come.
type Mirror[T any] struct {
	*kv.Mirror[T]
	Bucket *kv.Bucket[T]

	name    string
	seen    atomic.Uint64
	moved   Signal
	current chan struct{} // closed when it has had all of the bucket
}

func open[T any](ctx context.Context, nc *nats.Conn, name string) (*Mirror[T], error) {
	b, err := kv.Open[T](ctx, nc, name)
	if err != nil {
		return nil, err
	}
	return &Mirror[T]{Mirror: kv.NewMirror[T](), Bucket: b, name: name, current: make(chan struct{})}, nil
}

// run keeps the mirror up to date; changed may be nil.
func (m *Mirror[T]) run(ctx context.Context, h health.Part, changed func(kv.Entry[T])) {
	condition := "bucket-" + m.name
	first := sync.OnceFunc(func() { close(m.current) })
	m.Run(ctx, m.Bucket, kv.Watcher[T]{
		Changed: func(e kv.Entry[T]) {
			if changed != nil {
				changed(e)
			}
			m.advance(e.Revision)
		},
		Current: func() {
			h.Met(condition)
			first()
		},
		Broken: func(err error) { h.Wait(condition, "reading the bucket again: "+err.Error()) },
	})
}

func (m *Mirror[T]) advance(revision uint64) {
	if revision > m.seen.Load() {
		m.seen.Store(revision)
	}
	m.moved.WakeAll()
}

// patience bounds the wait for a mirror: an answer that may be a little old is
// better than none.
const patience = 2 * time.Second

// Await waits until the mirror holds all that was written up to a revision, but
// not for longer than a moment.
func (m *Mirror[T]) Await(ctx context.Context, revision uint64) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		moved := m.moved.Wait("")
		if m.seen.Load() >= revision {
			return
		}
		select {
		case <-moved:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Fresh waits until the mirror holds all that was written before the call, so
// that whoever was told of a write sees it.
func (m *Mirror[T]) Fresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if revision, err := m.Bucket.Revision(ctx); err == nil {
		m.Await(ctx, revision)
	}
}

// Until asks look now and after each change of the bucket until it says true,
// but not for longer than d, and returns its last answer.
func (m *Mirror[T]) Until(ctx context.Context, d time.Duration, look func() bool) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		moved := m.moved.Wait("")
		if look() {
			return true
		}
		select {
		case <-moved:
		case <-timer.C:
			return look()
		case <-ctx.Done():
			return false
		}
	}
}
