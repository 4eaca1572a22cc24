package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
)

func everyCommand(c *cobra.Command, do func(*cobra.Command)) {
	for _, below := range c.Commands() {
		if name := below.Name(); name != "help" && name != "completion" {
			do(below)
			everyCommand(below, do)
		}
	}
}

func TestEveryCommandTeaches(t *testing.T) {
	root := cli.New(cli.Options{Extra: commands()})
	everyCommand(root, func(c *cobra.Command) {
		if c.Short == "" || c.Example == "" || c.Args == nil {
			t.Errorf("%s lacks Short, Example or Args", c.CommandPath())
		}
		for line := range strings.SplitSeq(c.Long, "\n") {
			if len(line) > 100 && !strings.Contains(line, "RFC 5280") {
				t.Errorf("%s: a line of its help is too long for a terminal: %s", c.CommandPath(), line)
			}
		}
	})
}

// Whatever is wrong with a command line is told before anything is done, with the
// exit code 2.
func TestAWrongCommandLineEndsWithTwo(t *testing.T) {
	for line, want := range map[string]string{
		"up x":                `unexpected argument "x"`,
		"up --clock-rate 0":   "--clock-rate 0: use at least 1",
		"up --clock-rate x":   `--clock-rate "x": use a number`,
		"demo x":              `unexpected argument "x"`,
		"demo --days 0":       "both must be at least 1",
		"backup":              "FILE is missing",
		"backup a b":          `unexpected argument "b"`,
		"backup verify":       "FILE is missing",
		"backup f.age":        "name a key: --passphrase-file FILE, or --recipient age1...",
		"backup verify f.age": "name a key: --passphrase-file FILE, or --identity-file FILE",
		"restore":             "FILE is missing",
		"restore f.age":       "name a key: --passphrase-file FILE, or --identity-file FILE",
		"restore --revoke a --passphrase-file p f.age": `--revoke "a": write it as CLUSTER/CLIENT`,
		"nats x":                       `unknown command "x" for "rotor nats"`,
		"nats setup":                   "with --config FILE",
		"nats setup --config f -o xml": `--output "xml": use table or json`,
		"nats config --max-store big":  `max-store "big": write it as 100GB`,
		"nats config x":                `unexpected argument "x"`,
		"agent x":                      `unexpected argument "x"`,
	} {
		var out, errs bytes.Buffer
		args := append(strings.Fields(line), "--data", t.TempDir())
		if code := cli.Main(t.Context(), args, nil, &out, &errs, commands()...); code != 2 || !strings.Contains(errs.String(), want) || !strings.Contains(errs.String(), "hint: see `rotor ") {
			t.Errorf("rotor %s ended with %d: %s", line, code, &errs)
		}
	}
}
