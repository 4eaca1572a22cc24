// Command cluster runs Rotor on this machine as it runs in production: NATS
// nodes, services and agents as programs of their own. It is for development
// and for the tests of the whole; `make up` and `make chaos` call it.
package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cluster"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/host"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/fleetfile"
	"github.com/rotor-fleet/rotor/shared/secret"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	root := &cobra.Command{
		Use: "cluster", Short: "Run Rotor as many programs on one machine, for development",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.SetOut(os.Stdout)
	root.SetErr(os.Stderr)
	root.AddCommand(upCommand(), agentsCommand(), chaosCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		os.Exit(1)
	}
}

// upCommand runs the topology until Ctrl-C.
func upCommand() *cobra.Command {
	var c cluster.Config
	var fleet string
	command := &cobra.Command{
		Use: "up", Short: "Start NATS nodes, services and agents, and stop them on Ctrl-C", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			var err error
			if c.Self, err = os.Executable(); err != nil {
				return fmt.Errorf("find the programs: %w", err)
			}
			if c.Bin == "" {
				c.Bin = filepath.Dir(c.Self)
			}
			c.Log, c.Said = command.ErrOrStderr(), command.ErrOrStderr()
			return up(command.Context(), command.OutOrStdout(), c, fleet)
		},
	}
	flags := command.Flags()
	flags.StringVar(&c.Dir, "data", "var/cluster", "data `folder`")
	flags.StringVar(&c.Bin, "bin", "", "`folder` of the programs (default: that of this one)")
	flags.StringVar(&c.Config, "config", "", "configuration `file` to begin with")
	flags.StringVar(&fleet, "fleet", "", "fleet `file` to apply at the start")
	flags.IntVar(&c.Nodes, "nodes", 3, "`number` of NATS nodes")
	flags.IntVar(&c.Copies, "copies", 2, "`number` of each service")
	flags.IntVar(&c.Hosts, "hosts", 1, "`number` of programs that host agents")
	flags.StringVar(&c.Listen.API, "listen-api", "127.0.0.1:8080", "`host:port` of the first API")
	flags.StringVar(&c.Listen.Agents, "listen-agents", "127.0.0.1:8443", "`host:port` of the first listener for agents")
	flags.StringVar(&c.Listen.NATS, "listen-nats", "127.0.0.1:4222", "`host:port` of the first NATS node")
	return command
}

func up(ctx context.Context, out io.Writer, c cluster.Config, fleet string) (err error) {
	var file []byte
	if fleet != "" {
		if file, err = os.ReadFile(fleet); err != nil {
			return fmt.Errorf("fleet file: %w", err)
		}
		if _, err := fleetfile.Parse(file); err != nil {
			return cli.FleetFileError(fleet, err)
		}
	}
	k, err := cluster.Start(ctx, c)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer func() { err = errors.Join(err, k.Stop(ctx)) }()
	server := k.ServerFile()
	if err := server.Write(c.Dir); err != nil {
		return err
	}
	if server, err = cli.ReadServerFile(c.Dir); err != nil {
		return err
	}
	server.Print(out, daemon.Version())
	if file != nil {
		token, err := k.Token()
		if err != nil {
			return err
		}
		plan, err := (&api.Client{URL: k.API(), Token: token}).Apply(ctx, file, false, false)
		if err != nil {
			return fmt.Errorf("apply %s: %w", fleet, err)
		}
		cli.PrintPlan(out, plan)
		_, _ = fmt.Fprintln(out)
	}
	_, _ = fmt.Fprintf(out, "In another terminal: bin/rotor --data %s status. Logs lie in %s. Ctrl-C ends it.\n", c.Dir, filepath.Join(c.Dir, "logs"))
	<-ctx.Done()
	return nil
}

// agentsCommand hosts the agents of a share of the clusters.
func agentsCommand() *cobra.Command {
	var c host.Config
	var apiURL, tokenFile, health, share string
	command := &cobra.Command{
		Use: "agents", Short: "Host the agents of the clusters whose delivery names a directory", Args: cobra.NoArgs, Hidden: true,
		RunE: func(command *cobra.Command, _ []string) error {
			var err error
			if c.Mine, err = parseShare(share); err != nil {
				return err
			}
			process, err := daemon.NewProcess(command.ErrOrStderr(), daemon.Config{})
			if err != nil {
				return err
			}
			c.Log, c.Clock, c.Health = process.Log.With("part", "agent"), process.Clock, process.Board.Part("agents")
			c.Health.Wait("clusters", "not listed yet")
			return daemon.Group(command.Context(),
				daemon.Part{Name: "health", Run: func(ctx context.Context) error { return process.ServeOps(ctx, health) }},
				daemon.Part{Name: "agents", Run: func(ctx context.Context) error {
					token, err := cluster.Await(ctx, func() (secret.Text, error) { return secret.ReadFile(tokenFile) })
					if err != nil {
						return err
					}
					c.Client = &api.Client{URL: apiURL, Token: token}
					return host.Run(ctx, c)
				}},
			)
		},
	}
	flags := command.Flags()
	flags.StringVar(&c.Data, "dir", "", "data `folder`")
	flags.StringVar(&c.Server, "server", "", "`URL` of the gateways for agents; several with commas")
	flags.StringVar(&apiURL, "api", "", "`URL` of the API")
	flags.StringVar(&tokenFile, "token-file", "", "`file` of the admin token")
	flags.StringVar(&health, "health", "", "`host:port` of probes and metrics")
	flags.StringVar(&share, "share", "1/1", "which `part/of` the clusters to serve")
	return command
}

// parseShare reads "2/4": the second of four parts of all clusters.
func parseShare(text string) (func(cluster string) bool, error) {
	var part, of uint32
	if n, err := fmt.Sscanf(text, "%d/%d", &part, &of); n != 2 || err != nil || part < 1 || part > of {
		return nil, fmt.Errorf("--share %q: write part/of, such as 2/4", text)
	}
	return func(name string) bool {
		sum := fnv.New32a()
		_, _ = sum.Write([]byte(name))
		return sum.Sum32()%of == part-1
	}, nil
}
