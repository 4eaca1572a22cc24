package kv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// ErrLeaseLost is the cause with which the context of a holder ends when its
// lease could not be renewed.
var ErrLeaseLost = errors.New("lease lost")

// Lease is held by at most one of many at a time. Its revision grows with each
// renewal. It ends by itself TTL after its last renewal, on the machine's time.
type Lease struct {
	NATS   *nats.Conn
	Name   string
	Holder string        // who asks; shown to people
	TTL    time.Duration // at least 1s
	Log    *slog.Logger
}

// Hold is a lease that is or was held. It is safe for concurrent use.
type Hold struct {
	ttl   time.Duration
	asked atomic.Pointer[time.Time] // when the write was begun that the server has taken last
}

// share is how much of its life a lease is relied on: it must be over here before
// the server lets another in.
func share(ttl time.Duration) time.Duration { return ttl * 3 / 4 }

// Valid reports whether the lease has not run out. It asks the time and nobody
// else, so a process that was stopped and has just woken knows it before any
// timer of it goes off.
func (h *Hold) Valid() bool { return h.left() > 0 }

func (h *Hold) left() time.Duration { return share(h.ttl) - clock.Wall().Sub(*h.asked.Load()) }

// Run waits for the lease, calls f while it is held, and waits again when it
// was lost, until ctx ends or f returns. The context of f ends with the lease.
// When f returns ErrLeaseLost, the lease is given up, and waited for again.
func (l Lease) Run(ctx context.Context, f func(ctx context.Context, h *Hold) error) error {
	js, err := jetstream.New(l.NATS, jetstream.WithDefaultTimeout(l.TTL))
	if err != nil {
		return fmt.Errorf("lease %s: %w", l.Name, err)
	}
	for {
		asked := clock.Wall()
		revision, err := l.write(ctx, js, 0)
		if err == nil {
			h := &Hold{ttl: l.TTL}
			h.asked.Store(&asked)
			if err := l.hold(ctx, js, held{h, revision}, f); !errors.Is(err, ErrLeaseLost) {
				return err
			} else if ctx.Err() == nil {
				l.Log.Warn("lease lost", "lease", l.Name, "err", err)
			}
		} else if !errors.Is(err, fleet.ErrConflict) && ctx.Err() == nil {
			l.Log.Warn("lease not acquired", "lease", l.Name, "err", err)
		}
		if clock.Sleep(ctx, l.TTL/20+bus.Backoff(1, l.TTL/20)) != nil {
			return nil
		}
	}
}

// held is a lease with its revision at the server.
type held struct {
	*Hold
	revision uint64
}

func (l Lease) hold(parent context.Context, js jetstream.JetStream, h held, f func(context.Context, *Hold) error) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- f(ctx, h.Hold) }()
	l.Log.Info("lease held", "lease", l.Name, "holder", l.Holder)

	lost := func() error {
		cancel(ErrLeaseLost)
		return errors.Join(ErrLeaseLost, <-done)
	}
	renew := time.NewTicker(l.TTL / 4)
	defer renew.Stop()
	expiry := time.NewTimer(h.left())
	defer expiry.Stop()
	for {
		select {
		case err := <-done:
			l.release(js, h.revision)
			return err
		case <-expiry.C:
			return lost()
		case <-renew.C:
			// After a sleep both timers are due, and either may come first. And the
			// answer may come long after the server began to count.
			asked := clock.Wall()
			next, err := h.revision, error(ErrLeaseLost)
			if h.Valid() {
				next, err = l.write(ctx, js, h.revision)
			}
			if errors.Is(err, fleet.ErrConflict) || errors.Is(err, ErrLeaseLost) {
				return lost()
			}
			if err == nil {
				h.revision = next
				h.asked.Store(&asked)
				expiry.Reset(h.left())
			}
		}
	}
}

// write stores the lease with its TTL over a revision. A plain update of a key
// would drop the TTL.
func (l Lease) write(ctx context.Context, js jetstream.JetStream, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, l.TTL/4)
	defer cancel()
	msg := nats.NewMsg("$KV." + bus.Leases + "." + l.Name)
	msg.Data = []byte(l.Holder)
	ack, err := js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(revision), jetstream.WithMsgTTL(l.TTL))
	var api *jetstream.APIError
	// 10071 on one server, 10164 from several at once on a cluster.
	if errors.As(err, &api) && (api.ErrorCode == 10071 || api.ErrorCode == 10164) {
		return 0, fleet.ErrConflict
	}
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// release gives the lease up, so that a standby need not wait for its end. The
// marker itself ends after a second, or it would count as a holder.
func (l Lease) release(js jetstream.JetStream, revision uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	msg := nats.NewMsg("$KV." + bus.Leases + "." + l.Name)
	msg.Data = []byte("released")
	_, _ = js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(revision), jetstream.WithMsgTTL(time.Second))
}
