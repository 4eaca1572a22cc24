package fleet

import (
	"slices"
	"time"
)

// AwaitsRetirement reports whether a taint has come to where an operator has to
// say that the old CA goes out of the trust bundle: no client uses it any more.
func (r *Rollout) AwaitsRetirement() bool {
	return r.Reason == RolloutTainted && !r.RetireAsked && (r.Phase == RolloutRetire ||
		r.Phase == RolloutReissued && r.MissingCount == 0 && !r.LastReplacedAt.IsZero())
}

// TaintedCAs returns the ids of the CAs that are compromised, as far as this
// rollout knows. One of a scheduler that kept no list is about the CA that signed
// when it began.
func (r *Rollout) TaintedCAs() []string {
	if len(r.Compromised) == 0 && r.Reason == RolloutTainted {
		return []string{r.From}
	}
	return r.Compromised
}

// Tainted reports whether a CA is known to be compromised.
func (r *Rollout) Tainted(ca string) bool { return slices.Contains(r.TaintedCAs(), ca) }

// TaintedSince returns when an operator said so first.
func (r *Rollout) TaintedSince() time.Time {
	if r.TaintedAt.IsZero() {
		return r.CreatedAt
	}
	return r.TaintedAt
}

// LeadsTo returns the id of the CA that signs when a rollout of the CA has ended,
// empty while that one is not made.
func (r *Rollout) LeadsTo(a *Authority) string {
	if r.Phase == RolloutRollback {
		return r.From
	}
	for i := range a.CAs {
		if a.CAs[i].Rollout == r.ID {
			return a.CAs[i].ID
		}
	}
	return r.To
}

// Name writes out the kind for people.
func (k RolloutKind) Name() string {
	if k == RolloutToken {
		return "token key"
	}
	return "CA"
}
