package phase

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

var now = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

const absent fleet.Phase = ""

var (
	phases = []fleet.Phase{absent, fleet.PhaseIncoming, fleet.PhaseActive, fleet.PhaseOutgoing, fleet.PhaseRetired}
	moves  = []fleet.Move{fleet.MovePrepare, fleet.MoveActivate, fleet.MoveRestore, fleet.MoveWithdraw, fleet.MoveRetire}
)

// document returns an authority with the generation that rollout r replaces (old),
// the one that it brings (own), and one of somebody else.
func document(kind fleet.RolloutKind, old, own, other fleet.Phase) fleet.Authority {
	doc := fleet.Authority{Bundle: fleet.TrustBundle{Version: 7}}
	for i, g := range []struct {
		id, rollout string
		phase       fleet.Phase
	}{{"old", "before", old}, {"own", "r", own}, {"other", "else", other}} {
		if g.phase == absent {
			continue
		}
		var activated, retired time.Time
		if g.phase == fleet.PhaseActive || g.phase == fleet.PhaseOutgoing {
			activated = now.AddDate(0, 0, -10)
		}
		if g.phase == fleet.PhaseRetired {
			retired = now.AddDate(0, 0, -1)
		}
		if kind == fleet.RolloutToken {
			doc.Keys = append(doc.Keys, fleet.SigningKey{
				ID: g.id, Number: i + 1, Phase: g.phase, Rollout: g.rollout, ActivatedAt: activated, RetiredAt: retired,
			})
			continue
		}
		doc.CAs = append(doc.CAs, fleet.CA{
			ID: g.id, Number: i + 1, Phase: g.phase, Rollout: g.rollout, ActivatedAt: activated, RetiredAt: retired,
			NotBefore: now.AddDate(0, -6, 0), NotAfter: now.AddDate(0, 6, 0), Bundle: 5, Certificate: []byte(g.id),
		})
	}
	return doc
}

// show returns the phases of a document in the order of their numbers, with a ! for
// what is compromised.
func show(doc fleet.Authority, kind fleet.RolloutKind) string {
	var all []string
	for _, g := range generations(&doc, kind) {
		text := fmt.Sprintf("%s=%s", g.id, *g.phase)
		if g.tainted() {
			text += "!"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

// change returns the command of rollout r for a move, with all that it needs.
func change(kind fleet.RolloutKind, move fleet.Move, doc *fleet.Authority) Change {
	c := Change{Rollout: "r", Kind: kind, Move: move, From: "old", Bundle: 7, Ends: now.AddDate(0, 3, 0)}
	switch move {
	case fleet.MovePrepare:
		c.CA = &fleet.CA{ID: "made", Number: doc.NextCA(), Certificate: []byte("made"), NotAfter: now.AddDate(1, 0, 0), CreatedAt: now}
		c.Key = &fleet.SigningKey{ID: "made", Number: doc.NextKey(), CreatedAt: now}
	case fleet.MoveActivate, fleet.MoveWithdraw:
		c.ID = "own"
	case fleet.MoveRestore, fleet.MoveRetire, fleet.MoveTaint:
		c.ID = "old"
	}
	return c
}

// may is the order, said once more and in another way: what comes of each move in
// each combination of phases, where nobody uses what goes. Every combination that
// is not here is refused, and what is in no table never moves.
var may = map[string]string{
	// A rollout from its beginning to its end.
	"prepare old=active":               "old=active made=incoming",
	"prepare old=active other=retired": "old=active other=retired made=incoming",
	"activate old=active own=incoming": "old=outgoing own=active",
	"retire old=outgoing own=active":   "old=retired own=active",
	// The ways back.
	"withdraw old=active own=incoming": "old=active own=retired",
	"restore old=outgoing own=active":  "old=active own=outgoing",
	"withdraw old=active own=outgoing": "old=active own=retired",
}

// Every move in every combination of phases: what is allowed is in one table, what
// was made before has no effect, all else is refused; whatever comes of it, one
// generation signs, at most one is incoming, and what is given is not changed.
func TestEveryMoveInEveryCombination(t *testing.T) {
	for _, kind := range []fleet.RolloutKind{fleet.RolloutCA, fleet.RolloutToken} {
		for _, old := range phases {
			for _, own := range phases {
				for _, other := range phases {
					for _, move := range moves {
						every(t, kind, move, document(kind, old, own, other))
					}
				}
			}
		}
	}
}

func every(t *testing.T, kind fleet.RolloutKind, move fleet.Move, doc fleet.Authority) {
	t.Helper()
	before := show(doc, kind)
	name := fmt.Sprintf("%s: %s %s", kind, move, before)
	c := change(kind, move, &doc)
	kept := doc
	kept.CAs, kept.Keys = append([]fleet.CA(nil), doc.CAs...), append([]fleet.SigningKey(nil), doc.Keys...)
	next, outcome, err := Apply(doc, c, now)
	if !reflect.DeepEqual(doc, kept) {
		t.Errorf("%s: what was given is changed", name)
	}
	switch outcome {
	case Made:
		if err != nil || strings.Count(show(next, kind), "=active") != 1 || strings.Count(show(next, kind), "=incoming") > 1 {
			t.Errorf("%s: %v: %s", name, err, show(next, kind))
		}
		if kind == fleet.RolloutCA && next.Bundle.Version != 8 || kind == fleet.RolloutToken && next.Bundle.Version != 7 {
			t.Errorf("%s: bundle %d", name, next.Bundle.Version)
		}
		if _, again, err := Apply(next, c, now); again != Done || err != nil {
			t.Errorf("%s: once more: %s, %v", name, again, err)
		}
	case Done:
		if err != nil || !reflect.DeepEqual(next, doc) {
			t.Errorf("%s: %v: changed", name, err)
		}
	default:
		if !errors.Is(err, fleet.ErrConflict) || !reflect.DeepEqual(next, doc) {
			t.Errorf("%s: %v", name, err)
		}
	}
	want, allowed := may[string(move)+" "+before]
	if !allowed {
		want, allowed = withOther(string(move), before, kind)
	}
	if (outcome == Made) != allowed || allowed && show(next, kind) != want {
		t.Errorf("%s: %s, %v: %s; want %q", name, outcome, err, show(next, kind), want)
	}
	if outcome == Done && !isDone(move, before) {
		t.Errorf("%s: had no effect, and was never made", name)
	}
	if outcome == OutOrder && isDone(move, before) && strings.Count(before, "=active") == 1 {
		t.Errorf("%s: was made before, and is refused: %v", name, err)
	}
}

// withOther looks for a row where a third generation stands by and is not
// concerned. For a new CA it must be retired; a token key that is outgoing retires
// by itself and keeps nobody. What signs is not the third one, in any row.
func withOther(move, before string, kind fleet.RolloutKind) (string, bool) {
	if strings.Count(before, "=active") != 1 {
		return "", false // no such authority was ever made
	}
	// What a rollout brought it may take back, whoever signs.
	for _, phase := range []string{"own=incoming", "own=outgoing"} {
		if move == "withdraw" && strings.Contains(before, phase) {
			return strings.Replace(before, phase, "own=retired", 1), true
		}
	}
	for _, phase := range []fleet.Phase{fleet.PhaseIncoming, fleet.PhaseOutgoing, fleet.PhaseRetired} {
		rest, found := strings.CutSuffix(before, " other="+string(phase))
		if !found || move == "prepare" && (phase == fleet.PhaseIncoming || kind == fleet.RolloutCA && phase == fleet.PhaseOutgoing) {
			continue
		}
		want, ok := may[move+" "+rest]
		if !ok {
			return "", false
		}
		if move == "prepare" {
			return strings.Replace(want, " made", " other="+string(phase)+" made", 1), true
		}
		return want + " other=" + string(phase), true
	}
	return "", false
}

// isDone says in which combinations a move was made before.
func isDone(move fleet.Move, before string) bool {
	switch move {
	case fleet.MovePrepare:
		return strings.Contains(before, "own=")
	case fleet.MoveActivate:
		return strings.Contains(before, "own=active") || strings.Contains(before, "own=outgoing")
	case fleet.MoveRestore:
		return strings.Contains(before, "old=active")
	case fleet.MoveWithdraw:
		return strings.Contains(before, "own=retired")
	case fleet.MoveRetire:
		return strings.Contains(before, "old=retired")
	}
	return false
}

// What else keeps a move back, and what lets it pass.
func TestConditions(t *testing.T) {
	const (
		incoming = fleet.PhaseIncoming
		active   = fleet.PhaseActive
		outgoing = fleet.PhaseOutgoing
		retired  = fleet.PhaseRetired
	)
	taint := func(d *fleet.Authority, _ *Change) { d.CAs[0].TaintedAt = now.AddDate(0, 0, -1) }
	for _, tt := range []struct {
		name            string
		move            fleet.Move
		old, own, other fleet.Phase
		set             func(*fleet.Authority, *Change)
		outcome         Outcome
		want            string // of the refusal, or the phases
	}{
		{"proven too early", fleet.MoveActivate, active, incoming, absent, func(_ *fleet.Authority, c *Change) { c.Bundle = 4 }, OutOrder, "from version 5 on"},
		{"proven on its first bundle", fleet.MoveActivate, active, incoming, absent, func(_ *fleet.Authority, c *Change) { c.Bundle = 5 }, Made, "old=outgoing own=active"},
		{"proven on a bundle to come", fleet.MoveActivate, active, incoming, absent, func(_ *fleet.Authority, c *Change) { c.Bundle = 8 }, OutOrder, "the newest is 7"},
		{"compromised: nothing is proven", fleet.MoveActivate, active, incoming, absent, func(_ *fleet.Authority, c *Change) { c.Bundle, c.Tainted = 0, true }, Made, "old=outgoing! own=active"},
		{"expired before it signed", fleet.MoveActivate, active, incoming, absent, func(d *fleet.Authority, _ *Change) { d.CAs[1].NotAfter = now.Add(-time.Second) }, OutOrder, "has expired"},
		{"another signs meanwhile", fleet.MoveActivate, active, incoming, absent, func(_ *fleet.Authority, c *Change) { c.From = "x" }, OutOrder, "the rollout began when x did"},
		{"of another rollout", fleet.MoveActivate, active, absent, incoming, func(_ *fleet.Authority, c *Change) { c.ID = "other" }, OutOrder, "was not brought by this rollout"},
		{"unknown", fleet.MoveActivate, active, incoming, absent, func(_ *fleet.Authority, c *Change) { c.ID = "x" }, OutOrder, `no generation "x"`},
		{"prepare: another signs", fleet.MovePrepare, active, absent, absent, func(_ *fleet.Authority, c *Change) { c.From = "x" }, OutOrder, "began when x did"},
		{"prepare: one that is there", fleet.MovePrepare, active, absent, absent, func(_ *fleet.Authority, c *Change) { c.CA.ID = "old" }, OutOrder, "there already"},
		{"prepare: outgoing of a succession", fleet.MovePrepare, active, absent, outgoing, nil, OutOrder, "must be retired first"},
		{"prepare: compromised, it does not wait", fleet.MovePrepare, active, absent, outgoing, func(_ *fleet.Authority, c *Change) { c.Tainted = true }, Made, "old=active! other=outgoing made=incoming"},
		{"prepare: the successor is taken over", fleet.MovePrepare, active, absent, incoming, func(d *fleet.Authority, _ *Change) { d.CAs[1].Rollout, d.CAs[1].Succession = "", true }, Adopted, "old=active other=incoming"},
		{"prepare: not for an import", fleet.MovePrepare, active, absent, incoming, func(d *fleet.Authority, c *Change) { d.CAs[1].Rollout, c.Imported = "", true }, OutOrder, "import another one after it"},
		{"prepare: of another rollout", fleet.MovePrepare, active, absent, incoming, nil, OutOrder, "one at a time"},
		{"prepare again as compromised", fleet.MovePrepare, active, incoming, absent, func(_ *fleet.Authority, c *Change) { c.Tainted = true }, Marked, "old=active! own=incoming"},
		{"activate again as compromised", fleet.MoveActivate, outgoing, active, absent, func(_ *fleet.Authority, c *Change) { c.Tainted, c.Compromised = true, []string{"old"} }, Marked, "old=outgoing! own=active"},
		{"activate what is compromised", fleet.MoveActivate, active, incoming, absent, func(d *fleet.Authority, _ *Change) { d.CAs[1].TaintedAt = now }, OutOrder, "does not sign"},
		{"activate what is said to be compromised", fleet.MoveActivate, active, incoming, absent, func(_ *fleet.Authority, c *Change) { c.Tainted, c.Compromised = true, []string{"own"} }, OutOrder, "does not sign"},
		{"prepare: the successor is compromised", fleet.MovePrepare, active, absent, incoming, func(d *fleet.Authority, c *Change) { d.CAs[1].Rollout, c.Compromised = "", []string{"other"} }, OutOrder, "must be withdrawn first"},
		{"prepare: the one that goes is compromised, the one that signs is not", fleet.MovePrepare, active, absent, outgoing, func(_ *fleet.Authority, c *Change) { c.Tainted, c.Compromised = true, []string{"other"} }, Made, "old=active other=outgoing! made=incoming"},
		{"withdraw what is compromised", fleet.MoveWithdraw, active, incoming, absent, func(_ *fleet.Authority, c *Change) { c.Compromised = []string{"own", "gone"} }, Made, "old=active own=retired!"},
		{"restore, away from what is compromised", fleet.MoveRestore, outgoing, active, absent, func(_ *fleet.Authority, c *Change) { c.Compromised = []string{"own"} }, Made, "old=active own=outgoing!"},
		{"taint", fleet.MoveTaint, outgoing, active, absent, nil, Marked, "old=outgoing! own=active"},
		{"taint what the rollout brought", fleet.MoveTaint, active, outgoing, absent, func(_ *fleet.Authority, c *Change) { c.ID = "own" }, Marked, "old=active own=outgoing!"},
		{"taint what is gone", fleet.MoveTaint, retired, active, absent, nil, Marked, "old=retired! own=active"},
		{"taint again", fleet.MoveTaint, outgoing, active, absent, taint, Done, "old=outgoing! own=active"},
		{"taint what nobody knows", fleet.MoveTaint, outgoing, active, absent, func(_ *fleet.Authority, c *Change) { c.ID = "x" }, OutOrder, `no generation "x"`},
		{"in use", fleet.MoveRetire, outgoing, active, absent, func(_ *fleet.Authority, c *Change) { c.InUse = "1 clients" }, OutOrder, "in use: 1 clients"},
		{"in use, compromised, no word", fleet.MoveRetire, outgoing, active, absent, func(d *fleet.Authority, c *Change) { taint(d, c); c.InUse = "1 clients" }, OutOrder, "in use"},
		{"in use, compromised, with the word", fleet.MoveRetire, outgoing, active, absent, func(d *fleet.Authority, c *Change) { taint(d, c); c.InUse, c.Tainted = "1 clients", true }, Made, "old=retired! own=active"},
		{"in use, and the word where none is compromised", fleet.MoveRetire, outgoing, active, absent, func(_ *fleet.Authority, c *Change) { c.InUse, c.Tainted = "1 clients", true }, OutOrder, "in use"},
		{"a stale word of another rollout", fleet.MoveRetire, outgoing, absent, active, nil, OutOrder, "what others replace"},
		{"back: the new one, by retire", fleet.MoveRetire, active, outgoing, absent, func(_ *fleet.Authority, c *Change) { c.ID = "own" }, Made, "old=active own=retired"},
		{"back: in use", fleet.MoveWithdraw, active, outgoing, absent, func(_ *fleet.Authority, c *Change) { c.InUse = "2 clients" }, OutOrder, "in use"},
		{"back: of another rollout", fleet.MoveWithdraw, active, absent, incoming, func(_ *fleet.Authority, c *Change) { c.ID = "other" }, OutOrder, "was not brought"},
		{"back: the old one", fleet.MoveWithdraw, outgoing, active, absent, func(_ *fleet.Authority, c *Change) { c.ID = "old" }, OutOrder, "was not brought"},
		{"restore: compromised", fleet.MoveRestore, outgoing, active, absent, taint, OutOrder, "compromised"},
		{"restore: expired", fleet.MoveRestore, outgoing, active, absent, func(d *fleet.Authority, _ *Change) { d.CAs[0].NotAfter = now.Add(-time.Second) }, OutOrder, "has expired"},
		{"restore: not the one it replaces", fleet.MoveRestore, outgoing, active, absent, func(_ *fleet.Authority, c *Change) { c.From = "x" }, OutOrder, "not the one"},
		{"restore: not trusted any more", fleet.MoveRestore, retired, active, absent, nil, OutOrder, "is retired, and must be outgoing"},
		{"a stale activate after the way back", fleet.MoveActivate, active, outgoing, absent, nil, Done, "old=active own=outgoing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			doc := document(fleet.RolloutCA, tt.old, tt.own, tt.other)
			c := change(fleet.RolloutCA, tt.move, &doc)
			if tt.set != nil {
				tt.set(&doc, &c)
			}
			next, outcome, err := Apply(doc, c, now)
			if outcome != tt.outcome || (err != nil) != (outcome == OutOrder) || err != nil && (!errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), tt.want)) {
				t.Fatalf("%s, %v; want %s, %q", outcome, err, tt.outcome, tt.want)
			}
			if err == nil && show(next, fleet.RolloutCA) != tt.want {
				t.Errorf("%s; want %s", show(next, fleet.RolloutCA), tt.want)
			}
		})
	}
}

// What a move leaves in the document.
func TestTraces(t *testing.T) {
	apply := func(doc fleet.Authority, c Change, at time.Time) fleet.Authority {
		t.Helper()
		next, _, err := Apply(doc, c, at)
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	doc := document(fleet.RolloutCA, fleet.PhaseActive, absent, absent)
	doc.Pending = &fleet.PendingCA{Number: 2}
	doc.Refused = &fleet.RefusedMove{Kind: fleet.RolloutCA}
	c := change(fleet.RolloutCA, fleet.MovePrepare, &doc)
	c.Tainted = true
	made := apply(doc, c, now)
	if g := made.CAs[1]; g.Bundle != 8 || g.Rollout != "r" || g.Number != 3 || !made.CAs[0].TaintedAt.Equal(now) || made.Refused != nil || made.Pending == nil {
		t.Errorf("%+v", made)
	}
	imported := change(fleet.RolloutCA, fleet.MovePrepare, &doc)
	imported.Imported, imported.CA.Number, imported.CA.Anchor = true, 2, []byte("root")
	if made := apply(doc, imported, now); made.Pending != nil || made.Bundle.Certificates[1] != "root" {
		t.Errorf("%+v", made)
	}
	// Signing again is another happening, also within the same second.
	both := document(fleet.RolloutCA, fleet.PhaseOutgoing, fleet.PhaseActive, absent)
	both.CAs[0].ActivatedAt = now
	if back := apply(both, change(fleet.RolloutCA, fleet.MoveRestore, &both), now); !back.CAs[0].ActivatedAt.After(now) {
		t.Errorf("activated at %s", back.CAs[0].ActivatedAt)
	}
	withdrawn := document(fleet.RolloutCA, fleet.PhaseActive, fleet.PhaseIncoming, absent)
	if gone := apply(withdrawn, change(fleet.RolloutCA, fleet.MoveWithdraw, &withdrawn), now); !gone.CAs[1].Withdrawn || !gone.CAs[1].RetiredAt.Equal(now) {
		t.Errorf("%+v", gone.CAs[1])
	}
	if gone := apply(both, change(fleet.RolloutCA, fleet.MoveRetire, &both), now); gone.CAs[0].Withdrawn || !gone.CAs[0].RetiredAt.Equal(now) {
		t.Errorf("%+v", gone.CAs[0])
	}
	// A token key keeps its tokens: it goes when the last has ended, and not before now.
	keys := document(fleet.RolloutToken, fleet.PhaseActive, fleet.PhaseIncoming, absent)
	activate := change(fleet.RolloutToken, fleet.MoveActivate, &keys)
	if next := apply(keys, activate, now); !next.Keys[0].RetireAt.Equal(activate.Ends) || !next.Keys[1].RetireAt.IsZero() {
		t.Errorf("%+v", next.Keys)
	}
	activate.Ends = time.Time{}
	next := apply(keys, activate, now)
	if !next.Keys[0].RetireAt.Equal(now) {
		t.Errorf("%+v", next.Keys)
	}
	if back := apply(next, change(fleet.RolloutToken, fleet.MoveRestore, &next), now); !back.Keys[0].RetireAt.IsZero() || back.Keys[1].RetireAt.IsZero() {
		t.Errorf("%+v", back.Keys)
	}
}

// What no order would make right is another kind of error.
func TestMalformed(t *testing.T) {
	doc := document(fleet.RolloutCA, fleet.PhaseActive, absent, absent)
	for name, c := range map[string]Change{
		"move":                        {Rollout: "r", Kind: fleet.RolloutCA, Move: "jump"},
		"kind":                        {Rollout: "r", Kind: "x", Move: fleet.MovePrepare},
		"rollout":                     {Kind: fleet.RolloutCA, Move: fleet.MovePrepare},
		"taint of a token key":        {Rollout: "r", Kind: fleet.RolloutToken, Move: fleet.MoveTaint, ID: "old"},
		"compromised, of a token key": {Rollout: "r", Kind: fleet.RolloutToken, Move: fleet.MovePrepare, Compromised: []string{"old"}},
	} {
		if _, outcome, err := Apply(doc, c, now); outcome != OutOrder || !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %s, %v", name, outcome, err)
		}
	}
	if _, _, err := Apply(fleet.Authority{}, Change{Rollout: "r", Kind: fleet.RolloutCA, Move: fleet.MovePrepare}, now); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("nothing signs: %v", err)
	}
}
