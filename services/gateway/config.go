package gateway

import (
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/rotor-fleet/rotor/services/gateway/internal/apicert"
)

// Config is the section "gateway" of the configuration.
type Config struct {
	ListenAPI    string `yaml:"listenAPI"`    // address of the API
	ListenAgents string `yaml:"listenAgents"` // address for agents, TLS 1.3
	// CertFile and KeyFile serve the API over TLS, and are read again when they
	// change. Without them it is plain HTTP, for loopback or behind a proxy that
	// ends TLS.
	CertFile       string   `yaml:"certFile"`
	KeyFile        string   `yaml:"keyFile"`
	PublicURL      string   `yaml:"publicURL"`      // where callers reach the API; <scheme>://<listenAPI>, if empty
	AgentsURL      string   `yaml:"agentsURL"`      // where agents reach the gateway, for join commands; https://<listenAgents>, if empty; several with commas
	Names          []string `yaml:"names"`          // DNS names and IP addresses by which agents reach the gateway
	AdminTokenFile string   `yaml:"adminTokenFile"` // mode 0600; made at the first start

	// The listeners of a process that opens its own; they go before the addresses.
	APIListener    net.Listener `yaml:"-"`
	AgentsListener net.Listener `yaml:"-"`
}

// Defaults returns the values that hold where nobody set another.
func Defaults() Config {
	return Config{ListenAPI: "127.0.0.1:8080", ListenAgents: "127.0.0.1:8443", AdminTokenFile: "admin.token"}
}

// Validate reports the first thing that is wrong, also with the files of the API's
// certificate.
func (c Config) Validate() error {
	c, err := c.validate()
	if err != nil || c.CertFile == "" {
		return err
	}
	if err := c.files().Check(); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	return nil
}

func (c Config) files() apicert.Files { return apicert.Files{Cert: c.CertFile, Key: c.KeyFile} }

// certificate opens the certificate of the API, nil where there is none.
func (c Config) certificate(log *slog.Logger) (*apicert.Pair, error) {
	if c.CertFile == "" {
		return nil, nil
	}
	p, err := apicert.Open(c.files(), log)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return p, nil
}

// validate checks the values and completes them.
func (c Config) validate() (Config, error) {
	defaults := Defaults()
	if c.ListenAPI == "" {
		c.ListenAPI = defaults.ListenAPI
	}
	if c.ListenAgents == "" {
		c.ListenAgents = defaults.ListenAgents
	}
	if c.AdminTokenFile == "" {
		c.AdminTokenFile = defaults.AdminTokenFile
	}
	for key, address := range map[string]string{"listenAPI": c.ListenAPI, "listenAgents": c.ListenAgents} {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return c, fmt.Errorf("gateway: %s %q: write host:port, such as 127.0.0.1:8080", key, address)
		}
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return c, fmt.Errorf("gateway: certFile and keyFile belong together: set both or none")
	}
	if len(c.Names) == 0 {
		c.Names = []string{"localhost", "127.0.0.1", "::1"}
		host, _, _ := net.SplitHostPort(c.ListenAgents)
		if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) && !slices.Contains(c.Names, host) {
			c.Names = append(c.Names, host)
		}
	}
	for text := range strings.SplitSeq(c.AgentsURL, ",") {
		if c.AgentsURL == "" {
			break
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.Path != "" || u.User != nil {
			return c, fmt.Errorf("gateway: agentsURL %q: write https://host:port", text)
		}
		if !slices.Contains(c.Names, u.Hostname()) {
			c.Names = append(c.Names, u.Hostname())
		}
	}
	return c, nil
}

// agentsURL returns where agents reach the listener, and whether agents on other
// machines can: not where it listens everywhere and nobody said by which name.
func (c Config) agentsURL(listener net.Addr) (text string, reachable bool) {
	if c.AgentsURL != "" {
		return c.AgentsURL, true
	}
	host, port, err := net.SplitHostPort(listener.String())
	if err != nil {
		return "https://" + listener.String(), true
	}
	ip := net.ParseIP(host)
	if ip == nil || !ip.IsUnspecified() {
		return "https://" + listener.String(), true
	}
	for _, name := range c.Names {
		if ip := net.ParseIP(name); name != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return "https://" + net.JoinHostPort(name, port), true
		}
	}
	return "https://" + net.JoinHostPort("localhost", port), false
}

// APIURL returns the URL of the API at the address of its listener.
func (c Config) APIURL(listener net.Addr) string { return c.scheme() + "://" + listener.String() }

func (c Config) scheme() string {
	if c.CertFile != "" {
		return "https"
	}
	return "http"
}

// urls returns the URLs at which the gateway is reached, as far as it can know:
// the public one, and each of its listeners by each of its names.
func (c Config) urls(api, agents net.Addr) []string {
	all := []string{c.PublicURL}
	if c.AgentsURL != "" {
		all = append(all, strings.Split(c.AgentsURL, ",")...)
	}
	for _, l := range []struct {
		scheme string
		addr   net.Addr
	}{{c.scheme(), api}, {"https", agents}} {
		host, port, err := net.SplitHostPort(l.addr.String())
		if err != nil {
			continue
		}
		for _, name := range append([]string{host}, c.Names...) {
			all = append(all, l.scheme+"://"+net.JoinHostPort(name, port))
		}
	}
	return all
}
