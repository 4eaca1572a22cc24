// Command gateway runs the gateway of Rotor against an external NATS server.
package main

import (
	"github.com/rotor-fleet/rotor/services/gateway"
	"github.com/rotor-fleet/rotor/shared/daemon"
)

func main() {
	daemon.Main(daemon.Service[gateway.Config]{Name: "gateway", Defaults: gateway.Defaults(), Run: gateway.Run})
}
