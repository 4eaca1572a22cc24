package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/bustest"
)

// BenchmarkFigureMemory runs `rotor up`, the embedded server with it, on a store
// with 1,250 clusters of 8 clients. Their agents are elsewhere.
func BenchmarkFigureMemory(b *testing.B) {
	data := b.TempDir()
	ops := freePort(b)
	up := func() *process {
		return launch(b, ops, "rotor", "up", "--data", data, "--listen-api", ops, "--listen-agents", "127.0.0.1:0", "--listen-nats", "127.0.0.1:0")
	}
	first := up() // makes the authority
	first.ready(b, time.Minute)
	first.end()
	quick := bustest.NewAt(b, filepath.Join(data, "nats", "store"), false)
	fill(b, quick, 1250)
	quick.Stop()
	p := up()
	b.ReportMetric(p.ready(b, time.Minute).Seconds(), "s-ready")
	pause(b, 40*time.Second) // each cluster is looked at meanwhile
	now, peak := p.resident(b)
	b.ReportMetric(now, "MiB")
	b.ReportMetric(peak, "MiB-peak")
	before := p.cpu(b)
	pause(b, 10*time.Second)
	b.ReportMetric(100*(p.cpu(b)-before).Seconds()/10, "%-idle-cpu")
	b.ReportMetric(0, "ns/op")
}
