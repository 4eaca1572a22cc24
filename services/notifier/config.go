package notifier

import (
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/netip"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/services/notifier/internal/channel"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// Config is what an operator writes in the section "notifier". Durations pass
// on the machine's time.
type Config struct {
	Channels     []ChannelConfig `yaml:"channels"`     // one named terminal, if empty
	DashboardURL string          `yaml:"dashboardURL"` // link in every message; none, if empty
	SendTimeout  time.Duration   `yaml:"sendTimeout"`  // of one attempt
	MaxAttempts  int             `yaml:"maxAttempts"`  // after which a message moves to the dead letters
	BackoffCap   time.Duration   `yaml:"backoffCap"`   // longest pause between two attempts
}

// ChannelConfig is one channel: its name, by which routes call it, and exactly
// one of the kinds.
type ChannelConfig struct {
	Name     string          `yaml:"name"`
	Terminal *TerminalConfig `yaml:"terminal,omitempty"`
	Slack    *SlackConfig    `yaml:"slack,omitempty"`
	Email    *EmailConfig    `yaml:"email,omitempty"`
	Webhook  *WebhookConfig  `yaml:"webhook,omitempty"`
}

// TerminalConfig is a channel that writes to the log of the process. It has no
// settings: write "terminal: {}".
type TerminalConfig struct{}

// SlackConfig is an incoming webhook of Slack.
type SlackConfig struct {
	WebhookURL     secret.Text `yaml:"webhookURL"`     // or
	WebhookURLFile string      `yaml:"webhookURLFile"` // a file of mode 0600 that holds it
}

// EmailConfig is a mail server and the addresses to use with it.
type EmailConfig struct {
	Host         string      `yaml:"host"`         // host:port; the port is 587 if left out, 465 with tls: implicit
	From         string      `yaml:"from"`         // one address, with or without a name
	To           []string    `yaml:"to"`           // at least one address
	Username     string      `yaml:"username"`     // no login, if empty
	Password     secret.Text `yaml:"password"`     // or
	PasswordFile string      `yaml:"passwordFile"` // a file of mode 0600 that holds it
	TLS          string      `yaml:"tls"`          // starttls (default), implicit, or none
	CAFile       string      `yaml:"caFile"`       // CA of the server, PEM; the system's, if empty
	Hello        string      `yaml:"hello"`        // name given in EHLO; the host's own, if empty
}

// WebhookConfig is a receiver of JSON.
type WebhookConfig struct {
	URL        secret.Text            `yaml:"url"`        // or
	URLFile    string                 `yaml:"urlFile"`    // a file of mode 0600 that holds it
	Headers    map[string]secret.Text `yaml:"headers"`    // sent along, such as Authorization
	Secret     secret.Text            `yaml:"secret"`     // key of the signature; or
	SecretFile string                 `yaml:"secretFile"` // a file of mode 0600 that holds it
}

// Defaults returns what holds where nothing else is written. Pauses of at most a
// minute bring an alert soon after its channel is back. With half a minute on
// average, 12,000 attempts last about four days: a channel may be down over a
// long weekend.
func Defaults() Config {
	return Config{SendTimeout: 15 * time.Second, MaxAttempts: 12_000, BackoffCap: time.Minute}
}

// Validate reports everything that is wrong, by the path of the setting. It
// reads no file.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("notifier: "+format, args...)) }
	if c.SendTimeout < time.Second || c.SendTimeout > 5*time.Minute {
		bad("sendTimeout %s: use 1s to 5m", c.SendTimeout)
	}
	if c.MaxAttempts < 1 {
		bad("maxAttempts %d: use at least 1", c.MaxAttempts)
	}
	if c.BackoffCap < 100*time.Millisecond || c.BackoffCap > 24*time.Hour {
		bad("backoffCap %s: use 100ms to 24h", c.BackoffCap)
	}
	if c.DashboardURL != "" && checkURL(c.DashboardURL) != nil {
		bad("dashboardURL %q: use an address such as https://rotor.example.com", c.DashboardURL)
	}
	seen := map[string]bool{}
	for i, ch := range c.Channels {
		at := fmt.Sprintf("channels[%d]", i)
		if fleet.CheckName("name", ch.Name) == nil {
			at = fmt.Sprintf("channel %s", ch.Name)
		}
		if err := ch.validate(); err != nil {
			bad("%s: %w", at, err)
		}
		if seen[ch.Name] {
			bad("%s: the name is used twice: routes could not tell them apart", at)
		}
		seen[ch.Name] = true
	}
	return errors.Join(errs...)
}

func (c ChannelConfig) validate() error {
	if err := fleet.CheckName("name", c.Name); err != nil {
		return err
	}
	var kinds []string
	var err error
	if c.Terminal != nil {
		kinds = append(kinds, "terminal")
	}
	if c.Slack != nil {
		kinds, err = append(kinds, "slack"), c.Slack.validate()
	}
	if c.Email != nil {
		kinds, err = append(kinds, "email"), c.Email.validate()
	}
	if c.Webhook != nil {
		kinds, err = append(kinds, "webhook"), c.Webhook.validate()
	}
	switch len(kinds) {
	case 0:
		return errors.New("the kind is missing: write one of terminal (as \"terminal: {}\"), slack, email, webhook")
	case 1:
		return err
	default:
		return fmt.Errorf("has two kinds, %s: write a channel of its own for each", strings.Join(kinds, " and "))
	}
}

func (c SlackConfig) validate() error {
	return checkSecretURL("webhookURL", c.WebhookURL, c.WebhookURLFile)
}

func (c WebhookConfig) validate() error {
	for name := range c.Headers {
		if name == "" || strings.ContainsAny(name, " :\r\n\t") {
			return fmt.Errorf("headers: %q is not the name of a header", name)
		}
		switch textproto.CanonicalMIMEHeaderKey(name) {
		case "Content-Type", "Content-Length", "Host", channel.HeaderKey, channel.HeaderSignature:
			return fmt.Errorf("headers: %s is set by the notifier", name)
		}
		if strings.ContainsAny(c.Headers[name].Reveal(), "\r\n") {
			return fmt.Errorf("headers: the value of %s is more than one line", name)
		}
	}
	if !c.Secret.Empty() && c.SecretFile != "" {
		return errors.New("secret and secretFile: write one of them")
	}
	return checkSecretURL("url", c.URL, c.URLFile)
}

func (c EmailConfig) validate() error {
	host, _, err := c.server()
	if err != nil {
		return err
	}
	if _, err := mail.ParseAddress(c.From); err != nil {
		return fmt.Errorf("from %q: use one address, such as rotor@example.com", c.From)
	}
	if len(c.To) == 0 {
		return errors.New("to: write at least one address")
	}
	for _, to := range c.To {
		if _, err := mail.ParseAddress(to); err != nil {
			return fmt.Errorf("to %q: use one address, such as ops@example.com", to)
		}
	}
	if !c.Password.Empty() && c.PasswordFile != "" {
		return errors.New("password and passwordFile: write one of them")
	}
	hasPassword := !c.Password.Empty() || c.PasswordFile != ""
	if (c.Username != "") != hasPassword {
		return errors.New("username and password (or passwordFile): write both or neither")
	}
	switch c.TLS {
	case "", channel.TLSStart, channel.TLSImplicit:
	case channel.TLSNone:
		if c.Username != "" && !loopback(host) {
			return fmt.Errorf("tls none: the password would cross the network to %s in clear: use starttls or implicit", host)
		}
	default:
		return fmt.Errorf("tls %q: use starttls, implicit or none", c.TLS)
	}
	return nil
}

// server returns the host and the port.
func (c EmailConfig) server() (string, int, error) {
	bad := fmt.Errorf("host %q: use host:port, such as mail.example.com:587", c.Host)
	host, service, err := net.SplitHostPort(c.Host)
	if err != nil {
		host, service = strings.Trim(c.Host, "[]"), "587"
		if c.TLS == channel.TLSImplicit {
			service = "465"
		}
		if _, err := netip.ParseAddr(host); err != nil && strings.Contains(host, ":") {
			return "", 0, bad
		}
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 || host == "" || strings.ContainsAny(host, " /@") {
		return "", 0, bad
	}
	return host, int(port), nil
}

func loopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}

func checkSecretURL(what string, u secret.Text, file string) error {
	switch {
	case u.Empty() && file == "":
		return fmt.Errorf("%s (or %sFile) is missing", what, what)
	case !u.Empty() && file != "":
		return fmt.Errorf("%s and %sFile: write one of them", what, what)
	case file != "":
		return nil
	case checkURL(u.Reveal()) != nil:
		return fmt.Errorf("%s: not an address that begins with https:// or http://", what) // never show it
	}
	return nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" {
		return errors.New("not a URL")
	}
	return nil
}
