package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/ports"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// kinds are the clients of a cluster in the benchmarks: eight.
func kinds() []string {
	return []string{"kva", "kms", "csi", "cloud-operator", "caph", "cert-manager", "cloud-provider", "node-agent"}
}

func must(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func clusterName(n int) string { return fmt.Sprintf("edge-%06d", n) }

// record returns the records of a cluster in its second year: the generation
// in use, and the one before. renewAt moves all renewals to one moment.
func record(n int, now, renewAt time.Time) fleet.Credentials {
	c := fleet.Credentials{Clients: map[fleet.ClientKey]*fleet.Record{}}
	for i, kind := range kinds() {
		var r fleet.Record
		for number := 1; number <= 2; number++ {
			at := now.Add(-time.Duration(2-number)*50*fleet.Day - fleet.Day - time.Duration(n%1000)*time.Minute).Truncate(time.Second)
			end, due := at.Add(90*fleet.Day), at.Add(45*fleet.Day+time.Duration(i)*time.Hour)
			step := fleet.StepSuperseded
			if number == 2 {
				step = fleet.StepProven
				if !renewAt.IsZero() {
					due = renewAt
				}
			}
			hex := strings.Repeat(strconv.FormatInt(int64(n%16), 16), 32)
			r.Generations = append(r.Generations, fleet.Generation{
				Number: number, Step: step, Reason: fleet.ReasonRenewal, Operation: "7d1cbd3b-2f4a-5e0e-9a54-6b0a9d6b6f52", At: at,
				Life: fleet.Life{Certificate: end, Token: end}, RenewAt: due, Agent: agentOf(n),
				Key: fmt.Sprintf("%043d", n*1000+i*10+number), ProvenAt: at.Add(time.Second),
				Certificate: fleet.Certificate{Serial: hex, NotBefore: at.Add(-fleet.Backdate), NotAfter: end, Issuer: hex + hex[:8], Fingerprint: hex + hex},
				Token:       fleet.Token{ID: "0b8e3a52-6f0e-8d2b-9f0a-1f2e3d4c5b6a", NotBefore: at.Add(-fleet.Backdate), ExpiresAt: end, KeyID: hex + hex[:11]},
			})
		}
		c.Clients[fleet.ClientKey{Kind: kind}] = &r
	}
	return c
}

func agentOf(n int) string { return fmt.Sprintf("%043d", n) }

// fill writes clusters of eight clients, enrolled and with their next requests
// on file, into the buckets: as they lie there, through the stream.
func fill(b testing.TB, s *bustest.Server, clusters int) {
	b.Helper()
	js, err := jetstream.New(s.NATS, jetstream.WithPublishAsyncMaxPending(512))
	must(b, err)
	now := clock.Wall()
	put := func(bucket, key string, value any) {
		raw, err := json.Marshal(value)
		must(b, err)
		_, err = js.PublishAsync("$KV."+bucket+"."+key, raw, jetstream.WithStallWait(time.Minute))
		must(b, err)
	}
	for n := range clusters {
		name := clusterName(n)
		c := fleet.Cluster{Name: name, Kind: fleet.Workload, Release: "1.30"}
		a := fleet.Agent{
			ID: agentOf(n), SealKey: bytes.Repeat([]byte{byte(n)}, 1216), EnrolledAt: now.Add(-100 * fleet.Day), LastSeen: now,
			Version: "1.0.0", Bundle: 1, Requests: map[fleet.ClientKey]fleet.Request{},
		}
		for i, kind := range kinds() {
			c.Clients = append(c.Clients, fleet.ClientKey{Kind: kind})
			a.Requests[fleet.ClientKey{Kind: kind}] = fleet.Request{
				Generation: 3, CSR: bytes.Repeat([]byte{byte(i)}, 240), Key: fmt.Sprintf("%043d", n*1000+i*10+3), FiledAt: now,
			}
		}
		put(bus.Clusters, name, c)
		put(bus.Agents, name, a)
		put(bus.Credentials, name, record(n, now, time.Time{}))
	}
	<-js.PublishAsyncComplete()
}

// process is a program under measurement.
type process struct {
	*exec.Cmd
	ops string // where it serves /readyz
}

// launch starts a program and ends it with the benchmark.
func launch(b testing.TB, ops, program string, arguments ...string) *process {
	b.Helper()
	p := &process{Cmd: exec.Command(filepath.Join(binaries, program), arguments...), ops: ops}
	log, err := os.Create(filepath.Join(b.TempDir(), program+".log"))
	must(b, err)
	p.Stdout, p.Stderr = log, log
	must(b, p.Start())
	b.Cleanup(func() {
		p.end()
		if said, err := os.ReadFile(log.Name()); err == nil && len(said) > 0 {
			b.Logf("%s said:\n%s", program, said[max(0, len(said)-4000):])
		}
	})
	return p
}

func (p *process) end() {
	if p.ProcessState == nil {
		_ = p.Process.Signal(syscall.SIGTERM)
		_ = p.Wait()
	}
}

// ready waits until the program is ready and returns how long that took.
func (p *process) ready(b testing.TB, limit time.Duration) time.Duration {
	b.Helper()
	start := clock.Wall()
	for clock.Wall().Sub(start) < limit {
		answer, err := http.Get("http://" + p.ops + "/readyz") //nolint:noctx // a benchmark
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return clock.Wall().Sub(start)
			}
		}
		must(b, clock.Sleep(b.Context(), 20*time.Millisecond))
	}
	b.Fatalf("%s is not ready after %s", p.Path, limit)
	return 0
}

// resident returns the resident set and its peak, in MiB.
func (p *process) resident(b testing.TB) (now, peak float64) {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	must(b, err)
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && (fields[0] == "VmRSS:" || fields[0] == "VmHWM:") {
			kib, err := strconv.ParseFloat(fields[1], 64)
			must(b, err)
			if fields[0] == "VmRSS:" {
				now = kib / 1024
			} else {
				peak = kib / 1024
			}
		}
	}
	return now, peak
}

// cpu returns the processor time that a program has used.
func (p *process) cpu(b testing.TB) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
	must(b, err)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	user, err := strconv.Atoi(fields[11])
	must(b, err)
	system, err := strconv.Atoi(fields[12])
	must(b, err)
	return time.Duration(user+system) * 10 * time.Millisecond // of 1/100 s (proc(5))
}

func pause(b testing.TB, d time.Duration) {
	b.Helper()
	must(b, clock.Sleep(b.Context(), d))
}

// percentile returns the value below which a share of the sorted values lies.
func percentile(sorted []time.Duration, share float64) float64 {
	return float64(sorted[min(int(share*float64(len(sorted))), len(sorted)-1)].Microseconds()) / 1000
}

// freePort returns a free address of loopback.
func freePort(b testing.TB) string {
	b.Helper()
	p := &ports.Ports{}
	b.Cleanup(p.Close)
	address, err := p.Free()
	must(b, err)
	return address
}
