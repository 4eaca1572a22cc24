package demo

import (
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Issuer and gateway tell of a generation each; which is heard first makes no gap.
func TestNoGapByTheOrderOfFacts(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, early := range map[string]bool{"issued first": false, "installed first": true} {
		tally := newTally(Options{})
		for n := range 4 {
			at := begin.Add(time.Duration(n) * 50 * fleet.Day)
			c := event.Client{Client: fleet.ClientKey{Kind: "kms"}, Generation: n + 1, NotAfter: at.Add(90 * fleet.Day), ExpiresAt: at.Add(91 * fleet.Day)}
			if early {
				tally.installed(at, "edge-01", c)
			}
			tally.issued("edge-01", c)
			if !early {
				tally.installed(at, "edge-01", c)
			}
		}
		if tally.gap > 0 || tally.result.Renewals != 3 {
			t.Errorf("%s: a gap of %s, %d renewals", name, tally.gap, tally.result.Renewals)
		}
		tally.installed(begin.Add(150*fleet.Day+100*fleet.Day), "edge-01", event.Client{Client: fleet.ClientKey{Kind: "kms"}, Generation: 5})
		if tally.gap != 10*fleet.Day {
			t.Errorf("%s: a gap of %s, want 10 days", name, tally.gap)
		}
	}
}
