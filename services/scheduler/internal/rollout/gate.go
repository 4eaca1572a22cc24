package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// trusted is the gate before a new generation signs: every agent that is enrolled
// and not excluded has proven that it trusts the new CA. A token key has no
// proof: every verifier had the time to fetch it.
func (e *evaluation) trusted() bool {
	if e.Kind == fleet.RolloutToken {
		// Twice: one lifetime for a copy that was fetched a moment before, and one
		// for whoever has lent it.
		e.r.OpensAt = e.r.Since().Add(2 * fleet.JWKSLifetime)
		return e.passed(e.r.OpensAt)
	}
	e.count(func(name string, s *Standing) (concerned bool, late []fleet.Laggard) {
		if s.Enrolled && s.Doubt != "" {
			late = []fleet.Laggard{e.silent(s, fleet.Laggard{Cluster: name, Why: s.Doubt, Since: s.Since})}
		}
		return s.Enrolled, late
	})
	return e.open()
}

// reissued is the gate before CAs are trusted no more: no client of a cluster that
// is not excluded needs one of them. It has the clients reissued.
func (e *evaluation) reissued(cas []string) bool {
	reachable := map[string]bool{} // clusters with a client that a rotation reaches
	e.count(func(name string, s *Standing) (concerned bool, late []fleet.Laggard) {
		for i := range s.Holders {
			h := &s.Holders[i]
			if !slices.Contains(cas, h.CA) || e.Now.After(h.Until) {
				continue
			}
			e.wake(h.Until.Add(time.Nanosecond)) // valid at its notAfter (RFC 5280, 4.1.2.5)
			l := fleet.Laggard{Cluster: name, Client: &h.Client, Why: h.Why, Since: h.Since}
			if !h.Left {
				reachable[name] = true
				l = e.silent(s, l)
			}
			late = append(late, l)
		}
		return s.Enrolled || len(s.Holders) > 0, late
	})
	e.reissue(reachable)
	return e.open()
}

// open reports whether nobody is waited for.
func (e *evaluation) open() bool { return e.Complete && e.r.MissingCount == 0 }

// silent says that the agent was not heard, where that is why nothing goes on.
func (e *evaluation) silent(s *Standing, l fleet.Laggard) fleet.Laggard {
	if !s.Enrolled || !e.passed(s.Seen.Add(e.Heard)) {
		return l
	}
	l.Since, l.Why = s.Seen, "agent not heard since "+s.Seen.UTC().Format(time.RFC3339)
	return l
}

// count takes stock of the clusters: how many the gate concerns, how many of them
// are ready, and who is waited for, the longest first.
func (e *evaluation) count(of func(name string, s *Standing) (concerned bool, late []fleet.Laggard)) {
	longest := func(a, b fleet.Laggard) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		if c := strings.Compare(a.Cluster, b.Cluster); c != 0 || a.Client == nil || b.Client == nil {
			return c
		}
		return compare(*a.Client, *b.Client)
	}
	var missing []fleet.Laggard
	for name, s := range e.Standings {
		if _, excluded := e.r.Excluded[name]; excluded {
			continue
		}
		concerned, late := of(name, &s)
		if concerned {
			e.r.Total++
			if len(late) == 0 {
				e.r.Ready++
			}
		}
		e.r.MissingCount += len(late)
		for _, l := range late {
			if l.Since.IsZero() || l.Since.After(e.Now) {
				l.Since = e.r.Since()
			}
			missing = append(missing, l)
		}
		if len(missing) >= 8*fleet.MaxLaggards { // not the whole of a large fleet is sorted
			slices.SortFunc(missing, longest)
			missing = missing[:fleet.MaxLaggards]
		}
	}
	for _, name := range e.Unseen {
		if _, excluded := e.r.Excluded[name]; !excluded {
			e.r.Total, e.r.MissingCount = e.r.Total+1, e.r.MissingCount+1
			missing = append(missing, fleet.Laggard{Cluster: name, Since: e.r.Since(), Why: "the scheduler cannot look at it: its log says why"})
		}
	}
	slices.SortFunc(missing, longest)
	e.r.Missing = missing[:min(len(missing), fleet.MaxLaggards)]
}

// clients says how many clients are left.
func clients(n int) string {
	if n == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", n)
}
