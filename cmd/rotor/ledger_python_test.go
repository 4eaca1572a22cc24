//go:build python

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/rotor-fleet/rotor/shared/bus"
)

// The published verifier, which shares no line with Rotor, comes to the same as
// Rotor about a real export and about what was done to it. It needs python3 and
// openssl 3: without them this test fails.
func TestThePublishedVerifier(t *testing.T) {
	t.Parallel()
	whole := fleetOf(t)
	url, token := whole.serve(t)
	export := filepath.Join(t.TempDir(), "ledger.jsonl")
	if code, out := rotorWith(t, url, token, "audit", "export", "--file", export); code != 0 {
		t.Fatal(out)
	}
	raw, err := os.ReadFile(export)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
	gatewayAt := whole.places(t, "gateway")
	verify := func(lines []string, arguments ...string) (int, string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "ledger.jsonl")
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "python3", append([]string{"../../docs/verify-ledger.py", file}, arguments...)...).CombinedOutput()
		exit, failed := errors.AsType[*exec.ExitError](err)
		if err != nil && !failed {
			t.Fatalf("python3: %v", err)
		}
		if failed {
			return exit.ExitCode(), string(out)
		}
		return 0, string(out)
	}
	code, out := verify(lines)
	if want := fmt.Sprintf("ok: %d entries in 2 chains", len(lines)); code != 0 || !strings.Contains(out, want) || !strings.Contains(out, "signed by sha256:") {
		t.Fatalf("exit code %d, want %q: %s", code, want, out)
	}
	_, pin, _ := strings.Cut(out, "signed by ")
	pin, _, _ = strings.Cut(pin, ": ")
	if code, out := verify(lines, "--fleet-key", pin); code != 0 {
		t.Errorf("with the pin: %s", out)
	}
	if code, out := verify(lines, "--fleet-key", "sha256:00"); code != 1 || !strings.Contains(out, "the fleet key is sha256:00") {
		t.Errorf("with another pin: %d %s", code, out)
	}
	changed := slices.Clone(lines)
	changed[gatewayAt[1]] = strings.Replace(changed[gatewayAt[1]], "cluster.rotate", "cluster.revoke", 1)
	swapped := slices.Clone(lines)
	swapped[gatewayAt[1]], swapped[gatewayAt[1]+1] = swapped[gatewayAt[1]+1], swapped[gatewayAt[1]]
	forgery := forged(t, slices.Clone(whole[bus.Audit]), gatewayAt)
	for name, test := range map[string]struct {
		lines []string
		says  string
	}{
		"changed":              {changed, "entry 2 of chain gateway was changed"},
		"left out":             {slices.Delete(slices.Clone(lines), gatewayAt[1], gatewayAt[1]+1), "entry 2 of chain gateway is missing"},
		"moved between chains": {swapped, "it was moved"},
		"last of a chain":      {slices.Delete(slices.Clone(lines), gatewayAt[2], gatewayAt[2]+1), "entry 3 of chain gateway is missing"},
		"made anew":            {texts(forgery), "the chain was made anew"},
	} {
		if code, out := verify(test.lines); code != 1 || !strings.Contains(out, test.says) {
			t.Errorf("%s: exit code %d, and not %q: %s", name, code, test.says, out)
		}
	}
}

func texts(messages []*nats.Msg) []string {
	var all []string
	for _, m := range messages {
		all = append(all, string(m.Data))
	}
	return all
}
