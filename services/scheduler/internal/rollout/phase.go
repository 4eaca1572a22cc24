package rollout

import (
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// generation is what a CA and a token key have in common.
type generation struct {
	id      string
	phase   fleet.Phase
	rollout string
	bundle  int
}

func (e *evaluation) generations() []generation {
	var all []generation
	if e.Kind == fleet.RolloutToken {
		for i := range e.Authority.Keys {
			k := &e.Authority.Keys[i]
			all = append(all, generation{k.ID, k.Phase, k.Rollout, 0})
		}
		return all
	}
	for i := range e.Authority.CAs {
		c := &e.Authority.CAs[i]
		all = append(all, generation{c.ID, c.Phase, c.Rollout, c.Bundle})
	}
	return all
}

// find returns the generation that matches, the zero value if there is none.
func (e *evaluation) find(match func(generation) bool) generation {
	for _, g := range e.generations() {
		if match(g) {
			return g
		}
	}
	return generation{}
}

// gone reports whether a generation is not trusted, or not there at all.
func (g generation) gone() bool { return g.phase == fleet.PhaseRetired || g.phase == "" }

func (e *evaluation) from() generation {
	return e.find(func(g generation) bool { return g.id == e.r.From })
}

// to returns the generation that this rollout has made, whatever the rollout
// knows of it.
func (e *evaluation) to() generation {
	return e.find(func(g generation) bool { return g.rollout == e.r.ID || e.r.To != "" && g.id == e.r.To })
}

// forward goes on from one phase to the next where its gate is open, and asks the
// issuer for what the phase needs. What the issuer has done already is not asked
// for, so a rollout whose document is behind catches up.
func (e *evaluation) forward() {
	to := e.to()
	if to.phase == fleet.PhaseIncoming || to.phase == "" {
		e.settleFrom()
	}
	if to.phase == fleet.PhaseRetired || to.phase == "" && e.r.Phase != fleet.RolloutPrepare {
		e.lost()
		return
	}
	switch e.r.Phase {
	case fleet.RolloutPrepare:
		e.prepare(to)
	case fleet.RolloutTrusted:
		e.trust(to)
	case fleet.RolloutActivate:
		e.activate(to)
	case fleet.RolloutReissued, fleet.RolloutRetire:
		switch {
		case to.phase == fleet.PhaseIncoming: // a restore from a backup has brought this back
			e.command(fleet.MoveActivate, to.id)
		case e.r.Phase == fleet.RolloutRetire:
			e.retire(to)
		default:
			e.leave(to)
		}
	case fleet.RolloutCompleted, fleet.RolloutRollback, fleet.RolloutRolledBack: // not here
	}
}

// old returns the generations that go when this rollout has ended: all that have
// signed, as one that was taken over has left its own.
func (e *evaluation) old(to generation) []string {
	var all []string
	for _, g := range e.generations() {
		if g.id != to.id && (g.phase == fleet.PhaseActive || g.phase == fleet.PhaseOutgoing) {
			all = append(all, g.id)
		}
	}
	return all
}

func (e *evaluation) tainted() bool { return e.r.Reason == fleet.RolloutTainted }

// awaitsWord reports whether the compromised CA is used by nobody, and an operator
// has to say that it goes.
func (e *evaluation) awaitsWord() bool {
	return e.tainted() && e.r.Phase == fleet.RolloutRetire && !e.r.RetireAsked
}

func (e *evaluation) prepare(to generation) {
	if to.phase == "" {
		// What another rollout has left behind was asked for before it was taken
		// back, and made after: it has to go first.
		if stray := e.stray(); stray.id != "" {
			e.withdraw(stray)
			return
		}
		e.command(fleet.MovePrepare, "")
		return
	}
	e.r.To, e.r.Bundle = to.id, to.bundle
	if e.Kind == fleet.RolloutCA && e.r.Bundle == 0 {
		e.r.Bundle = e.Authority.Bundle.Version
	}
	if e.tainted() {
		e.enter(fleet.RolloutActivate)
		return
	}
	e.enter(fleet.RolloutTrusted)
}

// stray returns an incoming generation of another rollout.
func (e *evaluation) stray() generation {
	return e.find(func(g generation) bool {
		return g.phase == fleet.PhaseIncoming && g.rollout != "" && g.rollout != e.r.ID
	})
}

// withdraw takes back a generation of another rollout.
func (e *evaluation) withdraw(g generation) {
	mine := e.r
	e.r.ID, e.r.Kind = g.rollout, e.Kind
	e.command(fleet.MoveWithdraw, g.id)
	e.r = mine
}

// tidy takes back what the issuer has made for a rollout that was taken back
// before.
func (e *evaluation) tidy() {
	if last := e.Rollout; last != nil && last.Phase == fleet.RolloutRolledBack {
		if late := e.find(func(g generation) bool { return g.phase == fleet.PhaseIncoming && g.rollout == last.ID }); late.id != "" {
			e.r = *last
			e.withdraw(late)
		}
	}
}

func (e *evaluation) trust(to generation) {
	switch {
	case to.phase != fleet.PhaseIncoming, e.tainted(): // it signs: the one before has expired, and there was no other way; or it has to at once
		e.enter(fleet.RolloutActivate)
	case e.trusted():
		e.fact(event.AuthorityTrusted, event.Rollout{})
		e.enter(fleet.RolloutActivate)
	}
}

func (e *evaluation) activate(to generation) {
	switch {
	case to.phase == fleet.PhaseIncoming:
		e.command(fleet.MoveActivate, to.id)
	case e.Kind == fleet.RolloutToken: // the issuer retires the old key with the last token that it has signed
		e.complete()
	default:
		e.enter(fleet.RolloutReissued)
	}
}

// leave waits until nobody uses an old CA.
func (e *evaluation) leave(to generation) {
	old := e.old(to)
	off := len(old) == 0 || e.soaked(old...)
	e.mark()
	if off {
		e.enter(fleet.RolloutRetire)
	}
}

// retire makes sure, before the old CA goes, that nobody has come back to it: a
// request may have been signed by it while it was replaced.
func (e *evaluation) retire(to generation) {
	old := e.old(to)
	off := len(old) == 0 || e.soaked(old...)
	switch {
	case e.mark(): // on a list of what is revoked it stands also when it is gone
	case len(old) == 0:
		e.complete()
	case off && !e.awaitsWord():
		e.command(fleet.MoveRetire, old[0])
	}
}

func (e *evaluation) complete() {
	e.cancel()
	e.fact(event.AuthorityCompleted, event.Rollout{})
	e.enter(fleet.RolloutCompleted)
}

// lost ends a rollout whose new generation is gone: it was withdrawn, or a restore
// from a backup has brought a time before it.
func (e *evaluation) lost() {
	if e.r.Phase.May(fleet.RolloutRollback) {
		e.enter(fleet.RolloutRollback)
		return
	}
	e.rolledBack()
}

func (e *evaluation) rolledBack() {
	e.cancel()
	e.fact(event.AuthorityRolledBack, event.Rollout{})
	e.enter(fleet.RolloutRolledBack)
}

// back goes the way back. The old CA signs again first; then everybody leaves the
// new one, and then it is not trusted any more. If the old one has expired
// meanwhile, there is no way back, and what is so stays.
func (e *evaluation) back() {
	to, from := e.to(), e.from()
	switch {
	case to.gone():
		if !e.mark() {
			e.rolledBack()
		}
	case to.phase == fleet.PhaseIncoming:
		e.command(fleet.MoveWithdraw, to.id)
	case from.gone():
		e.complete()
	case to.phase == fleet.PhaseActive:
		e.abandon()
		e.command(fleet.MoveRestore, from.id)
	case e.Kind == fleet.RolloutToken: // the issuer retires it with the last token that it has signed
		e.rolledBack()
	default:
		if off := e.soaked(to.id); !e.mark() && off {
			e.command(fleet.MoveRetire, to.id)
		}
	}
}

// soaked reports whether nobody has used any of these CAs for a while: a call whose program has
// read its certificate a moment before it was replaced may still be under way, and
// so may a connection that it has opened. Until then there is the way back.
func (e *evaluation) soaked(cas ...string) bool {
	if !e.reissued(cas) {
		if e.Complete {
			e.r.LastReplacedAt, e.r.OpensAt = time.Time{}, time.Time{} // somebody has come back to one
		}
		return false
	}
	if e.r.LastReplacedAt.IsZero() {
		e.r.LastReplacedAt = e.Now
	}
	if e.tainted() {
		return true // an operator says when it goes, and on the way back nobody waits
	}
	e.r.OpensAt = e.r.LastReplacedAt.Add(e.policy().Soak.Std())
	return e.passed(e.r.OpensAt)
}
