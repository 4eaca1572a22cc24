// Rotor keeps the certificates and tokens of a fleet of Kubernetes clusters
// alive. This is the one binary that people install: the command line, and with
// `rotor up` the whole of Rotor in one process.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
)

// commands are those that run parts of Rotor themselves.
func commands() []*cobra.Command {
	return []*cobra.Command{upCommand(), demoCommand(), backupCommand(), restoreCommand(), natsCommand(), agentCommand()}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, commands()...))
}
