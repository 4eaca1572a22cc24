package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// Handler handles one event. It may be called again with the same event at any
// time, also after it has succeeded. Nil means done; an error of Permanent
// moves the message to the dead letters; any other error has it tried again, for
// as long as the Patience of the Bus lasts.
type Handler func(ctx context.Context, e event.Event) error

type permanentError struct{ err error }

func (p permanentError) Error() string { return p.err.Error() }
func (p permanentError) Unwrap() error { return p.err }

// Permanent marks an error that no repetition will mend.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanentError{err}
}

// IsPermanent reports whether err was marked by Permanent.
func IsPermanent(err error) bool {
	var p permanentError
	return errors.As(err, &p)
}

const (
	// ackWait is how long the server waits for a sign of life from a handler
	// before it gives the message to another; a handler at work sends one
	// three times as often.
	ackWait = 10 * time.Second
	// backoffCap bounds the pause between two attempts.
	backoffCap = time.Hour
	backoffMin = 250 * time.Millisecond
	// handlerTime is how long a handler may take, where its consumer says nothing
	// else. It is far longer than an honest one needs, also while a cluster elects
	// a leader: it turns a wait for what never comes into an attempt that is
	// logged.
	handlerTime = time.Minute
)

// Backoff returns the pause before the attempt after the given one, starting
// at 1: exponential, cut to limit, with full jitter so that many who failed
// together do not come back together.
func Backoff(attempt int, limit time.Duration) time.Duration {
	ceiling := limit
	if shift := max(attempt-1, 0); shift < 24 {
		ceiling = min(limit, backoffMin<<shift)
	}
	return time.Duration(rand.Int64N(int64(ceiling)) + 1)
}

func sleep(ctx context.Context, d time.Duration) error { return clock.Sleep(ctx, d) }

// Consumer says what to consume.
type Consumer struct {
	Stream   string
	Name     string        // durable name; all who use it share the messages
	Subjects []string      // patterns; every subject of the stream, if empty
	Parallel int           // handlers at a time; 1 keeps the order, if 0
	FromNow  bool          // a consumer made now leaves out what was stored before
	Timeout  time.Duration // of a handler; a minute, if 0
	Log      *slog.Logger
}

// errSlow ends the context of a handler that takes too long.
var errSlow = errors.New("the handler took too long")

// limited runs a handler for no longer than its consumer allows.
func limited(ctx context.Context, c Consumer, e event.Event, h Handler) error {
	limit := c.Timeout
	if limit <= 0 {
		limit = handlerTime
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errSlow)
	defer cancel()
	return guarded(func() error { return h(ctx, e) })
}

// Consume calls the handler with each message until ctx ends, and waits for
// handlers at work. While NATS is away it keeps trying.
func (b *Bus) Consume(ctx context.Context, c Consumer, h Handler) error {
	config := consumerConfig(c.Name, c.Subjects)
	if c.FromNow {
		config.DeliverPolicy = jetstream.DeliverNewPolicy
	}
	for attempt := 1; ; attempt++ {
		err := b.consumeOnce(ctx, c, config, h)
		if ctx.Err() != nil {
			return nil
		}
		c.Log.Warn("consumer interrupted", "stream", c.Stream, "consumer", c.Name, "err", err)
		if clock.Sleep(ctx, Backoff(attempt, 5*time.Second)) != nil {
			return nil
		}
	}
}

func (b *Bus) consumeOnce(ctx context.Context, c Consumer, config jetstream.ConsumerConfig, h Handler) error {
	consumer, err := b.bind(ctx, c, config)
	if err != nil {
		return err
	}
	measuring, stopMeasuring := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stopMeasuring()
	running.Go(func() { b.measures.follow(measuring, c, consumer) })
	return b.pull(ctx, c, consumer, func(msg jetstream.Msg) { b.handle(ctx, c, msg, h) })
}

// bind finds the durable consumer that Setup has made. One that Setup does not
// know is made, where the user may.
func (b *Bus) bind(ctx context.Context, c Consumer, config jetstream.ConsumerConfig) (consumer jetstream.Consumer, err error) {
	call := func(do func(context.Context) error) error {
		return Retry(ctx, func(ctx context.Context) error { return b.guard.Do(ctx, "$JS.API.CONSUMER.", do) })
	}
	err = call(func(ctx context.Context) (err error) {
		consumer, err = b.js.Consumer(ctx, c.Stream, c.Name)
		return err
	})
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		err = call(func(ctx context.Context) (err error) {
			consumer, err = b.js.CreateOrUpdateConsumer(ctx, c.Stream, config)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("find consumer %s of %s: %w", c.Name, c.Stream, err)
	}
	is := filters(consumer.CachedInfo().Config)
	if patterns(is) != patterns(c.Subjects) {
		c.Log.Warn("consumer is not of this version: run rotor nats setup", "stream", c.Stream, "consumer", c.Name, "is", is, "want", c.Subjects)
	}
	return consumer, nil
}

// handle runs the handler on one message and settles it.
func (b *Bus) handle(ctx context.Context, c Consumer, msg jetstream.Msg, h Handler) {
	meta, err := msg.Metadata()
	if err != nil {
		c.Log.Error("message without metadata", "subject", msg.Subject(), "err", err)
		return
	}
	alive := make(chan struct{})
	defer close(alive)
	go keepAlive(msg, alive)

	attempt := int(meta.NumDelivered)
	b.measures.delivered(c, attempt)
	ctx, err = b.run(ctx, c, delivery{msg, meta}, h)
	switch {
	case err == nil:
		err = msg.Ack()
	case IsPermanent(err):
		c.Log.ErrorContext(ctx, "message given up", "consumer", c.Name, "subject", msg.Subject(), "attempts", attempt, "err", err)
		if dead := b.giveUp(ctx, c, msg, meta, err); dead != nil {
			c.Log.Error("dead letter not stored", "consumer", c.Name, "subject", msg.Subject(), "err", dead)
			_ = msg.NakWithDelay(Backoff(attempt, backoffCap))
			return
		}
		err = msg.Term()
	default:
		level := slog.LevelWarn
		if ctx.Err() != nil || attempt == 1 {
			level = slog.LevelDebug
		}
		c.Log.Log(ctx, level, "handler will be tried again", "consumer", c.Name, "subject", msg.Subject(), "attempts", attempt, "err", err)
		err = msg.NakWithDelay(Backoff(attempt, backoffCap))
	}
	if err != nil && ctx.Err() == nil {
		c.Log.Warn("message not settled; it will come again", "consumer", c.Name, "subject", msg.Subject(), "err", err)
	}
}

// delivery is one delivery of a message.
type delivery struct {
	jetstream.Msg
	meta *jetstream.MsgMetadata
}

// run calls the handler in a span of its own, below the one that has sent the
// message. It returns the context of that span for what is logged of it.
func (b *Bus) run(ctx context.Context, c Consumer, msg delivery, h Handler) (context.Context, error) {
	began := clock.Wall()
	e, err := event.Unmarshal(msg.Data())
	ctx = follow(ctx, msg.Headers(), e)
	name := "process"
	if err == nil {
		name += " " + e.Type()
	}
	ctx, span := b.tracer.Start(ctx, telemetry.Consumer, name)
	describe(span, c.Stream, "process", e)
	telemetry.Set(span, "messaging.consumer.group.name", c.Name)
	if err != nil {
		err = Permanent(err)
	} else {
		err = limited(ctx, c, e, h)
		if p, panicked := errors.AsType[*panicError](err); panicked {
			c.Log.ErrorContext(ctx, "handler panicked", "consumer", c.Name, "subject", msg.Subject(), "panic", p.value, "stack", string(p.stack))
		}
		if err != nil && ctx.Err() == nil && b.patience.spent(msg.meta, err) {
			err = Permanent(err)
		}
	}
	outcome := outcomeDone
	switch {
	case IsPermanent(err):
		outcome = outcomeDead
	case err != nil:
		outcome = outcomeRetry
	}
	b.measures.process(ctx, c, clock.Wall().Sub(began), outcome)
	telemetry.End(span, err)
	return ctx, err
}

func keepAlive(msg jetstream.Msg, done <-chan struct{}) {
	ticker := time.NewTicker(ackWait / 3)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			_ = msg.InProgress()
		}
	}
}

// giveUp moves a message to the dead letters. One killed before the message is
// settled does so again, under the same id.
func (b *Bus) giveUp(ctx context.Context, c Consumer, msg jetstream.Msg, meta *jetstream.MsgMetadata, reason error) error {
	if strings.HasPrefix(msg.Subject(), settleCommands) {
		return nil // the letter that it is about lies where it lay
	}
	parts := strings.Split(msg.Subject(), ".")
	// A stream that was made anew begins with the same numbers, at another time.
	id := event.ID("letter", c.Stream, c.Name, strconv.FormatUint(meta.Sequence.Stream, 10), meta.Timestamp.UTC().Format(time.RFC3339Nano))
	return b.Bury(ctx, fleet.Letter{
		ID: id, Service: c.Name, Source: c.Stream, Consumer: c.Name, Cluster: parts[len(parts)-1], Subject: msg.Subject(), Body: msg.Data(),
		Reason: reason.Error(), Attempts: int(meta.NumDelivered), First: b.clock.At(meta.Timestamp),
	})
}

// settleCommands are the commands about dead letters, which never become
// letters themselves.
const settleCommands = "rotor.v1.command.settle-"
