// Command scheduler runs the scheduler of Rotor against an external NATS server.
package main

import (
	"github.com/rotor-fleet/rotor/services/scheduler"
	"github.com/rotor-fleet/rotor/shared/daemon"
)

func main() {
	daemon.Main(daemon.Service[scheduler.Config]{Name: "scheduler", Defaults: scheduler.Defaults(), Run: scheduler.Run})
}
