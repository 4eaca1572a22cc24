package scheduler

import (
	"context"
	"errors"
	"sync"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// latest returns the newer of what a mirror shows and what was written here:
// a mirror lags behind one's own writes. It is safe for concurrent use.
type latest[T any] struct {
	of      func(key string) (kv.Entry[T], bool)
	mu      sync.Mutex
	own     map[string]kv.Entry[T]
	writing map[string]struct{} // keys of which a write is under way
}

func newLatest[T any](of func(key string) (kv.Entry[T], bool)) *latest[T] {
	return &latest[T]{of: of, own: map[string]kv.Entry[T]{}, writing: map[string]struct{}{}}
}

func (l *latest[T]) get(key string) kv.Entry[T] {
	mirrored, _ := l.of(key)
	l.mu.Lock()
	defer l.mu.Unlock()
	own, ok := l.own[key]
	if ok && own.Revision > mirrored.Revision {
		return own
	}
	delete(l.own, key)
	mirrored.Key = key
	return mirrored
}

// write stores a document in place of the one that was decided about. After a
// conflict the next attempt starts from what is stored, and not from a mirror
// that lags behind.
func (l *latest[T]) write(ctx context.Context, b *kv.Bucket[T], before kv.Entry[T], value T) (kv.Entry[T], error) {
	after := kv.Entry[T]{Key: before.Key, Value: value}
	l.begin(after.Key)
	var err error
	if before.Revision == 0 {
		after.Revision, err = b.Create(ctx, after.Key, value)
	} else {
		after.Revision, err = b.Update(ctx, after.Key, value, before.Revision)
	}
	if errors.Is(err, fleet.ErrConflict) {
		stored, readErr := b.Get(ctx, before.Key)
		if readErr != nil && !errors.Is(readErr, fleet.ErrNotFound) {
			l.end(before)
			return before, errors.Join(err, readErr)
		}
		after = stored
	} else if err != nil {
		after = before
	}
	l.end(after)
	return after, err
}

func (l *latest[T]) begin(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writing[key] = struct{}{}
}

// end notes what is stored. The zero revision means that there is no document.
func (l *latest[T]) end(e kv.Entry[T]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.writing, e.Key)
	l.own[e.Key] = e
}

// foreign reports whether a revision that the mirror tells of was written by
// another. While a write is under way it is either that one, or makes it fail.
func (l *latest[T]) foreign(key string, revision uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, writing := l.writing[key]
	return !writing && l.own[key].Revision < revision
}

// drop forgets what was written here.
func (l *latest[T]) drop(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.own, key)
}
