package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Stored is a fact with its place in the stream.
type Stored struct {
	Sequence uint64 // position in the stream; never used twice
	Subject  string
	Body     []byte // the event in structured JSON
}

// FromStart makes Follow begin with the oldest fact that is kept.
const FromStart = ^uint64(0)

// Follow calls f with the facts whose subjects match, in the order of the
// stream, until ctx ends or f returns an error. It begins after the sequence
// given; 0 means with the next fact to be published.
func (b *Bus) Follow(ctx context.Context, subjects []string, after uint64, f func(Stored) error) error {
	config := jetstream.OrderedConsumerConfig{FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverNewPolicy}
	switch {
	case after == FromStart:
		config.DeliverPolicy = jetstream.DeliverAllPolicy
	case after > 0:
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, after+1
	}
	var messages jetstream.MessagesContext
	err := Retry(ctx, func(ctx context.Context) error {
		consumer, err := b.js.OrderedConsumer(ctx, Events, config)
		if err != nil {
			return err
		}
		messages, err = consumer.Messages()
		return err
	})
	if err != nil {
		return fmt.Errorf("follow events: %w", err)
	}
	defer messages.Stop()
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	for {
		msg, err := messages.Next()
		if ctx.Err() != nil || errors.Is(err, jetstream.ErrMsgIteratorClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("follow events: %w", err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("follow events: %w", err)
		}
		if err := f(Stored{Sequence: meta.Sequence.Stream, Subject: msg.Subject(), Body: msg.Data()}); err != nil {
			return err
		}
	}
}

// LastSequence returns the position of the newest fact.
func (b *Bus) LastSequence(ctx context.Context) (uint64, error) {
	stream, err := b.js.Stream(ctx, Events)
	if err != nil {
		return 0, fmt.Errorf("look at events: %w", err)
	}
	return stream.CachedInfo().State.LastSeq, nil
}
