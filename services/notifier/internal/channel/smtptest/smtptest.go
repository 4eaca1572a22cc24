// Package smtptest gives tests a real mail server in process, with STARTTLS,
// TLS from the first byte, and authentication.
package smtptest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// Options say how the server behaves.
type Options struct {
	Certificates *Server // as of this server; its own, if nil
	Address      string  // as of a server before; any free port, if empty
	TLS          bool    // offers STARTTLS
	Implicit     bool    // speaks TLS from the first byte
	Username     string  // demands authentication, if set
	Password     string
	Refuse       *smtp.SMTPError // answer to the recipient
	RefuseIn     *smtp.SMTPError // answer to the letter itself
}

// Mail is one letter that was accepted.
type Mail struct {
	From      string
	To        []string
	Body      string
	Encrypted bool
	Login     string
}

// Server is a running server.
type Server struct {
	Address string
	CAFile  string         // CA of its certificate, PEM
	Roots   *x509.CertPool // the same

	options  Options
	tls      *tls.Config
	server   *smtp.Server
	listener net.Listener
	mu       sync.Mutex
	mails    []Mail
}

// authority makes a CA and a certificate for this machine signed by it.
func authority(t testing.TB, s *Server) *tls.Config {
	t.Helper()
	now := clock.Wall()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "mail"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(s.CAFile, root, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Roots = x509.NewCertPool()
	s.Roots.AppendCertsFromPEM(root)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leafDER}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
}

// New starts a server that ends with the test.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{options: o}
	s.server = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &session{server: s, conn: c}, nil }))
	s.server.Domain, s.server.AllowInsecureAuth = "localhost", true
	s.server.ErrorLog = silent{}
	if before := o.Certificates; before != nil {
		s.CAFile, s.Roots, s.tls = before.CAFile, before.Roots, before.tls
	} else {
		s.tls = authority(t, s)
	}
	if o.TLS {
		s.server.TLSConfig = s.tls
	}
	address := o.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s.Address = l.Addr().String()
	if o.Implicit {
		l = tls.NewListener(l, s.tls)
	}
	done := make(chan struct{})
	s.listener = l
	go func() { defer close(done); _ = s.server.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return s
}

// Close ends the server and every conversation.
func (s *Server) Close() {
	_ = s.listener.Close() // the server does not know of it before it serves
	_ = s.server.Close()
}

// Mails returns the letters accepted so far.
func (s *Server) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Mail(nil), s.mails...)
}

type session struct {
	server *Server
	conn   *smtp.Conn
	mail   Mail
	login  string
}

func (s *session) AuthMechanisms() []string {
	if s.server.options.Username == "" {
		return nil
	}
	return []string{sasl.Plain}
}

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, username, password string) error {
		if username != s.server.options.Username || password != s.server.options.Password {
			// As careless as a server can be.
			return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "no login with " + password}
		}
		s.login = username
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if s.server.options.Username != "" && s.login == "" {
		return smtp.ErrAuthRequired
	}
	s.mail.From = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.server.options.Refuse != nil {
		return s.server.options.Refuse
	}
	s.mail.To = append(s.mail.To, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	if s.server.options.RefuseIn != nil {
		return s.server.options.RefuseIn
	}
	body, err := io.ReadAll(r)
	if err != nil {
		return errors.Join(errors.New("read the letter"), err)
	}
	_, encrypted := s.conn.TLSConnectionState()
	s.mail.Body, s.mail.Encrypted, s.mail.Login = string(body), encrypted, s.login
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.mails = append(s.server.mails, s.mail)
	return nil
}

func (s *session) Reset() { s.mail = Mail{} }

func (s *session) Logout() error { return nil }

// silent is the log of the server: what it complains of is the test's doing.
type silent struct{}

func (silent) Printf(string, ...any) {}

func (silent) Println(...any) {}
