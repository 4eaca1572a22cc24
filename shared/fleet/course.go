package fleet

// AwaitsRetirement reports whether a taint has come to where an operator has to
// say that the old CA goes out of the trust bundle: no client uses it any more.
func (r *Rollout) AwaitsRetirement() bool {
	return r.Reason == RolloutTainted && !r.RetireAsked && (r.Phase == RolloutRetire ||
		r.Phase == RolloutReissued && r.MissingCount == 0 && !r.LastReplacedAt.IsZero())
}

// Name writes out the kind for people.
func (k RolloutKind) Name() string {
	if k == RolloutToken {
		return "token key"
	}
	return "CA"
}
