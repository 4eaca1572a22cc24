package kv_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

type doc struct {
	N int `json:"n"`
}

func open(t testing.TB, s *bustest.Server) *kv.Bucket[doc] {
	t.Helper()
	b, err := kv.Open[doc](t.Context(), s.NATS, bus.Clusters)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCompareAndSet(t *testing.T) {
	b := open(t, bustest.New(t))
	ctx := t.Context()
	if _, err := b.Get(ctx, "a"); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("get of nothing: %v", err)
	}
	first, err := b.Create(ctx, "a", doc{1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Create(ctx, "a", doc{2}); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("create over a document: %v", err)
	}
	second, err := b.Update(ctx, "a", doc{2}, first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Update(ctx, "a", doc{3}, first); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("update over an old revision: %v", err)
	}
	if err := b.Delete(ctx, "a", first); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("delete of an old revision: %v", err)
	}
	if err := b.Delete(ctx, "a", second); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(ctx, "a"); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("get after delete: %v", err)
	}
	if _, err := b.Create(ctx, "a", doc{4}); err != nil {
		t.Errorf("create after delete: %v", err)
	}
}

func TestEditLosesNoUpdate(t *testing.T) {
	b := open(t, bustest.New(t))
	const writers, each = 8, 10
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for range each {
				if _, err := b.Edit(t.Context(), "a", func(d *doc) error { d.N++; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	e, err := b.Get(t.Context(), "a")
	if err != nil || e.Value.N != writers*each {
		t.Errorf("%+v, %v: want %d", e, err, writers*each)
	}
	kept, err := b.Edit(t.Context(), "a", func(*doc) error { return kv.Keep })
	if err != nil || kept.Revision != e.Revision {
		t.Errorf("Keep wrote: %+v, %v", kept, err)
	}
}

func TestMirror(t *testing.T) {
	s := bustest.New(t)
	b := open(t, s)
	if _, err := b.Create(t.Context(), "before", doc{1}); err != nil {
		t.Fatal(err)
	}
	m := kv.NewMirror[doc]()
	current := make(chan struct{})
	var once sync.Once
	bustest.Run(t, func(ctx context.Context) error {
		m.Run(ctx, b, kv.Watcher[doc]{Current: func() { once.Do(func() { close(current) }) }})
		return nil
	})
	<-current
	if e, ok := m.Get("before"); !ok || e.Value.N != 1 {
		t.Errorf("when current, the mirror has %+v, %v", e, ok)
	}
	revision, err := b.Create(t.Context(), "after", doc{2})
	if err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, func() error {
		if e, ok := m.Get("after"); !ok || e.Revision != revision || len(m.All()) != 2 {
			return fmt.Errorf("mirror has %+v", m.All())
		}
		return nil
	})
	if err := b.Delete(t.Context(), "after", revision); err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, func() error {
		if _, ok := m.Get("after"); ok {
			return errors.New("deleted document is still there")
		}
		return nil
	})
}

// A cluster may never answer that a consumer was deleted; the client gives that
// up after 5 s. Here nothing answers, as the user may not ask.
func TestWatchEndsWithoutAnAnswer(t *testing.T) {
	s := bustest.NewDenying(t, "$JS.API.CONSUMER.DELETE.>")
	b := open(t, s)
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(ended)
		b.Watch(ctx, kv.Watcher[doc]{Current: cancel})
	}()
	select {
	case <-ended:
	case <-time.After(4 * time.Second):
		t.Error("the watch waits for an answer")
	}
}

// A watch that ends while documents are still coming leaves nothing behind.
func TestWatchEndsWhileDocumentsCome(t *testing.T) {
	s := bustest.New(t)
	b := open(t, s)
	const more = 1000 // than the client reads ahead
	for i := range more {
		if _, err := b.Create(t.Context(), fmt.Sprintf("edge-%d", i), doc{i}); err != nil {
			t.Fatal(err)
		}
	}
	before := goleak.IgnoreCurrent()
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		all := s.NATS.Stats().InMsgs + more
		b.Watch(ctx, kv.Watcher[doc]{Changed: func(kv.Entry[doc]) {
			bustest.Eventually(t, func() error {
				if n := s.NATS.Stats().InMsgs; n < all && ctx.Err() == nil {
					return fmt.Errorf("%d of %d messages are here", n, all)
				}
				return nil
			})
			cancel()
		}})
	}
	bustest.Eventually(t, func() error { return goleak.Find(before) })
}

func lease(s *bustest.Server, t testing.TB, holder string) kv.Lease {
	return kv.Lease{NATS: s.NATS, Name: "scheduler", Holder: holder, TTL: 2 * time.Second, Log: s.Env(t, holder, clock.Real()).Log}
}

func TestLeaseHasOneHolder(t *testing.T) {
	s := bustest.New(t)
	var holders, most, terms atomic.Int32
	hold := func(ctx context.Context, _ *kv.Hold) error {
		n := holders.Add(1)
		defer holders.Add(-1)
		if n > most.Load() {
			most.Store(n)
		}
		terms.Add(1)
		<-ctx.Done()
		return nil
	}
	first, stop := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() { _ = lease(s, t, "one").Run(first, hold) })
	bustest.Eventually(t, func() error {
		if holders.Load() == 0 {
			return errors.New("nobody holds the lease")
		}
		return nil
	})
	bustest.Run(t, func(ctx context.Context) error { return lease(s, t, "two").Run(ctx, hold) })
	stop()
	ended.Wait()
	bustest.Eventually(t, func() error {
		if terms.Load() < 2 {
			return errors.New("the standby did not take over")
		}
		return nil
	})
	if most.Load() != 1 {
		t.Errorf("%d holders at a time", most.Load())
	}
}

// A holder that cannot renew must stop before the server lets another in.
func TestLeaseLostEndsTheHolder(t *testing.T) {
	s := bustest.New(t)
	nc := bustest.Connect(t, s.Server)
	l := lease(s, t, "one")
	l.NATS = nc
	cause := make(chan error, 1)
	bustest.Run(t, func(ctx context.Context) error {
		_ = l.Run(ctx, func(ctx context.Context, h *kv.Hold) error {
			if !h.Valid() {
				t.Error("not valid while it is held")
			}
			nc.Close() // renewals fail from here on
			<-ctx.Done()
			if errors.Is(context.Cause(ctx), kv.ErrLeaseLost) && h.Valid() {
				t.Error("valid when it is lost")
			}
			select {
			case cause <- context.Cause(ctx):
			default:
			}
			return nil
		})
		return nil
	})
	if err := <-cause; !errors.Is(err, kv.ErrLeaseLost) {
		t.Errorf("the holder ended with %v", err)
	}
}

// What a holder writes that does not hold any more is not sent.
func TestWhileHeld(t *testing.T) {
	s := bustest.New(t)
	open, err := kv.Open[doc](t.Context(), s.NATS, bus.Schedule)
	if err != nil {
		t.Fatal(err)
	}
	held := true
	b := open.While(func() bool { return held })
	revision, err := b.Create(t.Context(), "a", doc{1})
	if err != nil {
		t.Fatal(err)
	}
	held = false
	_, created := b.Create(t.Context(), "b", doc{2})
	_, updated := b.Update(t.Context(), "a", doc{2}, revision)
	_, edited := b.Edit(t.Context(), "a", func(d *doc) error { d.N = 3; return nil })
	for what, err := range map[string]error{"create": created, "update": updated, "edit": edited, "delete": b.Delete(t.Context(), "a", revision)} {
		if !errors.Is(err, kv.ErrLeaseLost) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if e, err := open.Get(t.Context(), "a"); err != nil || e.Revision != revision {
		t.Errorf("changed: %+v, %v", e, err)
	}
}

// A holder that finds out that it should not be one waits for the lease again.
func TestLeaseGivenUpIsWaitedForAgain(t *testing.T) {
	s := bustest.New(t)
	times := 0
	l := lease(s, t, "one")
	err := l.Run(t.Context(), func(context.Context, *kv.Hold) error {
		if times++; times == 1 {
			return fmt.Errorf("refused: %w", kv.ErrLeaseLost)
		}
		return errors.New("over")
	})
	if times != 2 || err == nil || err.Error() != "over" {
		t.Errorf("held %d times, %v", times, err)
	}
}
