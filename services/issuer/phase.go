package issuer

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"

	"github.com/rotor-fleet/rotor/services/issuer/internal/phase"
)

// mover changes the phases of the authority as rotations of it ask. What may
// follow on what is decided by package phase; who still needs a generation it sees
// for itself. It is safe for concurrent use, also by several issuers: a change is
// one compare-and-set.
type mover struct {
	*succession
	lists *lists
}

// phase carries out one change of phase. What is out of order is refused and no
// dead letter: the scheduler sees that the document has not moved, and why.
func (s *service) phase(ctx context.Context, e event.Event) error {
	command, err := event.Phase.Decode(e)
	if err != nil {
		return bus.Permanent(err)
	}
	if command.At.IsZero() {
		return bus.Permanent(fmt.Errorf("%w: command %s: at is missing", fleet.ErrInvalid, e.ID()))
	}
	command.At = command.At.UTC().Truncate(time.Second)
	for attempt := 1; ; attempt++ {
		err := s.mover.carryOut(ctx, command)
		switch {
		case errors.Is(err, errMoved) && attempt < 10:
			continue
		case errors.Is(err, fleet.ErrInvalid):
			return bus.Permanent(fmt.Errorf("phase %s of rollout %s: %w", command.Move, command.Rollout, err))
		case err != nil:
			return fmt.Errorf("phase %s of rollout %s: %w", command.Move, command.Rollout, err)
		}
		return nil
	}
}

// errMoved says that the authority was changed by another in the meantime.
var errMoved = errors.New("the authority was changed meanwhile")

// carryOut makes the change that a command asks for, tells of it, and does what
// follows. Killed anywhere, the repeat goes on where it was.
func (m *mover) carryOut(ctx context.Context, command event.PhaseCommand) error {
	known, err := m.documents.Get(ctx, fleet.AuthorityKey)
	if err != nil {
		return err
	}
	if known.Value.Restoring {
		return errRestoring
	}
	// A move may wipe out the moment of an earlier one, of which nobody has told
	// if its issuer ended then.
	if err := m.announce(ctx, known.Value); err != nil {
		return err
	}
	now := m.env.Clock.Now()
	c := changeOf(command)
	outcome, err := m.ready(ctx, known.Value, command, &c)
	switch {
	case errors.Is(err, fleet.ErrConflict):
		return m.refuse(ctx, command, err)
	case err != nil:
		return err
	case outcome == phase.Done:
		return m.follow(ctx, command, known.Value)
	}
	doc, err := m.move(ctx, known.Value, c, entryOf(command, c, known.Value.Epoch), now)
	if err != nil {
		return err
	}
	m.moved(command, doc)
	if err := m.announce(ctx, doc); err != nil {
		return err
	}
	return m.follow(ctx, command, doc)
}

func changeOf(c event.PhaseCommand) phase.Change {
	return phase.Change{
		Rollout: c.Rollout, Kind: c.Kind, Move: c.Move, ID: c.ID, From: c.From, Bundle: c.Bundle, Tainted: c.Tainted,
		Imported: len(c.Certificate) > 0, Compromised: c.Compromised,
	}
}

// ready finds out what a change depends on: first whether it is in order at all,
// and only then what costs something.
func (m *mover) ready(ctx context.Context, doc fleet.Authority, command event.PhaseCommand, c *phase.Change) (phase.Outcome, error) {
	now := m.env.Clock.Now()
	_, outcome, err := phase.Apply(doc, *c, now)
	if err != nil || outcome != phase.Made {
		return outcome, err
	}
	switch {
	case c.Move == fleet.MovePrepare && c.Kind == fleet.RolloutCA:
		c.CA, err = m.newCA(ctx, doc, command)
	case c.Move == fleet.MovePrepare:
		c.Key, err = m.newKey(ctx, doc, command)
	case c.Move == fleet.MoveRetire || c.Move == fleet.MoveWithdraw:
		c.InUse, err = m.inUse(ctx, c.Kind, c.ID, command.Except)
	case c.Kind == fleet.RolloutToken && doc.ActiveKey() != nil:
		c.Ends, err = m.tokensEnd(ctx, doc.ActiveKey().ID)
	}
	if err != nil {
		return phase.OutOrder, err
	}
	_, outcome, err = phase.Apply(doc, *c, now)
	return outcome, err
}

// move writes the change down in the ledger and then makes it, in one
// compare-and-set: phases, trust bundle and what belongs to it.
func (m *mover) move(ctx context.Context, known fleet.Authority, c phase.Change, entry audit.Entry, now time.Time) (fleet.Authority, error) {
	sealer, err := m.sealer(ctx, m.tool)
	if err != nil {
		return known, err
	}
	if err := m.ledger.Append(ctx, entry); err != nil {
		return known, err
	}
	stored, err := m.documents.Edit(ctx, fleet.AuthorityKey, func(doc *fleet.Authority) error {
		if !unmoved(*doc, known) {
			return errMoved
		}
		next, outcome, err := phase.Apply(*doc, c, now)
		if err != nil {
			return err
		}
		if outcome == phase.Done {
			return kv.Keep
		}
		bundled := next.Bundle.Version != doc.Bundle.Version
		*doc = next
		if !bundled {
			return nil
		}
		return sealer.seal(ctx, doc)
	})
	return stored.Value, err
}

// unmoved reports whether two documents have the same generations in the same
// phases.
func unmoved(a, b fleet.Authority) bool {
	return a.Epoch == b.Epoch && a.Restoring == b.Restoring && a.Bundle.Version == b.Bundle.Version &&
		reflect.DeepEqual(a.CAs, b.CAs) && reflect.DeepEqual(a.Keys, b.Keys) && reflect.DeepEqual(a.Pending, b.Pending)
}

// entryOf returns the entry of the ledger. A repeat makes no second one; a move
// comes again after a restore only, which has another epoch.
func entryOf(command event.PhaseCommand, c phase.Change, epoch string) audit.Entry {
	id := c.ID
	switch {
	case c.CA != nil:
		id = c.CA.ID
	case c.Key != nil:
		id = c.Key.ID
	}
	e := audit.Entry{
		Actor: command.By, Action: "authority." + string(c.Move), Reason: "rollout " + c.Rollout,
		Request: fmt.Sprintf("phase %s %s %s %s %s", c.Rollout, c.Move, id, epoch, command.By),
		Details: map[string]string{"what": string(c.Kind), "id": id, "from": c.From},
	}
	if e.Actor == "" {
		e.Actor = "scheduler"
	}
	if c.Tainted {
		e.Reason, e.Request = "compromise, rollout "+c.Rollout, e.Request+" tainted"
	}
	if len(c.Compromised) > 0 {
		e.Request += " compromised " + strings.Join(c.Compromised, " ")
		e.Details["compromised"] = strings.Join(c.Compromised, " ")
	}
	return e
}

// refuse keeps why a move was refused where the scheduler and people see it.
func (m *mover) refuse(ctx context.Context, command event.PhaseCommand, why error) error {
	refused := fleet.RefusedMove{
		Rollout: command.Rollout, Kind: command.Kind, Move: command.Move, Why: strings.TrimPrefix(why.Error(), fleet.ErrConflict.Error()+": "), At: m.env.Clock.Now().UTC().Truncate(time.Second),
	}
	m.metrics.refused.WithLabelValues(string(command.Kind), string(command.Move)).Inc()
	changed := false
	_, err := m.documents.Edit(ctx, fleet.AuthorityKey, func(doc *fleet.Authority) error {
		same := refused
		if doc.Refused != nil {
			same.At = doc.Refused.At
		}
		if changed = doc.Refused == nil || *doc.Refused != same; !changed {
			return kv.Keep
		}
		doc.Refused = &refused
		return nil
	})
	if err == nil && changed {
		m.env.Log.WarnContext(ctx, "a change of phase of the authority was refused", "rollout", command.Rollout,
			"kind", command.Kind, "move", command.Move, "id", command.ID, "err", why)
	}
	return err
}

// moved says what has happened, and has the last resort look again.
func (m *mover) moved(command event.PhaseCommand, doc fleet.Authority) {
	m.metrics.moves.WithLabelValues(string(command.Kind), string(command.Move)).Inc()
	if active := doc.ActiveCA(); active != nil {
		m.metrics.notAfter.Set(float64(active.NotAfter.Unix()))
	}
	m.look()
	m.env.Log.Info("phase of the authority changed", "rollout", command.Rollout, "kind", command.Kind, "move", command.Move,
		"id", command.ID, "from", command.From, "tainted", command.Tainted, "bundle", doc.Bundle.Version)
}

// follow does what a move brings with it beside the document: what a compromised
// CA has signed and nobody needs any more goes on its CRL. A repeat finds it done.
func (m *mover) follow(ctx context.Context, command event.PhaseCommand, doc fleet.Authority) error {
	if command.Kind != fleet.RolloutCA {
		return nil
	}
	if err := m.lists.severed(ctx); err != nil {
		return err
	}
	if !slices.ContainsFunc(doc.CAs, func(c fleet.CA) bool { return !c.TaintedAt.IsZero() }) {
		return nil
	}
	return m.lists.condemn(ctx, m.records)
}
