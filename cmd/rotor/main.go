// Rotor keeps the certificates and tokens of a fleet of Kubernetes clusters
// alive. This is the one binary that people install: the command line, and with
// `rotor up` the whole of Rotor in one process.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, upCommand(), demoCommand(), backupCommand(), restoreCommand(), natsCommand(), agentCommand()))
}
