package rule_test

import (
	"slices"
	"testing"

	"github.com/rotor-fleet/rotor/services/notifier/internal/rule"
	"github.com/rotor-fleet/rotor/shared/bus"
)

// The consumer is made by `rotor nats setup`, from a table of its own.
func TestConsumerBringsWhatTheRulesAreAbout(t *testing.T) {
	for _, d := range bus.Durables() {
		if d.Stream != bus.Events || d.Name != bus.UserNotifier {
			continue
		}
		is, want := slices.Sorted(slices.Values(d.Subjects)), slices.Sorted(slices.Values(rule.Subjects()))
		if !slices.Equal(is, want) {
			t.Errorf("the consumer brings %q, the rules are about %q: change bus.Durables", is, want)
		}
		return
	}
	t.Error("the notifier has no consumer")
}
