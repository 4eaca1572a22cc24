// Package chaos runs Rotor as many programs, makes bad days for it from a seed,
// and checks afterwards that nothing was lost and nothing doubled.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cluster"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// Options say how much of it.
type Options struct {
	Seed     uint64
	Length   time.Duration // of the storm
	Clusters int
	Bin      string // folder of the programs
	Self     string // program that hosts agents
	Out      io.Writer
	Verbose  bool // say each fault when it happens
}

// ErrBroken says that an invariant does not hold; the summary names it.
var ErrBroken = errors.New("an invariant is broken")

// hosts of agents; each serves a part of the clusters.
const hosts = 4

// run is one run of the harness.
type run struct {
	Options
	dir      string
	cluster  *cluster.Cluster
	token    secret.Text
	broken   *broken
	proxies  map[[2]string]*proxy // by from and to
	reader   *reader
	receiver *receiver
	load     *load
	done     map[Kind]int
	healed   time.Duration
}

// Run runs the harness. Everything that it has started has ended when it
// returns; its folder stays when something was broken.
func Run(ctx context.Context, o Options) (err error) {
	dir, err := os.MkdirTemp("", "rotor-chaos-")
	if err != nil {
		return fmt.Errorf("chaos: %w", err)
	}
	r := &run{
		Options: o, dir: dir, proxies: map[[2]string]*proxy{}, done: map[Kind]int{},
		broken: &broken{count: map[string]int{}, examples: map[string][]string{}},
	}
	_, _ = fmt.Fprintf(o.Out, "seed %d, %s, %d clusters; logs in %s\n", o.Seed, o.Length, o.Clusters, filepath.Join(dir, "logs"))
	defer func() {
		if err != nil {
			_, _ = fmt.Fprintf(o.Out, "broken with seed %d: all files are kept in %s\n", o.Seed, dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	receiver, stop, err := newReceiver()
	if err != nil {
		return fmt.Errorf("chaos: %w", err)
	}
	defer stop()
	r.receiver = receiver
	if err := r.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.cluster.Stop(ctx)) }()
	return r.all(ctx)
}

func (r *run) say(format string, args ...any) { _, _ = fmt.Fprintf(r.Out, format+"\n", args...) }

// start starts the topology with a proxy on each way.
func (r *run) start(ctx context.Context) error {
	config := filepath.Join(r.dir, "rotor.yaml")
	text := fmt.Sprintf("scheduler: {leaseTTL: 3s}\nnotifier: {backoffCap: 2s, sendTimeout: 3s, channels: [{name: hook, webhook: {url: %q}}]}\n", r.receiver.url)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("chaos: %w", err)
	}
	var err error
	r.cluster, err = cluster.Start(ctx, cluster.Config{
		Dir: r.dir, Bin: r.Bin, Self: r.Self, Config: config, Log: io.Discard, Said: r.Out,
		Nodes: 3, Copies: 2, Hosts: hosts,
		Listen: cluster.Listen{API: "127.0.0.1:0", Agents: "127.0.0.1:0", NATS: "127.0.0.1:0"},
		Between: func(from, to, address string) (string, error) {
			p, err := newProxy(ctx, address)
			if err != nil {
				return "", err
			}
			r.proxies[[2]string{from, to}] = p
			return p.listener.Addr().(*net.TCPAddr).String(), nil
		},
	})
	return err
}

// all is the run, once the topology is ready.
func (r *run) all(ctx context.Context) error {
	var err error
	if r.token, err = r.cluster.Token(); err != nil {
		return err
	}
	names, err := r.fleet(ctx)
	if err != nil {
		return err
	}
	if err := r.within(ctx, 3*time.Minute, r.healthy); err != nil {
		return fmt.Errorf("before the storm: %w", err)
	}
	before := r.measure(ctx)

	r.reader = &reader{dir: filepath.Join(r.dir, "clusters"), broken: r.broken, first: map[string]bool{}, seen: map[string]string{}}
	r.load = newLoad(r, names)
	var background sync.WaitGroup
	storm, over := context.WithCancel(ctx)
	reading, read := context.WithCancel(ctx)
	defer background.Wait()
	defer read()
	defer over()
	background.Go(func() { r.reader.run(reading) })
	var users sync.WaitGroup
	users.Go(func() { r.load.rotate(storm) })
	users.Go(func() { r.load.upgrade(storm) })
	r.say("everything is healthy; the storm begins")
	r.storm(ctx)
	over()
	users.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.say("the storm is over")
	r.settle(ctx)
	read()
	background.Wait()
	if err := r.check(ctx); err != nil {
		return err
	}
	r.compare(before, r.measure(ctx))
	return r.summary()
}

// fleet applies a fleet of workload clusters that are all behind their update
// window, and returns their names.
func (r *run) fleet(ctx context.Context) ([]string, error) {
	day := func(ago int) string { return clock.Wall().Add(-time.Duration(ago) * fleet.Day).Format(time.DateOnly) }
	var b strings.Builder
	fmt.Fprintf(&b, "releases:\n  - {version: \"1\", publishedAt: %s}\n  - {version: \"2\", publishedAt: %s}\nclusters:\n", day(120), day(70))
	var names []string
	for n := range r.Clusters {
		name := fmt.Sprintf("edge-%02d", n+1)
		names = append(names, name)
		fmt.Fprintf(&b, "  - {name: %s, kind: workload, release: \"1\", upgradedAt: %s, delivery: {directory: clusters/%s}}\n", name, day(20), name)
	}
	_, err := (&api.Client{URL: r.cluster.API(), Token: r.token}).Apply(ctx, []byte(b.String()), false, false)
	if err != nil {
		return nil, fmt.Errorf("apply the fleet: %w", err)
	}
	return names, nil
}

// within calls f until it returns nil or the limit is over.
func (r *run) within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if clock.Sleep(ctx, 500*time.Millisecond) != nil {
			return fmt.Errorf("not within %s: %w", limit, err)
		}
	}
}

// healthy returns nil when every program is ready, every client healthy and
// proven, and no rotation is under way.
func (r *run) healthy(ctx context.Context) error {
	ready, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := r.cluster.WaitReady(ready); err != nil {
		return err
	}
	client := &api.Client{URL: r.cluster.API(), Token: r.token}
	clients, err := api.List[api.ClientView](ctx, client, api.PathClients, nil)
	if err != nil {
		return err
	}
	if want := r.Clusters * 4; len(clients) != want {
		return fmt.Errorf("%d clients, want %d", len(clients), want)
	}
	var wrong []string
	for _, c := range clients {
		if c.State != fleet.StateHealthy || c.Step != fleet.StepProven && c.Step != fleet.StepSuperseded {
			wrong = append(wrong, fmt.Sprintf("%s/%s is %s at generation %d, %s: %s", c.Cluster, c.Kind, c.State, c.Generation, c.Step, c.Reason))
		}
	}
	rotations, err := api.List[fleet.Rotation](ctx, client, api.PathRotations, url.Values{})
	if err != nil {
		return err
	}
	for i := range rotations {
		if !rotations[i].State.Done() {
			wrong = append(wrong, fmt.Sprintf("rotation %s of %v is %s", rotations[i].ID, rotations[i].Clusters, rotations[i].State))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%d things are not as they should be: %s", len(wrong), strings.Join(wrong[:min(len(wrong), 5)], "; "))
	}
	return nil
}

// settle waits until everything is well after the storm.
func (r *run) settle(ctx context.Context) {
	start := clock.Wall()
	if err := r.within(ctx, time.Minute, r.healthy); err != nil {
		r.broken.add(notHealed, "%v", err)
	}
	r.healed = clock.Wall().Sub(start)
	for _, p := range r.cluster.Processes() {
		for range p.Crashes() {
			r.broken.add(endedAlone, "%s; see its log", p.Name)
		}
	}
}

// summary prints what was done and what was broken.
func (r *run) summary() error {
	r.load.mu.Lock()
	rotations, upgrades, latency, again := r.load.rotations, r.load.upgrades, slices.Clone(r.load.latency), r.load.again
	r.load.mu.Unlock()
	slices.Sort(latency)
	at := func(share float64) time.Duration {
		if len(latency) == 0 {
			return 0
		}
		return latency[min(int(share*float64(len(latency))), len(latency)-1)].Round(time.Millisecond)
	}
	r.receiver.mu.Lock()
	messages, received := len(r.receiver.keys), 0
	for _, n := range r.receiver.keys {
		received += n
	}
	r.receiver.mu.Unlock()
	r.say("\nseed              %d", r.Seed)
	for _, kind := range []Kind{Kill, Stop, Restart, Partition} {
		r.say("%-17s %d", string(kind)+"s", r.done[kind])
	}
	r.say("rotations         %d\nupgrades          %d\ncommands          p50 %s, p99 %s, longest %s; %d sent again", rotations, upgrades, at(0.5), at(0.99), at(1), again)
	r.say("alerts            %d messages, received %d times\nsets read         %d\nhealthy again     after %.1fs\n\nbroken invariants", messages, received, r.reader.reads, r.healed.Seconds())
	for _, kind := range invariants {
		r.say("  %-50s %d", kind, r.broken.count[kind])
	}
	if r.broken.total() == 0 {
		return nil
	}
	for _, kind := range slices.Sorted(maps.Keys(r.broken.examples)) {
		r.say("\n%s, such as:", kind)
		for _, example := range r.broken.examples[kind] {
			r.say("  %s", example)
		}
	}
	return ErrBroken
}
