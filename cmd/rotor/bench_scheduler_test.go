package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
)

// benchClusters is how many clusters of 8 clients the scheduler watches.
var benchClusters = flag.Int("bench.clusters", 100_000, "clusters of 8 clients in BenchmarkFigureScheduler")

// schedulerConfig writes the configuration of a scheduler on a server.
func schedulerConfig(b *testing.B, dir string, s *bustest.Server, ops string) string {
	b.Helper()
	path := filepath.Join(dir, "scheduler.yaml")
	config := fmt.Sprintf("log: {level: warn}\nnats: {url: %q}\nhealth: {listen: %q}\n", s.Server.ClientURL(), ops)
	must(b, os.WriteFile(path, []byte(config), 0o600))
	return path
}

// BenchmarkFigureScheduler runs the scheduler as a process of its own on a store
// that syncs each write, with 100,000 clusters of 8 clients.
func BenchmarkFigureScheduler(b *testing.B) {
	dir := b.TempDir()
	ops := freePort(b)
	quick := bustest.NewAt(b, filepath.Join(dir, "store"), false)
	fill(b, quick, *benchClusters)

	// The first start of all: nothing was told of any cluster.
	first := launch(b, ops, "scheduler", "--config", schedulerConfig(b, dir, quick, ops))
	start := clock.Wall()
	first.ready(b, time.Minute)
	waitTold(b, quick, *benchClusters)
	b.ReportMetric(clock.Wall().Sub(start).Seconds(), "s-first-look")
	pause(b, 12*time.Second) // for its checkpoint
	first.end()
	quick.Stop()

	s := bustest.NewAt(b, filepath.Join(dir, "store"), true)
	again := launch(b, ops, "scheduler", "--config", schedulerConfig(b, dir, s, ops))
	b.ReportMetric(again.ready(b, time.Minute).Seconds(), "s-ready")
	pause(b, 10*time.Second)
	before := again.cpu(b)
	pause(b, 10*time.Second)
	b.ReportMetric(100*(again.cpu(b)-before).Seconds()/10, "%-idle-cpu")

	late := burst(b, s)
	b.ReportMetric(percentile(late, 0), "ms-late-min")
	b.ReportMetric(percentile(late, 0.5), "ms-late-p50")
	b.ReportMetric(percentile(late, 0.99), "ms-late-p99")
	b.ReportMetric(percentile(late, 1), "ms-late-max")
	now, peak := again.resident(b)
	b.ReportMetric(now, "MiB")
	b.ReportMetric(peak, "MiB-peak")
	b.ReportMetric(0, "ns/op")
}

// waitTold waits until the scheduler has looked at every cluster.
func waitTold(b *testing.B, s *bustest.Server, clusters int) {
	b.Helper()
	js, err := jetstream.New(s.NATS)
	must(b, err)
	start := clock.Wall()
	for clock.Wall().Sub(start) < 5*time.Minute {
		stream, err := js.Stream(b.Context(), "KV_"+bus.Schedule)
		must(b, err)
		if int(stream.CachedInfo().State.Msgs) >= clusters {
			return
		}
		pause(b, 100*time.Millisecond)
	}
	b.Fatal("the scheduler has not looked at every cluster")
}

// burst makes all clients of 1,250 clusters due at one moment, 10,000 of them,
// and returns how late the issuer was asked for each: when the command was
// stored, by the server, after the moment.
func burst(b *testing.B, s *bustest.Server) []time.Duration {
	b.Helper()
	js, err := jetstream.New(s.NATS)
	must(b, err)
	const clusters = 1250
	count := min(clusters, *benchClusters)
	due := clock.Wall().Add(12 * time.Second).Truncate(time.Second)
	for n := range count {
		raw, err := json.Marshal(record(n, clock.Wall(), due))
		must(b, err)
		_, err = js.PublishAsync("$KV."+bus.Credentials+"."+clusterName(n), raw)
		must(b, err)
	}
	<-js.PublishAsyncComplete()
	if !clock.Wall().Before(due.Add(-2 * time.Second)) {
		b.Fatal("the records were not written in time")
	}
	pause(b, due.Sub(clock.Wall()))
	stream, err := js.Stream(b.Context(), bus.Commands)
	must(b, err)
	var late []time.Duration
	for seq := uint64(1); len(late) < count*len(kinds()); {
		msg, err := stream.GetMsg(b.Context(), seq)
		if err != nil {
			if clock.Wall().Sub(due) > time.Minute {
				b.Fatalf("%d of %d credentials after a minute", len(late), count*len(kinds()))
			}
			pause(b, 500*time.Millisecond) // rarely: the looks are measured, not this
			continue
		}
		if bus.IsFence(msg.Subject) {
			seq++
			continue
		}
		for range kinds() {
			late = append(late, msg.Time.Sub(due))
		}
		seq++
	}
	slices.Sort(late)
	return late
}
