package issuer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// answers remembers where answers to gateways lie that may never be collected.
// What a process that ended has left behind goes with the next answer of the
// cluster; nobody can open it by then, as the key is gone with the gateway's
// wait. It is safe for concurrent use.
type answers struct {
	mu       sync.Mutex
	clusters map[string]time.Time // when the last one was written
}

func (a *answers) wrote(cluster string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.clusters == nil {
		a.clusters = map[string]time.Time{}
	}
	a.clusters[cluster] = clock.Wall()
}

// old returns the clusters whose last answer is past its life, and forgets them.
func (a *answers) old(now time.Time) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for name, at := range a.clusters {
		if now.Sub(at) >= fleet.AnswerLife {
			names = append(names, name)
			delete(a.clusters, name)
		}
	}
	return names
}

// sweepAnswers takes out the answers that nobody has collected, until ctx ends.
func (s *service) sweepAnswers(ctx context.Context) error {
	for clock.Sleep(ctx, time.Minute) == nil {
		for _, cluster := range s.answers.old(clock.Wall()) {
			if err := s.dropAnswers(ctx, cluster, func(a fleet.Answer) bool { return clock.Wall().Sub(a.At) >= fleet.AnswerLife }); err != nil {
				s.answers.wrote(cluster) // later
				s.log.Warn("answers not taken out", "cluster", cluster, "err", err)
			}
		}
	}
	return nil
}

// collected takes out the answer that a gateway has fetched.
func (s *service) collected(ctx context.Context, cluster, command string) error {
	return s.dropAnswers(ctx, cluster, func(a fleet.Answer) bool { return a.Command == command })
}

func (s *service) dropAnswers(ctx context.Context, cluster string, match func(fleet.Answer) bool) error {
	_, err := s.bundles.Edit(ctx, cluster, func(doc *fleet.Bundles) error {
		if !doc.DropAnswers(match) {
			return kv.Keep
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("answers of %s: %w", cluster, err)
	}
	return nil
}
