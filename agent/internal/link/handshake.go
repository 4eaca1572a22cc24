package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// ErrNotServed says that the server shows no certificate for a name, perhaps not
// yet.
var ErrNotServed = errors.New("the server has no certificate for this name yet")

// Handshake opens a TLS connection to the server under a name (RFC 6066, 3), and
// ends it: nothing is sent over it, and no certificate is shown to the server. It
// returns the certificates that the server has shown, of which it holds the key of
// the first. Whether they are to be trusted is for the caller to say.
func (l *Link) Handshake(ctx context.Context, name string) (chain []*x509.Certificate, err error) {
	err = l.try(ctx, func(server string) error {
		chain, err = l.handshake(ctx, server, name)
		return err
	})
	return chain, err
}

// handshake goes the way of every other call, with its proxies and time limits. The
// connection is cut as soon as the handshake is complete, so that the request,
// without which net/http opens none, does not leave.
func (l *Link) handshake(ctx context.Context, server, name string) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	transport := network(&tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: name,
		InsecureSkipVerify: true, //nolint:gosec // the caller verifies, and nothing goes over it
		Time:               func() time.Time { return l.clock.Load().Now() },
		// A resumed session would show no certificate.
		SessionTicketsDisabled: true,
	})
	defer transport.CloseIdleConnections()
	var raw net.Conn
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		raw = c
		return c, err
	}
	var shown atomic.Pointer[tls.ConnectionState] // the dial may outlast the request
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{TLSHandshakeDone: func(state tls.ConnectionState, err error) {
		if err == nil {
			shown.Store(&state)
			_ = raw.Close()
		}
	}})
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, server, nil)
	if err != nil {
		return nil, fmt.Errorf("handshake with %s: %w", name, err)
	}
	response, err := transport.RoundTrip(request)
	if err == nil {
		_ = response.Body.Close()
	}
	state := shown.Load()
	switch {
	case state != nil && len(state.PeerCertificates) > 0:
		return state.PeerCertificates, nil
	case refused(err):
		return nil, fmt.Errorf("handshake with %s: %w", name, ErrNotServed)
	case err == nil:
		return nil, fmt.Errorf("handshake with %s: the server has answered without one", name)
	}
	return nil, fmt.Errorf("handshake with %s: %w", name, err)
}

// refused reports whether the server has ended a handshake by an alert: that is
// what it does while it has no certificate for a name (RFC 8446, 6.2).
func refused(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}
