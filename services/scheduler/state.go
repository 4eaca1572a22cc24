package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/plan"
	"github.com/rotor-fleet/rotor/services/scheduler/internal/rollout"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// declared is a document of the bucket "clusters": a cluster, or the settings
// of the fleet, which lie beside the clusters under a key of their own.
type declared struct {
	cluster  fleet.Cluster
	settings fleet.Settings
}

// UnmarshalJSON tells them apart: every cluster has a name and no settings have.
func (d *declared) UnmarshalJSON(raw []byte) error {
	var named struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(raw, &named); err != nil {
		return err
	}
	if named.Name != "" {
		return json.Unmarshal(raw, &d.cluster)
	}
	return json.Unmarshal(raw, &d.settings)
}

// operation is a document of the bucket "rotations": a rotation, its part of
// one cluster under "<id>.<cluster>", or a rotation of the authority.
type operation struct {
	rotation fleet.Rotation
	part     fleet.ClusterRotation
	rollout  *fleet.Rollout
}

// UnmarshalJSON tells them apart: every rotation has an id and no part has; one
// of the authority has a kind.
func (o *operation) UnmarshalJSON(raw []byte) error {
	var named struct {
		ID   string            `json:"id"`
		Kind fleet.RolloutKind `json:"kind"`
	}
	if err := json.Unmarshal(raw, &named); err != nil {
		return err
	}
	if named.Kind != "" {
		o.rollout = &fleet.Rollout{}
		return json.Unmarshal(raw, o.rollout)
	}
	if named.ID != "" {
		return json.Unmarshal(raw, &o.rotation)
	}
	return json.Unmarshal(raw, &o.part)
}

// state is the copy of the buckets that leader and standby keep in memory.
type state struct {
	mirrors
	buckets
	changes changes
	running index
	current *gate
	seen    *seen
	turning
	leading atomic.Pointer[leader] // in this process; nil while it stands by
	records news                   // of the bucket "credentials"
	reports news                   // of the bucket "agents"
}

// turning is what concerns the rotations of the authority.
type turning struct {
	turns    chan struct{} // holds one element while there may be something to decide
	declared atomic.Uint64 // counts changes of what is declared of the fleet
	trusting trusting      // as of the last change that was told of; of the goroutine that follows the authority
}

// turn has the rotations of the authority looked at.
func (t *turning) turn() {
	select {
	case t.turns <- struct{}{}:
	default:
	}
}

// mirrors are small documents. Records and agents are large, and one is looked
// at a few times in its life: they are fetched when they are needed.
type mirrors struct {
	clusters   *kv.Mirror[packed[declared]]
	releases   *kv.Mirror[fleet.Release]
	told       *kv.Mirror[packed[plan.Told]]
	operations *kv.Mirror[operation]
	authority  *kv.Mirror[fleet.Authority] // under its key; the CRLs beside it are nothing here
}

// packed is a document that is kept as it was stored, a fifth of its size in
// memory, and decoded where it is looked at.
type packed[T any] struct{ raw []byte }

// UnmarshalJSON keeps a copy.
func (p *packed[T]) UnmarshalJSON(raw []byte) error {
	p.raw = bytes.Clone(raw)
	return nil
}

func (p packed[T]) open() (T, error) {
	var value T
	if len(p.raw) == 0 {
		return value, nil
	}
	err := json.Unmarshal(p.raw, &value)
	return value, err
}

// buckets are what the scheduler reads by itself.
type buckets struct {
	clusterDocs *kv.Bucket[declared]
	credentials *kv.Bucket[fleet.Credentials]
	recordNames *kv.Bucket[struct{}] // the same, for who wants to know of which clusters there are any
	agents      *kv.Bucket[fleet.Agent]
	documents   documents
	follow      []func(context.Context)
}

// documents are what the scheduler writes, while it leads.
type documents struct {
	told        *kv.Bucket[plan.Told]
	checkpoints *kv.Bucket[checkpoint]
	rotations   *kv.Bucket[fleet.Rotation]
	parts       *kv.Bucket[fleet.ClusterRotation]
	rollouts    *kv.Bucket[fleet.Rollout]
	dues        *kv.Bucket[rollout.Told]
}

// while returns the documents for a leader that has a lease.
func (d documents) while(held func() bool) documents {
	return documents{
		d.told.While(held), d.checkpoints.While(held), d.rotations.While(held), d.parts.While(held), d.rollouts.While(held), d.dues.While(held),
	}
}

// open opens the buckets; nothing is read yet but the checkpoint.
func open(ctx context.Context, env daemon.Env) (*state, error) {
	s := &state{
		mirrors: mirrors{
			kv.NewMirror[packed[declared]](), kv.NewMirror[fleet.Release](), kv.NewMirror[packed[plan.Told]](), kv.NewMirror[operation](),
			kv.NewMirror[fleet.Authority](),
		},
		changes: newChanges(),
		running: newIndex(),
		seen:    newSeen(),
		turning: turning{turns: make(chan struct{}, 1)},
	}
	s.current = newGate(env, 7)
	var err error
	step := func(open func() error) {
		if err == nil {
			err = open()
		}
	}
	step(func() (err error) {
		s.documents.checkpoints, err = kv.Open[checkpoint](ctx, env.NATS, bus.Schedule)
		return err
	})
	step(func() (err error) {
		s.documents.rotations, err = kv.Open[fleet.Rotation](ctx, env.NATS, bus.Rotations)
		return err
	})
	step(func() (err error) {
		s.documents.parts, err = kv.Open[fleet.ClusterRotation](ctx, env.NATS, bus.Rotations)
		return err
	})
	step(func() (err error) {
		s.documents.rollouts, err = kv.Open[fleet.Rollout](ctx, env.NATS, bus.Rotations)
		return err
	})
	step(func() (err error) {
		s.documents.dues, err = kv.Open[rollout.Told](ctx, env.NATS, bus.Schedule)
		return err
	})
	step(func() (err error) { s.clusterDocs, err = kv.Open[declared](ctx, env.NATS, bus.Clusters); return err })
	step(func() (err error) {
		s.documents.told, err = kv.Open[plan.Told](ctx, env.NATS, bus.Schedule)
		return err
	})
	step(func() (err error) {
		s.credentials, err = kv.Open[fleet.Credentials](ctx, env.NATS, bus.Credentials)
		return err
	})
	step(func() (err error) { s.recordNames, err = kv.Open[struct{}](ctx, env.NATS, bus.Credentials); return err })
	step(func() (err error) { s.agents, err = kv.Open[fleet.Agent](ctx, env.NATS, bus.Agents); return err })
	step(func() error { return s.resume(ctx, env) })
	step(func() error { return follow(ctx, env, s, bus.Clusters, s.clusters.Run, s.clusterChanged) })
	step(func() error {
		return follow(ctx, env, s, bus.Releases, s.releases.Run, func(kv.Entry[fleet.Release]) { s.changes.addAll() })
	})
	step(func() error { return follow(ctx, env, s, bus.Schedule, s.told.Run, s.toldChanged) })
	step(func() error { return follow(ctx, env, s, bus.Rotations, s.operations.Run, s.operationChanged) })
	step(func() error { return follow(ctx, env, s, bus.Authority, s.authority.Run, s.authorityChanged) })
	step(func() error {
		return follow(ctx, env, s, bus.Credentials, s.since(bus.Credentials), s.noticed(&s.records))
	})
	step(func() error { return follow(ctx, env, s, bus.Agents, s.since(bus.Agents), s.noticed(&s.reports)) })
	return s, err
}

// noticed takes notice of a change of a document that is fetched when it is
// needed.
func (s *state) noticed(n *news) func(kv.Entry[struct{}]) {
	return func(e kv.Entry[struct{}]) {
		n.note(e)
		s.changes.add(e.Key)
	}
}

// since follows a bucket from the checkpoint on.
func (s *state) since(bucket string) func(context.Context, *kv.Bucket[struct{}], kv.Watcher[struct{}]) {
	return func(ctx context.Context, b *kv.Bucket[struct{}], w kv.Watcher[struct{}]) {
		b.WatchFrom(ctx, s.seen.get(bucket), w)
	}
}

// follow opens a bucket and has it followed by run. What was looked at before
// the checkpoint is no change.
func follow[T any](
	ctx context.Context, env daemon.Env, s *state, name string,
	run func(context.Context, *kv.Bucket[T], kv.Watcher[T]), changed func(kv.Entry[T]),
) error {
	b, err := kv.Open[T](ctx, env.NATS, name)
	if err != nil {
		return err
	}
	w := kv.Watcher[T]{
		Changed: func(e kv.Entry[T]) {
			if fresh := s.seen.before(name, e.Revision); fresh && changed != nil {
				changed(e)
			}
			s.seen.set(name, e.Revision) // after the change is noted: a checkpoint taken between says too little and never too much
		},
		Current: func() { s.current.met(name) },
		Broken: func(err error) {
			s.current.broken(name, err)
			env.Log.Warn("watch interrupted", "bucket", name, "err", err)
		},
	}
	s.follow = append(s.follow, func(ctx context.Context) { run(ctx, b, w) })
	return nil
}

// run follows the buckets until ctx ends.
func (s *state) run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, follow := range s.follow {
		all.Go(func() { follow(ctx) })
	}
	all.Wait()
	return nil
}

func (s *state) waitCurrent(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-s.current.open:
		return true
	}
}
