// Package daemon takes a process from its arguments to running: configuration,
// log, metrics, connection to NATS, health, signals, and the group of parts.
//
// A part is a function Run(ctx, Env, Config) error that blocks until ctx ends.
// One process may run one part or several; the part cannot tell.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/health"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// Env is what a process gives to a part: values, no globals.
type Env struct {
	Log      *slog.Logger
	NATS     *nats.Conn
	Replicas int // of streams and consumers
	Clock    clock.Clock
	Metrics  prometheus.Registerer
	Health   health.Part
	Instance string       // name of this process among its replicas
	Ops      http.Handler // serves /livez, /readyz and /metrics of the process
	Tracer   telemetry.Tracer
	Messages *bus.Measures // of the process; nil measures nothing
	Patience bus.Patience  // with messages that fail again and again
}

// Bus returns a bus whose spans and measures are those of this part.
func (e Env) Bus() (*bus.Bus, error) {
	return bus.New(e.NATS, bus.Traced(e.Tracer), bus.Measured(e.Messages), bus.Timed(e.Clock), bus.Patient(e.Patience))
}

// Ledger returns the log of the chain of a service in the audit ledger.
func (e Env) Ledger(b *bus.Bus, service string) *audit.Log {
	return audit.New(service, b.Ledger(service), e.Clock.Now).Tell(e.Messages.Entry)
}

// Process is what all parts of one process share.
type Process struct {
	Log      *slog.Logger
	Clock    clock.Clock
	Board    *health.Board
	Registry *prometheus.Registry
	Messages *bus.Measures
	Traces   *telemetry.Provider // nil where nobody asks for traces
	denied   *prometheus.CounterVec
	patience bus.Patience
}

// NewProcess returns a process that logs to w.
func NewProcess(w io.Writer, c Config) (*Process, error) {
	logger, err := NewLogger(w, c.Log)
	if err != nil {
		return nil, err
	}
	if err := c.NATS.Validate(); err != nil {
		return nil, err
	}
	registry := prometheus.NewRegistry()
	denied := NewDenied()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), denied)
	messages, err := bus.NewMeasures(registry)
	if err != nil {
		return nil, err
	}
	traces, err := telemetry.Open(context.Background(), telemetry.Options{Getenv: os.Getenv, Log: logger, Version: Version()})
	if err != nil {
		return nil, err
	}
	return &Process{
		Log: logger, Clock: c.Clock.Clock(), Board: health.New(), Registry: registry, Messages: messages, Traces: traces, denied: denied,
		patience: bus.Patience{After: c.NATS.GiveUpAfter},
	}, nil
}

// Close sends the last spans. What runs has ended before.
func (p *Process) Close() { p.Traces.Close() }

// NewLogger returns a logger as configured.
func NewLogger(w io.Writer, c LogConfig) (*slog.Logger, error) {
	var level slog.Level
	if c.Level != "" {
		if err := level.UnmarshalText([]byte(c.Level)); err != nil {
			return nil, fmt.Errorf("log: level %q: use debug, info, warn or error", c.Level)
		}
	}
	options := &slog.HandlerOptions{Level: level}
	switch c.Format {
	case "", "text":
		return slog.New(telemetry.LogHandler(slog.NewTextHandler(w, options))), nil
	case "json":
		return slog.New(telemetry.LogHandler(slog.NewJSONHandler(w, options))), nil
	default:
		return nil, fmt.Errorf("log: format %q: use text or json", c.Format)
	}
}

// Ops serves /livez, /readyz and /metrics of the process.
func (p *Process) Ops() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", p.Board.ServeLive)
	mux.HandleFunc("GET /readyz", p.Board.ServeReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.Registry, promhttp.HandlerOpts{Registry: p.Registry, EnableOpenMetrics: true}))
	return mux
}

// Env returns what one part of the process gets.
func (p *Process) Env(part, instance string, nc *nats.Conn, replicas int) Env {
	p.tellDenials(part, nc)
	return Env{
		Log: p.Log.With("part", part), NATS: nc, Replicas: max(replicas, 1), Clock: p.Clock,
		Metrics:  p.Registry,
		Health:   p.Board.Part(part),
		Instance: instance, Ops: p.Ops(),
		Tracer: p.Traces.Tracer(part, instance), Messages: p.Messages,
		Patience: p.patience,
	}
}

// Part is a named function that runs until ctx ends.
type Part struct {
	Name string
	Run  func(ctx context.Context) error
}

// Group runs the parts side by side. The first to return, for whatever reason,
// ends the others; Group waits for all and returns the first error, or nil if
// the end of ctx was the reason. A part that returns early without an error is
// an error: in four processes it would be one that has stopped.
func Group(ctx context.Context, parts ...Part) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	errs := make([]error, len(parts))
	for i, part := range parts {
		all.Go(func() {
			err := part.Run(ctx)
			switch {
			case err != nil && !errors.Is(err, context.Canceled):
				errs[i] = fmt.Errorf("%s: %w", part.Name, err)
			case ctx.Err() == nil:
				errs[i] = fmt.Errorf("%s: stopped", part.Name)
			}
			cancel(errs[i])
		})
	}
	all.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return errors.Join(errs...)
}

// Listen opens a TCP listener and explains the usual failure.
func Listen(what, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		if strings.Contains(err.Error(), "address already in use") {
			return nil, fmt.Errorf("listen for %s on %s: the port is taken by another program: stop it, or choose another address", what, address)
		}
		return nil, fmt.Errorf("listen for %s on %s: %w", what, address, err)
	}
	return l, nil
}

// Serve serves HTTP on a listener until ctx ends, then gives open requests
// grace to finish.
func Serve(ctx context.Context, server *http.Server, l net.Listener, grace time.Duration) error {
	done := make(chan error, 1)
	go func() {
		if server.TLSConfig != nil {
			done <- server.ServeTLS(l, "", "")
			return
		}
		done <- server.Serve(l)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if err := server.Shutdown(end); err != nil {
			_ = server.Close()
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}
