package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Whatever is wrong with a message, others of the same cluster go on while it is
// tried, and it is heard of in the end.
func TestPoisonBlocksNobodyOfItsCluster(t *testing.T) {
	s := bustest.New(t)
	b := impatient(t, s, bus.Patience{After: time.Nanosecond, Attempts: 6})
	var healthy atomic.Int32
	poison := func(key string) string { return issue(t, "edge-01", key).ID() }
	failing, panicking, broken := poison("failing"), poison("panicking"), poison("broken")
	bustest.Run(t, func(ctx context.Context) error {
		return b.Consume(ctx, bus.Consumer{Stream: bus.Commands, Name: "issuer", Log: bustest.Quiet()}, func(_ context.Context, e event.Event) error {
			switch e.ID() {
			case failing:
				return errors.New("not yet, and never")
			case panicking:
				panic("index out of range")
			case broken:
				return bus.Permanent(errors.New("broken\nfor good"))
			}
			healthy.Add(1)
			return nil
		})
	})
	// As large as a message may be: the letter holds the reason as well.
	for _, garbage := range [][]byte{[]byte("not an event"), bytes.Repeat([]byte("x"), 1<<20)} {
		if _, err := s.NATS.Request("rotor.v1.command.issue.edge-01", garbage, bustest.Limit); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"failing", "panicking", "broken"} {
		if err := s.Bus.Publish(t.Context(), issue(t, "edge-01", key)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		if err := s.Bus.Publish(t.Context(), issue(t, "edge-01", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	bustest.Eventually(t, func() error {
		if left := len(bustest.Letters(t, s)); left != 5 || healthy.Load() != 10 {
			return fmt.Errorf("%d dead letters, %d healthy messages handled", left, healthy.Load())
		}
		return nil
	})
	reasons := map[string]int{"not yet, and never": 6, "the handler panicked: index out of range": 5, "broken for good": 1}
	for _, l := range bustest.Letters(t, s) {
		want, ok := reasons[l.Reason]
		if !ok && strings.HasPrefix(l.Reason, "event: ") {
			want, ok = 1, true
		}
		if !ok || l.Attempts != want || l.Cluster != "edge-01" || l.Service != "issuer" || l.Source != bus.Commands || l.Consumer != "issuer" ||
			l.Subject != "rotor.v1.command.issue.edge-01" || !l.Open() || len(l.Body) == 0 || l.First.IsZero() || l.Last.Before(l.First) {
			l.Body = l.Body[:min(len(l.Body), 20)]
			t.Errorf("letter %+v", l)
		}
	}
	told := bustest.Stored(t, s, event.LetterBuried)
	if len(told) != 5 {
		t.Errorf("%d facts about 5 letters", len(told))
	}
	bustest.Eventually(t, func() error {
		if left := len(bustest.Stored(t, s, event.Issue)); left > 0 {
			return fmt.Errorf("%d commands left in the queue", left)
		}
		return nil
	})
}

// impatient returns a bus that gives up as p says.
func impatient(t *testing.T, s *bustest.Server, p bus.Patience) *bus.Bus {
	t.Helper()
	b, err := bus.New(s.NATS, bus.Patient(p))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func letter(id string) fleet.Letter {
	return fleet.Letter{
		ID: event.ID("letter", id), Service: "issuer", Source: bus.Commands, Consumer: "issuer", Cluster: "edge-01",
		Subject: "rotor.v1.command.issue.edge-01", Reason: "broken", Attempts: 1, First: time.Unix(1000, 0), Body: []byte("body"),
	}
}

// Killed between any two lines, whoever buries does it again: one letter, one
// fact, and what has come to its end stays so.
func TestBuryAgainHasNoEffect(t *testing.T) {
	s := bustest.New(t)
	l := letter("1")
	for range 2 {
		if err := s.Bus.Bury(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		l.Reason, l.Attempts = "another reason", 2
	}
	settling(t, s, func(context.Context, fleet.Letter) error { return nil })
	stored := bustest.Letters(t, s)
	if len(stored) != 1 || stored[0].Reason != "broken" || stored[0].Attempts != 1 {
		t.Fatalf("letters %+v", stored)
	}
	bustest.Settle(t, s, stored[0], event.ActionDrop)
	bustest.Expect(t, s, event.LetterDropped, func(l event.Letter) bool { return l.Letter == stored[0].ID && l.By == "admin" })
	if err := s.Bus.Bury(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if got := bustest.Letters(t, s); len(got) != 1 || got[0].State != fleet.LetterDropped || len(got[0].Body) != 0 {
		t.Errorf("after its end: %+v", got)
	}
	if n := len(bustest.Stored(t, s, event.LetterBuried)); n != 1 {
		t.Errorf("%d facts about one burial", n)
	}
}

// A message that is too large to be kept is given up all the same.
func TestBuryWithoutABodyThatIsTooLarge(t *testing.T) {
	s := bustest.New(t)
	for i, size := range []int{3 << 20, 5 << 20} { // beyond the stream, and beyond the server
		l := letter(fmt.Sprint(i))
		l.Body = make([]byte, size)
		if err := s.Bus.Bury(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range bustest.Letters(t, s) {
		if len(l.Body) != 0 || !strings.HasPrefix(l.Reason, "broken (its ") {
			t.Errorf("%d bytes, reason %q", len(l.Body), l.Reason)
		}
	}
}

// settling runs an issuer that does nothing but settle letters.
func settling(t *testing.T, s *bustest.Server, try func(context.Context, fleet.Letter) error) {
	t.Helper()
	settle := s.Bus.Settle(bus.Settler{Service: "issuer", Try: try, Log: bustest.Quiet()})
	bustest.Run(t, func(ctx context.Context) error {
		return s.Bus.Consume(ctx, bus.Consumer{Stream: bus.Commands, Name: "issuer", Log: bustest.Quiet()}, settle)
	})
}

func TestReplay(t *testing.T) {
	s := bustest.New(t)
	var tries atomic.Int32
	settling(t, s, func(_ context.Context, l fleet.Letter) error {
		switch tries.Add(1) {
		case 1:
			return bus.Permanent(fmt.Errorf("still broken: %s", l.Body))
		case 2:
			panic("not even close")
		default:
			return nil
		}
	})
	if err := s.Bus.Bury(t.Context(), letter("1")); err != nil {
		t.Fatal(err)
	}
	first := bustest.Letters(t, s)[0]
	last := first
	for _, want := range []string{"still broken: body", "the handler panicked: not even close"} {
		bustest.Settle(t, s, last, event.ActionReplay)
		before := last
		last = bustest.ExpectLetter(t, s, func(l fleet.Letter) bool { return l.Revision > before.Revision })
		if last.Reason != want || last.Attempts != before.Attempts+1 || !last.Open() || string(last.Body) != "body" || !last.First.Equal(first.First) {
			t.Fatalf("after a replay in vain: %+v", last)
		}
		bustest.Expect(t, s, event.LetterBuried, func(l event.Letter) bool { return l.Attempts == last.Attempts && l.Reason == want })
	}
	bustest.Settle(t, s, last, event.ActionReplay)
	bustest.Expect(t, s, event.LetterReplayed, func(l event.Letter) bool { return l.Letter == first.ID })
	end := bustest.Letters(t, s)[0]
	if end.State != fleet.LetterReplayed || len(end.Body) != 0 || end.Attempts != 4 {
		t.Errorf("after its end: %+v", end)
	}
	// The command of a look at the letter that is no longer true does nothing.
	for _, stale := range []fleet.Letter{first, before(last), end} {
		bustest.Settle(t, s, stale, event.ActionReplay)
		bustest.Settle(t, s, stale, event.ActionDrop)
	}
	bustest.Eventually(t, func() error {
		if left := len(bustest.Stored(t, s, event.SettleIssuer)); left > 0 {
			return fmt.Errorf("%d commands left", left)
		}
		return nil
	})
	if n := tries.Load(); n != 3 {
		t.Errorf("tried %d times", n)
	}
	if got := bustest.Letters(t, s); !slices.EqualFunc(got, []fleet.Letter{end}, func(a, b fleet.Letter) bool { return a.Revision == b.Revision }) {
		t.Errorf("a stale command has changed the letter: %+v", got)
	}
}

// The same command comes again when its process was killed after the outcome was
// stored: a replay in vain is not tried once more.
func TestReplayThatComesAgainIsTriedOnce(t *testing.T) {
	s := bustest.New(t)
	if err := s.Bus.Bury(t.Context(), letter("1")); err != nil {
		t.Fatal(err)
	}
	l, tries := bustest.Letters(t, s)[0], 0
	settle := s.Bus.Settle(bus.Settler{Service: "issuer", Log: bustest.Quiet(), Try: func(context.Context, fleet.Letter) error {
		tries++
		return errors.New("still broken")
	}})
	e, err := event.SettleIssuer.New(event.Meta{Source: "gateway", Cluster: l.Cluster, Time: time.Unix(0, 0)},
		event.SettleCommand{Letter: l.ID, Revision: l.Revision, Action: event.ActionReplay})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := settle(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if got := bustest.Letters(t, s)[0]; tries != 1 || got.Attempts != 2 {
		t.Errorf("tried %d times: %+v", tries, got)
	}
	if n := len(bustest.Stored(t, s, event.LetterBuried)); n != 2 {
		t.Errorf("%d facts, want one a failure", n)
	}
}

func before(l fleet.Letter) fleet.Letter {
	l.Revision--
	return l
}

// A command about a letter never becomes a letter: what it is about lies there.
func TestCommandAboutALetterIsNeverBuried(t *testing.T) {
	s := bustest.New(t)
	settling(t, s, func(context.Context, fleet.Letter) error { return nil })
	if _, err := s.NATS.Request("rotor.v1.command.settle-issuer.edge-01", []byte("not an event"), bustest.Limit); err != nil {
		t.Fatal(err)
	}
	wrong := letter("1")
	wrong.ID = "not-an-id.>"
	bustest.Settle(t, s, wrong, event.ActionDrop)
	bustest.Eventually(t, func() error {
		reply, err := s.NATS.Request("$JS.API.STREAM.INFO."+bus.Commands, nil, bustest.Limit)
		if err == nil && !bytes.Contains(reply.Data, []byte(`"messages":0`)) {
			err = errors.New("commands are left")
		}
		return err
	})
	if got := bustest.Letters(t, s); len(got) != 0 {
		t.Errorf("letters %+v", got)
	}
}

// Who cannot handle facts about letters makes a letter of each that is there,
// and no fact about it: there would be no end of them.
func TestFactAboutALetterThatIsBuriedIsTheLast(t *testing.T) {
	s := bustest.New(t)
	if err := s.Bus.Bury(t.Context(), letter("1")); err != nil {
		t.Fatal(err)
	}
	var handled atomic.Int32
	bustest.Run(t, func(ctx context.Context) error {
		return s.Bus.Consume(ctx, bus.Consumer{Stream: bus.Events, Name: "notifier", Log: bustest.Quiet()}, func(_ context.Context, e event.Event) error {
			handled.Add(1)
			if event.LetterBuried.Is(e) {
				return bus.Permanent(errors.New("unknown to this version"))
			}
			return nil
		})
	})
	buried := bustest.ExpectLetter(t, s, func(l fleet.Letter) bool { return l.Service == "notifier" && l.Source == bus.Events })
	if err := s.Bus.Publish(t.Context(), proven(t)); err != nil { // it comes after whatever the letter has caused
		t.Fatal(err)
	}
	bustest.Eventually(t, func() error {
		if n := handled.Load(); n != 2 {
			return fmt.Errorf("%d facts handled", n)
		}
		return nil
	})
	if got := bustest.Letters(t, s); len(got) != 2 || buried.Subject != "rotor.v1.event.letter.buried.edge-01" {
		t.Errorf("letters %+v", got)
	}
}

// Letters of a version before they had a state are no harm.
func TestWatchLettersLeavesOutWhatIsNone(t *testing.T) {
	s := bustest.New(t)
	if _, err := s.NATS.Request("rotor.v1.dead.COMMANDS.issuer.edge-01", []byte("old"), bustest.Limit); err != nil {
		t.Fatal(err)
	}
	if err := s.Bus.Bury(t.Context(), letter("1")); err != nil {
		t.Fatal(err)
	}
	if got := bustest.Letters(t, s); len(got) != 1 || got[0].ID != letter("1").ID {
		t.Errorf("letters %+v", got)
	}
}
