package main

import (
	"errors"
	"flag"
	"os"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/agent/command"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// agentCommand runs the agent of a cluster, as the binary agent does.
func agentCommand() *cobra.Command {
	var o command.Options
	flags := flag.NewFlagSet("agent", flag.ContinueOnError)
	o.Flags(flags)
	c := &cobra.Command{
		Use: command.Usage, DisableFlagsInUseLine: true,
		Short:   "Run the agent of a cluster where its clients live",
		Long:    command.Help,
		Example: command.Example,
		Args:    cli.ExactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			err := command.Run(c.Context(), o, command.Process{
				Version: daemon.Version(), Getenv: os.Getenv, Out: c.OutOrStdout(), Log: c.ErrOrStderr(),
			})
			if errors.Is(err, fleet.ErrInvalid) {
				return &cli.ExitError{Code: 2, Err: err, Hint: "see `rotor agent --help`"}
			}
			return err
		},
	}
	c.Flags().AddGoFlagSet(flags)
	return c
}
