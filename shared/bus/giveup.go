package bus

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// Patience says when a message that fails again and again is given up, though
// each error says that it may be tried again: what is tried for ever is heard of
// by nobody.
type Patience struct {
	After    time.Duration // since the message was stored, on the machine's time; 0 for the default
	Attempts int           // at least so many; 0 for the default
}

// DefaultGiveUpAfter is how long a message is tried: over a long weekend.
const DefaultGiveUpAfter = 3 * day

const (
	// giveUpAttempts are the attempts that a message has at least, however old it
	// is: after all of its services were down for days, they have more than an
	// hour to come back to their senses.
	giveUpAttempts = 20
	// panicAttempts are the attempts of a message whose handler panics. That is
	// a fault of the program, which another try seldom mends.
	panicAttempts = 5
	// lastChance is how long before a stream forgets a message it is given up
	// with the first failure: a letter lasts longer.
	lastChance = day
)

// spent reports whether a message that has failed was tried for long enough.
func (p Patience) spent(meta *jetstream.MsgMetadata, err error) bool {
	attempts, age := int(meta.NumDelivered), clock.Wall().Sub(meta.Timestamp)
	if p.After <= 0 {
		p.After = DefaultGiveUpAfter
	}
	if p.Attempts <= 0 {
		p.Attempts = giveUpAttempts
	}
	if _, panicked := errors.AsType[*panicError](err); panicked && attempts >= panicAttempts {
		return true
	}
	return age >= p.After && attempts >= p.Attempts || age >= messageAge-lastChance
}

// panicError is a panic of a handler.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("the handler panicked: %v", p.value) }

// guarded calls f and turns a panic into an error: one message must not end the
// service, which after its start would get it again.
func guarded(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &panicError{value, debug.Stack()}
		}
	}()
	return f()
}
