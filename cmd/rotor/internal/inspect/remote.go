package inspect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
)

// hostPort reads host:port or https://host[:port].
func hostPort(target string) (address, host string, ok bool) {
	if rest, isURL := strings.CutPrefix(target, "https://"); isURL {
		rest, _, _ = strings.Cut(rest, "/")
		if _, _, err := net.SplitHostPort(rest); err != nil {
			rest = net.JoinHostPort(strings.Trim(rest, "[]"), "443")
		}
		target = rest
	}
	host, port, err := net.SplitHostPort(target)
	return target, host, err == nil && host != "" && port != ""
}

// remote looks at the certificates that a TLS server shows. They are taken as
// they come: what is wrong with them is said in a note, and is no failure.
func (r *run) remote(ctx context.Context, address, host string) error {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	name := host
	if r.ServerName != "" {
		name = r.ServerName
	}
	var shown []*x509.Certificate
	dialer := tls.Dialer{Config: &tls.Config{
		ServerName: name, MinVersion: tls.VersionTLS10, // old servers have certificates too
		InsecureSkipVerify: true, //nolint:gosec // looked at, not trusted; nothing is sent
		VerifyConnection: func(s tls.ConnectionState) error {
			shown = s.PeerCertificates
			return nil
		},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = conn.Close()
	}
	if len(shown) == 0 {
		if err == nil {
			err = errors.New("the server shows no certificate")
		}
		return fmt.Errorf("TLS with %s: %w", address, err)
	}
	note := r.verify(name, shown)
	for i, c := range shown {
		at := place{source: address}
		if len(shown) > 1 {
			at.item = fmt.Sprintf("%d of %d", i+1, len(shown))
		}
		r.found(certificate(at, c, note))
		note = ""
	}
	return nil
}

// verify says what a client with the roots of this machine would not like of a
// chain, beside its dates; empty for nothing.
func (r *run) verify(name string, chain []*x509.Certificate) string {
	var notes []string
	if err := chain[0].VerifyHostname(name); err != nil {
		notes = append(notes, "not for the name "+name)
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Intermediates: intermediates, CurrentTime: r.Now})
	if unknown := (x509.UnknownAuthorityError{}); errors.As(err, &unknown) {
		notes = append(notes, "its authority is not trusted by this machine")
	}
	return strings.Join(notes, "; ")
}
