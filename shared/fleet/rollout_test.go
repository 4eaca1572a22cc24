package fleet

import (
	"errors"
	"testing"
	"time"
)

// The days of the design follow from the default lives, and move with them.
func TestDatesOfTheAuthority(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		life, leaf, slack time.Duration
		days              [6]int // start, warning, critical, active by, cuts from, end
	}{
		"default":        {365 * Day, 90 * Day, 15 * Day, [6]int{182, 230, 255, 260, 275, 365}},
		"longer leaves":  {365 * Day, 180 * Day, 15 * Day, [6]int{119, 150, 166, 170, 185, 365}},
		"ten years":      {3650 * Day, 90 * Day, 15 * Day, [6]int{2481, 3135, 3476, 3545, 3560, 3650}},
		"leaf as the CA": {365 * Day, 365 * Day, 15 * Day, [6]int{182, 182, 182, 182, 0, 365}},
		"too long":       {365 * Day, 320 * Day, 15 * Day, [6]int{182, 182, 182, 182, 45, 365}},
	} {
		t.Run(name, func(t *testing.T) {
			d := DatesOf(&CA{NotBefore: begin.Add(-Backdate), NotAfter: begin.Add(test.life)}, test.leaf, test.slack)
			for i, at := range []time.Time{d.Start, d.Warning, d.Critical, d.ActiveBy, d.CutsFrom, d.End} {
				if got := int(at.Sub(begin) / Day); got != test.days[i] {
					t.Errorf("date %d: day %d, want %d", i, got, test.days[i])
				}
			}
		})
	}
}

func TestPhasesOfARollout(t *testing.T) {
	now := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	all := []RolloutPhase{
		RolloutPrepare, RolloutTrusted, RolloutActivate, RolloutReissued, RolloutRetire, RolloutCompleted, RolloutRollback, RolloutRolledBack,
	}
	may := map[RolloutPhase]string{
		RolloutPrepare: "trusted activate rollback", RolloutTrusted: "activate rollback", RolloutActivate: "reissued completed rollback",
		RolloutReissued: "retire rollback", RolloutRetire: "completed rolledback", RolloutRollback: "completed rolledback", RolloutCompleted: "", RolloutRolledBack: "",
	}
	for _, from := range all {
		got := ""
		for _, next := range all {
			r := Rollout{ID: "r", Phase: from, Missing: []Laggard{{}}, MissingCount: 1}
			moved, err := r.Enter(next, now)
			switch {
			case err == nil:
				if got != "" {
					got += " "
				}
				got += string(next)
				if moved.Phase != next || moved.MissingCount != 0 || moved.Since() != now || moved.EndedAt.IsZero() == next.Done() {
					t.Errorf("%s to %s: %+v", from, next, moved)
				}
				if (moved.BackFrom != "") != (next == RolloutRollback) {
					t.Errorf("%s to %s: back from %q", from, next, moved.BackFrom)
				}
			case !errors.Is(err, ErrConflict) || r.Phase != from:
				t.Errorf("%s to %s: %v", from, next, err)
			}
		}
		if got != may[from] {
			t.Errorf("%s: %q may follow, want %q", from, got, may[from])
		}
	}
}
