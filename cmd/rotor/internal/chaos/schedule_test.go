package chaos

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

var testPlan = plan{
	length:  5 * time.Minute,
	targets: []string{"nats-1", "nats-2", "nats-3", "scheduler-1", "issuer-1", "agents-1"},
	pairs:   [][2]string{{"nats-1", "nats-2"}, {"nats-2", "nats-3"}, {"issuer-1", "nats-1"}, {"agents-1", "gateway-1"}},
}

func TestScheduleFollowsFromTheSeed(t *testing.T) {
	first, again, other := schedule(7, testPlan), schedule(7, testPlan), schedule(8, testPlan)
	if !reflect.DeepEqual(first, again) {
		t.Error("one seed, two storms")
	}
	if reflect.DeepEqual(first, other) {
		t.Error("two seeds, one storm")
	}
	kinds := map[Kind]int{}
	for _, f := range first {
		kinds[f.Kind]++
	}
	if len(first) < 50 || len(kinds) != 4 {
		t.Errorf("%d faults: %v", len(first), kinds)
	}
}

// Never two nodes of NATS at a time, never two faults on one process, and all
// is over at the end.
func TestScheduleLeavesAMajority(t *testing.T) {
	for seed := range uint64(50) {
		until := map[string]time.Duration{}
		for _, f := range schedule(seed, testPlan) {
			if f.At+f.For > testPlan.length {
				t.Fatalf("seed %d: %v ends after the storm", seed, f)
			}
			part := f.Target
			if strings.HasPrefix(part, "nats-") {
				part = "nats"
			}
			if f.At < until[part] {
				t.Fatalf("seed %d: %v while %s is away until %v", seed, f, part, until[part])
			}
			until[part] = f.At + f.For
		}
	}
}
