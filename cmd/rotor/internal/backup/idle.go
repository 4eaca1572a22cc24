package backup

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
)

// idleLimit is how long a lease may outlive the process that held it.
const idleLimit = 30 * time.Second

// Idle waits until no scheduler holds a lease, and refuses to wait for one that
// goes on: services that run would work on a state that is half of then.
func Idle(ctx context.Context, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	limit, stop := context.WithTimeout(ctx, idleLimit)
	defer stop()
	for {
		held := 0
		err := each(ctx, js, "KV_"+bus.Leases, func(d Document) error {
			if !gone(d) {
				held++
			}
			return nil
		})
		if err != nil || held == 0 {
			return err
		}
		if clock.Sleep(limit, 500*time.Millisecond) != nil {
			return fmt.Errorf("a scheduler runs on this server: stop all services, then restore")
		}
	}
}
