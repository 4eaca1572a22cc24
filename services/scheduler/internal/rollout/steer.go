package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Stand is what a command of an operator meets.
type Stand struct {
	Rollout   *fleet.Rollout // the last one of the kind, nil if there was none
	Authority fleet.Authority
	Reissue   *fleet.Rotation           // the rotation that Rollout.Reissue names, nil if there is none
	Known     func(cluster string) bool // whether a cluster is in the fleet
	Trace     string
	Now       time.Time
}

// Turn is what follows from a command, in the order of the fields.
type Turn struct {
	Facts   []Fact
	Steer   *event.SteerCommand // of the rotation of the clients
	Rollout *fleet.Rollout      // to be stored, nil if nothing changes
}

// Steer applies a command of an operator. A repeat changes nothing. The error is
// fleet.ErrInvalid of a command that can never make sense, or fleet.ErrConflict or
// fleet.ErrNotFound of one that makes none as things stand.
func Steer(c event.RolloutCommand, s Stand) (Turn, error) {
	if c.Kind != fleet.RolloutCA && c.Kind != fleet.RolloutToken {
		return Turn{}, fmt.Errorf("%w: rotation of the authority %s: kind %q: use ca or token", fleet.ErrInvalid, c.Rollout, c.Kind)
	}
	if c.Action == event.RolloutStart {
		return start(c, s)
	}
	r := s.Rollout
	if r == nil || r.ID != c.Rollout {
		return Turn{}, fmt.Errorf("%w: rotation of the authority %s", fleet.ErrNotFound, c.Rollout)
	}
	switch c.Action {
	case event.RolloutBack:
		return back(s)
	case event.RolloutResume:
		return resume(c, s)
	case event.RolloutExclude, event.RolloutInclude:
		return exclude(c, s)
	case event.RolloutRetireIt:
		return retire(s)
	default:
		return Turn{}, fmt.Errorf("%w: rotation of the authority %s: action %q: use start, rollback, resume, exclude, include or retire", fleet.ErrInvalid, c.Rollout, c.Action)
	}
}

func refused(r *fleet.Rollout, why string) (Turn, error) {
	return Turn{}, fmt.Errorf("%w: rotation of the authority %s in phase %s: %s", fleet.ErrConflict, r.ID, r.Phase, why)
}

// start begins a rollout. A command that was told again long after it was done is
// older than the rollout that followed on it.
func start(c event.RolloutCommand, s Stand) (Turn, error) {
	last := s.Rollout
	e := evaluation{Input: Input{Kind: c.Kind, Authority: s.Authority}}
	active := e.find(func(g generation) bool { return g.phase == fleet.PhaseActive })
	compromised := s.Authority.FindCA(c.CA)
	made := e.find(func(g generation) bool { return g.rollout == c.Rollout })
	external := c.Reason == fleet.RolloutImported
	switch {
	case c.Rollout == "":
		return Turn{}, fmt.Errorf("%w: rotation of the authority: it has no id", fleet.ErrInvalid)
	case c.Reason != fleet.RolloutAsked && c.Reason != fleet.RolloutTainted && !external:
		return Turn{}, fmt.Errorf("%w: rotation of the authority %s: reason %q: use operator, import or taint", fleet.ErrInvalid, c.Rollout, c.Reason)
	case c.Kind == fleet.RolloutToken && c.Reason != fleet.RolloutAsked:
		return Turn{}, fmt.Errorf("%w: rotation of the authority %s: reason %q is of a CA", fleet.ErrInvalid, c.Rollout, c.Reason)
	case external != (len(c.Certificate) > 0), external != (len(c.Anchor) > 0):
		return Turn{}, fmt.Errorf("%w: rotation of the authority %s: certificate and anchor belong to an import", fleet.ErrInvalid, c.Rollout)
	case c.CA != "" && c.Reason != fleet.RolloutTainted:
		return Turn{}, fmt.Errorf("%w: rotation of the authority %s: ca belongs to a taint", fleet.ErrInvalid, c.Rollout)
	case c.MaxParallel < 0:
		return Turn{}, fmt.Errorf("%w: rotation of the authority %s: maxParallel %d: use at least 1, or 0 for the default", fleet.ErrInvalid, c.Rollout, c.MaxParallel)
	case last != nil && last.ID == c.Rollout:
		return Turn{}, nil // a repeat
	case c.Reason == fleet.RolloutTainted && last != nil && !last.Phase.Done():
		return taint(c, s)
	case last != nil && !last.Phase.Done():
		return refused(last, "it is under way, and there is one at a time")
	case made.id != "", last != nil && c.At.Before(last.CreatedAt) && c.CA == "":
		return Turn{}, fmt.Errorf("%w: rotation of the authority %s has ended", fleet.ErrConflict, c.Rollout)
	case active.id == "":
		return Turn{}, fmt.Errorf("%w: rotation of the authority %s: there is nothing to rotate yet", fleet.ErrConflict, c.Rollout)
	case c.CA != "" && compromised == nil:
		return Turn{}, fmt.Errorf("%w: CA %s", fleet.ErrNotFound, c.CA)
	case c.CA != "" && compromised.Phase != fleet.PhaseActive && compromised.Phase != fleet.PhaseOutgoing:
		return Turn{}, fmt.Errorf("%w: rotation of the authority %s: CA %s is %s: it signs nothing", fleet.ErrConflict, c.Rollout, c.CA, compromised.Phase)
	}
	next := fleet.Rollout{
		ID: c.Rollout, Kind: c.Kind, Reason: c.Reason, Phase: fleet.RolloutPrepare, By: c.By, CreatedAt: c.At,
		Steps: []fleet.RolloutStep{{Phase: fleet.RolloutPrepare, At: s.Now}}, From: active.id,
		Certificate: c.Certificate, Anchor: c.Anchor, Canary: c.Canary, MaxParallel: c.MaxParallel, Trace: s.Trace,
	}
	if c.Reason == fleet.RolloutTainted {
		next.Compromised, next.TaintedAt = []string{cmp.Or(c.CA, active.id)}, c.At
	}
	return Turn{Rollout: &next}, nil
}

// back takes a rollout back, until the old CA goes.
func back(s Stand) (Turn, error) {
	r := s.Rollout
	e := evaluation{Input: Input{Kind: r.Kind, Authority: s.Authority}, r: *r}
	switch {
	case r.Phase == fleet.RolloutRollback || r.Phase == fleet.RolloutRolledBack:
		return Turn{}, nil
	case r.Reason == fleet.RolloutTainted:
		return refused(r, "the old CA is compromised, there is no way back to it")
	case !r.Phase.May(fleet.RolloutRollback):
		return refused(r, "the old one is not trusted any more")
	case e.from().gone():
		return refused(r, "the old one has expired")
	}
	next, err := r.Enter(fleet.RolloutRollback, s.Now)
	return Turn{Rollout: &next}, err
}

// resume goes on after a halt.
func resume(c event.RolloutCommand, s Stand) (Turn, error) {
	r := s.Rollout
	if r.Halted == "" || r.Phase.Done() {
		return refused(r, "it is not halted")
	}
	switch rotation := s.Reissue; {
	case rotation != nil && rotation.State == fleet.RotationHalted && rotation.Halt != nil:
		return Turn{Steer: &event.SteerCommand{
			Rotation: rotation.ID, Action: event.SteerResume, Halt: rotation.Halt.Number, Reason: c.Why, By: c.By, At: c.At,
		}}, nil
	case rotation != nil && rotation.State.Done() && r.Reissue == ReissueID(r):
		next := *r
		next.Attempt, next.Halted = r.Attempt+1, ""
		return Turn{Rollout: &next}, nil
	}
	return Turn{}, nil // the issuer is asked again
}

// exclude waits no more for a cluster, or waits for it again. The rotation of the
// clients learns of an inclusion first, as it is not told of it again.
func exclude(c event.RolloutCommand, s Stand) (Turn, error) {
	r := s.Rollout
	x, excluded := r.Excluded[c.Cluster]
	next := *r
	next.Excluded = maps.Clone(r.Excluded)
	switch {
	case r.Kind != fleet.RolloutCA:
		return refused(r, "that of a token key waits for no cluster")
	case r.Phase.Done():
		return refused(r, "it has ended")
	case c.Action == event.RolloutExclude && excluded, c.Action == event.RolloutInclude && !excluded:
		return Turn{}, nil
	case c.Action == event.RolloutExclude && !s.Known(c.Cluster):
		return Turn{}, fmt.Errorf("%w: cluster %q", fleet.ErrNotFound, c.Cluster)
	case c.Action == event.RolloutExclude:
		if next.Excluded == nil {
			next.Excluded = map[string]fleet.Exclusion{}
		}
		next.Excluded[c.Cluster] = fleet.Exclusion{Reason: c.Why, By: c.By, At: c.At}
		return Turn{Rollout: &next}, nil
	case !c.At.After(x.At):
		return Turn{}, nil // it has come late
	}
	delete(next.Excluded, c.Cluster)
	turn := Turn{Rollout: &next}
	if s.Reissue != nil && s.Reissue.Excluded(c.Cluster) && !s.Reissue.State.Done() {
		turn.Steer = &event.SteerCommand{Rotation: s.Reissue.ID, Action: event.SteerInclude, Cluster: c.Cluster, By: c.By, At: c.At}
	}
	return turn, nil
}

// retire is the word of an operator that a compromised CA goes.
func retire(s Stand) (Turn, error) {
	r := s.Rollout
	switch {
	case r.Reason != fleet.RolloutTainted:
		return refused(r, "the old CA goes by itself, once nobody uses it")
	case r.RetireAsked || r.Phase == fleet.RolloutCompleted:
		return Turn{}, nil
	case r.Phase != fleet.RolloutRetire:
		return refused(r, "the compromised CA is still in use")
	}
	next := *r
	next.RetireAsked = true
	return Turn{Rollout: &next}, nil
}
