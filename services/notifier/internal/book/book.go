// Package book is the bucket of alerts with a copy in memory that can be
// brought up to date on demand.
package book

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// Entry is an alert with its revision. The alert is shared: do not change it.
type Entry = kv.Entry[fleet.Alert]

// Book holds the alerts. It is safe for concurrent use.
type Book struct {
	bucket *kv.Bucket[fleet.Alert]
	mirror *kv.Mirror[fleet.Alert]

	mu    sync.Mutex
	seen  uint64
	moved chan struct{} // closed and replaced at each change
}

// Open opens the book, and waits for its bucket until ctx ends.
func Open(ctx context.Context, nc *nats.Conn) (*Book, error) {
	bucket, err := kv.Open[fleet.Alert](ctx, nc, bus.Alerts)
	if err != nil {
		return nil, err
	}
	return &Book{bucket: bucket, mirror: kv.NewMirror[fleet.Alert](), moved: make(chan struct{})}, nil
}

// Run keeps the copy up to date until ctx ends, and calls current when it is
// complete, broken when it may be out of date.
func (b *Book) Run(ctx context.Context, current func(), broken func(error)) {
	b.mirror.Run(ctx, b.bucket, kv.Watcher[fleet.Alert]{
		Changed: func(e Entry) { b.advance(e.Revision) },
		Current: current,
		Broken:  broken,
	})
}

func (b *Book) advance(revision uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = max(b.seen, revision)
	close(b.moved)
	b.moved = make(chan struct{})
}

// Moved returns a channel that is closed at the next change.
func (b *Book) Moved() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.moved
}

// All returns the alerts as far as they are known here, in no order.
func (b *Book) All() []Entry { return b.mirror.All() }

// patience bounds the wait for the copy. One that is interrupted may take longer:
// then the caller tries again, and says so.
const patience = 5 * time.Second

// Fresh returns the alerts after having seen everything that was stored before
// the call, by whomever. It does not wait for longer than a few seconds.
func (b *Book) Fresh(ctx context.Context) ([]Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	newest, err := b.bucket.Revision(ctx)
	if err != nil {
		return nil, err
	}
	for {
		b.mu.Lock()
		seen, moved := b.seen, b.moved
		b.mu.Unlock()
		if seen >= newest {
			return b.All(), nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for revision %d of the alerts: %w", newest, context.Cause(ctx))
		}
	}
}

// Edit lets f change an alert, perhaps several times, until it is stored over
// what f was given; f returns false when there is nothing to store.
func (b *Book) Edit(ctx context.Context, fingerprint string, f func(*fleet.Alert) bool) (changed bool, err error) {
	_, err = b.bucket.Edit(ctx, fingerprint, func(a *fleet.Alert) error {
		if changed = f(a); !changed {
			return kv.Keep
		}
		return nil
	})
	return changed && err == nil, err
}

// Claim stores a change of an alert over exactly the revision that was seen, or
// returns fleet.ErrConflict. The alert given to f is a copy.
func (b *Book) Claim(ctx context.Context, e Entry, f func(*fleet.Alert) bool) (fleet.Alert, bool, error) {
	a := e.Value
	a.Deliveries = slices.Clone(a.Deliveries)
	if !f(&a) {
		return a, false, nil
	}
	_, err := b.bucket.Update(ctx, e.Key, a, e.Revision)
	return a, err == nil, err
}

// Forget removes an alert at the revision that was seen, or returns
// fleet.ErrConflict.
func (b *Book) Forget(ctx context.Context, e Entry) error {
	return b.bucket.Delete(ctx, e.Key, e.Revision)
}
