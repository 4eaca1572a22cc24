package daemon

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type testSection struct {
	Listen string `yaml:"listen"`
	Limit  int    `yaml:"limit"`
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rotor.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	path := write(t, "log:\n  level: debug\ngateway:\n  listen: 127.0.0.1:1\nissuer:\n  unknown: to others only\n")
	own := testSection{Limit: 5}
	c, err := LoadAll(t.Context(), path, "gateway", &own)
	if err != nil {
		t.Fatal(err)
	}
	if c.Log.Level != "debug" || own.Listen != "127.0.0.1:1" || own.Limit != 5 {
		t.Errorf("%+v %+v", c, own)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"unknown section": {"gatway:\n  listen: x\n", `line 1: unknown section "gatway"`},
		"unknown key":     {"gateway:\n  listn: x\n", "listn"},
		"wrong type":      {"log:\n  level: info\ngateway:\n  limit: many\n", "limit"},
		"not a mapping":   {"- a\n", "want sections"},
		"broken YAML":     {"gateway: [\n", ""},
		"two documents":   {"log:\n  level: info\n---\nlog:\n  level: info\n", "more than one document"},
	} {
		var own testSection
		_, err := LoadAll(t.Context(), write(t, test.text), "gateway", &own)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want something with %q", name, err, test.want)
		}
	}
	var own testSection
	if _, err := LoadAll(t.Context(), "/does/not/exist", "gateway", &own); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("log:\n  level: debug\ngateway:\n  listen: x\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("gateway: {limit: 1e99}"))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		var c LogConfig
		var own testSection
		_ = decode(raw, map[string]any{"log": &c, "gateway": &own})
	})
}

func TestGroupEndsTogether(t *testing.T) {
	cause := errors.New("disk full")
	ended := false
	err := Group(t.Context(),
		Part{"issuer", func(context.Context) error { return cause }},
		Part{"gateway", func(ctx context.Context) error { <-ctx.Done(); ended = true; return nil }},
	)
	if !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "issuer: ") || !ended {
		t.Errorf("%v, other part ended: %v", err, ended)
	}
}

func TestGroupEndsWell(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Group(ctx, Part{"a", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
	if err != nil {
		t.Errorf("an end by signal is no error: %v", err)
	}
}

func TestGroupPartMayNotJustStop(t *testing.T) {
	err := Group(t.Context(), Part{"issuer", func(context.Context) error { return nil }})
	if err == nil || !strings.Contains(err.Error(), "issuer: stopped") {
		t.Errorf("got %v", err)
	}
}

func TestListenNamesTheTakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := Listen("the API", l.Addr().String()); err == nil || !strings.Contains(err.Error(), "taken") {
		t.Errorf("got %v", err)
	}
}

func TestMainArguments(t *testing.T) {
	s := Service[testSection]{Name: "gateway", Run: func(context.Context, Env, testSection) error { return errors.New("must not run") }}
	for name, test := range map[string]struct {
		args []string
		ok   bool
	}{
		"version":      {[]string{"--version"}, true},
		"check":        {[]string{"--config", write(t, "gateway:\n  limit: 3\n"), "--check-config"}, true},
		"check wrong":  {[]string{"--config", write(t, "gateway:\n  limt: 3\n"), "--check-config"}, false},
		"unknown flag": {[]string{"--confg", "x"}, false},
	} {
		var out bytes.Buffer
		if err := s.main(t.Context(), test.args, &out); (err == nil) != test.ok {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
	}
}

// A service whose NATS server is not there yet waits, and says so.
func TestServiceWaitsForNATS(t *testing.T) {
	c := Config{NATS: NATSConfig{URL: "nats://127.0.0.1:1"}}
	s := Service[testSection]{Name: "gateway", Run: func(context.Context, Env, testSection) error { return errors.New("must not run") }}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.serve(ctx, t.Output(), c, testSection{}, "one"); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
