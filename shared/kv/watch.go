package kv

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
)

// Watcher is told of documents, one after the other.
type Watcher[T any] struct {
	// Changed is called with every document there is, then with each change. A
	// document can be told of again with the same revision.
	Changed func(Entry[T])
	// Current is called when Changed has been called with every document there
	// was at the start, and again after an interruption.
	Current func()
	// Broken is called, if set, when the watch was interrupted, and why.
	Broken func(error)
}

// Watch tells of every document of the bucket until ctx ends. It survives the
// loss of the connection: it then starts again with all documents.
func (b *Bucket[T]) Watch(ctx context.Context, w Watcher[T]) {
	b.keepWatching(ctx, w, func() error { return b.watch(ctx, w) })
}

func (b *Bucket[T]) keepWatching(ctx context.Context, w Watcher[T], watch func() error) {
	for attempt := 1; ctx.Err() == nil; attempt++ {
		err := watch()
		if ctx.Err() != nil {
			return
		}
		if w.Broken != nil {
			w.Broken(err)
		}
		_ = clock.Sleep(ctx, bus.Backoff(attempt, 5*time.Second))
	}
}

// WatchFrom tells of the documents that were written after a revision and are
// still the newest of their key, then of each change. After an interruption it
// goes on where it was. Documents that have not changed are not even read.
func (b *Bucket[T]) WatchFrom(ctx context.Context, revision uint64, w Watcher[T]) {
	changed := w.Changed
	w.Changed = func(e Entry[T]) {
		changed(e)
		revision = e.Revision
	}
	b.keepWatching(ctx, w, func() error { return b.watch(ctx, w, jetstream.ResumeFromRevision(revision+1)) })
}

func (b *Bucket[T]) watch(ctx context.Context, w Watcher[T], options ...jetstream.WatchOpt) error {
	watch, err := b.kv.WatchAll(ctx, options...)
	if err != nil {
		return fmt.Errorf("watch %s: %w", b.name, err)
	}
	defer func() { go release(watch) }()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case raw, open := <-watch.Updates():
			if !open {
				return fmt.Errorf("watch %s: ended", b.name)
			}
			if raw == nil {
				if w.Current != nil {
					w.Current()
				}
				continue
			}
			e := Entry[T]{Key: raw.Key(), Revision: raw.Revision(), Created: raw.Created(), Deleted: raw.Operation() != jetstream.KeyValuePut}
			if !e.Deleted {
				if err := json.Unmarshal(raw.Value(), &e.Value); err != nil {
					return fmt.Errorf("watch %s/%s: %w", b.name, e.Key, err)
				}
			}
			w.Changed(e)
		}
	}
}

// release ends a watch on the server. Nobody waits for it: a cluster does not
// answer each request to delete a consumer, and the client gives that up after
// 5 s only, in which a service that is told to end would still run. Without the
// request the server deletes the consumer by itself. What the client has read
// ahead is taken from it, or it would never end.
func release(watch jetstream.KeyWatcher) {
	_ = watch.Stop()
	for range watch.Updates() {
	}
}

// Mirror is a copy of a bucket in memory, kept up to date. It is safe for
// concurrent use. The values that it returns are shared: do not change them.
type Mirror[T any] struct {
	mu      sync.RWMutex
	entries map[string]Entry[T]
}

// NewMirror returns an empty mirror; Run fills it.
func NewMirror[T any]() *Mirror[T] { return &Mirror[T]{entries: map[string]Entry[T]{}} }

// Run keeps the mirror up to date until ctx ends. The watcher's functions may
// be nil; Changed is called after the mirror has changed.
func (m *Mirror[T]) Run(ctx context.Context, b *Bucket[T], w Watcher[T]) {
	changed := w.Changed
	w.Changed = func(e Entry[T]) {
		m.mu.Lock()
		if e.Deleted {
			delete(m.entries, e.Key)
		} else {
			m.entries[e.Key] = e
		}
		m.mu.Unlock()
		if changed != nil {
			changed(e)
		}
	}
	b.Watch(ctx, w)
}

// Get returns the document under a key.
func (m *Mirror[T]) Get(key string) (Entry[T], bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e, ok := m.entries[key]
	return e, ok
}

// All returns every document, in no order.
func (m *Mirror[T]) All() []Entry[T] {
	m.mu.RLock()
	defer m.mu.RUnlock()
	all := make([]Entry[T], 0, len(m.entries))
	for _, e := range m.entries {
		all = append(all, e)
	}
	return all
}

// Len returns how many documents there are.
func (m *Mirror[T]) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.entries)
}

// Keys returns the key of every document, in no order.
func (m *Mirror[T]) Keys() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Collect(maps.Keys(m.entries))
}
