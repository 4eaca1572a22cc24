// Package phase decides which change of phase of the authority may follow on
// what, and makes it in the document: pure, no network, no clock, no keys. The
// issuer asks it before it does what a rotation of the authority wants, whoever
// wants it.
package phase

import (
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Change is one change of phase, and what the issuer has found out for it.
type Change struct {
	Rollout  string
	Kind     fleet.RolloutKind
	Move     fleet.Move
	ID       string // of all but prepare: the generation that moves, or is marked
	From     string // the generation that signed when the rollout began
	Bundle   int    // of activate, CA: version of the trust bundle on which trust was proven
	Tainted  bool   // of prepare and activate: one that has signed is compromised, and nothing is proven first
	Imported bool   // of prepare: an operator brings the CA

	Compromised []string // CAs to be marked as compromised; none of one that is tainted: From

	CA    *fleet.CA         // of prepare: what was made; nil while it is only asked whether it may be
	Key   *fleet.SigningKey // the same, of a token key
	InUse string            // of retire and withdraw: who still needs the generation, in words; empty if nobody
	Ends  time.Time         // of a token key that ceases to sign: when the last token ends that it has signed
}

// Outcome says what came of a change.
type Outcome string

// The outcomes.
const (
	Made     Outcome = "made"    // the document is another one
	Done     Outcome = "done"    // it was made before: nothing changes
	OutOrder Outcome = "refused" // nothing changes; the error says why
	Marked   Outcome = "marked"  // no phase changes, but a CA is marked as compromised
	Adopted  Outcome = "adopted" // the successor that the last resort has made is the rollout's from now on
)

// rule is what a move does: in which phases the generation may be, and in which
// it is afterwards.
type rule struct {
	from []fleet.Phase // none: there is no such generation yet
	to   fleet.Phase
	mine bool // it must be the one that the rollout brought; else the one that it replaces
}

// rules is the one table of what may follow on what.
var rules = map[fleet.Move]rule{
	fleet.MovePrepare:  {nil, fleet.PhaseIncoming, true},
	fleet.MoveActivate: {[]fleet.Phase{fleet.PhaseIncoming}, fleet.PhaseActive, true},
	fleet.MoveRestore:  {[]fleet.Phase{fleet.PhaseOutgoing}, fleet.PhaseActive, false},
	fleet.MoveWithdraw: {[]fleet.Phase{fleet.PhaseIncoming, fleet.PhaseOutgoing}, fleet.PhaseRetired, true},
	fleet.MoveRetire:   {[]fleet.Phase{fleet.PhaseOutgoing}, fleet.PhaseRetired, false},
}

// Apply returns the document after a change, which is the one that was given
// unless the outcome says that it was changed. An error that is a
// fleet.ErrConflict says why the change is out of order; one that is a
// fleet.ErrInvalid, that no order would make it right. The trust bundle has its
// new version, and still has to be signed. What is given is never changed.
func Apply(doc fleet.Authority, c Change, now time.Time) (fleet.Authority, Outcome, error) {
	next := doc
	next.CAs, next.Keys = slices.Clone(doc.CAs), slices.Clone(doc.Keys)
	a := attempt{doc: &next, change: c, now: now.UTC().Truncate(time.Second), all: generations(&next, c.Kind)}
	outcome, err := a.run()
	if err != nil || outcome == Done {
		return doc, outcome, err
	}
	if next.Refused != nil && next.Refused.Kind == c.Kind {
		next.Refused = nil
	}
	return next, outcome, nil
}

// attempt is one run of Apply.
type attempt struct {
	doc    *fleet.Authority
	change Change
	now    time.Time
	all    []generation
}

func (a *attempt) run() (Outcome, error) {
	r, known := rules[a.change.Move]
	switch {
	case !known && a.change.Move != fleet.MoveTaint:
		return OutOrder, fmt.Errorf("%w: move %q: use prepare, activate, restore, withdraw, retire or taint", fleet.ErrInvalid, a.change.Move)
	case a.change.Kind != fleet.RolloutCA && a.change.Kind != fleet.RolloutToken:
		return OutOrder, fmt.Errorf("%w: kind %q: use ca or token", fleet.ErrInvalid, a.change.Kind)
	case a.change.Rollout == "":
		return OutOrder, fmt.Errorf("%w: the rollout has no id", fleet.ErrInvalid)
	case a.change.Kind == fleet.RolloutToken && (len(a.change.Compromised) > 0 || a.change.Move == fleet.MoveTaint):
		return OutOrder, fmt.Errorf("%w: kind %q: only a CA is marked as compromised", fleet.ErrInvalid, a.change.Kind)
	case a.signing() != 1:
		return OutOrder, a.refuse("%d generations sign, and one must", a.signing())
	case a.change.Move == fleet.MovePrepare:
		return a.prepare()
	}
	g := a.find(a.change.ID)
	if g == nil {
		return OutOrder, a.refuse("there is no generation %.100q", a.change.ID)
	}
	if a.change.Move == fleet.MoveTaint || a.done(r, g) {
		return a.mark(), nil
	}
	if err := a.check(r, g); err != nil {
		return OutOrder, err
	}
	a.move(r, g)
	return Made, nil
}

// done reports whether a move was made before. What has come after it does not
// undo that.
func (a *attempt) done(r rule, g *generation) bool {
	switch {
	case *g.phase == r.to && (r.mine == a.mine(g) || r.to == fleet.PhaseRetired):
		return true
	case a.change.Move == fleet.MoveActivate: // and restored or retired since
		return a.mine(g) && !g.activatedAt.IsZero() && *g.phase != fleet.PhaseIncoming
	}
	return false
}

// check says what is out of order.
func (a *attempt) check(r rule, g *generation) error {
	if !slices.Contains(r.from, *g.phase) {
		return a.refuse("%s is %s, and must be %s", g, *g.phase, r.from[0])
	}
	active := a.active()
	switch a.change.Move {
	case fleet.MoveActivate:
		return a.checkActivate(g, active)
	case fleet.MoveRestore:
		switch {
		case active.rollout() != a.change.Rollout:
			return a.refuse("%s signs, and it is not this rollout that brought it", active)
		case a.change.From != "" && a.change.From != g.id:
			return a.refuse("%s is not the one that this rollout replaces", g)
		case g.tainted():
			return a.refuse("%s is compromised: it does not sign again", g)
		case g.expired(a.now):
			return a.refuse("%s has expired at %s", g, g.notAfter.Format(time.RFC3339))
		}
	case fleet.MoveWithdraw:
		switch {
		case !a.mine(g):
			return a.refuse("%s was not brought by this rollout", g)
		case *g.phase == fleet.PhaseOutgoing && a.change.InUse != "":
			return a.refuse("%s is still in use: %s", g, a.change.InUse)
		}
	case fleet.MoveRetire:
		switch {
		case !a.mine(g) && active.rollout() != a.change.Rollout:
			return a.refuse("%s signs, and it is not this rollout that brought it: it does not retire what others replace", active)
		case a.change.InUse != "" && (!g.tainted() || !a.change.Tainted):
			return a.refuse("%s is still in use: %s", g, a.change.InUse)
		}
	case fleet.MovePrepare: // has its own way
	}
	return nil
}

func (a *attempt) checkActivate(g, active *generation) error {
	switch {
	case !a.mine(g):
		return a.refuse("%s was not brought by this rollout", g)
	case a.change.From != "" && a.change.From != active.id:
		return a.refuse("%s signs, and the rollout began when %.100s did", active, a.change.From)
	case g.tainted() || slices.Contains(a.compromised(), g.id):
		return a.refuse("%s is compromised: it does not sign", g)
	case g.expired(a.now):
		return a.refuse("%s has expired at %s", g, g.notAfter.Format(time.RFC3339))
	case a.change.Kind == fleet.RolloutToken || a.change.Tainted:
		return nil
	case a.change.Bundle < g.bundle:
		return a.refuse("trust was proven on version %d of the trust bundle, and %s is in it from version %d on", a.change.Bundle, g, g.bundle)
	case a.change.Bundle > a.doc.Bundle.Version:
		return a.refuse("trust was proven on version %d of the trust bundle, and the newest is %d", a.change.Bundle, a.doc.Bundle.Version)
	}
	return nil
}

// refuse returns an error about the order.
func (a *attempt) refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s: "+format, append([]any{fleet.ErrConflict, a.change.Move}, args...)...)
}

// mine reports whether the rollout brought a generation.
func (a *attempt) mine(g *generation) bool { return g.rollout() == a.change.Rollout }

// move makes a change that was checked.
func (a *attempt) move(r rule, g *generation) {
	switch r.to {
	case fleet.PhaseActive:
		active := a.active()
		*active.phase = fleet.PhaseOutgoing
		if active.retireAt != nil {
			*active.retireAt = later(a.change.Ends, a.now)
		}
		if g.retireAt != nil {
			*g.retireAt = time.Time{}
		}
		// Signing once more is another happening than before: no moment comes twice.
		*g.activatedAt = later(a.now, g.activatedAt.Add(time.Second))
	case fleet.PhaseRetired:
		*g.retiredAt, *g.withdrawn = a.now, a.mine(g)
	case fleet.PhaseIncoming, fleet.PhaseOutgoing: // no rule leads there
	}
	*g.phase = r.to
	a.taint()
	a.bundle()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a.UTC()
	}
	return b.UTC()
}

// compromised returns the CAs that are said to be so.
func (a *attempt) compromised() []string {
	ids := a.change.Compromised
	if a.change.Move == fleet.MoveTaint {
		ids = append(slices.Clone(ids), a.change.ID)
	}
	if from := a.doc.FindCA(a.change.From); len(ids) == 0 && a.change.Tainted && from != nil && from.Rollout != a.change.Rollout {
		return []string{from.ID} // of a scheduler that names none
	}
	return ids
}

// taint marks the CAs that are compromised, and reports whether that changes
// anything.
func (a *attempt) taint() (marked bool) {
	for _, id := range a.compromised() {
		if ca := a.doc.FindCA(id); ca != nil && ca.TaintedAt.IsZero() {
			ca.TaintedAt, marked = a.now, true
		}
	}
	return marked
}

// mark marks what is compromised where no phase changes.
func (a *attempt) mark() Outcome {
	if !a.taint() {
		return Done
	}
	a.bundle() // no bridge leads to it any more
	return Marked
}

// bundle gives the trust bundle its next version, if CAs have moved.
func (a *attempt) bundle() {
	if a.change.Kind == fleet.RolloutCA {
		a.doc.Bundle.Version, a.doc.Bundle.Certificates = a.doc.NextBundle()
	}
}
