package notifier

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/rotor-fleet/rotor/services/notifier/internal/channel"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// build checks the configuration, reads the files that it names, and makes the
// channels.
func (c Config) build(log *slog.Logger) ([]channel.Channel, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if len(c.Channels) == 0 {
		return []channel.Channel{channel.NewTerminal("terminal", log)}, nil
	}
	var all []channel.Channel
	for _, one := range c.Channels {
		ch, err := one.build(c, log)
		if err != nil {
			return nil, fmt.Errorf("notifier: channel %s: %w", one.Name, err)
		}
		all = append(all, ch)
	}
	return all, nil
}

func (c ChannelConfig) build(all Config, log *slog.Logger) (channel.Channel, error) {
	switch {
	case c.Slack != nil:
		u, err := secretURL("webhookURL", c.Slack.WebhookURL, c.Slack.WebhookURLFile)
		return channel.NewSlack(c.Name, u), err
	case c.Webhook != nil:
		u, err := secretURL("url", c.Webhook.URL, c.Webhook.URLFile)
		if err != nil {
			return nil, err
		}
		key, err := fromFile(c.Webhook.Secret, c.Webhook.SecretFile)
		return channel.NewWebhook(c.Name, channel.WebhookConfig{URL: u, Headers: c.Webhook.Headers, Secret: key}), err
	case c.Email != nil:
		return c.Email.build(c.Name, all)
	default:
		return channel.NewTerminal(c.Name, log), nil
	}
}

func (c EmailConfig) build(name string, all Config) (channel.Channel, error) {
	host, port, err := c.server()
	if err != nil {
		return nil, err
	}
	password, err := fromFile(c.Password, c.PasswordFile)
	if err != nil {
		return nil, err
	}
	if c.Username != "" && password.Empty() {
		return nil, fmt.Errorf("passwordFile %s: it is empty", c.PasswordFile)
	}
	var roots *x509.CertPool
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("caFile: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("caFile %s: no certificate in PEM form", c.CAFile)
		}
	}
	return channel.NewEmail(name, channel.EmailConfig{
		Host: host, Port: port, From: c.From, To: c.To, Username: c.Username, Password: password,
		TLS: c.TLS, Roots: roots, Hello: c.Hello, Timeout: all.SendTimeout,
	}), nil
}

func secretURL(what string, u secret.Text, file string) (secret.Text, error) {
	u, err := fromFile(u, file)
	if err != nil {
		return u, err
	}
	if checkURL(u.Reveal()) != nil {
		return u, errors.New(what + "File: the file holds no address that begins with https:// or http://")
	}
	return u, nil
}

func fromFile(t secret.Text, file string) (secret.Text, error) {
	if file == "" {
		return t, nil
	}
	return secret.ReadFile(file)
}
