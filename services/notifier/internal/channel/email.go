package channel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/wneessen/go-mail"

	"github.com/rotor-fleet/rotor/shared/secret"
)

// The ways in which a connection to a mail server is protected.
const (
	TLSStart    = "starttls" // plain at first; a server that does not offer STARTTLS is refused (RFC 3207)
	TLSImplicit = "implicit" // TLS from the first byte (RFC 8314)
	TLSNone     = "none"     // for a server on the same machine
)

// EmailConfig says how mail is sent. Addresses are those of RFC 5322, with or
// without a name.
type EmailConfig struct {
	Host     string
	Port     int
	From     string
	To       []string
	Username string // no authentication, if empty
	Password secret.Text
	TLS      string
	Roots    *x509.CertPool // the system's, if nil
	Hello    string         // name given in EHLO; the host's, if empty
	Timeout  time.Duration  // of one step of the conversation
}

// Email sends mail by SMTP, as text and as HTML.
type Email struct {
	name   string
	config EmailConfig
}

// NewEmail returns a channel that sends mail.
func NewEmail(name string, c EmailConfig) *Email { return &Email{name: name, config: c} }

// Name returns the name of the channel.
func (e *Email) Name() string { return e.name }

// Send sends the message to all recipients in one conversation. The Message-ID
// is that of the message: mail programs show a repeat once.
func (e *Email) Send(ctx context.Context, m Message) error {
	letter, err := e.letter(m)
	if err != nil {
		return Permanent(fmt.Errorf("render mail: %w", err))
	}
	var line connection
	client, err := e.client(&line)
	if err != nil {
		return Permanent(fmt.Errorf("mail: %w", err))
	}
	defer line.close() // go-mail leaves it open when STARTTLS or AUTH fails
	stop := context.AfterFunc(ctx, line.close)
	defer stop()
	err = client.DialAndSendWithContext(ctx, letter)
	if err == nil || letter.IsDelivered() {
		return nil // what fails after the server has accepted it does not matter
	}
	if ctx.Err() != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	password := e.config.Password.Reveal()
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + e.config.Username + "\x00" + password))
	return scrub(judgeMail(err), password, plain, base64.StdEncoding.EncodeToString([]byte(password)))
}

// judgeMail marks what a server refuses for good (RFC 5321, 4.2.1). A failure
// before the letter itself, as of the login, is tried again: it is one of the
// configuration, and the letter is none the worse for it.
func judgeMail(err error) error {
	failure, ok := errors.AsType[*mail.SendError](err)
	if ok && failure.ErrorCode() >= 500 && failure.ErrorCode() < 600 {
		return Permanent(fmt.Errorf("mail: %w", err))
	}
	return fmt.Errorf("mail: %w", err)
}

func (e *Email) letter(m Message) (*mail.Msg, error) {
	text, html, err := render(m)
	if err != nil {
		return nil, err
	}
	letter := mail.NewMsg(mail.WithNoDefaultUserAgent())
	if err := letter.From(e.config.From); err != nil {
		return nil, err
	}
	if err := letter.To(e.config.To...); err != nil {
		return nil, err
	}
	letter.Subject(oneLine(m.Title()))
	letter.SetMessageIDWithValue(m.ID + "@rotor")
	letter.SetDate()
	letter.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834, 5: no out-of-office replies
	// The messages of one alert make one thread (RFC 5322, 3.6.4).
	letter.SetGenHeader("References", "<"+m.Alert.Fingerprint+"."+strconv.FormatInt(m.Alert.Since.Unix(), 10)+"@rotor>")
	letter.SetBodyString(mail.TypeTextPlain, text)
	letter.AddAlternativeString(mail.TypeTextHTML, html)
	return letter, nil
}

func (e *Email) client(line *connection) (*mail.Client, error) {
	c := e.config
	roots := &tls.Config{ServerName: c.Host, RootCAs: c.Roots, MinVersion: tls.VersionTLS12}
	options := []mail.Option{mail.WithPort(c.Port), mail.WithTLSConfig(roots), mail.WithTimeout(c.Timeout)}
	switch c.TLS {
	case TLSImplicit:
		line.tls = roots
		options = append(options, mail.WithTLSPolicy(mail.NoTLS)) // none on top of the one there is
	case TLSNone:
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	default:
		options = append(options, mail.WithTLSPolicy(mail.TLSMandatory))
	}
	options = append(options, mail.WithDialContextFunc(line.dial))
	if c.Hello != "" {
		options = append(options, mail.WithHELO(c.Hello))
	}
	if c.Username != "" {
		options = append(options, mail.WithUsername(c.Username), mail.WithPassword(c.Password.Reveal()),
			mail.WithOpportunisticSMTPAuth(mail.SMTPAuthSCRAMSHA256, mail.SMTPAuthSCRAMSHA1, mail.SMTPAuthPlain, mail.SMTPAuthLogin))
	}
	return mail.NewClient(c.Host, options...)
}

// connection is the one connection of an attempt, so that it can be closed from
// outside.
type connection struct {
	tls *tls.Config

	mu     sync.Mutex
	conn   net.Conn
	closed bool
}

func (l *connection) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	var err error
	if l.tls != nil {
		conn, err = (&tls.Dialer{Config: l.tls}).DialContext(ctx, network, address)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
	}
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	l.conn = conn
	return conn, nil
}

func (l *connection) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.conn != nil {
		_ = l.conn.Close()
	}
}

// oneLine keeps a header line one line, whatever a summary holds.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
