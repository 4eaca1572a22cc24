//go:build promtool

package main

import "testing"

// TestPromtool lets promtool judge the metrics of a running Rotor. It needs
// promtool in the path: `make check-deploy` says so.
func TestPromtool(t *testing.T) {
	runScripts(t, topologies["one"], []string{"testdata/promtool/metrics.txtar"})
}
