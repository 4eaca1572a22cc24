// Package command is the program of an agent: its arguments, its log, its port
// for probes, its signals. The binary agent and `rotor agent` are two mains of
// it. What an agent does is the matter of package agent.
package command

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/rotor-fleet/rotor/agent"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/health"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// Usage says what the program is for and how it is called, for its help.
const (
	Usage = "agent --server https://host:8443 --join TOKEN --ca-hash sha256:... --dir FOLDER"

	Help = `Run the agent of one cluster: make its keys, enrol with a one-time join token, put
the credentials of every client of the cluster where it reads them, prove them,
and keep them new until it is stopped.

` + "`rotor join CLUSTER`" + ` prints the whole command but for --dir. What it says is
remembered: later --dir alone will do. SIGHUP makes it read its configuration file
again and try everything at once.`

	Example = `  rotor agent --server https://rotor.example.com:8443 --join edge-04.1.ABC... --ca-hash sha256:... --dir /var/lib/rotor-agent
  ROTOR_JOIN_TOKEN=edge-04.1.ABC... rotor agent --server https://rotor.example.com:8443 --ca-hash sha256:... --dir /var/lib/rotor-agent
  rotor agent --dir /var/lib/rotor-agent --listen-health 127.0.0.1:9642`
)

// Options are the arguments.
type Options struct {
	Server, Cluster, CAHash string
	Join                    string
	JoinFile                string
	Dir                     string
	ListenHealth            string
	Config                  string
	Debug                   bool
	Rehearsal               bool
}

// Flags adds the arguments to a set of flags.
func (o *Options) Flags(flags *flag.FlagSet) {
	flags.StringVar(&o.Server, "server", "", "`URL` of the gateway for agents; several with commas; remembered")
	flags.StringVar(&o.CAHash, "ca-hash", "", "`pin` of the fleet key, sha256:...; remembered")
	flags.StringVar(&o.Join, "join", "", "one-time join `token`; others can read a command line, so prefer --join-file or ROTOR_JOIN_TOKEN")
	flags.StringVar(&o.JoinFile, "join-file", "", "`file` with the join token, mode 0600; read whenever a token is needed")
	flags.StringVar(&o.Cluster, "cluster", "", "`name` of the cluster; the join token says it")
	flags.StringVar(&o.Dir, "dir", "", "`folder` for credentials, and in .rotor-agent for the agent's own keys")
	flags.StringVar(&o.ListenHealth, "listen-health", "", "`host:port` of /livez, /readyz and /metrics; none, if empty")
	flags.StringVar(&o.Config, "config", "", "configuration `file` with where and how each client is installed; see deploy/agent.yaml")
	flags.BoolVar(&o.Rehearsal, "rehearsal", false, "take the time from the server, whose clock runs fast; never for a real fleet; remembered")
	flags.BoolVar(&o.Debug, "debug", false, "log everything; else only what wants attention")
}

// Process is what the program runs in.
type Process struct {
	Version string
	Getenv  func(name string) string
	Out     io.Writer // a line for each thing done
	Log     io.Writer // what wants attention
}

// Run runs the agent until ctx ends. A fleet.ErrInvalid means that the arguments
// are wrong; with anything else the agent goes on by itself.
func Run(ctx context.Context, o Options, p Process) error {
	var file agent.File
	if o.Config != "" {
		var err error
		if file, err = agent.ReadFile(o.Config); err != nil {
			return fmt.Errorf("%w: %w", fleet.ErrInvalid, err)
		}
	}
	log, err := o.log(file, p.Log)
	if err != nil {
		return err
	}
	config := o.config(file, p, log)
	traces, err := telemetry.Open(ctx, telemetry.Options{Getenv: p.Getenv, Log: log, Version: p.Version})
	if err != nil {
		return fmt.Errorf("%w: %w", fleet.ErrInvalid, err)
	}
	defer traces.Close()
	board := health.New()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	metrics := agent.NewMetrics(registry)
	stop, err := probes{cmp.Or(o.ListenHealth, file.HealthListen), board, registry, log}.serve(ctx)
	if err != nil {
		return err
	}
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	config.Changes = o.reread(ctx, hangup, config.Settings, log)
	return agent.Run(ctx, agent.Env{
		Log: log, Clock: clock.Real(), Health: board.Part("agent"), Tracer: traces.Tracer("agent", config.Cluster), Out: p.Out, Metrics: metrics,
	}, config)
}

func (o Options) log(file agent.File, w io.Writer) (*slog.Logger, error) {
	level := slog.LevelWarn
	if file.LogLevel != "" {
		if err := level.UnmarshalText([]byte(file.LogLevel)); err != nil {
			return nil, fmt.Errorf("%w: log level %q: use debug, info, warn or error", fleet.ErrInvalid, file.LogLevel)
		}
	}
	if o.Debug {
		level = slog.LevelDebug
	}
	return slog.New(telemetry.LogHandler(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))), nil
}

// reread reads the configuration file again at each signal, until ctx ends. A
// file that is wrong changes nothing: what was good before stays.
func (o Options) reread(ctx context.Context, hangup <-chan os.Signal, settings agent.Settings, log *slog.Logger) <-chan agent.Settings {
	all := make(chan agent.Settings)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
			}
			if o.Config != "" {
				file, err := agent.ReadFile(o.Config)
				if err != nil {
					log.Error("the configuration file is wrong; the settings stay as they are", "err", err)
				} else {
					settings = file.Settings
				}
			}
			select {
			case <-ctx.Done():
				return
			case all <- settings:
			}
		}
	}()
	return all
}

// config returns the configuration of the agent: arguments win over the file.
func (o Options) config(file agent.File, p Process, log *slog.Logger) agent.Config {
	c := agent.Config{
		Server: o.Server, Pin: o.CAHash, Cluster: o.Cluster, Directory: o.Dir, Version: p.Version, Rehearsal: o.Rehearsal,
		JoinToken: secret.New(cmp.Or(o.Join, p.Getenv("ROTOR_JOIN_TOKEN"))),
	}.With(file)
	path := cmp.Or(o.JoinFile, file.JoinFile)
	if path == "" || o.Join != "" {
		return c
	}
	read := func() (secret.Text, error) {
		token, err := secret.ReadFile(path)
		if err != nil {
			return token, fmt.Errorf("join token: %w", err)
		}
		return token, nil
	}
	// It says the cluster, too. Once used, the file may be gone; an agent that
	// needs it says so.
	token, err := read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the file with the join token cannot be read", "err", err)
	}
	c.JoinToken = token
	c.Join = func(context.Context) (secret.Text, error) { return read() }
	return c
}
