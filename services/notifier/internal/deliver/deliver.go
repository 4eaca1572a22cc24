// Package deliver sends the messages that wait in the book of alerts. Each
// channel has a sender of its own, so that one that is down holds up no other.
// Of several notifiers that see a message, the one whose claim is stored sends
// it; if it dies, its claim ends and another sends the same message again.
package deliver

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/rotor-fleet/rotor/services/notifier/internal/book"
	"github.com/rotor-fleet/rotor/services/notifier/internal/channel"
	"github.com/rotor-fleet/rotor/services/notifier/internal/record"
	"github.com/rotor-fleet/rotor/services/notifier/internal/rule"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Limits bound the attempts to send a message. All pass on the machine's time.
type Limits struct {
	Timeout  time.Duration // of one attempt
	Attempts int           // after which a message is given up
	Pause    time.Duration // the longest between two attempts
}

// lease is how long a claim holds beyond the time-out of the attempt: enough to
// write down how it has ended while NATS elects a new leader.
const lease = 45 * time.Second

// grace is how long an attempt may go on when the process is told to end, and
// again how long writing its outcome down may take: together less than the 10 s
// in which a process has to end.
const grace = 3 * time.Second

// Sender sends the messages of one channel.
type Sender struct {
	Channel channel.Channel
	Book    *book.Book
	Bus     *bus.Bus
	Clock   clock.Clock
	Holder  string // unique among all processes, also those of the past
	Limits  Limits
	Link    string // sent along with each message
	Log     *slog.Logger
	Count   func(state fleet.DeliveryState) // told of each message that was sent or given up
}

// Run sends what waits until ctx ends.
func (s *Sender) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		moved := s.Book.Moved()
		e, wait := s.next()
		if wait == 0 {
			if err := s.deliver(ctx, e); err != nil {
				s.Log.Debug("message not claimed", "channel", s.Channel.Name(), "alert", e.Key, "err", err)
				// Another was faster, and the book will tell at once; or NATS is away.
				s.pause(ctx, moved, 200*time.Millisecond)
			}
			continue
		}
		s.pause(ctx, moved, wait)
	}
	return nil
}

func (s *Sender) pause(ctx context.Context, moved <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-moved:
	case <-timer.C:
	}
}

// next returns the message that has waited longest, or how long to wait.
func (s *Sender) next() (oldest book.Entry, wait time.Duration) {
	now, wait := clock.Wall(), clock.MaxWait
	due := false
	for _, e := range s.Book.All() {
		d := record.Pending(&e.Value, s.Channel.Name())
		if d == nil {
			continue
		}
		if left := d.Next.Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		if !due || e.Revision < oldest.Revision {
			oldest, due = e, true
		}
	}
	if due {
		return oldest, 0
	}
	return oldest, wait
}

// deliver claims one message, sends it and writes down how it has ended. The
// error is one of the claim.
func (s *Sender) deliver(ctx context.Context, e book.Entry) error {
	var about string
	a, claimed, err := s.Book.Claim(ctx, e, func(a *fleet.Alert) (ok bool) {
		about, ok = record.Claim(a, s.Channel.Name(), s.Holder, clock.Wall(), s.Limits.Timeout+lease)
		return ok
	})
	if err != nil {
		return err
	}
	if !claimed {
		return errors.New("nothing is due any more")
	}
	attempts := 1
	if d := record.Pending(&a, s.Channel.Name()); d != nil {
		attempts += d.Attempts
	}
	a.Deliveries = nil
	m := channel.Message{ID: record.ID(&a, s.Channel.Name(), about), Alert: a, About: about, Link: s.Link}
	o := s.attempt(ctx, m, attempts)
	o.Channel, o.About, o.Holder, o.Now = s.Channel.Name(), about, s.Holder, s.Clock.Now()

	// What was sent must be written down even when the process is told to end.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime(ctx))
	defer cancel()
	if err := s.settle(end, m, o, attempts); err != nil {
		s.Log.Warn("message not settled; it will be sent again under the same id", "channel", o.Channel, "alert", e.Key, "err", err)
	}
	return nil
}

func settleTime(ctx context.Context) time.Duration {
	if ctx.Err() != nil {
		return grace
	}
	return lease - 5*time.Second
}

func (s *Sender) attempt(ctx context.Context, m channel.Message, attempts int) record.Outcome {
	// To break off at once would leave open whether the message has arrived,
	// and it would be sent again.
	send, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Limits.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	defer stop()
	err := s.Channel.Send(send, m)
	switch {
	case err == nil:
		return record.Outcome{State: fleet.DeliverySent}
	case ctx.Err() != nil:
		return record.Outcome{State: fleet.DeliveryPending, Unsent: true}
	case channel.IsPermanent(err), attempts >= s.Limits.Attempts:
		return record.Outcome{State: fleet.DeliveryFailed, Error: err.Error()}
	}
	after := channel.After(err)
	if after == 0 {
		after = bus.Backoff(attempts+2, s.Limits.Pause) // begins at a second
	}
	level := slog.LevelDebug
	if attempts&(attempts-1) == 0 { // the 1st, 2nd, 4th, 8th ... of what may become thousands
		level = slog.LevelWarn
	}
	s.Log.Log(ctx, level, "message will be tried again", "channel", s.Channel.Name(), "cluster", m.Alert.Cluster, "rule", m.Alert.Rule,
		"attempts", attempts, "after", after.Round(time.Millisecond), "err", err)
	return record.Outcome{State: fleet.DeliveryPending, Next: clock.Wall().Add(after), Error: err.Error()}
}

// settle tells of the end, then writes it down: killed in between, the message
// is sent again, and all that is told has the same ids as before.
func (s *Sender) settle(ctx context.Context, m channel.Message, o record.Outcome, attempts int) error {
	for attempt := 1; ; attempt++ {
		err := s.settleOnce(ctx, m, o, attempts)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if clock.Sleep(ctx, bus.Backoff(attempt, 2*time.Second)) != nil {
			return err
		}
	}
}

func (s *Sender) settleOnce(ctx context.Context, m channel.Message, o record.Outcome, attempts int) error {
	// A message about a dead letter is none itself, or there might be no end of
	// them: the letter that it tells of lies there for all to see.
	if o.State == fleet.DeliveryFailed && m.Alert.Rule != rule.DeadLetter {
		if err := s.bury(ctx, m, o, attempts); err != nil {
			return err
		}
	}
	if err := s.tell(ctx, m, o); err != nil {
		return err
	}
	changed, err := s.Book.Edit(ctx, m.Alert.Fingerprint, func(a *fleet.Alert) bool { return record.Settle(a, o) })
	if err == nil && changed && o.State != fleet.DeliveryPending {
		s.Count(o.State)
		s.Log.Info("message settled", "channel", o.Channel, "cluster", m.Alert.Cluster, "rule", m.Alert.Rule, "about", o.About, "state", o.State)
	}
	return err
}

func (s *Sender) tell(ctx context.Context, m channel.Message, o record.Outcome) error {
	kind := event.AlertSent
	switch o.State {
	case fleet.DeliveryPending:
		return nil
	case fleet.DeliveryFailed:
		kind = event.AlertFailed
	}
	return bus.Publish(ctx, s.Bus, kind, event.Meta{Source: "notifier", Cluster: m.Alert.Cluster, Key: []string{m.ID}, Time: o.Now}, event.Alert{
		Fingerprint: m.Alert.Fingerprint, Rule: m.Alert.Rule, Severity: m.Alert.Severity,
		Channel: o.Channel, About: o.About, Error: o.Error,
	})
}
