package fleet

import (
	"fmt"
	"maps"
	"time"
)

// Permit is the word of an operator that a client may come back although it is
// locked out.
type Permit struct {
	Operation string    `json:"operation" doc:"id of the recovery that gave it"`
	ExpiresAt time.Time `json:"expiresAt" doc:"first moment at which it holds no more"`
}

// Permit notes permits, and forgets those that have ended at now.
func (a *Agent) Permit(permits map[ClientKey]Permit, now time.Time) {
	maps.DeleteFunc(a.Permits, func(_ ClientKey, p Permit) bool { return !now.Before(p.ExpiresAt) })
	if a.Permits == nil {
		a.Permits = map[ClientKey]Permit{}
	}
	maps.Copy(a.Permits, permits)
}

// Lockout says how a client stands that is locked out.
type Lockout struct {
	Since time.Time // when the last of the two credentials in use ended
	Until time.Time // until when it may come back; zero for "always", and if it may not
	Bar   string    // what keeps it out, as the end of a sentence; empty if it may come back
}

// Why says since when a client is locked out, what keeps it out, and the command
// that lets it back.
func (l Lockout) Why(cluster string, key ClientKey) string {
	return fmt.Sprintf("locked out since %s, and %s: %s", l.Since.UTC().Format(time.RFC3339), l.Bar, RecoverCommand(cluster, key))
}

// LockoutOf returns how a client stands, and false if it is not locked out. The
// agent may be nil.
//
// How long a client was away counts from the end of what it used, which is on
// record, and not from the last word of its agent: an agent that calls again
// would wipe out its own absence. A client whose agent has enrolled since may
// come back: whoever made the join token has said so. So may one for which a
// generation of a recovery is on its way: it was let back before that was issued.
func LockoutOf(r *Record, key ClientKey, a *Agent, p Policy, now time.Time) (Lockout, bool) {
	if StateOf(r, now) != StateLockedOut {
		return Lockout{}, false
	}
	l := Lockout{Since: r.InUse().Token.ExpiresAt}
	if end := r.InUse().Certificate.NotAfter; end.After(l.Since) {
		l.Since = end
	}
	limit := l.Since.Add(p.RecoveryLimit.Std())
	var permit Permit
	if a != nil {
		permit = a.Permits[key]
	}
	newest := r.Newest()
	switch {
	case a != nil && a.ID != "" && a.EnrolledAt.After(l.Since):
	case newest.Reason == ReasonRecovery && newest.Revoked == nil && newest.Step.Before(StepInstalled) && now.Before(newest.Expiry()):
		l.Until = newest.Expiry()
	case p.Recovery == RecoveryAutomatic && !now.After(limit):
		l.Until = limit
	case now.Before(permit.ExpiresAt):
		l.Until = permit.ExpiresAt
	case p.Recovery == RecoveryAutomatic:
		l.Bar = fmt.Sprintf("for longer than its recoveryLimit of %s, so that an operator has to let it back", p.RecoveryLimit)
	default:
		l.Bar = "its policy (recovery: operator) leaves it to an operator to let it back"
	}
	return l, true
}

// RecoverCommand returns what an operator runs to let a client back.
func RecoverCommand(cluster string, key ClientKey) string {
	return fmt.Sprintf("rotor recover %s --client %s", cluster, key)
}
