package rollout

import (
	"slices"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// born returns a world in which the CA was made at its beginning.
func born(t *testing.T, at time.Duration) *world {
	w := newWorld(t)
	w.now = start0
	w.authority.CAs = []fleet.CA{w.ca(1, fleet.PhaseActive, "")}
	w.now = start0.Add(at)
	return w
}

func TestDatesAreTold(t *testing.T) {
	for name, test := range map[string]struct {
		day   int
		told  Told
		level int // -1 for none
	}{
		"young":                 {181, Told{}, -1},
		"start":                 {182, Told{}, 0},
		"told":                  {200, Told{"ca-1", 1}, -1},
		"late":                  {230, Told{"ca-1", 1}, 1},
		"very late":             {255, Told{"ca-1", 2}, 2},
		"only the last is told": {300, Told{}, 2},
		"of another CA":         {190, Told{"ca-0", 3}, 0},
		"all is told":           {364, Told{"ca-1", 3}, -1},
	} {
		for _, mode := range []fleet.Mode{fleet.ModeAutomatic, fleet.ModeManual} {
			w := born(t, time.Duration(test.day)*fleet.Day)
			w.told, w.settings.Authority.Mode = test.told, mode
			d := Decide(w.input(fleet.RolloutCA))
			if test.level < 0 {
				if len(d.Facts) > 0 || d.Told != nil {
					t.Errorf("%s: told %+v", name, d.Facts)
				}
				continue
			}
			if len(d.Facts) != 1 || d.Facts[0].Kind.Type() != event.AuthorityDue.Type() || d.Facts[0].Data.Level != test.level || d.Told == nil ||
				*d.Told != (Told{"ca-1", test.level + 1}) || !d.Facts[0].Data.By.Equal(start0.Add(260*fleet.Day)) || d.Facts[0].Meta.Time.After(w.now) {
				t.Errorf("%s: %+v, told %+v", name, d.Facts, d.Told)
			}
		}
	}
}

// A CA that signs again, as its successor was taken back, is late from then on.
func TestLateAgain(t *testing.T) {
	w := born(t, 240*fleet.Day)
	w.told = Told{"ca-2", 1}
	first := Decide(w.input(fleet.RolloutCA)).Facts
	w.authority.CAs[0].ActivatedAt = start0.Add(239 * fleet.Day)
	again := Decide(w.input(fleet.RolloutCA)).Facts
	if len(first) != 1 || len(again) != 1 || !again[0].Meta.Time.Equal(start0.Add(239*fleet.Day)) || again[0].Data.Level != 1 ||
		slices.Equal(first[0].Meta.Key, again[0].Meta.Key) {
		t.Errorf("told %+v and %+v", first, again)
	}
}

// A rollout that hangs is late all the same, until another CA signs.
func TestAHangingRolloutIsLate(t *testing.T) {
	w := born(t, 183*fleet.Day)
	w.agents["edge-01"], w.records["edge-01"] = &fleet.Agent{ID: "a", LastSeen: w.now}, &fleet.Credentials{}
	for range 3 {
		w.decide(fleet.RolloutCA)
		w.obey()
	}
	w.now = start0.Add(256 * fleet.Day)
	d := Decide(w.input(fleet.RolloutCA))
	if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutTrusted || len(d.Facts) == 0 || d.Facts[0].Data.Level != 2 {
		t.Errorf("rollout %+v, facts %+v", r, d.Facts)
	}
	w.agree()
	w.run(fleet.RolloutCA, fleet.RolloutCompleted)
	if d := Decide(w.input(fleet.RolloutCA)); len(d.Facts) > 0 || d.Rollout != nil || d.Next.IsZero() {
		t.Errorf("the new CA is as late as the old one: %+v", d)
	}
}

func TestScheduleBegins(t *testing.T) {
	automatic := func(w *world) Decision { return Decide(w.input(fleet.RolloutCA)) }
	w := born(t, 182*fleet.Day-time.Second)
	if d := automatic(w); d.Rollout != nil || !d.Next.Equal(start0.Add(182*fleet.Day)) {
		t.Errorf("too early: %+v", d)
	}
	w.now = start0.Add(182 * fleet.Day)
	first := automatic(w)
	if r := first.Rollout; r == nil || r.Reason != fleet.RolloutScheduled || r.From != "ca-1" || r.Phase != fleet.RolloutPrepare || r.ID != event.ID("rollout", "ca", "ca-1") {
		t.Fatalf("rollout %+v", r)
	}
	w.now = w.now.Add(time.Hour)
	if again := automatic(w); again.Rollout.ID != first.Rollout.ID {
		t.Error("two leaders begin two rollouts of one CA")
	}
	w.settings.Authority.Mode = fleet.ModeManual
	if d := automatic(w); d.Rollout != nil {
		t.Error("began in mode manual")
	}
	w.settings.Authority = fleet.AuthorityPolicy{Slack: fleet.Duration(80 * fleet.Day)}
	if dates, _ := w.input(fleet.RolloutCA).Dates(); !dates.ActiveBy.Equal(start0.Add(195 * fleet.Day)) {
		t.Errorf("dates %+v do not follow the policy", dates)
	}
	w.settings.Authority = fleet.AuthorityPolicy{}
	w.authority.CAs[0].Anchor = []byte("PEM")
	if d := automatic(w); d.Rollout != nil || len(d.Facts) != 1 {
		t.Errorf("replaced the CA of an offline root by itself: %+v", d)
	}
	w.authority.CAs[0].Anchor, w.authority.Restoring = nil, true
	if d := automatic(w); d.Rollout != nil {
		t.Error("began during a restore")
	}
}

// What an operator has taken back begins again a week later, and not before.
func TestScheduleRespectsTheWayBack(t *testing.T) {
	w := born(t, 182*fleet.Day)
	w.run(fleet.RolloutCA, fleet.RolloutTrusted)
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutBack})
	back := w.run(fleet.RolloutCA, fleet.RolloutRolledBack)
	w.now = back.EndedAt.Add(7*fleet.Day - time.Second)
	if d := Decide(w.input(fleet.RolloutCA)); d.Rollout != nil || !d.Next.Equal(back.EndedAt.Add(7*fleet.Day)) {
		t.Errorf("began too early, or looks again at %s", d.Next)
	}
	w.now = w.now.Add(time.Second)
	if d := Decide(w.input(fleet.RolloutCA)); d.Rollout == nil || d.Rollout.ID == back.ID || d.Rollout.From != "ca-1" {
		t.Errorf("did not begin again: %+v", d.Rollout)
	}
}

// A CA whose leaves live as long as it does is not rotated again and again.
func TestNoDateThatCanBeKept(t *testing.T) {
	w := born(t, 100*fleet.Day)
	in := w.input(fleet.RolloutCA)
	in.Leaf = 365 * fleet.Day
	if d := Decide(in); d.Rollout != nil || len(d.Facts) > 0 {
		t.Errorf("began %+v, told %+v", d.Rollout, d.Facts)
	}
	in.Now = start0.Add(300 * fleet.Day)
	if d := Decide(in); d.Rollout == nil || len(d.Facts) != 1 || d.Facts[0].Data.Level != 0 {
		t.Errorf("began %+v, told %+v", d.Rollout, d.Facts)
	}
}

func TestTokenKeyIsRotatedAtHalfOfTheLife(t *testing.T) {
	w := born(t, 182*fleet.Day)
	half := start0.Add(365 * fleet.Day / 2)
	if d := Decide(w.input(fleet.RolloutToken)); d.Rollout != nil || !d.Next.Equal(half) {
		t.Errorf("too early, or looks again at %s", d.Next)
	}
	w.now = half
	w.rollouts[fleet.RolloutCA] = &fleet.Rollout{ID: "r0", Kind: fleet.RolloutCA, Phase: fleet.RolloutTrusted}
	if d := Decide(w.input(fleet.RolloutToken)); d.Rollout != nil {
		t.Error("began beside a rollout of the CA")
	}
	w.rollouts[fleet.RolloutCA].Phase = fleet.RolloutCompleted
	d := Decide(w.input(fleet.RolloutToken))
	if r := d.Rollout; r == nil || r.Kind != fleet.RolloutToken || r.From != "key-1" || r.Reason != fleet.RolloutScheduled || len(d.Facts) > 0 {
		t.Fatalf("decision %+v", d)
	}
	r := w.run(fleet.RolloutToken, fleet.RolloutTrusted)
	w.decide(fleet.RolloutToken)
	if got := w.rollouts[fleet.RolloutToken].OpensAt; !got.Equal(r.Since().Add(2 * fleet.JWKSLifetime)) {
		t.Errorf("opens at %s", got)
	}
	w.now = r.Since().Add(2*fleet.JWKSLifetime - time.Second)
	w.decide(fleet.RolloutToken)
	if r := w.rollouts[fleet.RolloutToken]; r.Phase != fleet.RolloutTrusted {
		t.Errorf("opened before every copy has ended: %+v", r)
	}
	w.now = w.now.Add(time.Second)
	w.decide(fleet.RolloutToken)
	if r := w.rollouts[fleet.RolloutToken]; r.Phase != fleet.RolloutActivate {
		t.Errorf("rollout %+v", r)
	}
	w.run(fleet.RolloutToken, fleet.RolloutCompleted)
	if d := Decide(w.input(fleet.RolloutToken)); d.Rollout != nil {
		t.Errorf("began again at once: %+v", d.Rollout)
	}
}

// An issuer that does not answer refuses nothing, and has nobody to name.
func TestHeldByTheIssuer(t *testing.T) {
	for _, phase := range []fleet.RolloutPhase{fleet.RolloutPrepare, fleet.RolloutActivate, fleet.RolloutRetire} {
		w := begun(t, phase, "edge-01")
		w.now = w.rollouts[fleet.RolloutCA].Since().Add(fleet.Day)
		d := Decide(w.input(fleet.RolloutCA))
		if len(d.Facts) != 1 || d.Facts[0].Kind.Type() != event.AuthorityHeld.Type() || d.Facts[0].Data.Phase != phase || d.Facts[0].Data.Count != 0 {
			t.Errorf("%s: told %+v", phase, d.Facts)
		}
	}
}

// It is told each day, with names, and of a pause only the last day.
func TestHeldIsToldEachDay(t *testing.T) {
	w := begun(t, fleet.RolloutTrusted, "edge-01", "edge-02")
	w.agents["edge-01"].Canary = nil
	since := w.rollouts[fleet.RolloutCA].Since()
	held := func() []Fact {
		var facts []Fact
		for _, f := range w.facts {
			if f.Kind.Type() == event.AuthorityHeld.Type() {
				facts = append(facts, f)
			}
		}
		return facts
	}
	w.now = since.Add(fleet.Day - time.Second)
	d := Decide(w.input(fleet.RolloutCA))
	if w.decide(fleet.RolloutCA); len(held()) > 0 || !d.Next.Equal(since.Add(fleet.Day)) {
		t.Errorf("told %+v, looks again at %s", held(), d.Next)
	}
	w.now = since.Add(fleet.Day)
	w.decide(fleet.RolloutCA)
	w.decide(fleet.RolloutCA)
	if f := held(); len(f) != 1 || f[0].Data.Level != 1 || f[0].Data.Count != 1 || f[0].Data.Missing[0].Cluster != "edge-01" || !f[0].Data.Since.Equal(since) {
		t.Fatalf("told %+v", f)
	}
	w.now = since.Add(5*fleet.Day + time.Hour)
	w.decide(fleet.RolloutCA)
	if f := held(); len(f) != 2 || f[1].Data.Level != 5 {
		t.Errorf("told %+v", f)
	}
	in := w.input(fleet.RolloutCA)
	in.Heard, in.Now = 100*fleet.Day, since.Add(20*fleet.Day) // a fast clock
	if d := Decide(in); len(d.Facts) > 0 {
		t.Errorf("told on a fast clock: %+v", d.Facts)
	}
}
