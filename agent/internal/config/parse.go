package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/strictyaml"
)

// ReadFile reads a configuration file. An error tells everything that is wrong
// with it, with file, line and column.
func ReadFile(path string) (File, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return File{}, fmt.Errorf("configuration of the agent: %w", err)
	}
	// It names commands that run with the rights of the agent.
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o002 != 0 {
		return File{}, fmt.Errorf("configuration of the agent: %w: everybody may write %s: run chmod o-w %s", fleet.ErrInvalid, path, path)
	}
	f, err := Parse(raw)
	if wrong, ok := errors.AsType[strictyaml.Errors](err); ok {
		lines := make([]string, len(wrong))
		for i, e := range wrong {
			lines[i] = fmt.Sprintf("%s:%d:%d: %s", path, e.Line, e.Column, e.Message)
		}
		return File{}, fmt.Errorf("configuration of the agent: %w:\n%s", fleet.ErrInvalid, strings.Join(lines, "\n"))
	}
	return f, err
}

// Parse reads a configuration. The error, if any, is a strictyaml.Errors.
func Parse(raw []byte) (File, error) {
	top, errs := strictyaml.Parse(raw, "configuration of an agent", "deploy/agent.yaml is one to begin with")
	if len(errs) > 0 {
		return File{}, errs.Sorted()
	}
	r := &reader{}
	r.file(top)
	if len(r.Errs) > 0 {
		return File{}, r.Errs.Sorted()
	}
	return r.out, nil
}

type node = strictyaml.Node

// reader collects what a file says and everything that is wrong with it.
type reader struct {
	strictyaml.Reader

	out    File
	places []located
}

var fileKeys = []string{
	"server", "caHash", "cluster", "joinFile", "directory", "stateDirectory", "pollWait", "healthListen",
	"logLevel", "maxFailures", "kubernetes", "trustBundle", "clients",
}

var pinRule = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (r *reader) file(top node) {
	f := r.Mapping(top, "the configuration", fileKeys...)
	r.out.Server = r.checked(f, "server", r.server)
	r.out.CAHash = r.checked(f, "caHash", func(n node) {
		if !pinRule.MatchString(n.Text) {
			r.Fail(n.Place, "caHash %q: write sha256: and 64 hexadecimal digits, as they are shown with the join token", strictyaml.Clip(n.Text))
		}
	})
	r.out.Cluster = r.checked(f, "cluster", func(n node) {
		if err := fleet.CheckName("cluster", n.Text); err != nil {
			r.Reject(n.Place, err)
		}
	})
	r.out.JoinFile = r.checked(f, "joinFile", r.path("joinFile"))
	r.out.Directory = r.checked(f, "directory", r.path("directory"))
	r.out.StateDirectory = r.checked(f, "stateDirectory", r.path("stateDirectory"))
	r.out.PollWait = r.duration(f, "pollWait", limits{time.Second, 50 * time.Second})
	r.out.HealthListen = r.checked(f, "healthListen", func(n node) {
		if _, port, err := net.SplitHostPort(n.Text); err != nil || !isPort(port, 0) {
			r.Fail(n.Place, "healthListen %q: write host:port, such as 127.0.0.1:9642", strictyaml.Clip(n.Text))
		}
	})
	r.out.LogLevel = r.checked(f, "logLevel", func(n node) {
		if !slices.Contains([]string{"debug", "info", "warn", "error"}, n.Text) {
			r.Fail(n.Place, "logLevel %q: use debug, info, warn or error", strictyaml.Clip(n.Text))
		}
	})
	s := &r.out.Settings
	if n, ok := f["maxFailures"]; ok {
		if count, ok := r.number(n, "maxFailures", 0, 1000); ok {
			s.MaxFailures = &count
		}
	}
	if n, ok := f["kubernetes"]; ok {
		s.Kubernetes = r.connection(n)
	}
	for _, n := range r.List(f["trustBundle"], "trustBundle", "entries such as {file: {path: /etc/kubernetes/pki/rotor-ca.crt}}") {
		r.trustBundle(n)
	}
	if n, ok := f["clients"]; ok {
		r.clients(n)
	}
	r.checkPlaces()
}

// checked returns the text of a key after a check of it, empty if the key is
// absent.
func (r *reader) checked(fields map[string]node, key string, check func(node)) string {
	n, ok := fields[key]
	if !ok {
		return ""
	}
	text, ok := r.Text(n, key)
	if ok && check != nil {
		check(n)
	}
	return text
}

func (r *reader) server(n node) {
	for text := range strings.SplitSeq(n.Text, ",") {
		server, err := url.Parse(text)
		if err != nil || server.Scheme != "https" || server.Host == "" || server.Path != "" {
			r.Fail(n.Place, "server %q: write https://host:port, several with commas", strictyaml.Clip(text))
		}
	}
}

// path refuses what a shell would change and this file does not.
func (r *reader) path(key string) func(node) {
	return func(n node) {
		if strings.HasPrefix(n.Text, "~") || strings.Contains(n.Text, "$") {
			r.Fail(n.Place, "%s %q: write the whole path, '~' and '$' are not expanded", key, strictyaml.Clip(n.Text))
		}
	}
}

type limits struct{ least, most time.Duration }

func (r *reader) duration(fields map[string]node, key string, l limits) time.Duration {
	n, ok := fields[key]
	if !ok {
		return 0
	}
	before := len(r.Errs)
	d := r.Duration(n, key).Std()
	if len(r.Errs) == before && (d < l.least || d > l.most) {
		r.Fail(n.Place, "%s %q: use %s to %s", key, strictyaml.Clip(n.Text), fleet.Duration(l.least), fleet.Duration(l.most))
	}
	return d
}

func (r *reader) number(n node, key string, least, most int) (int, bool) {
	text, ok := r.Text(n, key)
	if !ok {
		return 0, false
	}
	number, err := strconv.Atoi(text)
	if err != nil || number < least || number > most {
		r.Fail(n.Place, "%s %q: write a number from %d to %d", key, strictyaml.Clip(text), least, most)
		return 0, false
	}
	return number, true
}

func isPort(text string, least int) bool {
	port, err := strconv.Atoi(text)
	return err == nil && port >= least && port <= 65535
}
