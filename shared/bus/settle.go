package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/uuid"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Settler is what a service does with a letter of its own that shall be tried
// again. It may be called again with the same letter, also after it has
// succeeded.
type Settler struct {
	Service string
	Try     func(ctx context.Context, l fleet.Letter) error // nil means that the letter has come to its end
	Log     *slog.Logger
}

// Again tries letters again that hold events, by the handler of the stream that
// each was taken from.
func Again(handlers map[string]Handler) func(context.Context, fleet.Letter) error {
	return func(ctx context.Context, l fleet.Letter) error {
		h, ok := handlers[l.Source]
		if !ok {
			return fmt.Errorf("nothing of this version handles letters from %q", l.Source)
		}
		e, err := event.Unmarshal(l.Body)
		if err != nil {
			return err
		}
		return h(ctx, e)
	}
}

// Settle returns the handler of the command with which people have a service
// settle one of its letters. The service alone may: it runs what it always runs,
// with no more rights than it has.
//
// Killed at any line, the command comes again. What was tried with success is
// tried once more, which handlers must stand; what is stored is only told again.
func (b *Bus) Settle(s Settler) Handler {
	return func(ctx context.Context, e event.Event) error {
		kind, ok := event.Settle(s.Service)
		if !ok {
			return Permanent(fmt.Errorf("%s settles no letters", s.Service))
		}
		c, err := kind.Decode(e)
		if err == nil {
			err = uuid.Validate(c.Letter)
		}
		if err != nil {
			return Permanent(fmt.Errorf("settle a letter: %w", err))
		}
		l, err := b.Letter(ctx, s.Service, e.Subject(), c.Letter)
		switch {
		case err != nil:
			return err
		case l.Revision < c.Revision:
			return fmt.Errorf("dead letter %s: this replica has not heard of revision %d yet", l.ID, c.Revision)
		case l.State != fleet.LetterOpen, l.Revision > c.Revision && c.Action == event.ActionReplay:
			return b.tellOf(ctx, l) // it was done before
		}
		next, err := s.next(ctx, l, c)
		if err != nil {
			return err
		}
		next.Last = b.clock.Now()
		// What was done must be written down, also when its time is over.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		stored, _, err := b.putLetter(end, next, l.Revision)
		if err != nil {
			return fmt.Errorf("settle dead letter %s: %w", l.ID, err)
		}
		return b.tellOf(end, stored)
	}
}

// next does what is asked for and returns the letter as it is from then on. The
// error says that it was not done: the process ends.
func (s Settler) next(ctx context.Context, l fleet.Letter, c event.SettleCommand) (fleet.Letter, error) {
	next := l
	next.By = c.By
	switch c.Action {
	case event.ActionDrop:
		next.State = fleet.LetterDropped
	case event.ActionReplay:
		next.Attempts++
		err := guarded(func() error { return s.Try(ctx, l) })
		switch {
		case err == nil:
			next.State = fleet.LetterReplayed
		case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errSlow):
			return l, err
		default:
			next.Reason = err.Error()
		}
	default:
		return l, Permanent(fmt.Errorf("dead letter %s: unknown action %q", l.ID, c.Action))
	}
	if !next.Open() {
		next.Body = nil
	}
	s.Log.InfoContext(ctx, "dead letter settled", "letter", l.ID, "cluster", l.Cluster, "action", c.Action, "state", next.State, "reason", next.Reason)
	return next, nil
}
