package reload

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// The pace at which an endpoint is looked at.
const (
	firstPause = 50 * time.Millisecond
	longPause  = time.Second
	oneLook    = 5 * time.Second
)

// Served waits until a TLS server serves this certificate, or ctx ends. The
// error says what it served last: a program that has not read the new files
// still holds the old.
func Served(ctx context.Context, address, serverName string, want tls.Certificate) error {
	leaf, err := x509.ParseCertificate(want.Certificate[0])
	if err != nil {
		return err
	}
	if serverName == "" {
		if serverName, _, err = net.SplitHostPort(address); err != nil {
			return err
		}
	}
	last := errors.New("it did not answer in time")
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		served, err := look(ctx, address, serverName, want)
		switch {
		case err == nil && bytes.Equal(served.Raw, leaf.Raw):
			return nil
		case err == nil:
			last = fmt.Errorf("it still serves another certificate, serial %s, valid until %s, and not the new one, serial %s",
				served.SerialNumber.Text(16), served.NotAfter.UTC().Format(time.RFC3339), leaf.SerialNumber.Text(16))
		case ctx.Err() == nil:
			last = err
		}
		if clock.Sleep(ctx, pause) != nil {
			return fmt.Errorf("look at %s: %w", address, last)
		}
	}
}

// look makes one handshake and returns the certificate that was served. The
// other end has then shown that it holds the key of it as well.
func look(ctx context.Context, address, serverName string, own tls.Certificate) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, oneLook)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{
		ServerName: serverName, MinVersion: tls.VersionTLS12,
		// Compared with the one that must be served, to the byte; and nothing is
		// sent over the connection.
		InsecureSkipVerify: true, //nolint:gosec // see above
		// For servers that ask for one.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil },
	}}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = connection.Close() }()
	secured, ok := connection.(*tls.Conn)
	if !ok {
		return nil, errors.New("not a TLS connection")
	}
	return secured.ConnectionState().PeerCertificates[0], nil
}
