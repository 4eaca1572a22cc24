package fleet

import (
	"fmt"
	"regexp"
	"slices"
	"time"
)

// Release is a platform version with its publication date.
type Release struct {
	Version     string    `json:"version" doc:"unique name of the version"`
	PublishedAt time.Time `json:"publishedAt" doc:"when it was published"`
}

var versionRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Validate checks the version's form and that it has a date.
func (r Release) Validate() error {
	if !versionRule.MatchString(r.Version) || r.Version[len(r.Version)-1] == '.' {
		return fmt.Errorf("%w: release %q: use 1-63 letters, digits, '.', '_' and '-', such as 2026.08", ErrInvalid, r.Version)
	}
	if r.PublishedAt.IsZero() {
		return fmt.Errorf("%w: release %s: publishedAt is missing: write a date such as 2026-08-01", ErrInvalid, r.Version)
	}
	return nil
}

// WindowState says how a cluster stands to the releases it has missed.
type WindowState string

// The states of an update window.
const (
	WindowCurrent WindowState = "current" // no release missed
	WindowDue     WindowState = "due"     // releases missed, still inside the window
	WindowBehind  WindowState = "behind"  // the window of the first missed release is over
)

// Window is the update window of one cluster: the time it has, from the
// publication of the first release that it has missed, to catch up.
type Window struct {
	State    WindowState `json:"state" enum:"current,due,behind"`
	Missed   []string    `json:"missed,omitempty" doc:"versions published since, oldest first"`
	Since    *time.Time  `json:"since,omitempty" doc:"publication of the first missed release"`
	Notice   *time.Time  `json:"notice,omitempty" doc:"when a notice is due"`
	Deadline *time.Time  `json:"deadline" doc:"end of the window; null when current"`
	DaysLeft *int        `json:"daysLeft" doc:"whole days until the deadline, or, negative, since; null when current"`
}

// WindowOf computes the update window of a cluster at now. A release dated in
// the future is not published yet. A cluster whose own release is unknown has
// missed every release published after its UpgradedAt.
func WindowOf(c *Cluster, releases []Release, p Policy, now time.Time) Window {
	since := c.UpgradedAt
	for _, r := range releases {
		if r.Version == c.Release {
			since = r.PublishedAt
		}
	}
	var missed []Release
	for _, r := range releases {
		if r.Version != c.Release && r.PublishedAt.After(since) && !r.PublishedAt.After(now) {
			missed = append(missed, r)
		}
	}
	if len(missed) == 0 {
		return Window{State: WindowCurrent}
	}
	slices.SortFunc(missed, func(a, b Release) int { return a.PublishedAt.Compare(b.PublishedAt) })
	published := missed[0].PublishedAt
	notice, deadline := published.Add(p.WindowNotice.Std()), published.Add(p.UpdateWindow.Std())
	days := int(deadline.Sub(now) / Day) // whole days, as people count them: cut towards 0
	w := Window{State: WindowDue, Since: &published, Notice: &notice, Deadline: &deadline, DaysLeft: &days}
	for _, r := range missed {
		w.Missed = append(w.Missed, r.Version)
	}
	if !now.Before(deadline) {
		w.State = WindowBehind
	}
	return w
}

// NextPublication returns the earliest publication after now, or the zero time.
func NextPublication(releases []Release, now time.Time) time.Time {
	var next time.Time
	for _, r := range releases {
		if r.PublishedAt.After(now) && (next.IsZero() || r.PublishedAt.Before(next)) {
			next = r.PublishedAt
		}
	}
	return next
}
