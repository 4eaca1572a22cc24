package fleet

import (
	"fmt"
	"slices"
	"time"
)

// RotationState is the state of a rotation.
type RotationState string

// The states of a rotation, and of each cluster in it.
const (
	RotationAccepted  RotationState = "accepted"  // asked for, not planned yet; of a cluster: its turn has not come
	RotationRunning   RotationState = "running"   // clients are on their way
	RotationHalted    RotationState = "halted"    // too many have failed: nothing more begins until an operator says so
	RotationCompleted RotationState = "completed" // every client has ended without a failure
	RotationFailed    RotationState = "failed"    // at least one client has failed; the result says why
	RotationCancelled RotationState = "cancelled" // an operator has ended it
)

// rotationMoves is the one table of the states that may follow each state.
var rotationMoves = map[RotationState][]RotationState{
	RotationAccepted: {RotationRunning, RotationCompleted, RotationFailed, RotationCancelled},
	RotationRunning:  {RotationHalted, RotationCompleted, RotationFailed, RotationCancelled},
	RotationHalted:   {RotationRunning, RotationCompleted, RotationFailed, RotationCancelled},
}

// RotationStates returns the states in their order.
func RotationStates() []RotationState {
	return []RotationState{RotationAccepted, RotationRunning, RotationHalted, RotationCompleted, RotationFailed, RotationCancelled}
}

// May reports whether a state may follow this one.
func (s RotationState) May(next RotationState) bool { return slices.Contains(rotationMoves[s], next) }

// Done reports whether the rotation has ended: no other state follows.
func (s RotationState) Done() bool {
	return slices.Contains(RotationStates(), s) && len(rotationMoves[s]) == 0
}

// Outcome is the result of a rotation for one client.
type Outcome string

// The outcomes. All but the first are final, unless an operator has the rotation
// try those that failed again, or takes an exclusion back.
const (
	OutcomeWaiting   Outcome = "waiting"   // asked for, or on its way
	OutcomeRotated   Outcome = "rotated"   // the new generation is proven
	OutcomeNotDue    Outcome = "not-due"   // nothing to do, and no force
	OutcomeRevoked   Outcome = "revoked"   // skipped
	OutcomeFailed    Outcome = "failed"    // the reason says why
	OutcomeKept      Outcome = "kept"      // already valid for longer than this would give
	OutcomeExcluded  Outcome = "excluded"  // an operator has left its cluster out
	OutcomeCancelled Outcome = "cancelled" // an operator has ended the rotation before the proof

	OutcomeNeedsRecovery Outcome = "needs-recovery" // locked out, and not to come back without `rotor recover`
)

// Final reports whether the outcome cannot change any more.
func (o Outcome) Final() bool { return o != OutcomeWaiting }

// Failed reports whether the client has not got what the rotation was for.
func (o Outcome) Failed() bool { return o == OutcomeFailed || o == OutcomeNeedsRecovery }

// Attempted reports whether there was something to do for the client.
func (o Outcome) Attempted() bool { return o == OutcomeWaiting || o == OutcomeRotated || o.Failed() }

// RotationResult is the result for one client.
type RotationResult struct {
	Client  ClientKey `json:"client"`
	From    int       `json:"from" doc:"generation before"`
	To      int       `json:"to,omitempty" doc:"generation that it shall reach"`
	Step    Step      `json:"step,omitempty" doc:"how far the new generation has come"`
	Outcome Outcome   `json:"outcome" enum:"waiting,rotated,not-due,revoked,failed,kept,excluded,cancelled,needs-recovery"`
	Reason  string    `json:"reason,omitempty" doc:"why, in words"`
}

// ClusterRotation is the part of a rotation that concerns one cluster.
type ClusterRotation struct {
	Cluster string           `json:"cluster"`
	State   RotationState    `json:"state" enum:"accepted,running,completed,failed" doc:"accepted while its turn has not come"`
	BeganAt time.Time        `json:"beganAt,omitzero" doc:"when its turn came: its deadline counts from then"`
	Attempt int              `json:"attempt,omitempty" doc:"how often what had failed in it was tried again"`
	Clients []RotationResult `json:"clients"`
}

// Rotation is one operation over one or many clusters. It is stored under its
// id; its clusters are stored apart, under "<id>.<cluster>", so that a rotation
// of a large fleet never outgrows a message, and a step of one cluster is a
// write of one small document.
type Rotation struct {
	ID          string        `json:"id"`
	Reason      Reason        `json:"reason"`
	State       RotationState `json:"state" enum:"accepted,running,halted,completed,failed,cancelled"`
	Force       bool          `json:"force,omitempty" doc:"rotate what is not due as well"`
	Clusters    []string      `json:"clusters" doc:"in the order of their turn"`
	Clients     []ClientKey   `json:"clients,omitempty" doc:"only these; all, if empty"`
	CompletedAt time.Time     `json:"upgradedAt,omitzero" doc:"of a rotation by upgrade: when the upgrade completed"`
	By          string        `json:"by,omitempty" doc:"who asked"`
	CreatedAt   time.Time     `json:"createdAt"`
	EndedAt     time.Time     `json:"endedAt,omitzero"`
	Rotated     int           `json:"rotated" doc:"clients; while it runs, as of the last change of the wave or the state"`
	Failed      int           `json:"failed"`
	Total       int           `json:"total" doc:"clients concerned"`
	Trace       string        `json:"trace,omitempty" doc:"traceparent (W3C Trace Context) of its beginning; empty if it was not traced"`

	Waves      *Waves               `json:"waves,omitempty" doc:"plan in waves; absent if all clusters begin at once"`
	Wave       int                  `json:"wave,omitempty" doc:"the wave under way, from 1; absent without waves"`
	Halt       *Halt                `json:"halt,omitempty" doc:"the last halt; the state says whether it holds"`
	Accepted   int                  `json:"accepted,omitempty" doc:"failed clients that an operator has accepted by resuming: they count no more against the limit"`
	Attempt    int                  `json:"attempt,omitempty" doc:"how often an operator had what had failed tried again"`
	Exclusions map[string]Exclusion `json:"exclusions,omitempty" doc:"clusters that are left out"`
	Inclusions map[string]Exclusion `json:"inclusions,omitempty" doc:"clusters that were left out and are not any longer"`
	Cancel     *Cancel              `json:"cancel,omitempty" doc:"who has ended it, and when"`
}

// Halt says why a rotation was halted.
type Halt struct {
	Number    int       `json:"number" doc:"1 for the first halt of the rotation"`
	At        time.Time `json:"at"`
	Wave      int       `json:"wave"`
	Failed    int       `json:"failed" doc:"clients that count against the limit"`
	Attempted int       `json:"attempted" doc:"clients of which the turn had come"`
	Reason    string    `json:"reason" doc:"why, in words"`
}

// Cancel says who has ended a rotation.
type Cancel struct {
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// Move changes the state; a state that may not follow is ErrConflict.
func (r *Rotation) Move(next RotationState) error {
	if !r.State.May(next) {
		return fmt.Errorf("%w: rotation %s is %s and cannot become %s", ErrConflict, r.ID, r.State, next)
	}
	r.State = next
	return nil
}

// Concerns reports whether the rotation is about a client: one that it names, or
// any if it names none. A key without an instance means every one of its kind.
func (r *Rotation) Concerns(key ClientKey) bool {
	return len(r.Clients) == 0 || slices.ContainsFunc(r.Clients, func(want ClientKey) bool {
		return want == key || want.Instance == "" && want.Kind == key.Kind
	})
}

// Excluded reports whether an operator has left a cluster out.
func (r *Rotation) Excluded(cluster string) bool {
	_, ok := r.Exclusions[cluster]
	return ok
}

// Fails reports whether an outcome is a failure of this rotation. A client that
// is locked out has no certificate in use: to a rotation away from a CA it is
// no hindrance, and its recovery comes with a certificate of the new one.
func (r *Rotation) Fails(o Outcome) bool {
	return o == OutcomeFailed || o == OutcomeNeedsRecovery && r.Reason != ReasonAuthority
}

// Again reports whether a part that has ended is to be planned again: what had
// failed is tried once more, or its cluster is not left out any longer.
func (r *Rotation) Again(part ClusterRotation) bool {
	return part.State.Done() && slices.ContainsFunc(part.Clients, func(c RotationResult) bool { return r.Anew(part, c) })
}

// Anew reports whether a result of a part does not stand: once the part has
// ended, it is planned again.
func (r *Rotation) Anew(part ClusterRotation, c RotationResult) bool {
	if c.Outcome != OutcomeExcluded && (part.Attempt >= r.Attempt || !c.Outcome.Failed()) {
		return false
	}
	return r.Cancel == nil && !r.Excluded(part.Cluster)
}
