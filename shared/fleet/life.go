package fleet

import (
	"slices"
	"time"
)

// AgentLife is what the calls of an agent tell of it beside its work.
type AgentLife struct {
	Instance string     `json:"instance,omitempty" doc:"random name of the process that was heard last"`
	Starts   int        `json:"starts,omitempty" doc:"highest number of starts that was heard, as the agent counts them in its state"`
	Former   []Instance `json:"former,omitempty" doc:"processes before, newest first, at most MaxInstances"`
	Copied   *Copied    `json:"copied,omitempty" doc:"two have the key of this agent"`
	Skew     int        `json:"skew,omitempty" doc:"seconds by which its clock is ahead of the fleet's"`
	Skewed   time.Time  `json:"skewed,omitzero" doc:"since when its clock differs by more than the policy allows"`
	Refused  *Refused   `json:"refused,omitempty" doc:"the last trust bundle that it was offered and did not believe"`
}

// Instance is a process of an agent that was followed by another.
type Instance struct {
	Name  string    `json:"name"`
	Until time.Time `json:"until" doc:"when the next was heard first, on the machine's time"`
}

// Copied says that two have the key of one agent, and how that was noticed.
type Copied struct {
	Since time.Time `json:"since"`
	How   string    `json:"how" enum:"alive,older" doc:"alive: two processes call in turn; older: one was started from a state that is older than what was heard before"`
}

// How a copied key is noticed.
const (
	CopiedAlive = "alive"
	CopiedOlder = "older"
)

// Refused is a trust bundle, or a server, that an agent did not believe.
type Refused struct {
	At     time.Time `json:"at" doc:"the last time, on the clock of the agent"`
	Heard  time.Time `json:"heard,omitzero" doc:"when the agent could tell it"`
	Server string    `json:"server,omitempty" doc:"address under which it was offered"`
	Reason string    `json:"reason"`
}

// MaxInstances bounds the processes that are remembered.
const MaxInstances = 4

// lateCall is how long after its successor a call of a process that has ended
// may still arrive: proxies hold calls back.
const lateCall = 10 * time.Second

// Heard is what a call tells of the process that makes it.
type Heard struct {
	Instance string // random, made at each start; empty for an agent that tells none
	Starts   int    // counted in its state; 0 where it could not count
}

// Hear takes note of a call, and reports whether that changes anything. A new
// name is a restart; a restart always counts on. So two have the key when a
// process calls again after another has taken its place, or when one starts
// that does not count on. Now is the time of the fleet, wall that of the machine.
func (l *AgentLife) Hear(h Heard, now, wall time.Time) (changed bool) {
	if h.Instance == "" || h.Instance == l.Instance || l.Copied != nil {
		return false
	}
	former := slices.IndexFunc(l.Former, func(i Instance) bool { return i.Name == h.Instance })
	switch {
	case former >= 0 && wall.Sub(l.Former[former].Until) < lateCall:
		return false
	case former >= 0:
		l.Copied = &Copied{Since: now, How: CopiedAlive}
		return true
	case h.Starts > 0 && h.Starts <= l.Starts:
		l.Copied = &Copied{Since: now, How: CopiedOlder}
	}
	if l.Instance != "" {
		before := append([]Instance{{l.Instance, wall}}, l.Former...)
		l.Former = before[:min(len(before), MaxInstances)]
	}
	l.Instance, l.Starts = h.Instance, max(l.Starts, h.Starts)
	return true
}

// HearClock takes note of how far the agent's clock is ahead, and reports
// whether it begins or ceases to differ by more than is allowed.
func (l *AgentLife) HearClock(ahead, allowed time.Duration, now time.Time) (changed bool) {
	l.Skew = int(ahead.Round(time.Second) / time.Second)
	switch off := ahead.Abs() > allowed; {
	case off == !l.Skewed.IsZero():
		return false
	case off:
		l.Skewed = now
	default:
		l.Skewed = time.Time{}
	}
	return true
}
