package bus

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/clock"
)

func TestSpent(t *testing.T) {
	failed, panicked := errors.New("failed"), fmt.Errorf("pass: %w", &panicError{value: "nil map"})
	for name, c := range map[string]struct {
		patience Patience
		age      time.Duration
		attempts uint64
		err      error
		want     bool
	}{
		"young":                            {age: time.Hour, attempts: 1000, err: failed},
		"old, and tried often":             {age: 73 * time.Hour, attempts: 20, err: failed, want: true},
		"old, as all was down":             {age: 73 * time.Hour, attempts: 19, err: failed},
		"older than the stream can wait":   {age: messageAge - 23*time.Hour, attempts: 1, err: failed, want: true},
		"as configured":                    {patience: Patience{After: time.Hour, Attempts: 2}, age: 61 * time.Minute, attempts: 2, err: failed, want: true},
		"longer than the default":          {patience: Patience{After: 240 * time.Hour}, age: 100 * time.Hour, attempts: 500, err: failed},
		"a panic is tried again":           {age: time.Second, attempts: 4, err: panicked},
		"a panic is not tried for so long": {age: time.Second, attempts: 5, err: panicked, want: true},
	} {
		meta := &jetstream.MsgMetadata{NumDelivered: c.attempts, Timestamp: clock.Wall().Add(-c.age)}
		if got := c.patience.spent(meta, c.err); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
