// Package issuer is the only part of Rotor that touches keys: it holds the CA
// and the token key, signs what the scheduler asks for, and owns the record of
// what was signed and how far it has come.
package issuer

import (
	"context"
	"crypto"
	"fmt"
	"log/slog"
	"strings"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
	"github.com/rotor-fleet/rotor/services/issuer/internal/token"
)

// name is the name of the service, and of its durable consumers.
const name = "issuer"

// Config is what an operator sets.
type Config struct {
	KeyFile     string   `yaml:"keyFile"`     // key-encryption key, mode 0600; back it up apart from the store
	TokenIssuer string   `yaml:"tokenIssuer"` // iss of the tokens: where the gateway is reached
	Audience    []string `yaml:"audience"`    // aud of the tokens
	// TokenAlgorithm is that of token keys made from now on: EdDSA, or ES256 for
	// verifiers that know no EdDSA, such as kube-apiserver.
	TokenAlgorithm string `yaml:"tokenAlgorithm"`
	TrustDomain    string `yaml:"trustDomain"` // host part of the URI names in certificates; fixed at the first start

	Keystore KeystoreConfig `yaml:"keystore"`

	token keystore.Token // of tests, in place of one that Keystore names
}

// Defaults returns the configuration that holds where an operator sets nothing.
func Defaults() Config {
	c := Config{Audience: []string{"rotor"}, TrustDomain: "rotor.internal"}
	c.KeyFile, c.TokenIssuer, c.TokenAlgorithm = "issuer.key", "http://127.0.0.1:8080", token.EdDSA
	c.Keystore.Kind = KeystoreSealed
	return c
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	switch {
	case c.KeyFile == "":
		return fmt.Errorf("%w: issuer: keyFile: name the file of the key-encryption key", fleet.ErrInvalid)
	case c.TokenIssuer == "":
		return fmt.Errorf("%w: issuer: tokenIssuer: name the URL of the gateway", fleet.ErrInvalid)
	case c.TokenAlgorithm != token.EdDSA && c.TokenAlgorithm != token.ES256:
		return fmt.Errorf("%w: issuer: tokenAlgorithm %q: use %s or %s", fleet.ErrInvalid, c.TokenAlgorithm, token.EdDSA, token.ES256)
	case len(c.Audience) == 0:
		return fmt.Errorf("%w: issuer: audience: name at least one", fleet.ErrInvalid)
	}
	for label := range strings.SplitSeq(c.TrustDomain, ".") {
		if err := fleet.CheckName("issuer: trustDomain: label", label); err != nil {
			return err
		}
	}
	return c.Keystore.Validate()
}

// documents is what is needed of a kv.Bucket.
type documents[T any] interface {
	Get(ctx context.Context, key string) (kv.Entry[T], error)
	Edit(ctx context.Context, key string, f func(*T) error) (kv.Entry[T], error)
}

// publisher is what is needed of a bus.Bus to tell of facts.
type publisher interface {
	Publish(ctx context.Context, e event.Event) error
}

// state is what the issuer reads and writes.
type state struct {
	agents      documents[fleet.Agent]
	credentials documents[fleet.Credentials]
	bundles     documents[fleet.Bundles]
	facts       publisher
}

// service is a running issuer.
type service struct {
	state
	log       *slog.Logger
	env       daemon.Env
	authority *authorities
	ledger    ledger
	lists     *lists
	mover     *mover
	metrics   *metrics
	answers   *answers
	settle    bus.Handler // of dead letters

	checkpoints *checkpoints
	keys        keystore.Keystore
	look        *lookout // who is told that keys cannot be used
}

// Run runs the issuer until ctx ends. Several may run side by side: they share
// the work, and what one has written the others find.
func Run(ctx context.Context, env daemon.Env, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	env.Health.Wait(keystoreHealth, "opening the keys")
	env.Health.Wait("authority", "waiting for the keys")
	events, err := env.Bus()
	if err != nil {
		return err
	}
	s, err := open(ctx, env, events, c)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	return daemon.Group(ctx,
		daemon.Part{Name: "commands", Run: func(ctx context.Context) error {
			return events.Consume(ctx, bus.Consumer{
				Stream: bus.Commands, Name: name, Parallel: 8, Log: s.log,
				Subjects: []string{
					event.Issue.Subject("*"), event.Certify.Subject("*"), event.Login.Subject("*"), event.Revoke.Subject("*"), event.Reinstate.Subject("*"),
					event.Phase.Subject("*"), event.External.Subject("*"), event.SettleIssuer.Subject("*"),
				},
			}, s.command)
		}},
		daemon.Part{Name: "succession", Run: s.authority.succession.run},
		daemon.Part{Name: "steps", Run: func(ctx context.Context) error {
			return events.Consume(ctx, bus.Consumer{
				Stream: bus.Events, Name: name, Parallel: 8, Log: s.log,
				Subjects: []string{
					event.CredentialDelivered.Subject("*"), event.CredentialInstalled.Subject("*"), event.CredentialProven.Subject("*"),
				},
			}, s.step)
		}},
		daemon.Part{Name: "answers", Run: s.sweepAnswers},
		daemon.Part{Name: "crl", Run: s.keepLists},
		daemon.Part{Name: "checkpoints", Run: s.checkpoints.run},
		daemon.Part{Name: "keystore", Run: s.watchKeys},
	)
}

// open opens keystore and authority, and makes them at the first start.
func open(ctx context.Context, env daemon.Env, events *bus.Bus, c Config) (*service, error) {
	written := &telling{ledger: env.Ledger(events, name), health: env.Health}
	s := &service{log: env.Log, env: env, answers: &answers{}, ledger: written}
	s.settle = events.Settle(bus.Settler{
		Service: name, Try: bus.Again(map[string]bus.Handler{bus.Commands: s.command, bus.Events: s.step}), Log: env.Log,
	})
	var err error
	if s.metrics, err = newMetrics(env.Metrics); err != nil {
		return nil, err
	}
	if s.state, err = openState(ctx, env, events); err != nil {
		return nil, err
	}
	s.look = newLookout(env, events)
	keys, err := openKeystore(ctx, s.look, c)
	if err != nil {
		return nil, err
	}
	s.keys = keys
	documents, err := kv.Open[fleet.Authority](ctx, env.NATS, bus.Authority)
	if err != nil {
		return nil, err
	}
	all, err := kv.Open[fleet.Credentials](ctx, env.NATS, bus.Credentials)
	if err != nil {
		return nil, err
	}
	f := founder{Config: c, env: env, keys: keys, documents: documents, facts: events, ledger: s.ledger, records: all}
	err = patiently(ctx, s.look, func() error { s.authority, err = openAuthority(ctx, f); return err })
	if err != nil {
		return nil, err
	}
	revoked, err := kv.Open[fleet.RevocationList](ctx, env.NATS, bus.Authority)
	if err != nil {
		return nil, err
	}
	s.lists = &lists{documents: revoked, authority: s.authority, ledger: s.ledger, clock: env.Clock, log: env.Log, metrics: s.metrics, shown: map[string]bool{}}
	s.checkpoints = &checkpoints{
		heads: events.Heads, documents: documents, ledger: written, metrics: s.metrics, log: s.log,
		fleetKey: func(ctx context.Context) (crypto.Signer, error) { return keys.Signer(ctx, keyFleet) },
	}
	s.authority.succession.metrics = s.metrics
	s.mover = &mover{succession: s.authority.succession, lists: s.lists}
	var current *authority
	err = patiently(ctx, s.look, func() error { current, err = s.authority.current(ctx); return err })
	if err != nil {
		return nil, err
	}
	s.metrics.notAfter.Set(float64(current.ca.NotAfter().Unix()))
	env.Health.Met("authority")
	return s, nil
}

// keepLists keeps the CRLs fresh until ctx ends.
func (s *service) keepLists(ctx context.Context) error {
	return s.lists.keep(ctx, s.mover.records)
}

func openState(ctx context.Context, env daemon.Env, events *bus.Bus) (state, error) {
	agents, err := kv.Open[fleet.Agent](ctx, env.NATS, bus.Agents)
	if err != nil {
		return state{}, err
	}
	credentials, err := kv.Open[fleet.Credentials](ctx, env.NATS, bus.Credentials)
	if err != nil {
		return state{}, err
	}
	bundles, err := kv.Open[fleet.Bundles](ctx, env.NATS, bus.Bundles)
	if err != nil {
		return state{}, err
	}
	return state{agents: agents, credentials: credentials, bundles: bundles, facts: events}, nil
}

// count returns how many documents a bucket holds.
func count[T any](ctx context.Context, b *kv.Bucket[T]) (int, error) {
	watching, done := context.WithCancel(ctx)
	defer done()
	held := 0
	b.Watch(watching, kv.Watcher[T]{
		Changed: func(e kv.Entry[T]) {
			if !e.Deleted {
				held++
			}
		},
		Current: done,
		Broken:  func(error) { held = 0 }, // it starts again with all of them
	})
	return held, context.Cause(ctx)
}

// command handles what others ask of the issuer.
func (s *service) command(ctx context.Context, e event.Event) error {
	switch {
	case event.Issue.Is(e):
		return s.issue(ctx, e)
	case event.Certify.Is(e):
		return s.certify(ctx, e)
	case event.Login.Is(e):
		return s.login(ctx, e)
	case event.Revoke.Is(e):
		return s.revoke(ctx, e)
	case event.Reinstate.Is(e):
		return s.reinstate(ctx, e)
	case event.Phase.Is(e):
		return s.phase(ctx, e)
	case event.External.Is(e):
		return s.external(ctx, e)
	case event.SettleIssuer.Is(e):
		return s.settle(ctx, e)
	default:
		return bus.Permanent(fmt.Errorf("%w: command of type %q", fleet.ErrInvalid, e.Type()))
	}
}

// newLintTool returns what all generations of the CA share.
func newLintTool(ctx context.Context, keys keystore.Keystore) (ca.Tool, error) {
	derivation, err := keys.Secret(ctx, keyDerivation)
	if err != nil {
		return ca.Tool{}, err
	}
	linter, err := ca.NewLinter()
	if err != nil {
		return ca.Tool{}, err
	}
	return ca.Tool{Linter: linter, Serial: derivation}, nil
}
