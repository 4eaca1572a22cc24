package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
)

// The iterator of the client library forgot to ask for the next message about
// once in a thousand, and then hung for half a minute.
func TestManyMessagesAreHandledOneByOneWithoutAPause(t *testing.T) {
	s := bustest.New(t)
	var handled atomic.Int32
	consumeWith(t, s, bus.Consumer{Parallel: 1, Log: bustest.Quiet()}, func(context.Context, event.Event) error {
		handled.Add(1)
		return nil
	})
	body, err := event.Marshal(issue(t, "edge", "1"))
	if err != nil {
		t.Fatal(err)
	}
	const messages = 8000
	for i := range messages {
		if err := s.NATS.Publish(fmt.Sprintf("rotor.v1.command.issue.edge-%d", i%100), body); err != nil {
			t.Fatal(err)
		}
		if i%50 == 0 { // so that the handler catches up again and again
			if err := s.NATS.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	bustest.Eventually(t, func() error {
		if n := handled.Load(); n < messages {
			return fmt.Errorf("%d of %d handled", n, messages)
		}
		return nil
	})
}

// Messages that wait for their next attempt hold no slot: the others go on.
func TestMessagesInBackOffBlockNobody(t *testing.T) {
	s := bustest.New(t)
	var healthy atomic.Int32
	consumeWith(t, s, bus.Consumer{Parallel: 2, Log: bustest.Quiet()}, func(_ context.Context, e event.Event) error {
		if e.Subject() != "healthy" {
			return errors.New("broken for long")
		}
		healthy.Add(1)
		return nil
	})
	for i := range 50 {
		if err := s.Bus.Publish(t.Context(), issue(t, fmt.Sprintf("broken-%d", i), "1")); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		if err := s.Bus.Publish(t.Context(), issue(t, "healthy", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		bustest.Eventually(t, func() error {
			if n := healthy.Load(); int(n) <= i {
				return fmt.Errorf("%d healthy messages handled", n)
			}
			return nil
		})
	}
}

// A handler that waits for what never comes is cut short, and tried again.
func TestHandlerMayNotHangForEver(t *testing.T) {
	s := bustest.New(t)
	var calls atomic.Int32
	consumeWith(t, s, bus.Consumer{Timeout: 20 * time.Millisecond, Log: bustest.Quiet()}, func(ctx context.Context, _ event.Event) error {
		if calls.Add(1) > 1 {
			return nil
		}
		<-ctx.Done()
		return context.Cause(ctx)
	})
	if err := s.Bus.Publish(t.Context(), issue(t, "edge-01", "1")); err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, func() error {
		if len(bustest.Stored(t, s, event.Issue)) > 0 {
			return fmt.Errorf("not settled after %d calls", calls.Load())
		}
		return nil
	})
}
