package fleet

import (
	"fmt"
	"time"

	"github.com/robfig/cron/v3"
)

// Maintenance is a recurring interval in which renewals may run.
type Maintenance struct {
	Cron     string   `json:"cron" doc:"start, as a cron expression of five fields"`
	Duration Duration `json:"duration" doc:"how long it stays open"`
	Zone     string   `json:"zone,omitempty" doc:"IANA time zone; UTC, if empty"`
}

// Validate reports what is wrong with the expression, the duration or the zone.
func (m Maintenance) Validate() error {
	if _, err := m.schedule(); err != nil {
		return err
	}
	if m.Duration.Std() < time.Minute {
		return fmt.Errorf("%w: maintenance %q: duration %s: use at least 1m", ErrInvalid, m.Cron, m.Duration)
	}
	return nil
}

func (m Maintenance) schedule() (cron.Schedule, error) {
	zone, err := time.LoadLocation(m.Zone)
	if err != nil {
		return nil, fmt.Errorf("%w: maintenance %q: zone %q: use an IANA name such as Europe/Berlin", ErrInvalid, m.Cron, m.Zone)
	}
	schedule, err := cron.ParseStandard(m.Cron)
	if err != nil {
		return nil, fmt.Errorf("%w: maintenance: cron %q: %w: write minute hour day month weekday, such as \"0 2 * * 6\"", ErrInvalid, m.Cron, err)
	}
	if spec, ok := schedule.(*cron.SpecSchedule); ok {
		spec.Location = zone
	}
	return schedule, nil
}

// Open reports whether the interval is open at now.
func (m Maintenance) Open(now time.Time) bool {
	schedule, err := m.schedule()
	if err != nil {
		return false
	}
	// The last opening that can still be open lies after now - duration: look
	// back first, so that an interval entered while nobody looked still counts.
	start := schedule.Next(now.Add(-m.Duration.Std()))
	return !start.IsZero() && !start.After(now)
}

// Next returns the first opening after now, or the zero time if there is none
// within five years.
func (m Maintenance) Next(now time.Time) time.Time {
	schedule, err := m.schedule()
	if err != nil {
		return time.Time{}
	}
	next := schedule.Next(now)
	if next.IsZero() {
		return next
	}
	return next.UTC()
}

// MayRenew reports whether the maintenance windows allow a renewal at now, and
// if not, when they next do (zero if never). No windows means always.
func MayRenew(windows []Maintenance, now time.Time) (bool, time.Time) {
	if len(windows) == 0 {
		return true, now
	}
	var earliest time.Time
	for _, m := range windows {
		if m.Open(now) {
			return true, now
		}
		if next := m.Next(now); !next.IsZero() && (earliest.IsZero() || next.Before(earliest)) {
			earliest = next
		}
	}
	return false, earliest
}
