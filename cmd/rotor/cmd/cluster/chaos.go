package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/chaos"
)

// chaosCommand makes bad days and checks that nothing was lost.
func chaosCommand() *cobra.Command {
	var o chaos.Options
	seconds := 120
	command := &cobra.Command{
		Use: "chaos", Short: "Kill, stop, restart and part programs at random, and check the invariants", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find the programs: %w", err)
			}
			o.Self, o.Bin, o.Out, o.Length = self, filepath.Dir(self), command.OutOrStdout(), time.Duration(seconds)*time.Second
			if o.Seed == 0 {
				o.Seed = uint64(rand.Uint32())
			}
			return chaos.Run(command.Context(), o)
		},
	}
	flags := command.Flags()
	flags.IntVar(&seconds, "seconds", seconds, "length of the storm")
	flags.Uint64Var(&o.Seed, "seed", 0, "the same seed makes the same faults; any, if 0")
	flags.IntVar(&o.Clusters, "clusters", 50, "`number` of clusters, with 4 clients each")
	flags.BoolVar(&o.Verbose, "verbose", false, "say each fault when it happens")
	return command
}
