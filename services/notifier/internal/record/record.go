// Package record holds how an alert changes: it is raised, escalated and ended,
// and its messages are claimed, sent, tried again or given up. Every function
// changes a document in memory; whoever calls stores it by compare-and-set, so
// that of several notifiers one wins.
package record

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/services/notifier/internal/rule"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Resolved is what the message says that an alert is over.
const Resolved = "resolved"

// Firing is what the message of an alert at a level says.
func Firing(level int) string { return "firing/" + strconv.Itoa(level) }

func isFiring(about string) bool { return strings.HasPrefix(about, "firing/") }

// maxKept bounds the finished messages that are remembered for each channel: an
// alert that is escalated every week for years must not grow.
const maxKept = 4

// ID names one message. A repeat of it has the same id; the same alert raised
// again later has another.
func ID(a *fleet.Alert, channel, about string) string {
	return event.ID("alert", a.Fingerprint, a.Since.UTC().Format(time.RFC3339Nano), about, channel)
}

// Raise applies a firing alert and reports whether anything has changed. It
// starts the alert, starts it again after its end, or escalates it; a repeat
// and a fact older than what is stored have no effect.
func Raise(a *fleet.Alert, next fleet.Alert, channels []string) bool {
	switch {
	case a.Fingerprint == "", a.State == fleet.AlertResolved && next.Since.After(a.ResolvedAt):
		next.Deliveries = nil
		*a = next
	case a.State == fleet.AlertFiring && next.Level > a.Level && !next.Since.Before(a.Since):
		a.Level, a.Severity, a.Summary, a.Remedy = next.Level, next.Severity, next.Summary, next.Remedy
		withdraw(a)
	default:
		return false
	}
	for _, channel := range channels {
		add(a, channel, Firing(a.Level))
	}
	return true
}

// End applies an ending and reports whether anything has changed. The end is
// told only where the alert itself was told, or is just being sent.
func End(a *fleet.Alert, e rule.Ending) bool {
	if a.State != fleet.AlertFiring || !e.Matches(a) {
		return false
	}
	a.State, a.ResolvedAt = fleet.AlertResolved, e.At.UTC()
	if a.ResolvedAt.Before(a.Since) {
		a.ResolvedAt = a.Since
	}
	withdraw(a)
	if e.Silent {
		return true
	}
	var told []string
	for _, d := range a.Deliveries {
		if d.State != fleet.DeliveryFailed && !slices.Contains(told, d.Channel) {
			told = append(told, d.Channel)
		}
	}
	for _, channel := range told {
		add(a, channel, Resolved)
	}
	return true
}

// Pending returns the message that is next on a channel, or nil. Messages of
// one alert go to a channel one after the other.
func Pending(a *fleet.Alert, channel string) *fleet.Delivered {
	for i := range a.Deliveries {
		if a.Deliveries[i].Channel == channel && a.Deliveries[i].State == fleet.DeliveryPending {
			return &a.Deliveries[i]
		}
	}
	return nil
}

// Claim takes the next message of a channel for a holder until the lease ends,
// and returns what it is about; ok is false when none is due at now, which is
// the machine's time.
//
// A holder whose lease has ended may have sent its message or not. It is sent
// again under the same id, unless there is a later message, which says more.
func Claim(a *fleet.Alert, channel, holder string, now time.Time, lease time.Duration) (about string, ok bool) {
	for {
		d := Pending(a, channel)
		if d == nil || d.Next.After(now) {
			return "", false
		}
		if d.Holder != "" && hasLater(a, d) {
			drop(a, d)
			continue
		}
		d.Holder, d.Next = holder, now.Add(lease)
		return d.About, true
	}
}

// Outcome is how an attempt to send a message has ended.
type Outcome struct {
	Channel string
	About   string
	Holder  string
	State   fleet.DeliveryState // sent, failed, or pending to try again
	Now     time.Time           // on the clock of the fleet
	Next    time.Time           // when it is tried again, by the machine's time
	Error   string
	Unsent  bool // nothing was attempted: the message is given back
}

// Settle applies an outcome and reports whether anything has changed: not so,
// if the message is no longer the holder's.
func Settle(a *fleet.Alert, o Outcome) bool {
	d := held(a, o)
	if d == nil {
		return false
	}
	d.Holder, d.Next, d.State, d.Error = "", o.Next, o.State, o.Error
	if o.Unsent {
		return true
	}
	d.Attempts++
	switch o.State {
	case fleet.DeliverySent:
		d.SentAt = o.Now
		prune(a, o.Channel)
	case fleet.DeliveryPending:
		if hasLater(a, d) {
			drop(a, d)
		}
		unask(a, o.Channel)
	default:
		unask(a, o.Channel)
		prune(a, o.Channel)
	}
	return true
}

// Message names one message about one occurrence of an alert.
type Message struct {
	Since   time.Time // of the alert
	Channel string
	About   string
}

// Told applies that a message which was given up has reached its channel after
// all, and returns when it was sent: now, unless that was noted before. It is
// zero, if the alert does not remember the message. Where the alert is over by
// now, that is told as well.
func Told(a *fleet.Alert, m Message, now time.Time) (sentAt time.Time, changed bool) {
	d := found(a, m)
	if d == nil {
		return time.Time{}, false
	}
	if d.State == fleet.DeliverySent {
		return d.SentAt, false
	}
	d.State, d.SentAt, d.Error, d.Holder, d.Next = fleet.DeliverySent, now, "", "", time.Time{}
	d.Attempts++
	if end := (Message{a.Since, m.Channel, Resolved}); a.State == fleet.AlertResolved && isFiring(m.About) && found(a, end) == nil {
		add(a, m.Channel, Resolved)
	}
	return now, true
}

// WasTold reports whether a message is known to have reached its channel.
func WasTold(a *fleet.Alert, m Message) bool {
	d := found(a, m)
	return d != nil && d.State == fleet.DeliverySent
}

func found(a *fleet.Alert, m Message) *fleet.Delivered {
	for i := range a.Deliveries {
		if d := &a.Deliveries[i]; a.Since.Equal(m.Since) && d.Channel == m.Channel && d.About == m.About {
			return d
		}
	}
	return nil
}

// Expired reports whether a resolved alert may be forgotten: nothing is left to
// send on any of the channels, and it ended before the given moment.
func Expired(a *fleet.Alert, channels []string, before time.Time) bool {
	if a.State != fleet.AlertResolved || !a.ResolvedAt.Before(before) {
		return false
	}
	return !slices.ContainsFunc(channels, func(c string) bool { return Pending(a, c) != nil })
}

func add(a *fleet.Alert, channel, about string) {
	a.Deliveries = append(a.Deliveries, fleet.Delivered{Channel: channel, About: about, State: fleet.DeliveryPending})
}

func held(a *fleet.Alert, o Outcome) *fleet.Delivered {
	for i := range a.Deliveries {
		d := &a.Deliveries[i]
		if d.Channel == o.Channel && d.About == o.About && d.Holder == o.Holder && d.State == fleet.DeliveryPending {
			return d
		}
	}
	return nil
}

// withdraw takes back the messages that nobody is sending.
func withdraw(a *fleet.Alert) {
	a.Deliveries = slices.DeleteFunc(slices.Clone(a.Deliveries), func(d fleet.Delivered) bool {
		return d.State == fleet.DeliveryPending && d.Holder == ""
	})
}

// unask takes the message about the end back where the alert was never told.
func unask(a *fleet.Alert, channel string) {
	for _, d := range a.Deliveries {
		if d.Channel == channel && isFiring(d.About) && d.State != fleet.DeliveryFailed {
			return
		}
	}
	a.Deliveries = slices.DeleteFunc(a.Deliveries, func(d fleet.Delivered) bool {
		return d.Channel == channel && d.About == Resolved && d.State == fleet.DeliveryPending && d.Attempts == 0
	})
}

func hasLater(a *fleet.Alert, d *fleet.Delivered) bool {
	pending := 0
	for i := range a.Deliveries {
		if a.Deliveries[i].Channel == d.Channel && a.Deliveries[i].State == fleet.DeliveryPending {
			pending++
		}
	}
	return pending > 1 // d is the first of them
}

func drop(a *fleet.Alert, d *fleet.Delivered) {
	gone := *d
	a.Deliveries = slices.DeleteFunc(a.Deliveries, func(other fleet.Delivered) bool { return other == gone })
}

// prune forgets the oldest finished messages of a channel beyond maxKept. One
// that was sent is kept before one that failed: it says that people know.
func prune(a *fleet.Alert, channel string) {
	finished := 0
	for _, d := range a.Deliveries {
		if d.Channel == channel && d.State != fleet.DeliveryPending {
			finished++
		}
	}
	for _, state := range []fleet.DeliveryState{fleet.DeliveryFailed, fleet.DeliverySent} {
		a.Deliveries = slices.DeleteFunc(a.Deliveries, func(d fleet.Delivered) bool {
			if finished <= maxKept || d.Channel != channel || d.State != state {
				return false
			}
			finished--
			return true
		})
	}
}
