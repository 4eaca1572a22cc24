//go:build collector

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestTraceCollector runs the scripts in testdata/trace with a real
// OpenTelemetry collector, and reads what it prints.
func TestTraceCollector(t *testing.T) {
	program := collectorProgram(t)
	traceScripts(t, func(ts *testscript.TestScript, _ bool, _ []string) { startCollector(ts, program) })
}

const collectorVersion = "v0.162.0"

// collectorProgram returns the collector, built on demand into the user's cache:
// it is 30 MB, and takes minutes.
func collectorProgram(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "rotor-test", "otelcol-"+collectorVersion)
	program := filepath.Join(dir, "out", "otelcol")
	if _, err := os.Stat(program); err == nil {
		return program
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	manifest := fmt.Sprintf(`dist: {name: otelcol, output_path: %[1]q}
receivers: [{gomod: go.opentelemetry.io/collector/receiver/otlpreceiver %[2]s}]
exporters: [{gomod: go.opentelemetry.io/collector/exporter/debugexporter %[2]s}]
`, filepath.Join(dir, "out"), collectorVersion)
	path := filepath.Join(dir, "manifest.yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, arguments := range [][]string{
		{"go", "install", "go.opentelemetry.io/collector/cmd/builder@" + collectorVersion},
		{filepath.Join(dir, "builder"), "--config", path},
	} {
		c := exec.CommandContext(t.Context(), arguments[0], arguments[1:]...)
		c.Dir, c.Env = dir, append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod", "GOBIN="+dir)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build the collector: %v: %v\n%s", arguments, err, out)
		}
	}
	return program
}

const collectorConfig = `
receivers: {otlp: {protocols: {http: {endpoint: %q}}}}
exporters: {debug: {verbosity: detailed}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {traces: {receivers: [otlp], exporters: [debug]}}
`

func startCollector(ts *testscript.TestScript, program string) {
	address := freeAddress(ts)
	writeFile(ts, "collector.yaml", fmt.Sprintf(collectorConfig, address))
	printed := &output{}
	c := exec.Command(program, "--config", ts.MkAbs("collector.yaml"))
	c.Stdout, c.Stderr = printed, printed
	ts.Check(c.Start())
	ts.Defer(func() { _ = c.Process.Kill(); _ = c.Wait() })
	eventually(ts, func() error {
		if !strings.Contains(printed.String(), "Everything is ready") {
			return fmt.Errorf("the collector is not ready:\n%s", printed)
		}
		return nil
	})
	sendTo(ts, "http://"+address, func() []span { return printedSpans(printed.String()) })
}

// printedSpans reads what the debug exporter prints.
func printedSpans(text string) []span {
	var all []span
	var now span
	service := ""
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if value, ok := strings.CutPrefix(line, "-> service.name: Str("); ok {
			service = strings.TrimSuffix(value, ")")
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(name) {
		case "Trace ID":
			now = span{trace: value, service: service}
		case "Parent ID":
			now.parent = value
		case "ID":
			now.id = value
		case "Name":
			now.name = value
			all = append(all, now)
		}
	}
	return all
}
