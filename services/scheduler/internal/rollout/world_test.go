package rollout

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

var start0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is all that is stored, and stand-ins for the issuer, the agents and the
// rotation of the clients that do what they are told between two decisions.
type world struct {
	t         *testing.T
	now       time.Time
	rollouts  map[fleet.RolloutKind]*fleet.Rollout
	authority fleet.Authority
	told      Told
	rotations map[string]*fleet.Rotation
	agents    map[string]*fleet.Agent
	records   map[string]*fleet.Credentials
	settings  fleet.Settings

	commands []event.PhaseCommand
	moves    []fleet.Move
	facts    []Fact
	effects  int // that were carried out
	kill     int // the effect before which the process dies; 0 for none
	dead     bool
}

var kms, csi = fleet.ClientKey{Kind: "kms"}, fleet.ClientKey{Kind: "csi"}

func newWorld(t *testing.T, clusters ...string) *world {
	w := &world{
		t: t, now: start0.Add(10 * fleet.Day), rollouts: map[fleet.RolloutKind]*fleet.Rollout{}, rotations: map[string]*fleet.Rotation{},
		agents: map[string]*fleet.Agent{}, records: map[string]*fleet.Credentials{},
	}
	w.authority = fleet.Authority{
		CAs:    []fleet.CA{w.ca(1, fleet.PhaseActive, "")},
		Keys:   []fleet.SigningKey{{ID: "key-1", Number: 1, Phase: fleet.PhaseActive, CreatedAt: start0, ActivatedAt: start0}},
		Bundle: fleet.TrustBundle{Version: 1, Signed: "bundle 1"},
	}
	for _, name := range clusters {
		w.agents[name] = &fleet.Agent{ID: "agent-" + name, LastSeen: w.now}
		w.records[name] = &fleet.Credentials{Clients: map[fleet.ClientKey]*fleet.Record{kms: {}, csi: {}}}
		w.issue(name)
	}
	w.agree()
	return w
}

func (w *world) ca(number int, phase fleet.Phase, rollout string) fleet.CA {
	return fleet.CA{
		ID: "ca-" + strconv.Itoa(number), Number: number, Phase: phase, Rollout: rollout,
		NotBefore: w.now.Add(-fleet.Backdate), NotAfter: w.now.Add(365 * fleet.Day), Bundle: w.authority.Bundle.Version + 1,
	}
}

// issue gives every client of a cluster a proven generation of the active CA.
func (w *world) issue(cluster string) {
	for _, r := range w.records[cluster].Clients {
		n := r.Number() + 1
		for i := range r.Generations {
			r.Generations[i].Step = fleet.StepSuperseded
		}
		r.Generations = append(r.Generations, fleet.Generation{
			Number: n, Step: fleet.StepProven, At: w.now, Agent: w.agents[cluster].ID, RenewAt: w.now.Add(45 * fleet.Day),
			Certificate: fleet.Certificate{Issuer: w.authority.ActiveCA().ID, NotAfter: w.now.Add(90 * fleet.Day)},
			Token:       fleet.Token{ExpiresAt: w.now.Add(90 * fleet.Day)},
		})
	}
}

// agree has every agent load the bundle and shake hands.
func (w *world) agree() {
	for _, a := range w.agents {
		a.LastSeen, a.Bundle, a.BundleHash = w.now, w.authority.Bundle.Version, w.authority.Bundle.Hash()
		if c := w.authority.IncomingCA(); c != nil {
			a.Canary = &fleet.CanaryProof{CA: c.ID, Since: w.now}
		}
	}
}

// obey is the issuer: it does what is in order, and refuses all else.
func (w *world) obey() {
	for _, c := range w.commands {
		if w.done(c) {
			w.mark(c)
			continue
		}
		if why := w.execute(c); why != "" {
			w.authority.Refused = &fleet.RefusedMove{Rollout: c.Rollout, Kind: c.Kind, Move: c.Move, Why: why, At: w.now}
			continue
		}
		w.mark(c)
		w.moves = append(w.moves, c.Move)
		w.authority.Refused = nil
		w.authority.Bundle.Version++
		w.authority.Bundle.Signed = fmt.Sprintf("bundle %d", w.authority.Bundle.Version)
	}
	w.commands = nil
}

// mark marks what is compromised.
func (w *world) mark(c event.PhaseCommand) {
	for _, id := range c.Compromised {
		if ca := w.authority.FindCA(id); ca != nil && ca.TaintedAt.IsZero() {
			ca.TaintedAt = w.now
		}
	}
}

func (w *world) phase(c event.PhaseCommand) (of func(id string) *fleet.Phase, made func() *fleet.Phase) {
	if c.Kind == fleet.RolloutToken {
		of = func(id string) *fleet.Phase {
			if k := w.authority.FindKey(id); k != nil {
				return &k.Phase
			}
			return nil
		}
		return of, func() *fleet.Phase {
			for i := range w.authority.Keys {
				if w.authority.Keys[i].Rollout == c.Rollout {
					return &w.authority.Keys[i].Phase
				}
			}
			return nil
		}
	}
	of = func(id string) *fleet.Phase {
		if ca := w.authority.FindCA(id); ca != nil {
			return &ca.Phase
		}
		return nil
	}
	return of, func() *fleet.Phase {
		for i := range w.authority.CAs {
			if w.authority.CAs[i].Rollout == c.Rollout {
				return &w.authority.CAs[i].Phase
			}
		}
		return nil
	}
}

func (w *world) done(c event.PhaseCommand) bool {
	of, made := w.phase(c)
	is := func(p *fleet.Phase, phase fleet.Phase) bool { return p != nil && *p == phase }
	switch c.Move {
	case fleet.MovePrepare:
		return made() != nil
	case fleet.MoveActivate, fleet.MoveRestore:
		return is(of(c.ID), fleet.PhaseActive)
	case fleet.MoveTaint:
		return false
	default:
		return is(of(c.ID), fleet.PhaseRetired)
	}
}

func (w *world) execute(c event.PhaseCommand) (refusal string) {
	of, _ := w.phase(c)
	from := of(c.From)
	switch c.Move {
	case fleet.MovePrepare:
		n := len(w.authority.CAs) + 1
		if c.Kind == fleet.RolloutToken {
			n = len(w.authority.Keys) + 1
			w.authority.Keys = append(w.authority.Keys, fleet.SigningKey{ID: "key-" + strconv.Itoa(n), Number: n, Phase: fleet.PhaseIncoming, Rollout: c.Rollout, CreatedAt: w.now})
			return ""
		}
		switch outgoing := slices.ContainsFunc(w.authority.CAs, func(ca fleet.CA) bool { return ca.Phase == fleet.PhaseOutgoing }); {
		case w.authority.IncomingCA() != nil:
			return "there is one that comes"
		case *from != fleet.PhaseActive:
			return "another one signs"
		case outgoing && !c.Tainted:
			return "there is one that goes"
		}
		w.authority.CAs = append(w.authority.CAs, w.ca(n, fleet.PhaseIncoming, c.Rollout))
	case fleet.MoveActivate:
		if p := of(c.ID); *p != fleet.PhaseIncoming || *from != fleet.PhaseActive || c.Kind == fleet.RolloutCA && !w.authority.FindCA(c.ID).TaintedAt.IsZero() {
			return "it does not come"
		}
		*of(c.ID), *from = fleet.PhaseActive, fleet.PhaseOutgoing
	case fleet.MoveRestore:
		if ca := w.authority.FindCA(c.ID); ca != nil && (!ca.TaintedAt.IsZero() || w.authority.ActiveCA().Rollout != c.Rollout || ca.Phase != fleet.PhaseOutgoing) {
			return "it does not sign again"
		}
		for i := range w.authority.CAs {
			if w.authority.CAs[i].Phase == fleet.PhaseActive && c.Kind == fleet.RolloutCA {
				w.authority.CAs[i].Phase = fleet.PhaseOutgoing
			}
		}
		for i := range w.authority.Keys {
			if w.authority.Keys[i].Phase == fleet.PhaseActive && c.Kind == fleet.RolloutToken {
				w.authority.Keys[i].Phase = fleet.PhaseOutgoing
			}
		}
		*of(c.ID) = fleet.PhaseActive
	case fleet.MoveTaint:
		if w.authority.FindCA(c.ID) == nil {
			return "there is no such CA"
		}
	case fleet.MoveWithdraw:
		if *of(c.ID) != fleet.PhaseIncoming {
			return "it signs"
		}
		*of(c.ID) = fleet.PhaseRetired
	case fleet.MoveRetire:
		if *of(c.ID) != fleet.PhaseOutgoing {
			return "it signs"
		}
		for name, doc := range w.records {
			for key, r := range doc.Clients {
				if r.CALive(c.ID, w.now) != nil && !slices.Contains(c.Except, name) {
					return fmt.Sprintf("%s/%s uses it", name, key)
				}
			}
		}
		*of(c.ID) = fleet.PhaseRetired
	}
	return ""
}

// rotate has the rotations of the clients come to their end.
func (w *world) rotate() {
	for _, r := range w.rotations {
		if r.State != fleet.RotationRunning {
			continue
		}
		if r.Cancel != nil {
			r.State = fleet.RotationCancelled
			continue
		}
		for _, name := range r.Clusters {
			if !r.Excluded(name) && w.records[name] != nil {
				w.issue(name)
			}
		}
		r.State, r.EndedAt = fleet.RotationCompleted, w.now
	}
}

func (w *world) input(kind fleet.RolloutKind) Input {
	r := w.rollouts[kind]
	in := Input{
		Kind: kind, Rollout: r, CA: w.rollouts[fleet.RolloutCA], Authority: w.authority, Settings: w.settings, Leaf: 90 * fleet.Day,
		Standings: map[string]Standing{}, Complete: true, Told: w.told, Heard: 10 * time.Minute, Now: w.now,
	}
	in.Authority.CAs, in.Authority.Keys = slices.Clone(w.authority.CAs), slices.Clone(w.authority.Keys)
	if about := AboutOf(w.rollouts[fleet.RolloutCA], &w.authority); kind == fleet.RolloutCA && about.Rollout != "" {
		for name := range w.records {
			in.Standings[name] = StandingOf(about, Look{
				Authority: &w.authority, Cluster: &fleet.Cluster{Name: name, Clients: []fleet.ClientKey{kms, csi}}, Agent: w.agents[name], Records: w.records[name], Now: w.now,
			})
		}
	}
	if r != nil {
		in.Reissue = w.rotations[r.Reissue]
	}
	return in
}

// effect carries one out, unless the process dies before it.
func (w *world) effect(f func()) {
	if w.effects++; w.effects == w.kill {
		w.dead = true
	}
	if !w.dead {
		f()
	}
}

// decide decides once and carries it out, and reports whether that did anything.
func (w *world) decide(kind fleet.RolloutKind) bool {
	w.dead = false
	before := w.effects
	d := Decide(w.input(kind))
	for _, f := range d.Facts {
		w.effect(func() { w.facts = append(w.facts, f) })
	}
	for _, c := range d.Steer {
		w.effect(func() { w.steer(c) })
	}
	if d.Reissue != nil {
		w.effect(func() {
			if w.rotations[d.Reissue.Rotation.ID] == nil {
				r := d.Reissue.Rotation
				w.rotations[r.ID] = &r
			}
		})
	}
	if d.Told != nil {
		w.effect(func() { w.told = *d.Told })
	}
	if d.Rollout != nil {
		w.effect(func() { w.rollouts[kind] = d.Rollout })
	}
	if d.Command != nil {
		w.effect(func() { w.commands = append(w.commands, d.Command.Data) })
	}
	return w.effects > before
}

func (w *world) steer(c event.SteerCommand) {
	r := w.rotations[c.Rotation]
	switch c.Action {
	case event.SteerCancel:
		r.Cancel = &fleet.Cancel{By: c.By, At: c.At}
	case event.SteerExclude:
		if r.Exclusions == nil {
			r.Exclusions = map[string]fleet.Exclusion{}
		}
		r.Exclusions[c.Cluster] = fleet.Exclusion{At: c.At}
	case event.SteerResume:
		r.State = fleet.RotationRunning
	case event.SteerInclude:
		delete(r.Exclusions, c.Cluster)
	}
}

// command applies a command of an operator.
func (w *world) command(c event.RolloutCommand) error {
	c.By, c.At = "admin", w.now
	r := w.rollouts[c.Kind]
	s := Stand{Rollout: r, Authority: w.authority, Known: func(name string) bool { return w.records[name] != nil }, Now: w.now}
	if r != nil {
		s.Reissue = w.rotations[r.Reissue]
		if c.Rollout == "" {
			c.Rollout = r.ID
		}
	}
	turn, err := Steer(c, s)
	w.facts = append(w.facts, turn.Facts...)
	if turn.Steer != nil {
		w.steer(*turn.Steer)
	}
	if turn.Rollout != nil {
		w.rollouts[c.Kind] = turn.Rollout
	}
	return err
}

func (w *world) must(c event.RolloutCommand) {
	w.t.Helper()
	if err := w.command(c); err != nil {
		w.t.Fatal(err)
	}
}

// run goes on until the rollout is in a phase, with all others doing their part.
func (w *world) run(kind fleet.RolloutKind, until fleet.RolloutPhase) *fleet.Rollout {
	w.t.Helper()
	for range 200 {
		if r := w.rollouts[kind]; r != nil && r.Phase == until {
			return r
		}
		w.step(kind)
	}
	w.t.Fatalf("not in phase %s: %+v; refused %+v", until, w.rollouts[kind], w.authority.Refused)
	return nil
}

func (w *world) step(kind fleet.RolloutKind) {
	w.now = w.now.Add(2 * time.Minute)
	w.decide(kind)
	w.obey()
	w.agree()
	w.rotate()
}
