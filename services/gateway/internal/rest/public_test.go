package rest

import (
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// The wait before a token key signs passes on the clock of the fleet, and a cache
// lives on the machine's: the copy has to be old before that wait is over.
func TestLifetimeOnAFastClock(t *testing.T) {
	now := time.Date(2026, 11, 25, 13, 0, 0, 0, time.UTC)
	for rate, want := range map[float64]string{1: "public, max-age=300", 30: "public, max-age=10", 1e6: "public, max-age=0"} {
		if got := (Public{Clock: clock.Fast(now, now, rate)}).lifetime(); got != want {
			t.Errorf("at rate %g: %q, want %q", rate, got, want)
		}
	}
	if got := (Public{}).lifetime(); got != "public, max-age=300" {
		t.Errorf("on the machine's clock: %q", got)
	}
}
