package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rotor-fleet/rotor/shared/bus"
)

// Service is one of the services as a program of its own.
type Service[C any] struct {
	Name     string
	Defaults C
	Run      func(ctx context.Context, env Env, c C) error
}

// Main runs a service as a process, from its arguments to its exit code: 0
// after a signal, 1 when it cannot go on, 2 for wrong arguments.
func Main[C any](s Service[C]) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	err := s.main(ctx, os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", s.Name, err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

func (s Service[C]) main(ctx context.Context, args []string, w io.Writer) error {
	flags := flag.NewFlagSet(s.Name, flag.ContinueOnError)
	flags.SetOutput(w)
	path := flags.String("config", "", "configuration `file`; see deploy/rotor.yaml")
	check := flags.Bool("check-config", false, "read the configuration and stop")
	instance := flags.String("instance", "", "`name` of this process among its replicas (default: the name of the host)")
	version := flags.Bool("version", false, "print the version and stop")
	flags.Usage = func() {
		_, _ = fmt.Fprintf(w, "%s runs the %s of Rotor against an external NATS server.\n\nUsage: %s --config rotor.yaml\n\n", s.Name, s.Name, s.Name)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if *version {
		_, err := fmt.Fprintf(w, "%s %s\n", s.Name, Version())
		return err
	}
	own := s.Defaults
	config, err := LoadAll(ctx, *path, s.Name, &own)
	if v, ok := any(own).(interface{ Validate() error }); ok && err == nil {
		err = v.Validate()
	}
	if err != nil || *check {
		return err
	}
	if *instance == "" {
		if *instance, err = os.Hostname(); err != nil {
			*instance = s.Name
		}
	}
	return s.serve(ctx, w, config, own, *instance)
}

func (s Service[C]) serve(ctx context.Context, w io.Writer, config Config, own C, instance string) error {
	process, err := NewProcess(w, config)
	if err != nil {
		return err
	}
	defer process.Close()
	part := process.Board.Part("nats")
	part.Wait("connection", "connecting to "+config.NATS.URL)
	return Group(ctx,
		Part{"health", func(ctx context.Context) error { return process.ServeOps(ctx, config.Health.Listen) }},
		Part{s.Name, func(ctx context.Context) error {
			nc, err := Connect(process.Log, config.NATS, s.Name)
			if err != nil {
				return err
			}
			defer nc.Close()
			err = bus.Await(ctx, nc, s.Name, func(why string) {
				part.Wait("streams", why)
				process.Log.Warn("waiting for NATS", "why", why)
			})
			if err != nil {
				return err
			}
			part.Met("streams")
			part.Met("connection")
			return s.Run(ctx, process.Env(s.Name, instance, nc, config.NATS.Replicas), own)
		}},
	)
}

// ServeOps serves the health port until ctx ends; without an address it only
// waits.
func (p *Process) ServeOps(ctx context.Context, address string) error {
	if address == "" {
		<-ctx.Done()
		return nil
	}
	l, err := Listen("health", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: p.Ops(), ReadHeaderTimeout: 5 * time.Second}
	return Serve(ctx, server, l, time.Second)
}

// Connect returns a connection to NATS that keeps trying, at the start as after
// a loss, until it is closed.
func Connect(log *slog.Logger, c NATSConfig, name string) (*nats.Conn, error) {
	url := c.URL
	if url == "" {
		url = nats.DefaultURL
	}
	options := append(ConnOptions(log, name), nats.RetryOnFailedConnect(true))
	if c.NKeyFile != "" {
		nkey, err := nats.NkeyOptionFromSeed(c.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("connect to NATS: nkey file %s: %w", c.NKeyFile, err)
		}
		options = append(options, nkey)
	}
	if c.CAFile != "" {
		options = append(options, nats.RootCAs(c.CAFile))
	}
	nc, err := nats.Connect(url, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", url, err)
	}
	return nc, nil
}

const pingInterval = 20 * time.Second

// ConnOptions are the options of every connection of ours.
func ConnOptions(log *slog.Logger, name string) []nats.Option {
	return []nats.Option{
		nats.Name("rotor " + name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second),
		// A server that swallows what is sent is left after a minute; by default
		// only after six.
		nats.PingInterval(pingInterval),
		nats.CustomInboxPrefix("_INBOX_" + name),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("NATS connection lost; reconnecting", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("NATS connection restored", "url", nc.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Error("NATS error", "subject", subject, "err", err)
		}),
	}
}

// version is set by the linker.
var version = ""

// Version returns the version of this build: what the linker was told, or the
// commit, or "devel".
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return "devel-" + setting.Value[:min(12, len(setting.Value))]
		}
	}
	return strings.Trim(info.Main.Version, "()")
}
