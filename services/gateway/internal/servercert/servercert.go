// Package servercert gets the certificate of the agents' listener: the gateway
// makes the key, which stays in memory, and the issuer signs.
package servercert

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway/internal/chain"
	"github.com/rotor-fleet/rotor/services/gateway/internal/state"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/health"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// Keeper keeps a certificate, and renews it. It is safe for concurrent use.
type Keeper struct {
	Env   Env
	Names []string // DNS names and IP addresses; of a canary none
	Key   string   // of the gateway in the bucket of the bundles

	// Canary keeps the certificate of the CA that is incoming instead of one of the
	// CA that signs, for as long as there is one. The process is ready without it.
	Canary bool

	current atomic.Pointer[tls.Certificate]
	judged  atomic.Pointer[judgement] // of it; a copy of what can be found out again
	issued  []byte                    // PEM, as the issuer has answered; of Run alone
}

// Env is what a Keeper works with.
type Env struct {
	State  *state.State
	Bus    *bus.Bus
	Clock  clock.Clock
	Log    *slog.Logger
	Health health.Part
}

// KeyOf returns the key of a gateway in the bucket of the bundles, and its
// cluster in the command: no cluster can have this name.
func KeyOf(instance string) string {
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(instance))
	return "_gateway-" + clean[:min(len(clean), 63)]
}

// condition is what the process is not ready without.
const condition = "server-certificate"

// Certificate is for tls.Config.GetCertificate.
func (k *Keeper) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c := k.current.Load()
	if c == nil {
		return nil, errors.New("the issuer has not signed the server certificate yet")
	}
	if !k.trusted(c) {
		return nil, errDistrusted
	}
	return c, nil
}

// Prepare says what is waited for.
func (k *Keeper) Prepare() {
	k.Env.Health.Wait(condition, "asking the issuer for the certificate of the agents' listener")
}

// Run asks for a certificate whenever there is none that will do, until ctx
// ends.
func (k *Keeper) Run(ctx context.Context) error {
	for attempt := 1; ctx.Err() == nil; {
		moved := k.Env.State.Work.Wait(authorityMoves)
		k.bridge()
		k.show()
		o, wanted := k.order()
		if !wanted {
			k.drop()
			attempt = 1
			select {
			case <-moved:
			case <-ctx.Done():
			}
			continue
		}
		wait := k.due(o)
		if wait > 0 {
			attempt = 1
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-moved:
			case <-ctx.Done():
			}
			timer.Stop()
			continue
		}
		err := k.ask(ctx, o, attempt)
		if errors.Is(err, errMoved) {
			attempt = 1
			continue
		}
		if err == nil && k.due(o) == 0 { // it is old already, or of another CA: do not ask without a pause
			attempt++
			_ = clock.Sleep(ctx, bus.Backoff(attempt, 10*time.Second))
		}
		if err != nil && ctx.Err() == nil {
			k.Env.Log.Warn("server certificate not received", "canaryOf", o.ca, "attempt", attempt, "err", err)
			if k.current.Load() == nil && !k.Canary {
				k.Env.Health.Wait(condition, fmt.Sprintf("asked the issuer %d times for the certificate of the agents' listener: %v", attempt, err))
			}
			attempt++
		}
	}
	return nil
}

// authorityMoves is a name under which only changes of all are heard of.
const authorityMoves = "_authority"

// due returns how long the certificate will do, 0 if a new one is wanted: at two
// thirds of its life, and when another CA signs, or another is incoming.
func (k *Keeper) due(o order) time.Duration {
	c := k.current.Load()
	if c == nil || o.ca != "" && !o.met(c) {
		return 0
	}
	authority, _ := k.Env.State.TheAuthority()
	if ca := authority.ActiveCA(); ca != nil && o.ca == "" && !chain.Signed(ca, c.Leaf) {
		return 0
	}
	life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
	return k.Env.Clock.Until(c.Leaf.NotBefore.Add(life / 3 * 2))
}

// patience is how long the issuer has to answer, before it is asked again.
const patience = 5 * time.Second

// ask makes a key, asks for its certificate and waits for the answer.
func (k *Keeper) ask(ctx context.Context, o order, attempt int) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: o.commonName()}}, key)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	thumbprint, err := identity.Thumbprint(key.Public())
	if err != nil {
		return err
	}
	at := k.Env.Clock.Now().Truncate(time.Second)
	m := event.Meta{Source: "gateway", Cluster: k.Key, Key: []string{thumbprint, strconv.FormatInt(at.Unix(), 10)}, Time: at}
	if err := bus.Publish(ctx, k.Env.Bus, event.Certify, m, event.CertifyCommand{CSR: csr, Names: o.names, At: at, CA: o.ca}); err != nil {
		_ = clock.Sleep(ctx, bus.Backoff(attempt, 10*time.Second))
		return err
	}
	// Later attempts wait longer, as each leaves a command that is answered one
	// day.
	timer := time.NewTimer(min(patience*time.Duration(attempt), time.Minute))
	defer timer.Stop()
	for {
		answered := k.Env.State.Work.Wait(k.Key) // and changes of the authority
		k.show()
		if now, wanted := k.order(); !wanted || now.ca != o.ca {
			return errMoved
		}
		c, err := k.answer(ctx, o, key, thumbprint)
		if err == nil {
			k.current.Store(c)
			k.show()
			k.Env.Log.Info("server certificate received", "canaryOf", o.ca, "serial", identity.Serial(c.Leaf), "notAfter", c.Leaf.NotAfter)
			return nil
		}
		select {
		case <-answered:
		case <-timer.C:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answer reads the issuer's answer, if it is for this key.
func (k *Keeper) answer(ctx context.Context, o order, key crypto.Signer, thumbprint string) (*tls.Certificate, error) {
	e, err := k.Env.State.Bundles.Get(ctx, k.Key)
	answer := e.Value.Server
	if o.ca != "" {
		answer = e.Value.Canary
	}
	if errors.Is(err, fleet.ErrNotFound) || err == nil && (answer == nil || answer.Key != thumbprint || o.ca != "" && answer.CA != o.ca) {
		return nil, errors.New("the issuer has not answered: check that it runs")
	}
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{PrivateKey: key, Certificate: decode(k.chain(answer.Chain))}
	if len(c.Certificate) == 0 {
		return nil, errors.New("the issuer's answer has no certificate")
	}
	if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
		return nil, fmt.Errorf("the issuer's answer: %w", err)
	}
	k.issued = answer.Chain
	return c, nil
}

// chain adds the bridges of now to a chain, but to that of a canary: who gets there
// by a bridge has not shown that it trusts the CA itself.
func (k *Keeper) chain(issued []byte) []byte {
	if k.Canary {
		return issued
	}
	authority, _ := k.Env.State.TheAuthority()
	return trust.Chain(issued, authority.Bundle.Bridges)
}

// bridge serves the certificate with the bridges of now: an agent that knows only
// the CA of before, or the one to come, builds a path through them.
func (k *Keeper) bridge() {
	have := k.current.Load()
	if have == nil {
		return
	}
	chain := decode(k.chain(k.issued))
	if len(chain) == 0 || slices.EqualFunc(chain, have.Certificate, bytes.Equal) {
		return
	}
	k.current.Store(&tls.Certificate{Certificate: chain, PrivateKey: have.PrivateKey, Leaf: have.Leaf})
}

func decode(chain []byte) [][]byte {
	var all [][]byte
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		all = append(all, block.Bytes)
	}
	return all
}
