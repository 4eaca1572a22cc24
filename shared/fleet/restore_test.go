package fleet_test

import (
	"testing"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Numbers that may have been used before a restore are not used again, and only
// an agent that has lost what is on record may jump ahead.
func TestNextGeneration(t *testing.T) {
	five := []fleet.Generation{{Number: 5}}
	for name, test := range map[string]struct {
		record  *fleet.Record
		request fleet.Request
		want    int
	}{
		"no record":               {nil, fleet.Request{}, 1},
		"next":                    {&fleet.Record{Generations: five}, fleet.Request{Generation: 6}, 6},
		"floor":                   {&fleet.Record{Generations: five, Floor: 1005}, fleet.Request{Generation: 6}, 1006},
		"floor long passed":       {&fleet.Record{Generations: five, Floor: 3}, fleet.Request{}, 6},
		"ahead and lost":          {&fleet.Record{Generations: five, Floor: 1005}, fleet.Request{Generation: 1008, Lost: true}, 1008},
		"ahead without a reason":  {&fleet.Record{Generations: five}, fleet.Request{Generation: 8}, 6},
		"lost, of before":         {&fleet.Record{Generations: five}, fleet.Request{Generation: 5, Lost: true}, 6},
		"ahead beyond all bounds": {&fleet.Record{Generations: five}, fleet.Request{Generation: 1 << 40, Lost: true}, 5 + fleet.MaxAhead},
	} {
		if got := test.record.Next(test.request); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}
