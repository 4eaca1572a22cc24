// Package link is the connection of an agent to its server. It believes nothing
// but the trust bundle that the pinned fleet key has signed; an agent that was
// away for longer than any certificate lives fetches that bundle over a
// connection that it does not trust, verifies it, and only then talks.
package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
	"github.com/rotor-fleet/rotor/shared/telemetry"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// Limits of the network. They pass in real time.
const (
	connectTimeout = 10 * time.Second
	callTimeout    = 20 * time.Second
	idleTimeout    = 90 * time.Second
	maxBundle      = 1 << 20 // a bundle holds a handful of certificates
)

// Options say where the server is and who calls.
type Options struct {
	Servers     []string // https://host:port each; any of them will do
	Pin         string   // of the fleet key, as trust.Pin writes it
	Clock       clock.Clock
	Certificate tls.Certificate // of the enrolment key
	Log         *slog.Logger
	Tracer      telemetry.Tracer
	Transport   func(*tls.Config) http.RoundTripper // the network, if nil
}

// Link is a connection to the server. Its calls are made one after the other,
// but for Prove, which is safe for concurrent use.
type Link struct {
	options Options
	bundle  trust.Bundle
	signed  string
	pool    *x509.CertPool
	client  *http.Client
	asked   string
	turn    atomic.Int64 // counts the servers that did not answer; says whose turn it is
	clock   atomic.Pointer[clock.Clock]
	offered string // clock that the server has told of with the last bundle
}

// New returns a link that trusts nobody yet: see Load and Refresh.
func New(o Options) *Link {
	if o.Transport == nil {
		o.Transport = func(c *tls.Config) http.RoundTripper { return network(c) }
	}
	l := &Link{options: o}
	l.SetClock(o.Clock)
	return l
}

// SetClock changes the clock by which the server's certificate is checked.
func (l *Link) SetClock(c clock.Clock) { l.clock.Store(&c) }

// Offered returns the fast clock that the server has told of with the bundle
// that was fetched last, empty if it told of none. Nobody has verified it.
func (l *Link) Offered() string { return l.offered }

// ErrStale says that a bundle is older than one that was seen before.
var ErrStale = errors.New("older than the last one seen")

// Load takes a signed bundle, unless it is older than version seen.
func (l *Link) Load(signed string, seen int) error {
	b, err := trust.Verify(signed, l.options.Pin)
	if err != nil {
		return err
	}
	if seen = max(seen, l.bundle.Version); b.Version < seen {
		return fmt.Errorf("trust bundle %d: %w, %d: the server is not up to date, or somebody replays an old bundle", b.Version, ErrStale, seen)
	}
	pool, err := b.Pool()
	if err != nil {
		return err
	}
	l.Close()
	l.bundle, l.signed, l.pool = b, signed, pool
	l.client = l.newClient(l.options.Certificate)
	return nil
}

// Bundle returns the bundle that is loaded, and its signed form; the zero
// bundle before the first.
func (l *Link) Bundle() (trust.Bundle, string) { return l.bundle, l.signed }

// Pool returns the certificates that are trusted now, nil before the first
// bundle.
func (l *Link) Pool() *x509.CertPool { return l.pool }

// Close ends the connections that are open.
func (l *Link) Close() {
	if l.client != nil {
		l.client.CloseIdleConnections()
	}
}

// Asked returns the server that was asked for its bundle last.
func (l *Link) Asked() string { return l.asked }

// Fetch returns the signed bundle that the server offers, which nobody has
// verified.
func (l *Link) Fetch(ctx context.Context) (signed string, err error) {
	err = l.try(ctx, func(server string) error {
		l.asked = server
		signed, err = l.fetch(ctx, server)
		return err
	})
	return signed, err
}

func (l *Link) fetch(ctx context.Context, server string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// The only connection whose other end is not verified: what comes over it is
	// signed, and nothing of ours goes over it.
	transport := l.options.Transport(&tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, //nolint:gosec // see above
	})
	client := &http.Client{Transport: transport, CheckRedirect: noRedirect}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server+api.PathTrustSigned, nil)
	if err != nil {
		return "", fmt.Errorf("fetch the trust bundle: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("fetch the trust bundle: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBundle))
	if err != nil {
		return "", fmt.Errorf("fetch the trust bundle: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("fetch the trust bundle: %w", api.ProblemOf(response, body))
	}
	l.offered = response.Header.Get(api.HeaderClock)
	return strings.TrimSpace(string(body)), nil
}

// Untrusted reports whether a call failed because the server's certificate is
// not covered by the bundle, so that a newer bundle may help.
func Untrusted(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}

// Expired reports whether a call failed as the server's certificate is not valid
// at this moment, by the clock of this machine.
func Expired(err error) bool {
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	return ok && invalid.Reason == x509.Expired
}

// Call sends one request as the agent and reads the answer into out.
func (l *Link) Call(ctx context.Context, method, path string, in, out any) error {
	return l.try(ctx, func(server string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return l.caller(server, l.client, secret.Text{}).Call(ctx, method, path, in, out)
	})
}

// Work waits for work that differs from what tag names.
func (l *Link) Work(ctx context.Context, who fleet.Heard, tag string, wait time.Duration) (work api.Work, changed bool, err error) {
	err = l.try(ctx, func(server string) error {
		ctx, cancel := context.WithTimeout(ctx, wait+callTimeout)
		defer cancel()
		work, changed, err = l.caller(server, l.client, secret.Text{}).WorkOf(ctx, api.Caller{Heard: who, Now: l.options.Clock.Now()}, tag, wait)
		return err
	})
	return work, changed, err
}

// Prove makes one call as the client itself, with its certificate and token,
// over a connection of its own.
func (l *Link) Prove(ctx context.Context, certificate tls.Certificate, token secret.Text) (api.ProveReply, error) {
	client := l.newClient(certificate)
	defer client.CloseIdleConnections()
	var reply api.ProveReply
	err := l.try(ctx, func(server string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		return l.caller(server, client, token).Call(ctx, http.MethodPost, api.PathProve, nil, &reply)
	})
	return reply, err
}

// try makes one call to the server whose turn it is. Where that does not answer,
// or says that it cannot now, the next call goes to another: whoever calls tries
// again anyway, and no answer does not say that nothing was done.
func (l *Link) try(ctx context.Context, call func(server string) error) error {
	turn := l.turn.Load()
	err := call(l.options.Servers[turn%int64(len(l.options.Servers))])
	if err != nil && ctx.Err() == nil && elsewhere(err) {
		l.turn.CompareAndSwap(turn, turn+1)
	}
	return err
}

// elsewhere reports whether another server may do better: not where this one
// has understood and refused.
func elsewhere(err error) bool {
	problem, answered := errors.AsType[*api.Problem](err)
	return !answered || problem.Status >= http.StatusInternalServerError
}

func (l *Link) caller(server string, client *http.Client, token secret.Text) *api.Client {
	return &api.Client{URL: server, Token: token, HTTP: client, Tracer: l.options.Tracer}
}

func (l *Link) newClient(certificate tls.Certificate) *http.Client {
	return &http.Client{CheckRedirect: noRedirect, Transport: l.options.Transport(&tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    l.pool,
		Time:       func() time.Time { return l.clock.Load().Now() },
		// A resumed session would skip the check against the present bundle.
		SessionTicketsDisabled: true,
		// Always this one, whatever authorities the server says that it accepts.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil },
	})}
}

// noRedirect keeps tokens with the server that they are meant for.
func noRedirect(request *http.Request, _ []*http.Request) error {
	return fmt.Errorf("the server redirects to %s: refused", (&url.URL{Scheme: request.URL.Scheme, Host: request.URL.Host}).String())
}

func network(config *tls.Config) *http.Transport {
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	return &http.Transport{
		// Not http.ProxyFromEnvironment, which is the same but for what it read when
		// the process was young.
		Proxy:               func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext:         (&net.Dialer{Timeout: connectTimeout}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: connectTimeout,
		MaxIdleConns:        1,
		MaxIdleConnsPerHost: 1,
		IdleConnTimeout:     idleTimeout,
	}
}
