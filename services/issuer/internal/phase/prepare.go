package phase

import (
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// prepare adds a generation, or takes over the successor that the last resort has
// made.
func (a *attempt) prepare() (Outcome, error) {
	for i := range a.all {
		if a.mine(&a.all[i]) {
			return a.mark(), nil
		}
	}
	active := a.active()
	if a.change.From != "" && a.change.From != active.id {
		return OutOrder, a.refuse("%s signs, and the rollout began when %.100s did", active, a.change.From)
	}
	for i := range a.all {
		switch g := &a.all[i]; *g.phase {
		case fleet.PhaseIncoming:
			return a.adopt(g)
		case fleet.PhaseOutgoing:
			// Outgoing token keys retire by themselves. A compromised CA does not
			// wait for another one to go.
			if a.change.Kind == fleet.RolloutCA && !a.change.Tainted {
				return OutOrder, a.refuse("%s is outgoing: it must be retired first; what nobody retires is trusted until it expires at %s",
					g, g.notAfter.Format(time.RFC3339))
			}
		case fleet.PhaseActive, fleet.PhaseRetired:
		}
	}
	return a.add()
}

// adopt takes over an incoming generation that belongs to no rollout.
func (a *attempt) adopt(g *generation) (Outcome, error) {
	switch {
	case g.rollout() != "":
		return OutOrder, a.refuse("%s is incoming, of rollout %s: one at a time", g, g.rollout())
	case g.tainted() || slices.Contains(a.compromised(), g.id):
		return OutOrder, a.refuse("%s is incoming, and compromised: it must be withdrawn first", g)
	case a.change.Imported:
		return OutOrder, a.refuse("%s is incoming, as the CA came near its end: import another one after it", g)
	}
	g.adopt(a.change.Rollout)
	if a.taint() {
		a.bundle()
	}
	return Adopted, nil
}

func (a *attempt) add() (Outcome, error) {
	switch {
	case a.change.Kind == fleet.RolloutCA && a.change.CA != nil:
		ca := *a.change.CA
		if want := numberOf(a.doc, &ca); ca.Number != want {
			return OutOrder, fmt.Errorf("%w: CA number %d: the next one is %d", fleet.ErrInvalid, ca.Number, want)
		}
		if a.doc.FindCA(ca.ID) != nil {
			return OutOrder, a.refuse("a CA %s is there already", ca.ID)
		}
		if len(ca.Anchor) > 0 {
			a.doc.Pending = nil
		}
		ca.Phase, ca.Rollout, ca.Succession = fleet.PhaseIncoming, a.change.Rollout, false
		a.doc.CAs = append(a.doc.CAs, ca)
		a.bundle()
		a.doc.CAs[len(a.doc.CAs)-1].Bundle = a.doc.Bundle.Version
	case a.change.Kind == fleet.RolloutToken && a.change.Key != nil:
		key := *a.change.Key
		if want := a.doc.NextKey(); key.Number < want {
			return OutOrder, fmt.Errorf("%w: token key number %d: the next one is %d or above", fleet.ErrInvalid, key.Number, want)
		}
		key.Phase, key.Rollout = fleet.PhaseIncoming, a.change.Rollout
		a.doc.Keys = append(a.doc.Keys, key)
	}
	a.taint()
	return Made, nil
}

// numberOf returns the number that a new CA must have.
func numberOf(doc *fleet.Authority, ca *fleet.CA) int {
	if len(ca.Anchor) > 0 && doc.Pending != nil {
		return doc.Pending.Number
	}
	return doc.NextCA()
}
