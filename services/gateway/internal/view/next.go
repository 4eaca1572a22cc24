package view

import (
	"fmt"
	"maps"
	"slices"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// next returns what an operator can do about the authority now.
func (a Authority) next() []api.Suggestion {
	var all []api.Suggestion
	add := func(command, why string) {
		all = append(all, api.Suggestion{Command: "rotor authority " + command, Why: why})
	}
	for _, r := range []*fleet.Rollout{a.CA, a.Token} {
		if r != nil && !r.Phase.Done() {
			a.steer(r, add)
		}
	}
	if ca := a.forgotten(); ca != nil {
		add("taint "+Short(ca.ID), "replace it: it is compromised")
	}
	idle := a.CA == nil || a.CA.Phase.Done()
	if a.Document.Pending != nil && idle {
		add("import --certificate FILE --root FILE", fmt.Sprintf("once the offline root has signed the request of CA %d; rotor authority csr shows it", a.Document.Pending.Number))
	}
	if d := a.dates(); d != nil && idle && len(all) == 0 && !a.Now.Before(d.Start) {
		switch {
		case len(a.Document.ActiveCA().Anchor) > 0:
			add("csr", "it is due: have your offline root sign the next CA")
		case a.policy().Mode == fleet.ModeAutomatic:
			add("rotate", "it is due and begins by itself; this begins it now")
		default:
			add("rotate", "it is due, and nobody but you begins it: the mode is manual")
		}
	}
	return all
}

// steer adds what can be done about one rotation that is under way.
func (a Authority) steer(r *fleet.Rollout, add func(command, why string)) {
	key := ""
	if r.Kind == fleet.RolloutToken {
		key = " --token-key"
	}
	if r.Halted != "" && r.Kind == fleet.RolloutCA {
		add("resume", "go on, where the cause of the halt is mended or may stand")
	}
	if r.AwaitsRetirement() {
		add("retire", "trust the compromised CA no more")
	}
	if a.held(r) && len(r.Missing) > 0 {
		add(fmt.Sprintf("exclude %s --reason WHY", r.Missing[0].Cluster), "do not wait for it; it recovers by itself when it is back")
	}
	if r.Kind == fleet.RolloutCA {
		if out := slices.Sorted(maps.Keys(r.Excluded)); len(out) > 0 {
			add("include "+out[0], "wait for it again")
		}
	}
	if Returnable(r) == nil && r.Phase != fleet.RolloutRollback {
		add("rollback"+key, "take it back: "+Short(r.From)+" goes on to sign")
	}
}

// Returnable returns nil if a rotation can be taken back, or else why not, as
// fleet.ErrConflict. One that is on its way back can.
func Returnable(r *fleet.Rollout) error {
	old := "the old " + r.Kind.Name()
	switch {
	case r.Phase == fleet.RolloutRollback || r.Phase == fleet.RolloutRolledBack:
		return nil
	case r.Reason == fleet.RolloutTainted:
		return fmt.Errorf("%w: %s is compromised: there is no way back to it; rotate again, if the new one is not wanted", fleet.ErrConflict, old)
	case r.Phase == fleet.RolloutCompleted && r.Kind == fleet.RolloutToken:
		return fmt.Errorf("%w: the rotation of the token key has completed: rotate again, to have another one sign", fleet.ErrConflict)
	case !r.Phase.May(fleet.RolloutRollback):
		return fmt.Errorf("%w: %s is not trusted any more: rotate again", fleet.ErrConflict, old)
	}
	return nil
}
