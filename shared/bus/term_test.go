package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
)

func leads() bool { return true }

func begin(t *testing.T, b *bus.Bus, name string) (*bus.Term, *bus.Bus) {
	t.Helper()
	term, err := b.Begin(t.Context(), bus.Leader{Name: name, Held: leads})
	if err != nil {
		t.Fatal(err)
	}
	return term, b.In(term)
}

func due(t testing.TB, cluster string) event.Event {
	t.Helper()
	e, err := event.CredentialDue.New(event.Meta{Source: "scheduler", Cluster: cluster, Time: time.Unix(0, 0)}, event.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// refuses checks that nothing of a term is stored any more, neither commands
// nor facts, and that its leader is told.
func refuses(t *testing.T, s *bustest.Server, term *bus.Term, b *bus.Bus) {
	t.Helper()
	count := func() int {
		return len(bustest.Stored(t, s, event.Issue)) + len(bustest.Stored(t, s, event.CredentialDue))
	}
	before := count()
	for i := range 20 { // on each lane
		name := fmt.Sprintf("late-%d-%d", term.Number, i)
		for _, e := range []event.Event{issue(t, name, "1"), due(t, name)} {
			if err := b.Publish(t.Context(), e); !errors.Is(err, bus.ErrFenced) {
				t.Errorf("term %d: %s: %v, want it refused", term.Number, e.Type(), err)
			}
		}
	}
	if after := count(); after != before {
		t.Errorf("%d messages of term %d were stored after its end", after-before, term.Number)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bustest.Limit/6)
	defer cancel()
	if err := term.Keep(ctx); !errors.Is(err, bus.ErrFenced) {
		t.Errorf("term %d: %v, want its end", term.Number, err)
	}
}

func publishes(t *testing.T, b *bus.Bus, cluster string) {
	t.Helper()
	for _, e := range []event.Event{issue(t, cluster, "1"), due(t, cluster)} {
		if err := b.Publish(t.Context(), e); err != nil {
			t.Error(err)
		}
	}
}

// A leader that slept between its decision and its publishing is not heard when
// it wakes, though it has not noticed yet.
func TestLeaderOfAnEndedTermIsNotHeard(t *testing.T) {
	s := bustest.New(t)
	first, old := begin(t, s.Bus, "a")
	publishes(t, old, "edge-01")
	second, now := begin(t, s.Bus, "b")
	if first.Number != 1 || second.Number != 2 {
		t.Errorf("terms %d and %d", first.Number, second.Number)
	}
	refuses(t, s, first, old)
	publishes(t, now, "edge-02")
	// Whoever is no leader, as the gateway, needs no term.
	if err := s.Bus.Publish(t.Context(), issue(t, "edge-03", "1")); err != nil {
		t.Error(err)
	}
	// Lost and won again by one process: what it began in the earlier term is over.
	third, again := begin(t, s.Bus, "b")
	refuses(t, s, second, now)
	publishes(t, again, "edge-04")
	if third.Number != 3 {
		t.Errorf("term %d", third.Number)
	}
}

// Who was held up on the way to its term ends nobody else's.
func TestHeldUpOnTheWayToATerm(t *testing.T) {
	s := bustest.New(t)
	var once sync.Once
	var winner *bus.Term
	var now *bus.Bus
	_, err := s.Bus.Begin(t.Context(), bus.Leader{Name: "slow", Held: func() bool {
		once.Do(func() { winner, now = begin(t, s.Bus, "quick") })
		return true // it was asked before its lease ran out
	}})
	if !errors.Is(err, bus.ErrFenced) {
		t.Errorf("the slow one: %v", err)
	}
	if _, err := s.Bus.Begin(t.Context(), bus.Leader{Name: "late", Held: func() bool { return false }}); !errors.Is(err, bus.ErrFenced) {
		t.Errorf("the late one: %v", err)
	}
	publishes(t, now, "edge-01")
	if winner.Number != 1 {
		t.Errorf("term %d", winner.Number)
	}
}

// A lease that has run out by its own reckoning ends the term before the server
// is asked: another may not have begun its own yet.
func TestNothingIsSentAfterTheLease(t *testing.T) {
	s := bustest.New(t)
	held := true
	term, err := s.Bus.Begin(t.Context(), bus.Leader{Name: "a", Held: func() bool { return held }})
	if err != nil {
		t.Fatal(err)
	}
	b := s.Bus.In(term)
	publishes(t, b, "edge-01")
	held = false
	refuses(t, s, term, b)
}

// A leader that is killed while it writes its fences, or after the last of them,
// leaves none behind that another could not replace, and the one before it is
// over, or at least tells no two stories.
func TestKilledOnTheWayToATerm(t *testing.T) {
	for fences := 1; fences <= 32; fences += 5 {
		s := bustest.New(t)
		first, old := begin(t, s.Bus, "a")
		ctx, kill := context.WithCancel(t.Context())
		asked := 0
		_, err := s.Bus.Begin(ctx, bus.Leader{Name: "b", Held: func() bool {
			if asked++; asked > fences {
				kill()
			}
			return true
		}})
		if err == nil && fences < 32 {
			t.Fatalf("not killed after %d fences", fences)
		}
		third, now := begin(t, s.Bus, "c")
		if third.Number != 3 {
			t.Errorf("after %d fences: term %d", fences, third.Number)
		}
		publishes(t, now, "edge-01")
		refuses(t, s, first, old)
	}
}

// The fences lie on the disk like all else.
func TestTermOutlivesTheServer(t *testing.T) {
	dir := t.TempDir()
	s := bustest.NewAt(t, dir, true)
	nc, err := nats.Connect(s.Server.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	b, err := bus.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	first, old := begin(t, b, "a")
	second, now := begin(t, b, "b")
	s.Restart(t, dir)
	refuses(t, s, first, old)
	publishes(t, now, "edge-01")
	third, _ := begin(t, b, "c")
	s.Restart(t, dir)
	refuses(t, s, second, now)
	if third.Number != 3 {
		t.Errorf("term %d after restarts", third.Number)
	}
}

// A fence that has grown too old ends its term, and the next one begins.
func TestFencesAge(t *testing.T) {
	s := bustest.New(t)
	first, b := begin(t, s.Bus, "a")
	if err := first.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	publishes(t, b, "edge-01")
	forget(t, s, bus.Commands)
	forget(t, s, bus.Events)
	refuses(t, s, first, b)
	if err := first.Renew(t.Context()); !errors.Is(err, bus.ErrFenced) {
		t.Errorf("renewed what is not there: %v", err)
	}
	_, now := begin(t, s.Bus, "b")
	publishes(t, now, "edge-02")
	refuses(t, s, first, b)
}

// forget takes all of a stream away, as its age does.
func forget(t *testing.T, s *bustest.Server, name string) {
	t.Helper()
	js, err := jetstream.New(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	duplicates := config.Duplicates
	config.MaxAge, config.Duplicates = 100*time.Millisecond, 100*time.Millisecond
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, func() error {
		info, err := stream.Info(t.Context())
		if err == nil && info.State.Msgs > 0 {
			err = fmt.Errorf("%d messages left in %s", info.State.Msgs, name)
		}
		return err
	})
	config.MaxAge, config.Duplicates = 24*time.Hour, duplicates
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}

// Many at a time, on one server and on three: nothing is refused by mistake.
func TestManyInATerm(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprintf("nodes=%d", nodes), func(t *testing.T) {
			s := bustest.NewCluster(t, nodes)
			first, b := begin(t, s.Bus, "a")
			var all sync.WaitGroup
			for i := range 64 {
				all.Go(func() {
					for j := range 10 {
						publishes(t, b, fmt.Sprintf("edge-%d-%d", i, j))
					}
				})
			}
			if err := first.Renew(t.Context()); err != nil { // meanwhile
				t.Error(err)
			}
			all.Wait()
			_, now := begin(t, s.Bus, "b")
			refuses(t, s, first, b)
			publishes(t, now, "edge-01")
		})
	}
}
