package chaos

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// load are the users: they rotate and upgrade all the time.
type load struct {
	run   *run
	names []string

	mu        sync.Mutex
	rotations int
	upgrades  int
	again     int // times that a command was sent once more
	latency   []time.Duration
}

func newLoad(r *run, names []string) *load { return &load{run: r, names: names} }

// patience is how long a user repeats a command, at one gateway and another,
// before giving up. It is longer than any single fault.
const patience = 40 * time.Second

// rotate asks for the rotation of one cluster after the other.
func (l *load) rotate(ctx context.Context) {
	random := mathrand.New(mathrand.NewPCG(l.run.Seed, 1))
	for clock.Sleep(ctx, 250*time.Millisecond) == nil {
		name := l.names[random.IntN(len(l.names))]
		ok := l.command(ctx, "rotate "+name, func(ctx context.Context, c *api.Client) error {
			_, err := c.Rotate(ctx, api.RotateRequest{Clusters: []string{name}, Force: true})
			return err
		})
		if ok {
			l.mu.Lock()
			l.rotations++
			l.mu.Unlock()
		}
	}
}

// upgrade reports an upgrade of one cluster after the other, spread over the
// storm: alerts fire before it and are resolved by it.
func (l *load) upgrade(ctx context.Context) {
	pause := l.run.Length / time.Duration(len(l.names)+2)
	for _, name := range l.names {
		if clock.Sleep(ctx, pause) != nil {
			return
		}
		ok := l.command(ctx, "upgrade "+name, func(ctx context.Context, c *api.Client) error {
			return c.Call(ctx, http.MethodPost, api.PathClusters+"/"+name+"/upgrades", api.UpgradeRequest{Release: "2"}, nil)
		})
		if ok {
			l.mu.Lock()
			l.upgrades++
			l.mu.Unlock()
		}
	}
}

// command sends a command until it is taken, at one gateway and the other by
// turns, always with the same key, so that it is done once.
func (l *load) command(ctx context.Context, what string, send func(context.Context, *api.Client) error) bool {
	start, key := clock.Wall(), rand.Text()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	gateways := l.run.cluster.APIs()
	for attempt := 0; ; attempt++ {
		once, done := context.WithTimeout(limit, 10*time.Second)
		err := send(once, &api.Client{URL: gateways[attempt%len(gateways)], Token: l.run.token, Key: key})
		done()
		if err == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.latency = append(l.latency, clock.Wall().Sub(start))
			l.again += attempt
			return true
		}
		problem, answered := errors.AsType[*api.Problem](err)
		refused := answered && problem.Status < http.StatusInternalServerError && !errors.Is(err, fleet.ErrConflict)
		if refused || clock.Sleep(limit, 200*time.Millisecond) != nil {
			l.run.broken.add(commandFailed, "%s: %v", what, fmt.Sprint(err))
			return false
		}
	}
}
