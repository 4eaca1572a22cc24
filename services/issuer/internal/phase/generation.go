package phase

import (
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// generation is one of a CA or of a token key: what their moves have in common.
type generation struct {
	id          string
	number      int
	kind        fleet.RolloutKind
	phase       *fleet.Phase
	activatedAt *time.Time
	retiredAt   *time.Time
	withdrawn   *bool
	by          *string // rollout that brought it
	ca          *fleet.CA

	notAfter time.Time  // of a CA
	bundle   int        // of a CA
	retireAt *time.Time // of a token key
}

// generations returns those of a kind, which point into the document.
func generations(doc *fleet.Authority, kind fleet.RolloutKind) []generation {
	var all []generation
	if kind == fleet.RolloutCA {
		for i := range doc.CAs {
			c := &doc.CAs[i]
			all = append(all, generation{
				id: c.ID, number: c.Number, kind: kind, phase: &c.Phase, activatedAt: &c.ActivatedAt, retiredAt: &c.RetiredAt,
				withdrawn: &c.Withdrawn, by: &c.Rollout, ca: c, notAfter: c.NotAfter, bundle: c.Bundle,
			})
		}
		return all
	}
	for i := range doc.Keys {
		k := &doc.Keys[i]
		all = append(all, generation{
			id: k.ID, number: k.Number, kind: kind, phase: &k.Phase, activatedAt: &k.ActivatedAt, retiredAt: &k.RetiredAt,
			withdrawn: &k.Withdrawn, by: &k.Rollout, retireAt: &k.RetireAt,
		})
	}
	return all
}

// String names it for people.
func (g *generation) String() string {
	if g.kind == fleet.RolloutCA {
		return fmt.Sprintf("CA %d (%s)", g.number, g.id)
	}
	return fmt.Sprintf("token key %d (%s)", g.number, g.id)
}

func (g *generation) rollout() string { return *g.by }
func (g *generation) tainted() bool   { return g.ca != nil && !g.ca.TaintedAt.IsZero() }

func (g *generation) expired(now time.Time) bool { return g.ca != nil && now.After(g.notAfter) }

// adopt makes it the rollout's: its phases pass by proof from now on.
func (g *generation) adopt(rollout string) {
	*g.by = rollout
	if g.ca != nil {
		g.ca.Succession = false
	}
}

func (a *attempt) find(id string) *generation {
	for i := range a.all {
		if a.all[i].id == id {
			return &a.all[i]
		}
	}
	return nil
}

// active returns the generation that signs, or nil.
func (a *attempt) active() *generation {
	for i := range a.all {
		if *a.all[i].phase == fleet.PhaseActive {
			return &a.all[i]
		}
	}
	return nil
}

// signing counts the generations that sign.
func (a *attempt) signing() int {
	n := 0
	for i := range a.all {
		if *a.all[i].phase == fleet.PhaseActive {
			n++
		}
	}
	return n
}
