package agents

import (
	"context"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// touch keeps LastSeen true to a few minutes, and what a poll tells of its
// process. What follows from it is for the scheduler to tell.
func (s *Service) touch(ctx context.Context, cluster, id string, who api.Caller) {
	now, wall := s.Clock.Now(), clock.Wall()
	hear := func(a *fleet.Agent) bool {
		changed := a.Life.Hear(who.Heard, now.Truncate(time.Second), wall)
		if !who.Now.IsZero() {
			// The call has taken a moment, and on a fast clock that is long.
			ahead := time.Duration(float64(who.Now.Sub(now)) / s.Clock.Rate())
			changed = a.Life.HearClock(ahead, s.skew(cluster), now.Truncate(time.Second)) || changed
		}
		return changed
	}
	known := s.State.Agent(cluster)
	if known == nil {
		return // its enrolment is on its way here; the next call is heard
	}
	look := *known // shared: the copy is what changes
	if !hear(&look) && !s.Seen.Due(id) {
		return
	}
	if err := s.edit(ctx, cluster, id, func(a *fleet.Agent) error { hear(a); return nil }); err != nil && ctx.Err() == nil {
		s.Log.Debug("last call of agent not stored", "cluster", cluster, "err", err)
	}
}

// skew is by how much the clock of an agent may differ.
func (s *Service) skew(cluster string) time.Duration {
	declared, err := s.State.Cluster(cluster)
	if err != nil {
		return fleet.DefaultPolicy().ClockSkew.Std()
	}
	return fleet.PolicyOf(s.State.FleetSettings(), &declared).ClockSkew.Std()
}

// refused keeps what the agent did not believe.
func refused(a *fleet.Agent, r *fleet.Refused, now time.Time) (changed bool) {
	if r == nil {
		return false
	}
	a.Life.Refused = &fleet.Refused{At: r.At.UTC(), Heard: now, Server: cut(r.Server, 200), Reason: cut(r.Reason, maxError)}
	return true
}
