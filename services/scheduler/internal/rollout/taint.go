package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// taint applies an operator's word that a CA is compromised while a rotation is
// under way. One that leads away from it turns into an emergency, where it is. One
// that leads to it is taken over by another, in the same write, so that there is
// never none: that one withdraws what has not signed yet, and else replaces it like
// any compromised CA.
func taint(c event.RolloutCommand, s Stand) (Turn, error) {
	r, ca := s.Rollout, s.Authority.FindCA(c.CA)
	switch {
	case c.CA == "":
		return refused(r, "it is not said which CA is compromised, and more than one may be trusted")
	case ca == nil:
		return Turn{}, fmt.Errorf("%w: CA %s", fleet.ErrNotFound, c.CA)
	case r.Tainted(ca.ID):
		return Turn{}, nil // a repeat
	case ca.Phase == fleet.PhaseRetired:
		return refused(r, "CA "+ca.ID+" is trusted by nobody any more")
	}
	from := s.Authority.FindCA(r.From)
	stranded := r.Phase == fleet.RolloutRollback && (from == nil || from.Phase == fleet.PhaseRetired)
	switch {
	case r.LeadsTo(&s.Authority) != ca.ID && !stranded:
		return hasten(c, s)
	case r.Reason == fleet.RolloutImported && ca.Phase == fleet.PhaseIncoming:
		// The next one comes from the operator's offline root, not from here.
		return abort(c, s)
	}
	return takeOver(c, s)
}

// compromised adds what an operator says to what a rollout knows.
func compromised(r fleet.Rollout, c event.RolloutCommand) fleet.Rollout {
	r.Compromised = append(slices.Clone(r.TaintedCAs()), c.CA)
	if r.Reason != fleet.RolloutTainted || r.ID == c.Rollout {
		r.TaintedAt = c.At
	}
	return r
}

// hasten makes an emergency of a rotation that leads away from a compromised CA.
// What takes the clients off it in waves is replaced by what has no waves.
func hasten(c event.RolloutCommand, s Stand) (Turn, error) {
	next := compromised(*s.Rollout, c)
	if next.Reason == fleet.RolloutTainted {
		return Turn{Rollout: &next}, nil
	}
	next.Reason = fleet.RolloutTainted
	next.Halted, next.LastReplacedAt, next.OpensAt = "", time.Time{}, time.Time{}
	if next.Reissue == ReissueID(&next) {
		next.Attempt++
	}
	if next.LeadsTo(&s.Authority) == "" { // the issuer may refuse what was brought, and nobody waits for another
		next.Certificate, next.Anchor = nil, nil
	}
	return Turn{Rollout: &next}, nil
}

// abort takes back the import of a CA that is compromised before it has signed.
func abort(c event.RolloutCommand, s Stand) (Turn, error) {
	next, err := compromised(*s.Rollout, c).Enter(fleet.RolloutRollback, s.Now)
	return Turn{Rollout: &next}, err
}

// takeOver begins a rotation in place of one that leads to a compromised CA. It
// goes by proof if that one has never signed, and is an emergency else.
func takeOver(c event.RolloutCommand, s Stand) (Turn, error) {
	r := s.Rollout
	active := s.Authority.ActiveCA()
	if active == nil {
		return refused(r, "no CA signs")
	}
	next := compromised(fleet.Rollout{
		ID: c.Rollout, Kind: r.Kind, Reason: r.Reason, Phase: fleet.RolloutPrepare, By: c.By, CreatedAt: c.At,
		Steps: []fleet.RolloutStep{{Phase: fleet.RolloutPrepare, At: s.Now}}, From: active.ID, Compromised: r.TaintedCAs(),
		Replaces: r.ID, Canary: r.Canary, MaxParallel: r.MaxParallel, Excluded: r.Excluded, Reissue: r.Reissue, Trace: s.Trace,
	}, c)
	if s.Authority.FindCA(c.CA).Phase != fleet.PhaseIncoming {
		next.Reason = fleet.RolloutTainted
	}
	e := evaluation{Input: Input{Kind: r.Kind, Now: c.At}, r: *r}
	e.fact(event.AuthorityRolledBack, event.Rollout{ReplacedBy: next.ID})
	return Turn{Facts: e.out.Facts, Rollout: &next}, nil
}

// settleFrom says which CA is replaced, in a rotation that has taken over another:
// what was asked of the issuer for that one may still have its effect.
func (e *evaluation) settleFrom() {
	active := e.find(func(g generation) bool { return g.phase == fleet.PhaseActive })
	if e.r.Replaces == "" || active.id == "" {
		return
	}
	e.r.From = active.id
	if e.r.Tainted(active.id) {
		e.r.Reason = fleet.RolloutTainted
	}
}

// mark asks the issuer to mark a CA as compromised that is not yet, and reports
// whether there is one. Every other command has it marked with its own change.
func (e *evaluation) mark() bool {
	for i := range e.Authority.CAs {
		if ca := &e.Authority.CAs[i]; e.Kind == fleet.RolloutCA && ca.TaintedAt.IsZero() && e.r.Tainted(ca.ID) {
			e.command(fleet.MoveTaint, ca.ID)
			return true
		}
	}
	return false
}
