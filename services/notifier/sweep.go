package notifier

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/rotor-fleet/rotor/services/notifier/internal/book"
	"github.com/rotor-fleet/rotor/services/notifier/internal/record"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

const (
	// memory is how long a resolved alert is kept, on the clock of the fleet.
	memory = 30 * fleet.Day
	// sweepPause is the pause between two sweeps, on the machine's time.
	sweepPause = time.Minute
)

// sweeper forgets alerts that are over, so that the bucket stays as small as
// the fleet. Several may run side by side.
type sweeper struct {
	book     *book.Book
	clusters *kv.Bucket[fleet.Cluster]
	clock    clock.Clock
	channels []string
	log      *slog.Logger
}

func (s *sweeper) run(ctx context.Context) error {
	for clock.Sleep(ctx, sweepPause) == nil {
		s.sweep(ctx)
	}
	return nil
}

func (s *sweeper) sweep(ctx context.Context) {
	now := s.clock.Now()
	gone := map[string]bool{}
	for _, e := range s.book.All() {
		a := &e.Value
		old := record.Expired(a, s.channels, now.Add(-memory))
		if !old && (!record.Expired(a, s.channels, now) || !s.removed(ctx, a.Cluster, gone)) {
			continue
		}
		if err := s.book.Forget(ctx, e); err != nil && !errors.Is(err, fleet.ErrConflict) {
			s.log.Warn("alert not forgotten", "alert", e.Key, "err", err)
			return
		}
	}
}

// removed reports whether the cluster is no longer in the fleet. Its alerts go
// with it: a cluster of the same name begins again at generation 1, and its
// alerts must not look like old ones.
func (s *sweeper) removed(ctx context.Context, cluster string, known map[string]bool) bool {
	if cluster == event.FleetWide {
		return false
	}
	gone, ok := known[cluster]
	if !ok {
		_, err := s.clusters.Get(ctx, cluster)
		gone = errors.Is(err, fleet.ErrNotFound)
		known[cluster] = gone
	}
	return gone
}
