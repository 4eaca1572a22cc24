package plan

import (
	"strconv"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// window adds the facts about the update window of the cluster.
func (e *evaluation) window() {
	e.wake(fleet.NextPublication(e.Releases, e.Now))
	w := fleet.WindowOf(e.Cluster, e.Releases, e.policy, e.Now)
	now := e.standing(w)
	before := e.Told.Window
	if now.rank() < before.rank() {
		e.windowFact(event.WindowRestored, w, 0, e.restoredAt())
		before = ToldWindow{}
	}
	if !before.Since.Equal(now.Since) {
		before = ToldWindow{} // another release is the first missed one: told of afresh
	}
	switch {
	case now.Missed && (!before.Missed || now.Level > before.Level):
		// After a pause only the highest level is told, not each that was slept through.
		at := w.Deadline.Add(time.Duration(now.Level) * e.policy.WindowEscalation.Std())
		e.windowFact(event.WindowMissed, w, now.Level, at)
	case now.Closes && !now.Missed && !before.Closes:
		e.windowFact(event.WindowClosing, w, 0, *w.Notice)
	}
	now.Level = max(now.Level, before.Level)
	e.out.Told.Window = now
}

// standing says what is to be told of a window at this moment, and wakes the
// cluster when that changes.
func (e *evaluation) standing(w fleet.Window) ToldWindow {
	if w.State == fleet.WindowCurrent || w.Since == nil {
		return ToldWindow{}
	}
	s := ToldWindow{Closes: e.passed(*w.Notice), Missed: e.passed(*w.Deadline)}
	if s.Closes || s.Missed {
		s.Since = w.Since.UTC()
	}
	if s.Missed {
		s.Level = int(e.Now.Sub(*w.Deadline) / e.policy.WindowEscalation.Std())
		e.wake(w.Deadline.Add(time.Duration(s.Level+1) * e.policy.WindowEscalation.Std()))
	}
	return s
}

// restoredAt is when the window became better: with the upgrade, or, if it was
// not an upgrade, when it was noticed.
func (e *evaluation) restoredAt() time.Time {
	if at := e.Cluster.UpgradedAt; at.After(e.Told.Window.Since) {
		return at
	}
	return e.Now
}

func (e *evaluation) windowFact(kind event.Kind[event.Window], w fleet.Window, level int, at time.Time) {
	data := event.Window{Release: e.Cluster.Release, State: w.State, Missed: w.Missed, Level: level}
	if w.Since != nil {
		data.Since, data.Deadline = w.Since.UTC(), w.Deadline.UTC()
	}
	key := []string{data.Since.Format(time.RFC3339Nano), strconv.Itoa(level), e.Cluster.Release}
	if kind.Type() == event.WindowRestored.Type() {
		key = append(key, e.Told.Window.Since.UTC().Format(time.RFC3339Nano), e.Cluster.UpgradedAt.UTC().Format(time.RFC3339Nano))
	}
	e.out.Window = append(e.out.Window, Fact[event.Window]{
		Kind: kind, Data: data, Meta: event.Meta{Source: source, Cluster: e.Cluster.Name, Key: key, Time: at.UTC()},
	})
}
