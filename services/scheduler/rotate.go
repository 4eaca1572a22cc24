package scheduler

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/plan"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// source names the publisher of what is published here.
const source = "scheduler"

// issueKind is the one command that the scheduler publishes.
var issueKind = event.Issue

// keepRotations is how many rotations that have ended are kept to be read.
const keepRotations = 200

// idRule is what an id must look like to be a key of a bucket; without a dot,
// as a dot separates a rotation from its parts.
var idRule = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// checkRotate returns the rotation that a command asks for, or why it can never
// be done.
func checkRotate(c event.RotateCommand, now time.Time) (fleet.Rotation, error) {
	if !idRule.MatchString(c.Rotation) {
		return fleet.Rotation{}, fmt.Errorf("%w: rotation %q: use 1-64 letters, digits, '-' and '_'", fleet.ErrInvalid, c.Rotation)
	}
	r := fleet.Rotation{
		ID: c.Rotation, Reason: c.Reason, State: fleet.RotationRunning, Force: c.Force,
		Clients: c.Clients, By: c.By, CreatedAt: now,
	}
	switch r.Reason {
	case fleet.ReasonRotation, fleet.ReasonRecovery:
	case "": // of a gateway that knows of one reason only
		r.Reason = fleet.ReasonRotation
	default:
		return fleet.Rotation{}, fmt.Errorf("%w: rotation %s: reason %q: use rotation or recovery", fleet.ErrInvalid, c.Rotation, c.Reason)
	}
	if c.Waves != nil {
		if err := c.Waves.Validate(); err != nil {
			return fleet.Rotation{}, fmt.Errorf("rotation %s: %w", c.Rotation, err)
		}
		if c.Waves.Canary != "" && !slices.Contains(c.Clusters, c.Waves.Canary) {
			return fleet.Rotation{}, fmt.Errorf("%w: rotation %s: its canary %s is none of its clusters", fleet.ErrInvalid, c.Rotation, c.Waves.Canary)
		}
	}
	seen := map[string]bool{}
	for _, name := range c.Clusters {
		if err := fleet.CheckName("cluster", name); err != nil {
			return fleet.Rotation{}, fmt.Errorf("rotation %s: %w", c.Rotation, err)
		}
		if !seen[name] {
			seen[name] = true
			r.Clusters = append(r.Clusters, name)
		}
	}
	if len(r.Clusters) == 0 {
		return fleet.Rotation{}, fmt.Errorf("%w: rotation %s: names no cluster", fleet.ErrInvalid, c.Rotation)
	}
	for _, key := range c.Clients {
		if _, err := fleet.ParseClientKey(key.String()); err != nil {
			return fleet.Rotation{}, fmt.Errorf("rotation %s: %w", c.Rotation, err)
		}
	}
	return r, nil
}

// rotate handles the command of an operator: it stores the rotation. The rest
// follows from what is stored.
func (l *leader) rotate(ctx context.Context, e event.Event) error {
	c, err := event.Rotate.Decode(e)
	if err != nil {
		return bus.Permanent(err)
	}
	r, err := checkRotate(c, l.env.Clock.Now())
	if err != nil {
		return bus.Permanent(err)
	}
	r.Trace = telemetry.Traceparent(ctx)
	if r, err = l.planned(ctx, r, c.Waves); err != nil {
		return err
	}
	return l.start(ctx, r)
}

// planned counts the clients of a rotation, and puts it into waves if there are
// options for them: a canary that is not named is chosen.
func (l *leader) planned(ctx context.Context, r fleet.Rotation, waves *fleet.WaveOptions) (fleet.Rotation, error) {
	var known []fleet.Cluster
	for _, name := range r.Clusters {
		cluster, err := l.state.cluster(name)
		if err != nil {
			return r, fmt.Errorf("rotation %s: cluster %s: %w", r.ID, name, err)
		}
		if cluster != nil {
			keys, _ := plan.Selected(&r, cluster)
			r.Total += len(keys)
			known = append(known, *cluster)
		}
	}
	if waves == nil {
		return r, nil
	}
	options := *waves
	if options.Canary == "" {
		fleet.CanaryOrder(known)
		var err error
		options.Canary, err = fleet.ChooseCanary(&r, known, func(c *fleet.Cluster) (fleet.Candidate, error) {
			in, err := l.state.input(ctx, c.Name, r.CreatedAt)
			return fleet.Candidate{Cluster: c, Records: in.Credentials, Agent: in.Agent, Heard: l.heard(), Now: r.CreatedAt}, err
		})
		if err != nil {
			return r, fmt.Errorf("rotation %s: choose its canary: %w", r.ID, err)
		}
	}
	r.Clusters, r.Waves = options.Plan(r.Clusters)
	r.Wave = 1
	return r, nil
}

// start stores a rotation and tells that it has begun. Called again, it tells
// the same of what was stored the first time.
func (l *leader) start(ctx context.Context, r fleet.Rotation) error {
	revision, err := l.documents.rotations.Create(ctx, r.ID, r)
	if errors.Is(err, fleet.ErrConflict) {
		var stored kv.Entry[fleet.Rotation]
		if stored, err = l.documents.rotations.Get(ctx, r.ID); err == nil {
			r, revision = stored.Value, stored.Revision
		}
	}
	if err != nil {
		return err
	}
	if r.State.Done() {
		return nil
	}
	ctx = telemetry.Follow(ctx, r.Trace)
	if err := bus.Publish(ctx, l.bus, event.RotationStarted, meta(r, r.CreatedAt), factOf(r)); err != nil {
		return err
	}
	l.env.Log.InfoContext(ctx, "rotation started", "rotation", r.ID, "reason", string(r.Reason), "clusters", len(r.Clusters), "force", r.Force)
	l.state.running.set(kv.Entry[fleet.Rotation]{Key: r.ID, Value: r, Revision: revision})
	if r.Waves != nil {
		l.state.changes.add(r.Clusters[0]) // a look at any of them finds whose turn it is
		return nil
	}
	l.state.changes.add(r.Clusters...)
	return nil
}

// meta gives the facts about a rotation their place: the cluster, if it
// concerns one only.
func meta(r fleet.Rotation, at time.Time) event.Meta {
	m := event.Meta{Source: source, Cluster: event.FleetWide, Key: []string{r.ID}, Time: at}
	if len(r.Clusters) == 1 {
		m.Cluster = r.Clusters[0]
	}
	return m
}

func factOf(r fleet.Rotation) event.Rotation {
	return event.Rotation{
		Rotation: r.ID, Reason: r.Reason, Clusters: len(r.Clusters), Total: r.Total,
		Rotated: r.Rotated, Failed: r.Failed, Wave: r.Wave,
	}
}
