package chaos

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// plan returns what the storm may hit.
func (r *run) plan() plan {
	p := plan{length: r.Length}
	for _, process := range r.cluster.Processes() {
		p.targets = append(p.targets, process.Name)
	}
	for i := range 3 {
		for j := range i {
			p.pairs = append(p.pairs, [2]string{fmt.Sprintf("nats-%d", j+1), fmt.Sprintf("nats-%d", i+1)})
		}
	}
	for _, service := range []string{"issuer", "scheduler", "notifier", "gateway"} {
		for n := range 2 {
			p.pairs = append(p.pairs, [2]string{fmt.Sprintf("%s-%d", service, n+1), "nats"}) // from all nodes
		}
	}
	for n := range hosts {
		for g := range 2 {
			p.pairs = append(p.pairs, [2]string{fmt.Sprintf("agents-%d", n+1), fmt.Sprintf("gateway-%d", g+1)})
		}
	}
	return p
}

// storm makes the faults of the schedule, and waits until the last is over.
func (r *run) storm(ctx context.Context) {
	start := clock.Wall()
	wait := func(ctx context.Context, at time.Duration) bool {
		return clock.Sleep(ctx, at-clock.Wall().Sub(start)) == nil
	}
	var all sync.WaitGroup
	for _, f := range schedule(r.Seed, r.plan()) {
		if !wait(ctx, f.At) {
			break
		}
		if r.Verbose {
			r.say("%v", f)
		}
		r.done[f.Kind]++
		undo := r.make(ctx, f)
		all.Go(func() {
			wait(ctx, f.At+f.For)
			undo()
		})
	}
	wait(ctx, r.Length)
	all.Wait()
}

// make makes a fault and returns what ends it.
func (r *run) make(ctx context.Context, f Fault) (undo func()) {
	if f.Kind == Partition {
		var cut []*proxy
		for pair, p := range r.proxies {
			if joins(pair, f.Target, f.Peer) || joins(pair, f.Peer, f.Target) {
				p.cut()
				cut = append(cut, p)
			}
		}
		return func() {
			for _, p := range cut {
				p.heal()
			}
		}
	}
	p := r.cluster.Process(f.Target)
	start := func() {
		if err := p.Start(); err != nil {
			r.broken.add(endedAlone, "%v", err)
		}
	}
	switch f.Kind {
	case Stop:
		p.Pause()
		return p.Resume
	case Restart:
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			defer cancel()
			if err := p.Stop(limit); err != nil {
				r.broken.add(endedAlone, "%v", err)
			}
		}()
		return func() { <-ended; start() }
	default:
		p.Kill()
		return start
	}
}

func joins(pair [2]string, from, to string) bool {
	return pair[0] == from && (pair[1] == to || strings.HasPrefix(pair[1], to+"-"))
}
