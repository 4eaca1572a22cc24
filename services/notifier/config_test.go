package notifier

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/rotor-fleet/rotor/shared/daemon"
)

const full = `notifier:
  dashboardURL: https://rotor.example.com
  sendTimeout: 20s
  maxAttempts: 7
  backoffCap: 30m
  channels:
    - name: terminal
      terminal: {}
    - name: chat
      slack: {webhookURL: "https://hooks.slack.com/services/T/B/s3cr3t-1"}
    - name: mail
      email:
        host: mail.example.com
        from: Rotor <rotor@example.com>
        to: [ops@example.com]
        username: rotor
        password: s3cr3t-2
    - name: hook
      webhook:
        url: https://example.com/s3cr3t-3
        headers: {Authorization: Bearer s3cr3t-4}
        secret: s3cr3t-5
`

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rotor.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Defaults()
	err := daemon.Load(path, map[string]any{"notifier": &c})
	return c, err
}

func TestConfigIsReadAndHidesItsSecrets(t *testing.T) {
	c, err := load(t, full)
	if err != nil {
		t.Fatal(err)
	}
	channels, err := c.build(slog.New(slog.DiscardHandler))
	if err != nil || len(channels) != 4 {
		t.Fatalf("%d channels: %v", len(channels), err)
	}
	if got := c.Channels[3].Webhook.Headers["Authorization"].Reveal(); got != "Bearer s3cr3t-4" {
		t.Errorf("header %q", got)
	}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, ch := range c.Channels {
		asJSON = fmt.Appendf(asJSON, "%+v %#v %+v %+v %+v", ch, ch, ch.Slack, ch.Email, ch.Webhook)
	}
	if text := fmt.Sprintf("%+v %#v %s %s", c, c, asJSON, asYAML); strings.Contains(text, "s3cr3t") {
		t.Errorf("shows a secret: %s", text)
	}
}

func TestConfigWithoutChannelsHasATerminal(t *testing.T) {
	channels, err := Defaults().build(slog.New(slog.DiscardHandler))
	if err != nil || len(channels) != 1 || channels[0].Name() != "terminal" {
		t.Errorf("channels %v: %v", channels, err)
	}
}

func TestConfigRefuses(t *testing.T) {
	mail := "name: mail\n      email: {host: mail.example.com, from: a@example.com, to: [b@example.com]"
	for name, c := range map[string]struct{ channel, want string }{
		"unknown key":       {"name: a\n      terminal: {}\n      colour: red", "colour"},
		"no name":           {"terminal: {}", "name"},
		"bad name":          {"name: A b\n      terminal: {}", "name"},
		"no kind":           {"name: a", "the kind is missing"},
		"two kinds":         {"name: a\n      terminal: {}\n      slack: {webhookURL: https://a/b}", "two kinds, terminal and slack"},
		"twice":             {"name: a\n      terminal: {}\n    - name: a\n      terminal: {}", "used twice"},
		"slack without URL": {"name: a\n      slack: {}", "webhookURL (or webhookURLFile) is missing"},
		"bad slack URL":     {"name: a\n      slack: {webhookURL: 's3cr3t'}", "webhookURL: not an address"},
		"two URLs":          {"name: a\n      webhook: {url: https://a/b, urlFile: x}", "write one of them"},
		"no such file":      {"name: a\n      webhook: {urlFile: /nowhere/url}", "no such file"},
		"reserved header":   {"name: a\n      webhook: {url: https://a/b, headers: {idempotency-key: x}}", "is set by the notifier"},
		"broken header":     {"name: a\n      webhook: {url: https://a/b, headers: {A: \"x\\r\\nB: s3cr3t\"}}", "more than one line"},
		"bad port":          {strings.Replace(mail, "mail.example.com", "mail.example.com:smtp", 1) + "}", "use host:port"},
		"bad from":          {strings.Replace(mail, "a@example.com", "nobody", 1) + "}", "from \"nobody\""},
		"bad to":            {strings.Replace(mail, "b@example.com", "nobody", 1) + "}", "to \"nobody\""},
		"nobody":            {"name: mail\n      email: {host: m, from: a@b.c}", "at least one address"},
		"half a login":      {mail + ", username: rotor}", "write both or neither"},
		"login in clear":    {mail + ", username: rotor, password: s3cr3t, tls: none}", "in clear"},
		"bad tls":           {mail + ", tls: yes-please}", "use starttls, implicit or none"},
		"no such CA":        {mail + ", caFile: /nowhere/ca.pem}", "caFile"},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := load(t, "notifier:\n  channels:\n    - "+c.channel+"\n")
			if err == nil {
				_, err = config.build(slog.New(slog.DiscardHandler))
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("shows a secret: %v", err)
			}
		})
	}
}

func TestConfigReadsSecretsFromPrivateFilesOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "url")
	if err := os.WriteFile(path, []byte("https://example.com/s3cr3t\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := load(t, "notifier: {channels: [{name: a, slack: {webhookURLFile: "+path+"}}]}\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.build(slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("error: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.build(slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}
