// Package agent installs the credentials of one cluster where its clients read
// them. It makes every private key in the place where it is used, keeps a
// request for the next certificate on file, takes what was issued, installs it
// atomically, proves it by a call with exactly that certificate and token, and
// reports each step. It talks to the gateway over HTTPS and knows no NATS.
//
// Several agents run in one process; nothing here is shared between them.
package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
	"github.com/rotor-fleet/rotor/agent/internal/kube"
	"github.com/rotor-fleet/rotor/agent/internal/link"
	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/health"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// Env is what the process gives to an agent.
type Env struct {
	Log    *slog.Logger
	Clock  clock.Clock
	Health health.Part
	Tracer telemetry.Tracer

	Metrics *Metrics  // none, if nil
	Out     io.Writer // what people read: a line for each thing done; nothing, if nil
}

// Config is what an operator decides.
type Config struct {
	Server    string      // URL of the gateway for agents, e.g. https://127.0.0.1:8443
	Pin       string      // of the fleet key: sha256:<hexadecimal>; once enrolled, empty means the one of then
	JoinToken secret.Text // one-time token; not needed once enrolled
	Cluster   string
	StateDir  string        // keys and what else must not be lost; one agent each
	Directory string        // sets are installed in <Directory>/<kind>[/<instance>]
	PollWait  time.Duration // how long one poll waits at the server, in real time, at most 50 s; 25 s, if 0
	Version   string        // of the program, as the server shall show it
	Settings  Settings      // how each client is installed; in its folder, if zero

	// Changes brings new settings while the agent runs, or the same again; it may
	// be nil. It ends the pause or the poll that is under way: they hold from then
	// on, and everything is tried at once.
	Changes <-chan Settings

	// Join returns a join token when one is needed and JoinToken is empty or was
	// refused. It may be nil.
	Join func(ctx context.Context) (secret.Text, error)

	// Rehearsal takes the time from the server, whose clock runs fast. Whoever
	// answers for the server says then what time it is: never for a real fleet.
	Rehearsal bool
}

// DefaultPollWait lies below the idle limit of common proxies.
const DefaultPollWait = 25 * time.Second

// maxPollWait lies below the time for which the gateway waits at most: an answer
// before the end looks like that of a server that stops.
const maxPollWait = 50 * time.Second

var pinRule = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Validate reports the first thing that is wrong, as a fleet.ErrInvalid.
func (c Config) Validate() error {
	if c.StateDir == "" || c.Directory == "" && c.Settings.Clients.NeedDirectory() {
		return fmt.Errorf("%w: the folder to install in is missing: name it with --dir", fleet.ErrInvalid)
	}
	if c.Server == "" {
		return fmt.Errorf("%w: the server is missing: start with the command that `rotor join` prints", fleet.ErrInvalid)
	}
	for _, text := range c.servers() {
		server, err := url.Parse(text)
		if err != nil || server.Scheme != "https" || server.Host == "" || server.Path != "" {
			return fmt.Errorf("%w: server %q: write https://host:port", fleet.ErrInvalid, text)
		}
	}
	if c.Pin != "" && !pinRule.MatchString(c.Pin) {
		return fmt.Errorf("%w: pin of the fleet key %q: write sha256: and 64 hexadecimal digits", fleet.ErrInvalid, c.Pin)
	}
	return fleet.CheckName("cluster", c.Cluster)
}

func (c Config) servers() []string { return strings.Split(c.Server, ",") }

// The conditions of an agent's health.
const (
	conditionEnrolment = "enrolment"
	conditionServer    = "server"
	conditionClients   = "clients"
	conditionBundle    = "trust bundle"
)

// Enrolled reports whether the state on the disk is that of an agent that the
// server was last seen to know, so that it needs no join token.
func Enrolled(c Config) bool {
	store := state.At(c.StateDir, slog.New(slog.DiscardHandler))
	r := store.Record()
	me, err := store.LoadIdentity()
	return err == nil && r.Enrolled && r.Agent == me.ID && r.Cluster == c.Cluster && r.Pin != "" && (c.Pin == "" || c.Pin == r.Pin)
}

// Run is the agent, until ctx ends; then it returns nil. It returns an error
// only for a wrong Config: whatever else goes wrong is retried with back-off,
// logged, and shown in the health.
func Run(ctx context.Context, env Env, c Config) error { return run(ctx, env, c, durable.Disk{}) }

// run is Run with other operations on the disk.
func run(ctx context.Context, env Env, c Config, ops durable.Ops) error {
	env.Health.Wait(conditionEnrolment, "starting")
	env.Health.Wait(conditionServer, "not connected yet")
	env.Health.Wait(conditionClients, "nothing heard from the server yet")
	a := &agent{
		env: env, config: c, ops: ops, notes: map[fleet.ClientKey]*note{},
		kube: connectKubernetes(c.Settings.Kubernetes), heard: fleet.Heard{Instance: rand.Text()},
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer a.close()
	if err := a.remember(ctx); err != nil {
		return err
	}
	go a.listen(ctx)
	a.retry(ctx, conditionEnrolment, a.open)
	a.retry(ctx, conditionServer, a.trust)
	if ctx.Err() == nil && a.mustEnrol() {
		a.retry(ctx, conditionEnrolment, a.enrol)
	}
	a.loop(ctx)
	return nil
}

type agent struct {
	env    Env
	config Config
	ops    durable.Ops
	store  *state.Store
	me     state.Identity
	link   *link.Link
	unlock func()
	notes  map[fleet.ClientKey]*note
	round  roundState
	kube   *kube.Client // of the API server for Secrets and ConfigMaps

	spreading spreading
	trusted   trusted
	canary    canary
	changes   changes
	heard     fleet.Heard // what the server hears of this process
	doubts    doubts
}

func (a *agent) close() {
	a.kube.Close()
	if a.link != nil {
		a.link.Close()
	}
	if a.unlock != nil {
		a.unlock()
	}
}

// mustEnrol reports whether the server cannot know the agent. When only the note
// of the enrolment is lost, the server is asked first: it knows.
func (a *agent) mustEnrol() bool {
	canEnrol := !a.config.JoinToken.Empty() || a.config.Join != nil
	return a.me.Fresh || !a.round.enrolled && canEnrol
}

// retry calls f until it succeeds or ctx ends, and shows in the health why it
// does not.
func (a *agent) retry(ctx context.Context, condition string, f func(context.Context) error) {
	var pause backoff
	for ctx.Err() == nil {
		err := f(ctx)
		if ctx.Err() != nil {
			return
		}
		a.env.Health.Check(condition, err)
		if err == nil {
			return
		}
		a.wait(ctx, &pause, a.warn("cannot go on; trying again", err))
	}
}

// warn logs an error and returns it.
func (a *agent) warn(message string, err error) error {
	a.env.Log.Warn(message, "err", err)
	return err
}

// open reads the state from the disk.
func (a *agent) open(context.Context) error {
	store, err := state.OpenWith(a.ops, a.config.StateDir, a.env.Log)
	if err != nil {
		return err
	}
	if a.unlock == nil {
		if a.unlock, err = store.Lock(); err != nil {
			return err
		}
	}
	me, err := store.Identity()
	if err != nil {
		return err
	}
	record := store.Record()
	if record.Pin != "" && record.Pin != a.config.Pin {
		a.env.Log.Warn("the pin of the fleet key has changed: this is another fleet; its trust bundle is counted anew")
		record.Bundle = 0
	}
	record = state.Record{
		Cluster: a.config.Cluster, Agent: me.ID, Server: a.config.Server, Pin: a.config.Pin,
		Enrolled: record.Enrolled && record.Agent == me.ID && record.Pin == a.config.Pin, Bundle: record.Bundle,
		Starts: countStart(me, record), Refused: record.Refused,
		Rehearsal: a.config.Rehearsal,
	}
	a.heard.Starts = record.Starts
	if err := store.SaveRecord(record); err != nil {
		if !record.Enrolled {
			return err
		}
		// On a full disk an agent that was enrolled works on, to tell of it.
		a.heard.Starts = 0
		_ = a.warn("the start of the agent cannot be noted", err)
	}
	a.store, a.me, a.round.enrolled = store, me, record.Enrolled
	a.link = link.New(link.Options{
		Servers: a.config.servers(), Pin: a.config.Pin, Clock: a.env.Clock, Certificate: me.Certificate, Tracer: a.env.Tracer,
	})
	a.env.Log.Info("agent starts", "agent", me.ID, "server", a.config.Server, "new", me.Fresh)
	a.say("agent %.12s of cluster %s, server %s; its own keys are in %s", me.ID, a.config.Cluster, a.config.Server, a.config.StateDir)
	return nil
}

// trust loads the trust bundle: the one on the disk, else the server's.
func (a *agent) trust(ctx context.Context) error {
	if a.config.Rehearsal {
		return a.refresh(ctx) // what time it is is not on the disk
	}
	if signed := a.store.Bundle(); signed != "" {
		err := a.link.Load(signed, a.newest())
		if err == nil {
			return nil
		}
		a.env.Log.Warn("the trust bundle on the disk cannot be used; fetching it", "err", err)
	}
	return a.refresh(ctx)
}

// refresh fetches the trust bundle and keeps it.
func (a *agent) refresh(ctx context.Context) error {
	signed, err := a.link.Fetch(ctx)
	if err != nil {
		return err
	}
	if a.config.Rehearsal {
		a.rehearse()
	}
	record := a.store.Record()
	before, had := a.link.Bundle()
	if signed == had {
		return nil
	}
	if err := a.link.Load(signed, a.newest()); err != nil {
		a.doubt(err)
		return err
	}
	after, _ := a.link.Bundle()
	a.say("trust bundle %d is signed by the fleet key that is pinned", after.Version)
	a.env.Log.Info("trust bundle loaded", "version", after.Version, "before", before.Version)
	// The version first: with the two the other way round, a crash between them
	// would let an older bundle in.
	record.Bundle = after.Version
	return errors.Join(a.store.SaveRecord(record), a.store.SaveBundle(signed))
}
