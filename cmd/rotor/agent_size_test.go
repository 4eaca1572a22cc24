package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxAgent is how large the binary that people put into every cluster may be.
const maxAgent = 40_000_000

// TestAgentIsSmall builds the agent as the Makefile does: it stays small, and
// links no server.
func TestAgentIsSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=test", "-o", path, module+"agent/cmd/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", info.Size())
	if info.Size() >= maxAgent {
		t.Errorf("the agent has %d bytes, want less than %d", info.Size(), maxAgent)
	}
	out, err := exec.CommandContext(t.Context(), "go", "version", "-m", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), module+"agent") {
		t.Fatalf("this does not look like the agent:\n%s", out)
	}
	for _, forbidden := range []string{"nats-io/", module + "services/", module + "cmd/"} {
		if strings.Contains(string(out), forbidden) {
			t.Errorf("the agent links %s:\n%s", forbidden, out)
		}
	}
	said, err := exec.CommandContext(t.Context(), path, "--version").CombinedOutput()
	if err != nil || strings.TrimSpace(string(said)) != "agent test" {
		t.Errorf("--version: %q, %v", said, err)
	}
}
