package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rotor-fleet/rotor/agent"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func none(string) string { return "" }

func arguments(t *testing.T, more ...string) []string {
	t.Helper()
	return append([]string{
		"--server", "https://127.0.0.1:1", "--ca-hash", "sha256:" + strings.Repeat("0a", 32), "--cluster", "edge-01", "--dir", t.TempDir(),
	}, more...)
}

func TestExitCodes(t *testing.T) {
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	token := "edge-02.1.SECRET"
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"stopped by a signal":   {arguments(t, "--join", "x", "--listen-health", "127.0.0.1:0"), 0, ""},
		"version":               {[]string{"--version"}, 0, "agent "},
		"help":                  {[]string{"--help"}, 0, "Usage: agent"},
		"unknown flag":          {[]string{"--nonsense"}, 2, "nonsense"},
		"argument":              {arguments(t, "stray"), 2, "stray"},
		"nothing":               {nil, 2, "folder"},
		"folder alone":          {[]string{"--dir", t.TempDir()}, 2, "rotor join"},
		"no cluster":            {append(arguments(t), "--cluster", ""), 2, "cluster"},
		"bad pin":               {append(arguments(t), "--ca-hash", "md5:1"), 2, "sha256:"},
		"no pin":                {append(arguments(t), "--ca-hash", ""), 2, "pin of the fleet key"},
		"token of another":      {arguments(t, "--join", token), 2, "is for cluster edge-02, not for edge-01"},
		"token says cluster":    {append(arguments(t, "--join", token), "--cluster", ""), 0, ""},
		"health port is no one": {arguments(t, "--listen-health", "256.0.0.1:1"), 1, "listen for health"},
	} {
		var out bytes.Buffer
		code := Main(stopped, c.args, Process{Getenv: none, Out: &out, Log: &out})
		if code != c.code || !strings.Contains(out.String(), c.says) || strings.Contains(out.String(), "SECRET") {
			t.Errorf("%s: exit code %d, want %d: %s", name, code, c.code, out.String())
		}
	}
}

// H3: a token that is put in the place of another is the one that is used.
func TestJoinTokenComesFromFlagFileOrEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "join")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("from-file\n")
	p := Process{Log: io.Discard, Getenv: func(name string) string { return map[string]string{"ROTOR_JOIN_TOKEN": "from-env"}[name] }}
	log := slog.New(slog.DiscardHandler)
	for want, o := range map[string]Options{"from-flag": {Join: "from-flag"}, "from-file": {JoinFile: file}, "from-env": {}} {
		c := o.config(agent.File{}, p, log)
		if c.JoinToken.Reveal() != want {
			t.Errorf("%+v: another token than %s", o, want)
		}
		if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, want) {
			t.Errorf("the configuration shows the token: %s", text)
		}
	}
	c := Options{JoinFile: file}.config(agent.File{}, p, log)
	write("edge-01.1.later")
	if token, err := c.Join(t.Context()); err != nil || token.Reveal() != "edge-01.1.later" {
		t.Errorf("the file has another token now: %v", err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Join(t.Context()); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others may read: %v", err)
	}
}

// H14: a file with a token that cannot be read ends nothing: an agent that is
// enrolled needs none.
func TestH14_UnreadableJoinFileIsNoReasonToEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	folder := t.TempDir() // in the place of the file
	var out bytes.Buffer
	if code := Main(ctx, arguments(t, "--join-file", folder), Process{Getenv: none, Out: &out, Log: &out}); code != 0 {
		t.Errorf("exit code %d: %s", code, out.String())
	}
	if !strings.Contains(out.String(), "cannot be read") {
		t.Errorf("nothing is said of it: %s", out.String())
	}
}

// A file that is wrong when the signal comes changes nothing.
func TestSignalReadsTheConfigurationFileAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hangup := make(chan os.Signal, 1)
	all := Options{Config: path}.reread(t.Context(), hangup, agent.Settings{}, slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		text string
		want int
	}{{"maxFailures: 3\n", 3}, {"nonsense: [\n", 3}, {"maxFailures: 0\n", 0}} {
		write(c.text)
		hangup <- syscall.SIGHUP
		if s := <-all; s.Allowed() != c.want {
			t.Errorf("%q: %d, want %d", c.text, s.Allowed(), c.want)
		}
	}
}

func TestWrongArgumentsAreOfTheirKind(t *testing.T) {
	err := Run(t.Context(), Options{}, Process{Getenv: none, Out: io.Discard, Log: io.Discard})
	if !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("%v", err)
	}
}
