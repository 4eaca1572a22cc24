package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/demo"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/up"
)

// upGC is how much garbage, in percent of what is in use, `rotor up` lets lie.
// Most of its memory are copies of documents, which make no garbage while
// nothing happens: with half of Go's 100 it is a quarter smaller (docs/benchmarks.md).
const upGC = 50

// upCommand runs all of Rotor in this process.
func upCommand() *cobra.Command {
	var o up.Options
	c := &cobra.Command{
		Use:   "up",
		Short: "Run all of Rotor in one process, with NATS embedded",
		Long: `Run scheduler, issuer, notifier, gateway, the agents that this machine hosts and
an embedded NATS server in one process, until Ctrl-C.

Everything that lasts lies in the data folder. The fleet file is applied at each
start; an upgrade that was reported later than the file says is kept.`,
		Example: `  rotor up --data var --fleet var/fleet.yaml
  rotor up --data /var/lib/rotor --config /etc/rotor/rotor.yaml
  rotor up --data scratch --fleet fleet.yaml --clock-rate 86400   # a day passes in a second`,
		Args: cli.ExactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if o.Data, err = c.Flags().GetString("data"); err != nil {
				return err
			}
			if c.Flags().Changed("clock-rate") && o.ClockRate < 1 {
				return &cli.ExitError{Code: 2, Err: fmt.Errorf("--clock-rate %g: use at least 1", o.ClockRate), Hint: "see `rotor up --help`"}
			}
			o.Out, o.Log = c.OutOrStdout(), c.ErrOrStderr()
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(upGC)
			}
			return up.Run(c.Context(), o)
		},
	}
	flags := c.Flags()
	flags.StringVar(&o.Config, "config", "", "configuration `file`; see deploy/rotor.yaml")
	flags.StringVar(&o.Fleet, "fleet", "", "fleet `file` to apply at the start")
	flags.StringVar(&o.ListenAPI, "listen-api", "", "`host:port` of the API (default 127.0.0.1:8080)")
	flags.StringVar(&o.ListenAgents, "listen-agents", "", "`host:port` of the agents' listener (default 127.0.0.1:8443)")
	flags.StringVar(&o.ListenNATS, "listen-nats", "", "`host:port` of NATS for subscribers (default 127.0.0.1:4222)")
	flags.Float64Var(&o.ClockRate, "clock-rate", 0, "run the clock `N` times as fast, for rehearsals; kept in the data folder")
	return c
}

// demoCommand runs the sample fleet on a fast clock.
func demoCommand() *cobra.Command {
	var o demo.Options
	var output string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run months of the sample fleet in a minute, on a fast clock",
		Long: `Run the sample fleet on a fast clock in a scratch folder, with the real parts,
and count what happened: renewals, expired credentials, missed update windows,
alerts, rotations of the CA, and the longest time that any client was without a
valid credential.`,
		Example: `  rotor demo
  rotor demo --days 200 --clock-rate 345600 -o json
  rotor demo --days 1200 --clock-rate 1000000`,
		Args: cli.ExactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Days < 1 || o.ClockRate < 1 {
				return &cli.ExitError{Code: 2, Err: fmt.Errorf("--days %d --clock-rate %g: both must be at least 1", o.Days, o.ClockRate), Hint: "see `rotor demo --help`"}
			}
			if output != "table" && output != "json" {
				return &cli.ExitError{Code: 2, Err: fmt.Errorf("--output %q: use table or json", output), Hint: "see `rotor demo --help`"}
			}
			o.Progress = c.ErrOrStderr()
			result, err := demo.Run(c.Context(), o)
			if err != nil {
				return err
			}
			return printResult(c, output, result)
		},
	}
	flags := c.Flags()
	flags.IntVar(&o.Days, "days", 200, "how many days to run")
	flags.Float64Var(&o.ClockRate, "clock-rate", 345600, "how many times as fast as time; 345600 is four days a second")
	flags.BoolVar(&o.Keep, "keep", false, "keep the scratch folder")
	flags.StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

func printResult(c *cobra.Command, output string, r demo.Result) error {
	if output == "json" {
		encoder := json.NewEncoder(c.OutOrStdout())
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), `days                 %d
clusters             %d
clients              %d
renewals             %d
expired              %d
window missed        %d
alerts               %d
longest gap          %ds
CA rotations         %d
token key rotations  %d
cut leaves           %d
`, r.Days, r.Clusters, r.Clients, r.Renewals, r.Expired, r.WindowMissed, r.Alerts, r.LongestGap, r.AuthorityRotations, r.TokenKeyRotations, r.CutLeaves)
	return err
}
