package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/event"
)

// Recent returns the facts on one subject among the newest span messages of the
// stream of facts, oldest first. It is for whoever must know whether a fact
// that it handles was overtaken by another.
func (b *Bus) Recent(ctx context.Context, subject string, span uint64) ([]event.Event, error) {
	stream, err := b.js.Stream(ctx, Events)
	if err != nil {
		return nil, fmt.Errorf("look back on %s: %w", subject, err)
	}
	state := stream.CachedInfo().State
	next := state.FirstSeq
	if state.LastSeq > span {
		next = max(next, state.LastSeq-span+1)
	}
	var found []event.Event
	for next <= state.LastSeq {
		msg, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("look back on %s: %w", subject, err)
		}
		next = msg.Sequence + 1
		e, err := event.Unmarshal(msg.Data)
		if err != nil {
			continue // whoever consumes it moves it to the dead letters
		}
		found = append(found, e)
	}
	return found, nil
}
