package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/natsconf"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/daemon"
)

// natsCommand prepares external NATS servers.
func natsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "nats",
		Short: "Prepare external NATS servers: configuration with users and TLS, streams and buckets",
		Example: `  rotor nats config --out nats
  rotor nats setup --config nats/deploy.yaml`,
		Args: cli.NoSubcommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(natsConfigCommand(), natsSetupCommand())
	return c
}

func natsConfigCommand() *cobra.Command {
	var o natsconf.Options
	var out string
	c := &cobra.Command{
		Use:   "config --out DIR",
		Short: "Write the configuration of NATS servers, with a user per service",
		Long: `Write the configuration of one NATS server or of a cluster of three, the key of
each user, and the section "nats" of rotor.yaml for each service.

A key or certificate that exists is kept; all else is written anew, so run it
again after an upgrade of Rotor and reload the servers (nats-server --signal
reload). Servers that do not listen on loopback need TLS: name the files of
certificate, key and CA, or have them made.`,
		Example: `  rotor nats config --out var/nats
  rotor nats config --out nats --installed-at /etc/rotor/nats --tls-self-signed \
    --servers nats-1.example.com:4222,nats-2.example.com:4222,nats-3.example.com:4222`,
		Args: cli.ExactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Base == "" {
				base, err := filepath.Abs(out)
				if err != nil {
					return fmt.Errorf("--out %s: %w", out, err)
				}
				o.Base = base
			}
			files, err := natsconf.Write(out, o)
			if err != nil {
				return &cli.ExitError{Code: 2, Err: err, Hint: "see `rotor nats config --help`"}
			}
			for _, name := range slices.Sorted(maps.Keys(files)) {
				if _, err := fmt.Fprintln(c.OutOrStdout(), filepath.Join(out, name)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.StringVar(&out, "out", "nats", "`folder` to write to")
	flags.StringVar(&o.Base, "installed-at", "", "`folder` where the files will be used (default: the folder to write to)")
	flags.StringSliceVar(&o.Servers, "servers", []string{"127.0.0.1:4222"}, "`host:port` of each server; one or three")
	flags.StringSliceVar(&o.Routes, "routes", nil, "`host:port` of each server for the others (default: the port + 2000)")
	flags.StringVar(&o.ClusterName, "cluster-name", "rotor", "name of the cluster")
	flags.StringVar(&o.Store, "store", "/var/lib/rotor-nats", "`folder` of the streams on each server")
	flags.StringVar(&o.MaxStore, "max-store", "", "limit of the streams on disk, such as 100GB; they may take 25 GB (default: 3/4 of the free space)")
	flags.StringVar(&o.TLS.Cert, "tls-cert", "", "certificate `file` on each server")
	flags.StringVar(&o.TLS.Key, "tls-key", "", "key `file` on each server")
	flags.StringVar(&o.TLS.CA, "tls-ca", "", "`file` of the CA on each server and service")
	flags.BoolVar(&o.TLS.SelfSigned, "tls-self-signed", false, "make a CA and a certificate for each server")
	return c
}

func natsSetupCommand() *cobra.Command {
	var config, output string
	var dry bool
	c := &cobra.Command{
		Use:   "setup --config FILE",
		Short: "Make or update streams, buckets and consumers, as the deploy identity",
		Long: `Make the streams, buckets and durable consumers that are missing and update those
that differ. The configuration is a rotor.yaml whose section "nats" names the
key of the user deploy; rotor nats config writes one, deploy.yaml. No service
may do this. Run it before the services start and after each upgrade of Rotor.`,
		Example: `  rotor nats setup --config nats/deploy.yaml --dry-run
  rotor nats setup --config nats/deploy.yaml`,
		Args: cli.ExactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return cli.Usage(c, "--output %q: use table or json", output)
			}
			if config == "" {
				return cli.Usage(c, "name the configuration of the deploy identity with --config FILE")
			}
			var common daemon.Config
			if err := daemon.Load(config, map[string]any{"log": &common.Log, "nats": &common.NATS}); err != nil {
				return &cli.ExitError{Code: 2, Err: err}
			}
			logger, err := daemon.NewLogger(c.ErrOrStderr(), common.Log)
			if err != nil {
				return &cli.ExitError{Code: 2, Err: err}
			}
			nc, err := daemon.Connect(logger, common.NATS, bus.UserDeploy)
			if err != nil {
				return err
			}
			defer nc.Close()
			changes, err := bus.Apply(c.Context(), nc, bus.Options{Replicas: common.NATS.Replicas, Dry: dry, Waiting: waiting(logger)})
			if printed := printChanges(c, output, changes); err == nil {
				err = printed
			}
			return err
		},
	}
	flags := c.Flags()
	flags.StringVar(&config, "config", "", "configuration `file` of the deploy identity")
	flags.BoolVar(&dry, "dry-run", false, "only say what would be done")
	flags.StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

// waiting logs why the setup waits, each cause once.
func waiting(logger *slog.Logger) func(error) {
	var last string
	return func(err error) {
		if err.Error() != last {
			last = err.Error()
			logger.Warn("NATS is not ready yet, trying again", "error", err)
		}
	}
}

func printChanges(c *cobra.Command, output string, changes []bus.Change) error {
	if output == "json" {
		encoder := json.NewEncoder(c.OutOrStdout())
		encoder.SetIndent("", "  ")
		return encoder.Encode(changes)
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, change := range changes {
		row := []string{change.Kind, change.Name, change.What}
		if len(change.Details) > 0 {
			row = append(row, strings.Join(change.Details, ", "))
		}
		if _, err := fmt.Fprintln(w, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return w.Flush()
}
