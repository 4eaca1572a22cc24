package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func issue(t testing.TB, cluster, key string) event.Event {
	t.Helper()
	e, err := event.Issue.New(
		event.Meta{Source: "scheduler", Cluster: cluster, Key: []string{key}, Time: time.Unix(0, 0)},
		event.IssueCommand{Reason: fleet.ReasonRenewal},
	)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func consume(t testing.TB, s *bustest.Server, h bus.Handler) {
	t.Helper()
	consumeWith(t, s, bus.Consumer{Parallel: 4, Log: s.Env(t, "test", clockReal).Log}, h)
}

// consumeWith handles the commands to the issuer.
func consumeWith(t testing.TB, s *bustest.Server, c bus.Consumer, h bus.Handler) {
	t.Helper()
	c.Stream, c.Name, c.Subjects = bus.Commands, "issuer", []string{event.Issue.Subject("*")}
	bustest.Run(t, func(ctx context.Context) error { return s.Bus.Consume(ctx, c, h) })
}

func TestConsumeAcknowledges(t *testing.T) {
	s := bustest.New(t)
	var handled sync.Map
	consume(t, s, func(_ context.Context, e event.Event) error {
		handled.Store(e.Subject(), e.ID())
		return nil
	})
	for i := range 20 {
		if err := s.Bus.Publish(t.Context(), issue(t, fmt.Sprintf("edge-%d", i), "1")); err != nil {
			t.Fatal(err)
		}
	}
	bustest.Eventually(t, func() error {
		for i := range 20 {
			if _, ok := handled.Load(fmt.Sprintf("edge-%d", i)); !ok {
				return fmt.Errorf("edge-%d not handled", i)
			}
		}
		if left := len(bustest.Stored(t, s, event.Issue)); left > 0 {
			return fmt.Errorf("%d commands left in the queue", left)
		}
		return nil
	})
}

func TestRepeatHasNoEffect(t *testing.T) {
	s := bustest.New(t)
	e := issue(t, "edge-01", "1")
	for range 3 {
		if err := s.Bus.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(bustest.Stored(t, s, event.Issue)); n != 1 {
		t.Errorf("%d messages of one event", n)
	}
}

func TestErrorIsRetried(t *testing.T) {
	s := bustest.New(t)
	var calls atomic.Int32
	consume(t, s, func(context.Context, event.Event) error {
		if calls.Add(1) < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if err := s.Bus.Publish(t.Context(), issue(t, "edge-01", "1")); err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, func() error {
		if n := calls.Load(); n < 3 || len(bustest.Stored(t, s, event.Issue)) > 0 {
			return fmt.Errorf("%d calls", n)
		}
		return nil
	})
}

// A handler that was at work when its process was killed: the message comes
// again, to another.
func TestUnacknowledgedComesAgain(t *testing.T) {
	s := bustest.New(t)
	ctx, kill := context.WithCancel(t.Context())
	started := make(chan struct{})
	var first sync.WaitGroup
	log := s.Env(t, "test", clockReal).Log
	consumer := bus.Consumer{Stream: bus.Commands, Name: "issuer", Subjects: []string{event.Issue.Subject("*")}, Log: log}
	first.Go(func() {
		_ = s.Bus.Consume(ctx, consumer, func(ctx context.Context, _ event.Event) error {
			close(started)
			<-ctx.Done()
			return ctx.Err()
		})
	})
	if err := s.Bus.Publish(t.Context(), issue(t, "edge-01", "1")); err != nil {
		t.Fatal(err)
	}
	<-started
	kill()
	first.Wait()
	var again atomic.Bool
	consume(t, s, func(context.Context, event.Event) error { again.Store(true); return nil })
	bustest.Eventually(t, func() error {
		if !again.Load() {
			return errors.New("not delivered again")
		}
		return nil
	})
}

func TestFollowResumes(t *testing.T) {
	s := bustest.New(t)
	publish := func(key string) {
		err := bus.Publish(t.Context(), s.Bus, event.CredentialDue,
			event.Meta{Source: "scheduler", Cluster: "edge-01", Key: []string{key}, Time: time.Unix(0, 0)}, event.Credentials{Operation: key})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"a", "b", "c"} {
		publish(key)
	}
	var got []string
	stop := errors.New("enough")
	err := s.Bus.Follow(t.Context(), []string{event.CredentialDue.Subject("*")}, 1, func(m bus.Stored) error {
		e, err := event.Unmarshal(m.Body)
		if err != nil {
			return err
		}
		data, err := event.CredentialDue.Decode(e)
		if err != nil {
			return err
		}
		if got = append(got, data.Operation); len(got) == 2 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || strings.Join(got, "") != "bc" {
		t.Errorf("followed %v, %v", got, err)
	}
}

// Whoever may publish one key must not be able to erase the others by a header.
func TestRollupIsRefused(t *testing.T) {
	s := bustest.New(t)
	for _, stream := range bus.Layout(1) {
		if stream.AllowRollup || stream.AllowMsgSchedules || stream.SubjectDeleteMarkerTTL != 0 {
			t.Errorf("%s allows rollups or schedules", stream.Name)
		}
	}
	js, err := jetstream.New(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	msg := nats.NewMsg("$KV." + bus.Clusters + ".edge-01")
	msg.Data = []byte("{}")
	msg.Header.Set("Nats-Rollup", "all")
	if _, err := js.PublishMsg(t.Context(), msg); err == nil {
		t.Error("a message with Nats-Rollup: all was taken")
	}
}

func TestMissingTellsLostStreams(t *testing.T) {
	s := bustest.New(t)
	if missing, err := bus.Missing(t.Context(), s.NATS); err != nil || len(missing) > 0 {
		t.Fatalf("%v, %v", missing, err)
	}
	js, err := jetstream.New(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), "KV_keys"); err != nil {
		t.Fatal(err)
	}
	missing, err := bus.Missing(t.Context(), s.NATS)
	if err != nil || len(missing) != 1 || missing[0] != "KV_keys" {
		t.Errorf("%v, %v", missing, err)
	}
}

func TestBackoffHasFullJitterAndCap(t *testing.T) {
	lowest, highest := time.Hour, time.Duration(0)
	for range 1000 {
		d := bus.Backoff(10, 8*time.Second)
		lowest, highest = min(lowest, d), max(highest, d)
		if d <= 0 || d > 8*time.Second {
			t.Fatalf("pause %v", d)
		}
	}
	if lowest > time.Second || highest < 7*time.Second {
		t.Errorf("pauses from %v to %v are not spread over the whole range", lowest, highest)
	}
	if d := bus.Backoff(1<<40, time.Hour); d > time.Hour {
		t.Errorf("after many attempts: %v", d)
	}
}

// A read that a replica answers may miss the last write: two issuers that began
// together on three nodes did not find the key that one of them had just made.
func TestReplicasReadFromTheLeader(t *testing.T) {
	for _, replicas := range []int{1, 3} {
		for _, stream := range bus.Layout(replicas) {
			if strings.HasPrefix(stream.Name, "KV_") && stream.AllowDirect != (replicas == 1) {
				t.Errorf("%s with %d replicas: direct reads %v", stream.Name, replicas, stream.AllowDirect)
			}
		}
	}
}
