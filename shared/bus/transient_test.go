package bus_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/bus"
)

// What three nodes have answered while one of them was starting or gone, and
// what no repetition mends.
func TestTransient(t *testing.T) {
	for code, want := range map[jetstream.ErrorCode]bool{
		10005: true, 10008: true, 10009: true, 10118: true, 10158: true, 10163: true,
		10071: false, 10164: false, 10074: false, jetstream.JSErrCodeStreamNotFound: false,
	} {
		if got := bus.Transient(fmt.Errorf("set up: %w", &jetstream.APIError{ErrorCode: code})); got != want {
			t.Errorf("code %d: %v, want %v", code, got, want)
		}
	}
	if bus.Transient(errors.New("disk full")) {
		t.Error("any error is transient")
	}
}
