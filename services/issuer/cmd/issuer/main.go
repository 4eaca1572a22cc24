// Command issuer runs the issuer of Rotor as a process of its own.
package main

import (
	"github.com/rotor-fleet/rotor/shared/daemon"

	"github.com/rotor-fleet/rotor/services/issuer"
)

func main() {
	daemon.Main(daemon.Service[issuer.Config]{Name: "issuer", Defaults: issuer.Defaults(), Run: issuer.Run})
}
