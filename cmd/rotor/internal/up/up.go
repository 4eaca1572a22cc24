// Package up runs Rotor as one process: the four services, the agents that it
// hosts, and an embedded NATS server. The services cannot tell: they get a
// connection and a configuration, as they do from their own mains.
package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/host"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/natsd"
	"github.com/rotor-fleet/rotor/services/gateway"
	"github.com/rotor-fleet/rotor/services/issuer"
	"github.com/rotor-fleet/rotor/services/notifier"
	"github.com/rotor-fleet/rotor/services/scheduler"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/fleetfile"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// Options are the arguments of `rotor up`. An empty address or file leaves what
// the configuration file or the default says.
type Options struct {
	Config       string // configuration file
	Data         string // data folder
	Fleet        string // fleet file to apply
	ClockRate    float64
	ListenAPI    string
	ListenAgents string
	ListenNATS   string
	Out          io.Writer // what people read
	Log          io.Writer // what is logged
	// Ready is called, if set, when all parts are ready and the fleet file is
	// applied. The run ends when it returns.
	Ready func(ctx context.Context, running Running) error
}

// Running tells how to reach what runs.
type Running struct {
	Client *api.Client
	Clock  clock.Clock
}

// ServerConfig is the section "server" of the configuration file.
type ServerConfig struct {
	ListenNATS string `yaml:"listenNATS"` // default 127.0.0.1:4222
}

// config is everything that the one process reads.
type config struct {
	daemon.Config
	server    ServerConfig
	scheduler scheduler.Config
	issuer    issuer.Config
	notifier  notifier.Config
	gateway   gateway.Config
}

// loadConfig lays the file over the defaults, and the arguments over the file.
func loadConfig(o Options) (config, error) {
	c := config{
		server:    ServerConfig{ListenNATS: "127.0.0.1:4222"},
		scheduler: scheduler.Defaults(), issuer: issuer.Defaults(), notifier: notifier.Defaults(), gateway: gateway.Defaults(),
	}
	c.issuer.KeyFile, c.issuer.TokenIssuer, c.gateway.AdminTokenFile = "", "", ""
	err := daemon.Load(o.Config, map[string]any{
		"log": &c.Log, "nats": &c.NATS, "health": &c.Health, "clock": &c.Clock, "server": &c.server,
		"scheduler": &c.scheduler, "issuer": &c.issuer, "notifier": &c.notifier, "gateway": &c.gateway,
	})
	if err != nil {
		return c, err
	}
	override(&c.gateway.ListenAPI, o.ListenAPI)
	override(&c.gateway.ListenAgents, o.ListenAgents)
	override(&c.server.ListenNATS, o.ListenNATS)
	if o.ClockRate > 0 {
		c.Clock.Rate = o.ClockRate
	}
	if c.issuer.KeyFile == "" {
		c.issuer.KeyFile = filepath.Join(o.Data, "issuer.key")
	}
	if c.gateway.AdminTokenFile == "" {
		c.gateway.AdminTokenFile = filepath.Join(o.Data, "admin.token")
	}
	return c, c.gateway.Validate()
}

func override(value *string, argument string) {
	if argument != "" {
		*value = argument
	}
}

// Run runs until ctx ends or a part cannot go on.
func Run(ctx context.Context, o Options) error {
	c, err := loadConfig(o)
	if err != nil {
		return err
	}
	fleetFile, err := readFleet(o.Fleet)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Data, 0o700); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	bearFileLimit()
	unlock, err := lock(o.Data)
	if err != nil {
		return err
	}
	defer unlock()

	process, err := daemon.NewProcess(o.Log, c.Config)
	if err != nil {
		return err
	}
	defer process.Close()
	if process.Clock, err = resumeClock(o.Data, c.Clock.Rate); err != nil {
		return err
	}
	if c.gateway.APIListener, err = daemon.Listen("the API", c.gateway.ListenAPI); err != nil {
		return err
	}
	defer closeQuietly(c.gateway.APIListener)
	if c.gateway.AgentsListener, err = daemon.Listen("agents", c.gateway.ListenAgents); err != nil {
		return err
	}
	defer closeQuietly(c.gateway.AgentsListener)
	apiURL := c.gateway.APIURL(c.gateway.APIListener.Addr())
	if c.gateway.PublicURL == "" {
		c.gateway.PublicURL = apiURL
	}
	if c.issuer.TokenIssuer == "" {
		c.issuer.TokenIssuer = c.gateway.PublicURL
	}

	server, err := startNATS(ctx, o.Data, c.server.ListenNATS, process.Log)
	if err != nil {
		return err
	}
	defer server.Stop()

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	r := &running{stop: stop, options: o, config: c, process: process, server: server, fleet: fleetFile, apiURL: apiURL, natsURL: server.URL()}
	return r.group(ctx)
}

func closeQuietly(l net.Listener) { _ = l.Close() } // its server has closed it already

func readFleet(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("fleet file: %w", err)
	}
	if _, err := fleetfile.Parse(raw); err != nil {
		return nil, cli.FleetFileError(path, err)
	}
	return raw, nil
}

func startNATS(ctx context.Context, data, listen string, log *slog.Logger) (*natsd.Server, error) {
	server, err := natsd.Start(natsd.Config{Dir: filepath.Join(data, "nats"), Listen: listen, Log: log})
	if err != nil {
		return nil, err
	}
	if err := server.Setup(ctx); err != nil {
		server.Stop()
		return nil, err
	}
	return server, nil
}

// running is one run of the process.
type running struct {
	stop    context.CancelFunc // ends the run well
	options Options
	config  config
	process *daemon.Process
	server  *natsd.Server
	fleet   []byte
	apiURL  string
	natsURL string
}

func (r *running) agentsURL() string {
	return "https://" + r.config.gateway.AgentsListener.Addr().String()
}

func (r *running) group(ctx context.Context) error {
	hosted := r.process.Board.Part("agents")
	return daemon.Group(ctx,
		r.service(bus.UserIssuer, func(ctx context.Context, env daemon.Env) error { return issuer.Run(ctx, env, r.config.issuer) }),
		r.service(bus.UserScheduler, func(ctx context.Context, env daemon.Env) error { return scheduler.Run(ctx, env, r.config.scheduler) }),
		r.service(bus.UserNotifier, func(ctx context.Context, env daemon.Env) error { return notifier.Run(ctx, env, r.config.notifier) }),
		r.service(bus.UserGateway, func(ctx context.Context, env daemon.Env) error { return gateway.Run(ctx, env, r.config.gateway) }),
		daemon.Part{Name: "health", Run: func(ctx context.Context) error { return r.process.ServeOps(ctx, r.config.Health.Listen) }},
		daemon.Part{Name: "agents", Run: func(ctx context.Context) error {
			client, err := r.client(ctx)
			if err != nil {
				return err
			}
			return host.Run(ctx, host.Config{
				Client: client, Server: r.agentsURL(), Data: r.options.Data,
				Log: r.process.Log.With("part", "agent"), Clock: r.process.Clock, Health: hosted,
				Tracer: func(cluster string) telemetry.Tracer { return r.process.Traces.Tracer("agent", cluster) },
			})
		}},
		daemon.Part{Name: "store", Run: func(ctx context.Context) error { return r.server.Watch(ctx, r.process.Board.Part("nats")) }},
		daemon.Part{Name: "start", Run: r.announce},
	)
}

// service is a part with a connection of its own, as its own user of NATS.
func (r *running) service(name string, run func(context.Context, daemon.Env) error) daemon.Part {
	r.process.Board.Part(name).Wait("start", "starting")
	return daemon.Part{Name: name, Run: func(ctx context.Context) error {
		nc, err := r.server.Connect(r.process.Log, name)
		if err != nil {
			return err
		}
		defer nc.Close()
		env := r.process.Env(name, "rotor", nc, 1)
		env.Health.Met("start")
		return run(ctx, env)
	}}
}

// client waits for the admin token and returns a client of the API.
func (r *running) client(ctx context.Context) (*api.Client, error) {
	for {
		token, err := secret.ReadFile(r.config.gateway.AdminTokenFile)
		if err == nil && !token.Empty() {
			return &api.Client{URL: r.apiURL, Token: token, HTTP: cli.ServerFile{CertificateFile: r.config.gateway.CertFile}.HTTP()}, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if err := clock.Sleep(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// announce waits until all parts are ready, applies the fleet file, and says
// where everything is.
func (r *running) announce(ctx context.Context) error {
	client, err := r.client(ctx)
	if err != nil {
		return err
	}
	if err := r.waitReady(ctx); err != nil {
		return err
	}
	token, err := filepath.Abs(r.config.gateway.AdminTokenFile)
	if err != nil {
		return fmt.Errorf("admin token: %w", err)
	}
	certificate := r.config.gateway.CertFile
	if certificate != "" {
		if certificate, err = filepath.Abs(certificate); err != nil {
			return fmt.Errorf("certificate of the API: %w", err)
		}
	}
	file := cli.ServerFile{
		URL: r.apiURL, Agents: r.agentsURL(), NATS: r.natsURL, CertificateFile: certificate,
		AdminTokenFile: token, SubscriberKeyFile: filepath.Join("nats", natsd.SubscriberFile),
	}
	if err := file.Write(r.options.Data); err != nil {
		return err
	}
	out := r.options.Out
	running, err := cli.ReadServerFile(r.options.Data)
	if err != nil {
		return err
	}
	running.Print(out, daemon.Version())
	if r.fleet != nil {
		plan, err := client.Apply(ctx, r.fleet, false, false)
		if err != nil {
			return fmt.Errorf("apply %s: %w", r.options.Fleet, err)
		}
		cli.PrintPlan(out, plan)
		_, _ = fmt.Fprintln(out)
	}
	_, _ = fmt.Fprintf(out, "In another terminal: bin/rotor status%[1]s, bin/rotor get clients%[1]s, bin/rotor watch%[1]s. Ctrl-C ends it.\n", dataFlag(r.options.Data))
	if r.options.Ready != nil {
		defer r.stop()
		return r.options.Ready(ctx, Running{Client: client, Clock: r.process.Clock})
	}
	<-ctx.Done()
	return nil
}

// dataFlag is what a command has to be told to find this server; nothing for the
// folder in which it looks by itself.
func dataFlag(data string) string {
	if filepath.Clean(data) == "var" {
		return ""
	}
	return " --data " + data
}

func (r *running) waitReady(ctx context.Context) error {
	for !r.process.Board.Status().Ready {
		if err := clock.Sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
