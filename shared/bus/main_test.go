package bus_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/rotor-fleet/rotor/shared/clock"
)

var clockReal = clock.Real()

func TestMain(m *testing.M) {
	// highwayhash of nats-server and the connection's own timers end late.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine.func1"))
}
