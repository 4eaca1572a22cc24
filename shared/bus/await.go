package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Await waits until the streams, buckets and consumers of a service exist. It
// tells what it waits for.
func Await(ctx context.Context, nc *nats.Conn, user string, waiting func(why string)) error {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(callTimeout))
	if err != nil {
		return fmt.Errorf("look for streams: %w", err)
	}
	guard := Guard(nc)
	for attempt := 1; ; attempt++ {
		err := lookFor(ctx, js, guard, user)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("look for streams: %w", ctx.Err())
		}
		waiting(err.Error())
		if err := sleep(ctx, Backoff(attempt, 2*time.Second)); err != nil {
			return fmt.Errorf("look for streams: %w", err)
		}
	}
}

const runSetup = "is missing: run `rotor nats setup`"

func lookFor(ctx context.Context, js jetstream.JetStream, guard *Denials, user string) error {
	once := func(call func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return guard.Do(ctx, "$JS.API.", call)
	}
	for _, name := range streamsOf(user) {
		err := once(func(ctx context.Context) error { _, err := js.Stream(ctx, name); return err })
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return fmt.Errorf("stream %s %s", name, runSetup)
		case err != nil:
			return fmt.Errorf("look for stream %s: %w", name, err)
		}
	}
	for _, d := range Durables() {
		if d.Name != user {
			continue
		}
		err := once(func(ctx context.Context) error { _, err := js.Consumer(ctx, d.Stream, d.Name); return err })
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound):
			return fmt.Errorf("consumer %s of stream %s %s", d.Name, d.Stream, runSetup)
		case err != nil:
			return fmt.Errorf("look for consumer %s of stream %s: %w", d.Name, d.Stream, err)
		}
	}
	return nil
}

func streamsOf(user string) []string {
	for _, row := range table() {
		if row.user == user {
			return row.streams()
		}
	}
	return nil
}
