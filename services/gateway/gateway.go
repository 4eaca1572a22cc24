// Package gateway is the door to Rotor: the HTTP API for operators and
// programs, the live events, and the endpoints of agents. It keeps no state of
// its own, so that as many can run as are needed.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway/internal/agents"
	"github.com/rotor-fleet/rotor/services/gateway/internal/apply"
	"github.com/rotor-fleet/rotor/services/gateway/internal/auth"
	"github.com/rotor-fleet/rotor/services/gateway/internal/denial"
	"github.com/rotor-fleet/rotor/services/gateway/internal/live"
	"github.com/rotor-fleet/rotor/services/gateway/internal/operate"
	"github.com/rotor-fleet/rotor/services/gateway/internal/rest"
	"github.com/rotor-fleet/rotor/services/gateway/internal/servercert"
	"github.com/rotor-fleet/rotor/services/gateway/internal/signin"
	"github.com/rotor-fleet/rotor/services/gateway/internal/state"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/daemon"
)

// grace is how long open requests have to finish when the gateway ends. Long
// polls and streams end at once.
const grace = 4 * time.Second

// Run runs the gateway until ctx ends.
func Run(ctx context.Context, env daemon.Env, c Config) error {
	c, err := c.validate()
	if err != nil {
		return err
	}
	certificate, err := c.certificate(env.Log)
	if err != nil {
		return err
	}
	token, err := auth.OpenToken(c.AdminTokenFile)
	if err != nil {
		return err
	}
	apiListener, agentsListener, err := listen(c)
	if err != nil {
		return err
	}
	defer func() { _, _ = apiListener.Close(), agentsListener.Close() }() // again, after Serve: harmless
	if c.PublicURL == "" {
		c.PublicURL = c.APIURL(apiListener.Addr())
	}
	agentsURL, reachable := c.agentsURL(agentsListener.Addr())
	if !reachable {
		env.Log.Warn("join commands will name localhost: set gateway.agentsURL or gateway.names, so that agents on other machines reach this gateway")
	}
	b, err := env.Bus()
	if err != nil {
		return err
	}
	s, err := state.Open(ctx, env.NATS, env.Health)
	if err != nil {
		return stopped(ctx, err)
	}
	s.Letters = state.NewLetters(b)
	keeper := &servercert.Keeper{
		Env:   servercert.Env{State: s, Bus: b, Clock: env.Clock, Log: env.Log, Health: env.Health},
		Names: c.Names, Key: servercert.KeyOf(env.Instance),
	}
	canary := &servercert.Keeper{Env: keeper.Env, Key: keeper.Key, Canary: true}
	keeper.Prepare()
	m, err := newMeasures(env, s, canary, certificate)
	if err != nil {
		return err
	}
	defer m.unregister()
	log := env.Ledger(b, "gateway")
	public := rest.Public{State: s, URL: c.PublicURL, Clock: env.Clock}
	service := &agents.Service{
		State: s, Bus: b, Clock: env.Clock, Log: env.Log, Stop: ctx.Done(), Waiting: m.waiting, Ledger: log,
		Refusals: denial.Teller{Bus: b, Clock: env.Clock, Log: env.Log},
	}
	operator := &rest.API{
		Log:     env.Log,
		Operate: &operate.Operator{State: s, Bus: b, Clock: env.Clock, Ledger: log, Agents: agentsURL},
		Apply:   &apply.Applier{State: s, Bus: b, Clock: env.Clock, Ledger: log},
		Ledger:  b,
		Live:    &live.Streams{Bus: b, Stop: ctx.Done(), Open: m.streams},
	}
	programs := signin.New(signin.Env{
		State: s, Bus: b, Clock: env.Clock, Log: env.Log, Refusals: service.Refusals, Ledger: log, URLs: c.urls(apiListener.Addr(), agentsListener.Addr()),
	})
	guard := auth.NewGuard(token, rest.OpenPaths()...)
	guard.Open(api.PathLogin, api.PathRecover)
	// What is signed, or tells of the gateway itself, is good also when it is old.
	free := func(r *http.Request) bool {
		return r.Method != http.MethodPost && (guard.IsOpen(r) || r.URL.Path == "/metrics")
	}
	apiServer := server(env.Log, m.count("api", guard.Wrap(traced(env.Tracer, inTouch(s, free, apiRoutes(operator, programs, public, env.Ops))), refuse)))
	if certificate != nil {
		apiServer.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate.Certificate}
	}
	agentServer := server(env.Log, m.count("agents", traced(env.Tracer, notCanary(inTouch(s, free, agentRoutes(service, programs, public, env.Ops))))))
	agentServer.TLSConfig = &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, GetCertificate: servercert.ByName(keeper, canary), Time: env.Clock.Now,
		// A resumed session would skip the look at the certificate.
		SessionTicketsDisabled: true,
	}
	env.Log.Info("gateway listens", "api", c.PublicURL, "agents", agentsURL)
	parts := []daemon.Part{
		{Name: "state", Run: s.Run},
		{Name: "dead letters", Run: func(ctx context.Context) error { return s.Letters.Run(ctx, env.Health) }},
		{Name: "server certificate", Run: keeper.Run},
		{Name: "canary", Run: canary.Run},
		{Name: "api", Run: func(ctx context.Context) error { return daemon.Serve(ctx, apiServer, apiListener, grace) }},
		{Name: "agents", Run: func(ctx context.Context) error { return daemon.Serve(ctx, agentServer, agentsListener, grace) }},
	}
	if certificate != nil {
		parts = append(parts, daemon.Part{Name: "certificate of the API", Run: certificate.Run})
	}
	return stopped(ctx, daemon.Group(ctx, parts...))
}

// stopped forgives an error that the end of ctx has caused.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	return err
}

func listen(c Config) (api, agents net.Listener, err error) {
	if api = c.APIListener; api == nil {
		if api, err = daemon.Listen("the API", c.ListenAPI); err != nil {
			return nil, nil, err
		}
	}
	if agents = c.AgentsListener; agents == nil {
		if agents, err = daemon.Listen("agents", c.ListenAgents); err != nil {
			return nil, nil, errors.Join(err, api.Close())
		}
	}
	return api, agents, nil
}

// server returns a server with the limits that hold for every request. There is
// no limit for writing, as streams are long: each event has one of its own.
func server(log *slog.Logger, h http.Handler) *http.Server {
	return &http.Server{
		Handler: secure(h), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// secure sets the headers that hold for every answer. There is no CORS: no page
// of another origin may call.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}
