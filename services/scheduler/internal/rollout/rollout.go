// Package rollout decides how a rotation of the authority goes on: of the CA, or
// of the key that signs tokens. It is a function of what is stored: no clock, no
// network, no memory. A step is one change of one document, and the next one
// follows from what is stored then, so a process that dies between any two of
// them is followed by one that comes to the same end.
//
// Facts are published before the document that says so is stored. A command to
// the issuer comes after the document of its phase; that it had its effect is
// seen in the document of the authority and nowhere else.
package rollout

import (
	"slices"
	"strconv"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// source names the publisher of everything that is decided here.
const source = "scheduler"

// Input is everything that a decision depends on.
type Input struct {
	Kind      fleet.RolloutKind
	Rollout   *fleet.Rollout // the last one of its kind, nil if there was none
	CA        *fleet.Rollout // of a token key: the last one of the CA
	Authority fleet.Authority
	Settings  fleet.Settings
	Leaf      time.Duration       // the longest life of a certificate or token that any policy gives
	Standings map[string]Standing // of each cluster, about this rollout
	Complete  bool                // no cluster of the fleet that is waited for lacks its standing
	Unseen    []string            // of those that lack it, the ones for which it should be there by now
	Reissue   *fleet.Rotation     // the rotation that Rollout.Reissue names, nil if there is none
	Told      Told
	Heard     time.Duration // how recent the last call of an agent must be, on the clock of the fleet
	Now       time.Time
}

// Decision is what follows from an Input. Its parts are carried out in the order
// of the fields; then what follows is decided anew.
type Decision struct {
	Facts   []Fact
	Steer   []event.SteerCommand // of the rotation of the clients
	Reissue *Reissue             // a rotation of the clients to begin
	Told    *Told                // to be stored, if not nil
	Rollout *fleet.Rollout       // to be stored, if not nil
	Minor   bool                 // it differs in counts alone, and may be stored later
	Command *Command             // to the issuer, again and again until it had its effect
	Next    time.Time            // when to decide again though nothing changes; zero if never
}

// Fact is an event to publish.
type Fact struct {
	Kind event.Kind[event.Rollout]
	Meta event.Meta
	Data event.Rollout
}

// Reissue is a rotation of the clients. It is in waves if there are options for
// them.
type Reissue struct {
	Rotation fleet.Rotation
	Waves    *fleet.WaveOptions
}

// Command is a command to the issuer.
type Command struct {
	Meta event.Meta
	Data event.PhaseCommand
}

// Decide decides. It does not change its input.
func Decide(in Input) Decision {
	e := &evaluation{Input: in}
	e.due()
	switch {
	case in.Authority.Restoring || len(e.generations()) == 0:
		return e.out // nobody signs
	case in.Rollout == nil || in.Rollout.Phase.Done():
		e.tidy()
		e.begin()
		return e.out
	}
	e.r = *in.Rollout
	e.r.Halted, e.r.Missing, e.r.MissingCount, e.r.Ready, e.r.Total = "", nil, 0, 0, 0
	if e.r.Phase == fleet.RolloutRollback {
		e.back()
	} else {
		e.forward()
	}
	e.refusal()
	e.held()
	e.settle()
	return e.out
}

type evaluation struct {
	Input
	r   fleet.Rollout // as it shall be stored
	out Decision
}

// settle stores the rollout if it has changed.
func (e *evaluation) settle() {
	if equal(&e.r, e.Rollout) {
		return
	}
	after, before := e.r, *e.Rollout
	for _, r := range []*fleet.Rollout{&after, &before} {
		r.Ready, r.Total, r.Missing, r.MissingCount = 0, 0, nil, 0
	}
	e.out.Minor = equal(&after, &before)
	stored := e.r
	e.out.Rollout = &stored
}

// equal compares what is changed here.
func equal(a, b *fleet.Rollout) bool {
	same := func(a, b fleet.Laggard) bool {
		return a.Cluster == b.Cluster && a.Why == b.Why && a.Since.Equal(b.Since) &&
			(a.Client == nil) == (b.Client == nil) && (a.Client == nil || *a.Client == *b.Client)
	}
	return a.Phase == b.Phase && a.Reason == b.Reason && a.From == b.From && a.To == b.To && a.Bundle == b.Bundle && a.Reissue == b.Reissue && a.Attempt == b.Attempt &&
		a.Halted == b.Halted && a.Held == b.Held && a.Ready == b.Ready && a.Total == b.Total && a.MissingCount == b.MissingCount &&
		a.OpensAt.Equal(b.OpensAt) && a.LastReplacedAt.Equal(b.LastReplacedAt) && slices.EqualFunc(a.Missing, b.Missing, same)
}

// wake makes sure that it is decided again at moments to come.
func (e *evaluation) wake(moments ...time.Time) {
	for _, m := range moments {
		if m.After(e.Now) && (e.out.Next.IsZero() || m.Before(e.out.Next)) {
			e.out.Next = m
		}
	}
}

// passed reports whether a moment has come; if not, it is decided again then.
func (e *evaluation) passed(moment time.Time) bool {
	e.wake(moment)
	return !e.Now.Before(moment)
}

// enter goes on to a phase. The table of fleet.RolloutPhase has every step that
// is made here: tests walk them all.
func (e *evaluation) enter(next fleet.RolloutPhase) {
	moved, err := e.r.Enter(next, e.Now)
	if err == nil {
		e.r = moved
	}
}

// fact adds a fact about the rollout.
func (e *evaluation) fact(kind event.Kind[event.Rollout], data event.Rollout, key ...string) {
	data.Rollout, data.Kind, data.Reason, data.Phase = e.r.ID, e.r.Kind, e.r.Reason, e.r.Phase
	data.From, data.To = e.r.From, e.r.To
	e.out.Facts = append(e.out.Facts, Fact{Kind: kind, Data: data, Meta: event.Meta{
		Source: source, Cluster: event.FleetWide, Key: append([]string{e.r.ID}, key...), Time: e.Now.UTC(),
	}})
}

// command asks the issuer for a change of phase.
func (e *evaluation) command(move fleet.Move, id string) {
	at := e.Now.UTC().Truncate(time.Second)
	c := event.PhaseCommand{Rollout: e.r.ID, Kind: e.r.Kind, Move: move, ID: id, From: e.r.From, By: e.r.By, At: at, Compromised: e.r.TaintedCAs()}
	switch move {
	case fleet.MovePrepare:
		c.Certificate, c.Anchor = e.r.Certificate, e.r.Anchor
		if c.Kind == fleet.RolloutCA {
			c.Life = e.policy().Life
		}
		c.Tainted = e.r.Reason == fleet.RolloutTainted
	case fleet.MoveActivate:
		c.Bundle, c.Tainted = e.r.Bundle, e.r.Reason == fleet.RolloutTainted
	case fleet.MoveRetire:
		for cluster := range e.r.Excluded {
			c.Except = append(c.Except, cluster)
		}
		slices.Sort(c.Except)
	case fleet.MoveWithdraw, fleet.MoveRestore, fleet.MoveTaint:
	}
	e.out.Command = &Command{Data: c, Meta: event.Meta{
		Source: source, Cluster: event.FleetWide, Key: []string{c.Rollout, string(move), id, e.Now.UTC().Format(time.RFC3339Nano)}, Time: at,
	}}
}

// refusal says so if the issuer refuses what it is asked for.
func (e *evaluation) refusal() {
	refused := e.Authority.Refused
	if c := e.out.Command; c != nil && refused != nil && refused.Rollout == e.r.ID && refused.Kind == e.Kind && refused.Move == c.Data.Move {
		e.r.Halted = "the issuer refuses: " + refused.Why
	}
}

// held tells of a rollout that has waited for a day in one phase, for somebody or for
// the issuer, and again each day while it does. After a pause only the last day is told. Under a fast clock a
// day is no time for an agent that lives on the machine's.
func (e *evaluation) held() {
	waits := e.r.MissingCount > 0 || e.r.Halted != "" || e.awaitsWord() || e.out.Command != nil
	if e.r.Phase != e.Rollout.Phase || e.r.Phase.Done() || !waits {
		return
	}
	since, day := e.r.Since(), max(fleet.Day, e.Heard)
	if days := int(e.Now.Sub(since) / day); days > e.r.Held {
		e.r.Held = days
		missing := e.r.Missing[:min(len(e.r.Missing), event.MaxFailures)]
		data := event.Rollout{Level: days, Since: since, Missing: missing, Count: e.r.MissingCount, Halted: e.r.Halted}
		e.fact(event.AuthorityHeld, data, string(e.r.Phase), strconv.Itoa(days))
	}
	e.wake(since.Add(time.Duration(e.r.Held+1) * day))
}
