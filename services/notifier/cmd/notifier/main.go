// The notifier of Rotor as a process of its own.
package main

import (
	"github.com/rotor-fleet/rotor/services/notifier"
	"github.com/rotor-fleet/rotor/shared/daemon"
)

func main() {
	daemon.Main(daemon.Service[notifier.Config]{Name: "notifier", Defaults: notifier.Defaults(), Run: notifier.Run})
}
