// Package kv stores documents in JetStream buckets by compare-and-set. The
// revision that a read returns is the only truth about who wrote last.
package kv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Bucket is a bucket of documents of one type. It is safe for concurrent use.
type Bucket[T any] struct {
	name  string
	kv    jetstream.KeyValue
	guard *bus.Denials
	held  func() bool // whether this writer may write; always, if nil
}

// Entry is a document with its key and revision.
type Entry[T any] struct {
	Key      string
	Value    T
	Revision uint64
	Created  time.Time // when it was written, by the server's time
	Deleted  bool      // only from Watch
}

// Open opens a bucket that bus.Setup has made, and waits for it until ctx ends.
func Open[T any](ctx context.Context, nc *nats.Conn, name string) (*Bucket[T], error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", name, err)
	}
	b := &Bucket[T]{name: name, guard: bus.Guard(nc)}
	for attempt := 1; ; attempt++ {
		err := bus.Retry(ctx, func(ctx context.Context) error {
			return b.guard.Do(ctx, "$JS.API.STREAM.INFO.KV_"+name, func(ctx context.Context) (err error) {
				b.kv, err = js.KeyValue(ctx, name)
				return err
			})
		})
		if err == nil {
			return b, nil
		}
		if !errors.Is(err, jetstream.ErrBucketNotFound) || clock.Sleep(ctx, bus.Backoff(attempt, time.Second)) != nil {
			return nil, fmt.Errorf("open bucket %s: %w", name, err)
		}
	}
}

// While returns the bucket for one that may write only while something is held.
// A write after that fails with ErrLeaseLost and is not sent.
func (b *Bucket[T]) While(held func() bool) *Bucket[T] {
	mine := *b
	mine.held = held
	return &mine
}

// may reports that this writer may write, as of now.
func (b *Bucket[T]) may() error {
	if b.held == nil || b.held() {
		return nil
	}
	return ErrLeaseLost
}

func (b *Bucket[T]) subject(key string) string { return "$KV." + b.name + "." + key }

// Get returns a document, or fleet.ErrNotFound.
func (b *Bucket[T]) Get(ctx context.Context, key string) (Entry[T], error) {
	e := Entry[T]{Key: key}
	raw, err := b.read(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return e, fmt.Errorf("%s/%s: %w", b.name, key, fleet.ErrNotFound)
	}
	if err != nil {
		return e, fmt.Errorf("get %s/%s: %w", b.name, key, err)
	}
	e.Revision, e.Created = raw.Revision(), raw.Created()
	if err := json.Unmarshal(raw.Value(), &e.Value); err != nil {
		return e, fmt.Errorf("get %s/%s: %w", b.name, key, err)
	}
	return e, nil
}

func (b *Bucket[T]) read(ctx context.Context, key string) (raw jetstream.KeyValueEntry, err error) {
	asks := []string{"$JS.API.DIRECT.GET.KV_" + b.name + "." + b.subject(key), "$JS.API.STREAM.MSG.GET.KV_" + b.name}
	err = bus.Persist(ctx, func(ctx context.Context) error {
		return b.guard.DoAny(ctx, asks, func(ctx context.Context) (err error) {
			raw, err = b.kv.Get(ctx, key)
			return err
		})
	})
	return raw, err
}

// Create stores a document under a key that has none, or fleet.ErrConflict.
// Whoever got the conflict can read the document of the other.
func (b *Bucket[T]) Create(ctx context.Context, key string, value T) (uint64, error) {
	revision, err := b.write(ctx, key, value, func(ctx context.Context, raw []byte) (uint64, error) { return b.kv.Create(ctx, key, raw) })
	// With replicas the leader refuses while the write of the other is still
	// under way to them, and the document is not there yet.
	for attempt := 1; errors.Is(err, fleet.ErrConflict) && attempt <= createLooks; attempt++ {
		if _, missing := b.Get(ctx, key); !errors.Is(missing, fleet.ErrNotFound) || clock.Sleep(ctx, bus.Backoff(attempt, time.Second)) != nil {
			break
		}
	}
	return revision, err
}

// createLooks bounds the wait for the document of another, to some seconds: its
// write may have failed.
const createLooks = 8

// Update stores a document over the given revision, or fleet.ErrConflict.
func (b *Bucket[T]) Update(ctx context.Context, key string, value T, revision uint64) (uint64, error) {
	return b.write(ctx, key, value, func(ctx context.Context, raw []byte) (uint64, error) {
		return b.kv.Update(ctx, key, raw, revision)
	})
}

func (b *Bucket[T]) write(
	ctx context.Context, key string, value T, do func(context.Context, []byte) (uint64, error),
) (revision uint64, err error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return 0, fmt.Errorf("write %s/%s: %w", b.name, key, err)
	}
	tries := 0
	err = bus.Persist(ctx, func(ctx context.Context) error {
		tries++
		if err := b.may(); err != nil {
			return err
		}
		return b.guard.Do(ctx, b.subject(key), func(ctx context.Context) (err error) {
			revision, err = do(ctx, raw)
			return err
		})
	})
	conflict := errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
	if conflict && tries > 1 {
		// The try before may have been stored without our hearing of it.
		if there, readErr := b.read(ctx, key); readErr == nil && bytes.Equal(there.Value(), raw) {
			return there.Revision(), nil
		}
	}
	if conflict {
		return 0, fmt.Errorf("write %s/%s: %w", b.name, key, fleet.ErrConflict)
	}
	if err != nil {
		return 0, fmt.Errorf("write %s/%s: %w", b.name, key, err)
	}
	return revision, nil
}

// Keep is returned by the function given to Edit when there is nothing to
// write; Edit then returns no error.
var Keep = errors.New("keep") //nolint:staticcheck // reads as a verb at the place of use

// Edit reads a document, lets f change it, and stores it; it starts again when
// somebody else wrote meanwhile, so f may be called several times. A missing
// document is given to f as the zero value at revision 0.
func (b *Bucket[T]) Edit(ctx context.Context, key string, f func(*T) error) (Entry[T], error) {
	for attempt := 1; ; attempt++ {
		e, err := b.Get(ctx, key)
		if err != nil && !errors.Is(err, fleet.ErrNotFound) {
			return e, err
		}
		if err := f(&e.Value); err != nil {
			if errors.Is(err, Keep) {
				return e, nil
			}
			return e, err
		}
		var revision uint64
		if e.Revision == 0 {
			revision, err = b.Create(ctx, key, e.Value)
		} else {
			revision, err = b.Update(ctx, key, e.Value, e.Revision)
		}
		if err == nil {
			e.Revision = revision
			return e, nil
		}
		if !errors.Is(err, fleet.ErrConflict) {
			return e, err
		}
		if err := clock.Sleep(ctx, bus.Backoff(attempt, time.Second)/16); err != nil {
			return e, fmt.Errorf("edit %s/%s: %w", b.name, key, err)
		}
	}
}

// Delete removes a document at the given revision, or fleet.ErrConflict.
func (b *Bucket[T]) Delete(ctx context.Context, key string, revision uint64) error {
	err := b.may()
	if err != nil {
		return fmt.Errorf("delete %s/%s: %w", b.name, key, err)
	}
	err = b.guard.Do(ctx, b.subject(key), func(ctx context.Context) error {
		return b.kv.Delete(ctx, key, jetstream.LastRevision(revision))
	})
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return fmt.Errorf("delete %s/%s: %w", b.name, key, fleet.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("delete %s/%s: %w", b.name, key, err)
	}
	return nil
}
