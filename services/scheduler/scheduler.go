// Package scheduler is the only part of Rotor that watches the clock. It asks
// the issuer for new generations, tells of what becomes due, expires or falls
// behind, and drives rotations. It decides and touches no key.
//
// One of several schedulers leads, by a lease, in a term of its own; the others
// keep the same state in memory and wait. What one still writes whose term is
// over is refused. What is decided lies in package plan; what is left here
// is to keep the state, to act in the right order, and to survive a kill
// between any two lines: facts and commands carry ids that a repeat repeats,
// documents change by compare-and-set.
package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// Config is the section "scheduler" of the configuration. All its durations
// pass on the machine's time.
type Config struct {
	LeaseTTL         time.Duration `yaml:"leaseTTL"`         // after it a standby takes over; default 5s, at least 1s
	RotationDeadline time.Duration `yaml:"rotationDeadline"` // then clients that are not proven count as failed; default 15m
	MaxPerSecond     int           `yaml:"maxPerSecond"`     // commands to the issuer per second, when much is due at once; default 2000
}

// Defaults returns the configuration that holds where nothing else is written.
func Defaults() Config {
	return Config{LeaseTTL: 5 * time.Second, RotationDeadline: 15 * time.Minute, MaxPerSecond: 2000}
}

// Validate reports a value that cannot work, as fleet.ErrInvalid.
func (c Config) Validate() error {
	switch {
	case c.LeaseTTL < time.Second:
		return fmt.Errorf("%w: scheduler: leaseTTL %s: use at least 1s", fleet.ErrInvalid, c.LeaseTTL)
	case c.RotationDeadline < time.Second:
		return fmt.Errorf("%w: scheduler: rotationDeadline %s: use at least 1s", fleet.ErrInvalid, c.RotationDeadline)
	case c.MaxPerSecond < 1:
		return fmt.Errorf("%w: scheduler: maxPerSecond %d: use at least 1", fleet.ErrInvalid, c.MaxPerSecond)
	}
	return nil
}

// withDefaults fills what is not set.
func (c Config) withDefaults() Config {
	d := Defaults()
	if c.LeaseTTL == 0 {
		c.LeaseTTL = d.LeaseTTL
	}
	if c.RotationDeadline == 0 {
		c.RotationDeadline = d.RotationDeadline
	}
	if c.MaxPerSecond == 0 {
		c.MaxPerSecond = d.MaxPerSecond
	}
	return c
}

// Run runs the scheduler until ctx ends. It is ready when its state is current,
// whether it leads or stands by.
func Run(ctx context.Context, env daemon.Env, c Config) error {
	c = c.withDefaults()
	if err := c.Validate(); err != nil {
		return err
	}
	env.Health.Wait("state", "reading the buckets")
	b, err := env.Bus()
	if err != nil {
		return err
	}
	s, err := open(ctx, env)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	m := newMetrics(env.Metrics, func() float64 { return float64(s.clusterCount()) })
	lease := kv.Lease{NATS: env.NATS, Name: "scheduler", Holder: env.Instance, TTL: c.LeaseTTL, Log: env.Log}
	return daemon.Group(ctx,
		daemon.Part{Name: "state", Run: func(ctx context.Context) error { return s.run(ctx) }},
		daemon.Part{Name: "lead", Run: func(ctx context.Context) error {
			if !s.waitCurrent(ctx) {
				return nil
			}
			return lease.Run(ctx, leader{env: env, config: c, state: s, metrics: m, office: office{b, s.documents}}.lead)
		}},
	)
}
