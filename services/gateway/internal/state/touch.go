package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// rhythm is how the touch with the store is kept, on the machine's time.
type rhythm struct {
	beat    time.Duration // between two questions, and how long one may take
	silence time.Duration // for how long the store may not answer
}

// usual is a rhythm that bears the election of a new leader by NATS.
var usual = rhythm{beat: 2 * time.Second, silence: 30 * time.Second}

// touch knows when the copies were last known to be up to date. A gateway that is
// cut off from NATS, or that was stopped and goes on, has copies of an earlier
// moment and nothing that would say so.
type touch struct {
	mu    sync.Mutex
	heard time.Time // zero until all buckets were read once
	moved Signal
	rhythm
}

// condition is what the process is not ready without.
const condition = "store"

// keepTouch asks the store until ctx ends.
func (s *State) keepTouch(ctx context.Context) {
	for _, read := range s.first {
		select {
		case <-read:
		case <-ctx.Done():
			return
		}
	}
	for ctx.Err() == nil {
		asked := clock.Wall()
		err := s.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			s.touch.mark(asked)
			s.health.Met(condition)
		} else if why := s.touch.lost(clock.Wall()); why != "" {
			s.health.Wait(condition, why+": "+err.Error())
		}
		_ = clock.Sleep(ctx, s.touch.beat)
	}
}

// errBehind says that a copy lags behind.
var errBehind = errors.New("the copy of the authority lags behind")

// ask waits until the copy of the authority, which changes least and matters most,
// is as new as the store. All watches are on one connection.
func (s *State) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.touch.beat)
	defer cancel()
	revision, err := s.Authority.Bucket.Revision(ctx)
	if err != nil {
		return err
	}
	if s.Authority.Await(ctx, revision); s.Authority.seen.Load() < revision {
		return errBehind
	}
	return nil
}

func (t *touch) mark(at time.Time) {
	t.mu.Lock()
	t.heard = at
	t.mu.Unlock()
	t.moved.WakeAll()
}

// lost returns since when the copies may be out of date, empty if they are not.
func (t *touch) lost(now time.Time) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.heard.IsZero():
		return "the buckets are read for the first time"
	case now.Sub(t.heard) >= t.silence:
		return fmt.Sprintf("NATS was last heard at %s", t.heard.UTC().Format(time.RFC3339))
	default:
		return ""
	}
}

// InTouch returns why what the gateway knows may be out of date, empty if it is not.
// It waits a moment for that: at the start the first copies are on their way.
func (s *State) InTouch(ctx context.Context) (why string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		moved := s.touch.moved.Wait("")
		if why = s.touch.lost(clock.Wall()); why == "" {
			return ""
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return why
		}
	}
}
