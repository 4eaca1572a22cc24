package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// RolloutKind says which half of the authority a rollout replaces.
type RolloutKind string

// The halves of the authority.
const (
	RolloutCA    RolloutKind = "ca"
	RolloutToken RolloutKind = "token" // the key that signs tokens
)

// Key returns the key of the one document of a kind in the bucket "rotations":
// so there is one rollout of a kind at a time, whoever asks.
func (k RolloutKind) Key() string { return "_authority-" + string(k) }

// IsRollout reports whether a key of the bucket "rotations" is that of a rollout.
func IsRollout(key string) bool { return strings.HasPrefix(key, "_authority-") }

// RolloutPhase is what a rollout works on now.
type RolloutPhase string

// The phases, in their order, and the way back.
const (
	RolloutPrepare    RolloutPhase = "prepare"    // the issuer makes the new generation, which is trusted and signs nothing
	RolloutTrusted    RolloutPhase = "trusted"    // every agent has to prove that it trusts it
	RolloutActivate   RolloutPhase = "activate"   // the issuer lets it sign
	RolloutReissued   RolloutPhase = "reissued"   // every client has to be off the old one
	RolloutRetire     RolloutPhase = "retire"     // the issuer takes the old one out of the trust bundle
	RolloutCompleted  RolloutPhase = "completed"  // the old one is trusted no more
	RolloutRollback   RolloutPhase = "rollback"   // back to the old one
	RolloutRolledBack RolloutPhase = "rolledback" // the new one is trusted no more
)

// rolloutMoves is the one transition table. Tainted rollouts skip the proof of
// trust; the token key has no clients to reissue, and no old certificates. The
// last phase of either way may end as the other does where what it was to keep is
// gone: the old CA has expired on the way back to it, or a restore from a backup
// has brought a time before the new one.
var rolloutMoves = map[RolloutPhase][]RolloutPhase{
	RolloutPrepare:  {RolloutTrusted, RolloutActivate, RolloutRollback},
	RolloutTrusted:  {RolloutActivate, RolloutRollback},
	RolloutActivate: {RolloutReissued, RolloutCompleted, RolloutRollback},
	RolloutReissued: {RolloutRetire, RolloutRollback},
	RolloutRetire:   {RolloutCompleted, RolloutRolledBack},
	RolloutRollback: {RolloutRolledBack, RolloutCompleted},
}

// Done reports whether the rollout has ended.
func (p RolloutPhase) Done() bool { return p == RolloutCompleted || p == RolloutRolledBack }

// May reports whether next may follow on p.
func (p RolloutPhase) May(next RolloutPhase) bool { return slices.Contains(rolloutMoves[p], next) }

// RolloutReason says why there is a rollout.
type RolloutReason string

// The reasons of a rollout.
const (
	RolloutScheduled RolloutReason = "schedule" // half of the life of the CA is over
	RolloutAsked     RolloutReason = "operator" // an operator asked
	RolloutImported  RolloutReason = "import"   // an operator brought a CA that an offline root has signed
	RolloutTainted   RolloutReason = "taint"    // one that has signed is compromised
)

// Rollout is one rotation of the authority: of the CA or of the token key. The
// document of the last one stays until the next begins.
type Rollout struct {
	ID        string        `json:"id"`
	Kind      RolloutKind   `json:"kind" enum:"ca,token"`
	Reason    RolloutReason `json:"reason" enum:"schedule,operator,import,taint"`
	Phase     RolloutPhase  `json:"phase" enum:"prepare,trusted,activate,reissued,retire,completed,rollback,rolledback"`
	By        string        `json:"by,omitempty" doc:"who asked"`
	CreatedAt time.Time     `json:"createdAt"`
	EndedAt   time.Time     `json:"endedAt,omitzero"`
	Steps     []RolloutStep `json:"steps" doc:"phases in the order in which they began"`

	Compromised []string  `json:"compromised,omitempty" doc:"ids of the CAs that are compromised, in the order in which operators have said so"`
	TaintedAt   time.Time `json:"taintedAt,omitzero" doc:"when the first of them was said to be: what is measured counts from here"`
	Replaces    string    `json:"replaces,omitempty" doc:"id of the rotation that it has taken over, as the CA to which that one led is compromised"`

	From   string `json:"from,omitempty" doc:"id of the generation that is replaced"`
	To     string `json:"to,omitempty" doc:"id of the generation that replaces it; empty until it is made"`
	Bundle int    `json:"bundle,omitempty" doc:"version of the trust bundle that first had the new CA"`

	Certificate []byte `json:"certificate,omitempty" doc:"PEM, of an import: the CA certificate and those between it and its root"`
	Anchor      []byte `json:"anchor,omitempty" doc:"PEM, of an import: the offline root"`

	Canary         string               `json:"canary,omitempty" doc:"cluster that is reissued first; chosen, if empty"`
	MaxParallel    int                  `json:"maxParallel,omitempty" doc:"clusters that are reissued at once; 0 for the default"`
	Reissue        string               `json:"reissue,omitempty" doc:"id of the rotation that reissues the clients"`
	Attempt        int                  `json:"attempt,omitempty" doc:"how often what a rotation of the clients had left was tried again"`
	Halted         string               `json:"halted,omitempty" doc:"why it does not go on by itself, in words: the rotation of the clients has halted or has ended with some left, or the issuer refuses"`
	Excluded       map[string]Exclusion `json:"excluded,omitempty" doc:"clusters that are not waited for"`
	RetireAsked    bool                 `json:"retireAsked,omitempty" doc:"of a taint: an operator has said that the old CA goes out of the trust bundle"`
	BackFrom       RolloutPhase         `json:"backFrom,omitempty" doc:"phase in which the way back began"`
	Ready          int                  `json:"ready" doc:"clusters that the gate of the phase waits for no more"`
	Total          int                  `json:"total" doc:"clusters that the gate of the phase concerns"`
	Missing        []Laggard            `json:"missing,omitempty" doc:"whom the gate of the phase waits for, at most MaxLaggards"`
	MissingCount   int                  `json:"missingCount" doc:"of all of them"`
	OpensAt        time.Time            `json:"opensAt,omitzero" doc:"when the gate opens by the clock: of a token key, when every verifier has the new one; of a CA that nobody uses any more, at the end of the soak"`
	LastReplacedAt time.Time            `json:"lastReplacedAt,omitzero" doc:"when the last client was off the old one"`
	Held           int                  `json:"held,omitempty" doc:"days of the phase of which it was told that it waits"`
	Trace          string               `json:"trace,omitempty" doc:"traceparent (W3C Trace Context) of its beginning; empty if it was not traced"`
}

// MaxLaggards bounds those that a rollout names.
const MaxLaggards = 50

// RolloutStep is the beginning of a phase.
type RolloutStep struct {
	Phase RolloutPhase `json:"phase"`
	At    time.Time    `json:"at"`
}

// Laggard is who keeps a gate closed, and why.
type Laggard struct {
	Cluster string     `json:"cluster"`
	Client  *ClientKey `json:"client,omitempty" doc:"absent where it is the cluster's agent"`
	Why     string     `json:"why"`
	Since   time.Time  `json:"since" doc:"since when"`
}

// Exclusion is an operator's word that a cluster is not waited for.
type Exclusion struct {
	Reason string    `json:"reason"`
	By     string    `json:"by,omitempty"`
	At     time.Time `json:"at"`
}

// Move is one change of phase of a generation of the authority, by the issuer.
type Move string

// The moves.
const (
	MovePrepare  Move = "prepare"  // make a generation that is trusted and signs nothing
	MoveActivate Move = "activate" // let the incoming one sign
	MoveRetire   Move = "retire"   // trust the outgoing one no more
	MoveWithdraw Move = "withdraw" // trust the incoming one no more
	MoveRestore  Move = "restore"  // let the outgoing one sign again
	MoveTaint    Move = "taint"    // mark a CA as compromised, whatever its phase
)

// Enter returns the rollout in its next phase, or fleet.ErrConflict if that phase
// may not follow.
func (r Rollout) Enter(next RolloutPhase, now time.Time) (Rollout, error) {
	if !r.Phase.May(next) {
		return r, fmt.Errorf("%w: rollout %s: %s does not follow on %s", ErrConflict, r.ID, next, r.Phase)
	}
	if next == RolloutRollback {
		r.BackFrom, r.Attempt, r.LastReplacedAt = r.Phase, 0, time.Time{}
	}
	r.Phase = next
	r.Steps = append(slices.Clone(r.Steps), RolloutStep{next, now})
	r.Missing, r.MissingCount, r.Ready, r.Total = nil, 0, 0, 0
	r.Halted, r.Held, r.OpensAt = "", 0, time.Time{}
	if next.Done() {
		r.EndedAt = now
	}
	return r, nil
}

// Since returns when the phase of now has begun.
func (r *Rollout) Since() time.Time {
	if len(r.Steps) == 0 {
		return r.CreatedAt
	}
	return r.Steps[len(r.Steps)-1].At
}
