package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// LetterWatcher is told of dead letters, one after the other.
type LetterWatcher struct {
	// Changed is called with every letter there is, without its body, then with
	// each change. A letter can be told of again with the same revision.
	Changed func(fleet.Letter)
	// Current is called when Changed has been called with every letter that was
	// stored up to a revision, and again after an interruption.
	Current func(revision uint64)
	// Broken is called when the watch was interrupted, and why.
	Broken func(error)
}

// WatchLetters tells of the dead letters of all services until ctx ends. After an
// interruption it starts again with all of them.
func (b *Bus) WatchLetters(ctx context.Context, w LetterWatcher) {
	for attempt := 1; ctx.Err() == nil; attempt++ {
		err := b.watchLetters(ctx, w)
		if ctx.Err() != nil {
			return
		}
		w.Broken(err)
		_ = clock.Sleep(ctx, Backoff(attempt, 5*time.Second))
	}
}

// letterBatch is how many letters are asked for at once.
const letterBatch = 256

// errGap ends a watch that has missed something.
var errGap = errors.New("a letter did not arrive")

func (b *Bus) watchLetters(ctx context.Context, w LetterWatcher) error {
	revision, err := b.LastLetter(ctx)
	if err != nil {
		return err
	}
	var consumer jetstream.Consumer
	err = Retry(ctx, func(ctx context.Context) error {
		return b.guard.Do(ctx, "$JS.API.CONSUMER.CREATE."+Dead+".", func(ctx context.Context) (err error) {
			consumer, err = b.js.CreateConsumer(ctx, Dead, jetstream.ConsumerConfig{
				FilterSubject: deadLetters, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, HeadersOnly: true,
				AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: 2 * pullWait,
			})
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("watch the dead letters: %w", err)
	}
	defer func() { // else the server keeps it for a while
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_ = b.js.DeleteConsumer(end, Dead, consumer.CachedInfo().Name)
	}()
	current := consumer.CachedInfo().NumPending == 0
	if current {
		w.Current(revision)
	}
	var next uint64 = 1
	for ctx.Err() == nil {
		var gap error
		_, err := fetch(ctx, consumer, letterBatch, func(msg jetstream.Msg) {
			meta, err := msg.Metadata()
			if gap != nil || err != nil || meta.Sequence.Consumer != next {
				gap = errGap
				return
			}
			next++
			if l, ok := parseLetter(msg.Subject(), msg.Headers()); ok {
				l.Revision, l.Stored = meta.Sequence.Stream, meta.Timestamp
				w.Changed(l)
			}
			if !current && meta.NumPending == 0 {
				current = true
				w.Current(revision)
			}
		})
		if err := errors.Join(err, gap); err != nil {
			return fmt.Errorf("watch the dead letters: %w", err)
		}
	}
	return nil
}

// LastLetter returns the newest revision of any letter, 0 while there was none.
func (b *Bus) LastLetter(ctx context.Context) (revision uint64, err error) {
	err = Persist(ctx, func(ctx context.Context) error {
		return b.guard.Do(ctx, "$JS.API.STREAM.INFO."+Dead, func(ctx context.Context) error {
			stream, err := b.js.Stream(ctx, Dead)
			if err == nil {
				revision = stream.CachedInfo().State.LastSeq
			}
			return err
		})
	})
	if err != nil {
		return 0, fmt.Errorf("look at the dead letters: %w", err)
	}
	return revision, nil
}
