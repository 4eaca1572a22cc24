// Command agent installs the credentials of one cluster: see package agent.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/rotor-fleet/rotor/agent/command"
)

// version is set by the linker.
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(command.Main(ctx, os.Args[1:], command.Process{Version: version, Getenv: os.Getenv, Out: os.Stdout, Log: os.Stderr}))
}
