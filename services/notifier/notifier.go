// Package notifier tells people: it turns facts into alerts and alerts into
// messages, and remembers what was sent. Any number of notifiers may run side
// by side; each message is sent by one of them.
//
// The way of a message: a fact -> rule -> route -> book of alerts (package
// intake); then, channel by channel, claim -> send -> settle (package deliver).
package notifier

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/services/notifier/internal/book"
	"github.com/rotor-fleet/rotor/services/notifier/internal/channel"
	"github.com/rotor-fleet/rotor/services/notifier/internal/deliver"
	"github.com/rotor-fleet/rotor/services/notifier/internal/intake"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Run tells people until ctx ends. The error is one of the configuration, or of
// a bucket that cannot be opened.
func Run(ctx context.Context, env daemon.Env, c Config) error {
	channels, err := c.build(env.Log)
	if err != nil {
		return err
	}
	return run(ctx, env, c, channels)
}

func run(ctx context.Context, env daemon.Env, c Config, channels []channel.Channel) error {
	const state = "state"
	env.Health.Wait(state, "reading the alerts")
	alerts, err := book.Open(ctx, env.NATS)
	if err != nil {
		return ended(ctx, err)
	}
	b, err := env.Bus()
	if err != nil {
		return err
	}
	names := make([]string, len(channels))
	for i, ch := range channels {
		names[i] = ch.Name()
	}
	in, err := intake.New(ctx, env.NATS, b, intake.Intake{Book: alerts, Channels: names, Log: env.Log})
	if err != nil {
		return ended(ctx, err)
	}
	counts, stop, err := measure(env.Metrics, alerts, names)
	if err != nil {
		return err
	}
	defer stop()

	parts := []daemon.Part{
		{Name: "alerts", Run: func(ctx context.Context) error {
			alerts.Run(ctx, func() { env.Health.Met(state) }, func(err error) { env.Health.Wait(state, fmt.Sprint(err)) })
			return nil
		}},
		{Name: "intake", Run: in.Run},
		{Name: "sweep", Run: (&sweeper{book: alerts, clusters: in.Clusters, clock: env.Clock, channels: names, log: env.Log}).run},
	}
	senders := map[string]*deliver.Sender{}
	holder := env.Instance + "." + rand.Text() // a process started again is another holder
	for _, ch := range channels {
		sender := &deliver.Sender{
			Channel: ch, Book: alerts, Bus: b, Clock: env.Clock, Holder: holder, Link: c.DashboardURL, Log: env.Log,
			Limits: deliver.Limits{Timeout: c.SendTimeout, Attempts: c.MaxAttempts, Pause: c.BackoffCap},
			Count:  counts.of(ch.Name()),
		}
		senders[ch.Name()] = sender
		parts = append(parts, daemon.Part{Name: "channel " + ch.Name(), Run: sender.Run})
	}
	parts = append(parts, daemon.Part{Name: "letters", Run: func(ctx context.Context) error {
		return b.Consume(ctx, bus.Consumer{
			Stream: bus.Commands, Name: bus.UserNotifier, Subjects: []string{event.SettleNotifier.Subject("*")},
			Parallel: 4, Timeout: c.SendTimeout + settleTime, Log: env.Log,
		}, b.Settle(bus.Settler{Service: bus.UserNotifier, Try: again(in, senders), Log: env.Log}))
	}})
	return daemon.Group(ctx, parts...)
}

// settleTime is how long it may take, beyond the sending itself, to read a dead
// letter and to write down how its replay has ended.
const settleTime = time.Minute

// again tries a dead letter again: a fact that could not be taken in, or a
// message that a channel did not take.
func again(in *intake.Intake, senders map[string]*deliver.Sender) func(context.Context, fleet.Letter) error {
	facts := bus.Again(map[string]bus.Handler{bus.Events: in.Handle})
	return func(ctx context.Context, l fleet.Letter) error {
		if l.Source != fleet.SourceChannel {
			return facts(ctx, l)
		}
		sender := senders[l.Consumer]
		if sender == nil {
			return fmt.Errorf("the channel %s is not configured any more: configure it, or drop the letter", l.Consumer)
		}
		return sender.Replay(ctx, l)
	}
}

// ended returns nil for an error that only says that ctx has ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
