package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/rollout"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// dueKey is the key in the bucket "schedule" of what was told of the dates of the
// CA. No cluster can have such a name.
const dueKey = "_authority"

// minorEvery is how often counts of a rollout are stored at most, on the machine's
// time.
const minorEvery = time.Second

// govern keeps the rotations of the authority going until ctx ends. What is
// decided lies in package rollout; what is here is to look when something has
// changed or a moment has come, and to act in the right order.
func (l *leader) govern(ctx context.Context) error {
	for failures := 0; ctx.Err() == nil; {
		began := clock.Wall()
		pause, err := l.governAll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			failures++
			l.env.Log.Warn("the rotation of the authority will be looked at again", "err", err)
			_ = clock.Sleep(ctx, bus.Backoff(failures, 5*time.Second))
			continue
		}
		failures = 0
		// A look at a large fleet costs: many changes are one.
		_ = clock.Sleep(ctx, min(10*clock.Wall().Sub(began), minorEvery))
		timer := time.NewTimer(min(pause, clock.MaxWait))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-l.state.turns:
		}
		timer.Stop()
	}
	return nil
}

// governAll decides about both halves of the authority until there is nothing more
// to do, and returns for how long, on the machine's time.
func (l *leader) governAll(ctx context.Context) (time.Duration, error) {
	pause := clock.MaxWait
	for _, kind := range []fleet.RolloutKind{fleet.RolloutCA, fleet.RolloutToken} {
		for again := true; again; {
			var wait time.Duration
			var err error
			if again, wait, err = l.governOne(ctx, kind); err != nil {
				return 0, fmt.Errorf("rotation of the authority, %s: %w", kind, err)
			}
			if !again {
				pause = min(pause, wait)
			}
		}
	}
	return pause, nil
}

// governOne decides once about one half of the authority and carries it out. It
// reports whether there is more to decide at once, or for how long there is not.
func (l *leader) governOne(ctx context.Context, kind fleet.RolloutKind) (again bool, pause time.Duration, err error) {
	c := l.memory.course
	c.deciding.Lock()
	defer c.deciding.Unlock()
	if err := l.readTold(ctx); err != nil {
		return false, 0, err
	}
	in, err := l.rolloutInput(kind)
	if err != nil {
		return false, 0, err
	}
	if kind == fleet.RolloutCA && c.standings.turn(rollout.AboutOf(in.Rollout, &in.Authority)) {
		l.state.changes.addAll()
	}
	d := l.decideRollout(in)
	if in.Rollout != nil {
		ctx = telemetry.Follow(ctx, in.Rollout.Trace)
	}
	l.measure(kind, in, d)
	if again, pause, err = l.carryOut(ctx, kind, d); err != nil {
		return false, 0, err
	}
	if !d.Next.IsZero() {
		pause = min(pause, l.env.Clock.Until(d.Next))
	}
	return again, pause, nil
}

func (l *leader) rolloutInput(kind fleet.RolloutKind) (rollout.Input, error) {
	c := l.memory.course
	in := rollout.Input{Kind: kind, Authority: l.state.theAuthority(), Told: c.told.Value, Heard: l.heard(), Now: l.env.Clock.Now()}
	in.Rollout, _ = c.last(kind)
	in.CA, _ = c.last(fleet.RolloutCA)
	if in.Rollout != nil {
		in.Reissue = l.rotation(in.Rollout.Reissue)
	}
	var err error
	if in.Settings, err = l.state.settings(); err != nil {
		return in, fmt.Errorf("read settings: %w", err)
	}
	if kind == fleet.RolloutCA {
		in.Leaf = l.longestLife(in.Settings)
	}
	return in, err
}

// unseenAfter is after how long a cluster is named that nobody has looked at, as
// its documents cannot be read, on the machine's time.
const unseenAfter = time.Minute

func excluded(r *fleet.Rollout, cluster string) bool {
	_, ok := r.Excluded[cluster]
	return ok
}

// decideRollout decides with the standings as they are: none is changed meanwhile.
func (l *leader) decideRollout(in rollout.Input) rollout.Decision {
	s := &l.memory.course.standings
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Kind == fleet.RolloutCA && s.about.Rollout != "" {
		in.Standings, in.Complete = s.of, true
		for _, name := range l.state.clusters.Keys() {
			if name == fleet.SettingsKey || in.Rollout != nil && excluded(in.Rollout, name) {
				continue
			}
			lacks, unseen := s.lacking(name)
			in.Complete = in.Complete && !lacks
			if unseen {
				in.Unseen = append(in.Unseen, name)
			}
		}
	}
	return rollout.Decide(in)
}

// rotation returns a rotation of clients, or nil.
func (l *leader) rotation(id string) *fleet.Rotation {
	if id == "" {
		return nil
	}
	if e, ok := l.state.running.get(id); ok {
		return &e.Value
	}
	if e, ok := l.state.operations.Get(id); ok && e.Value.rotation.ID == id {
		return &e.Value.rotation
	}
	return nil
}

// carryOut does what was decided, in the order of the fields of a decision.
func (l *leader) carryOut(ctx context.Context, kind fleet.RolloutKind, d rollout.Decision) (again bool, pause time.Duration, err error) {
	if err := l.tell(ctx, d.Facts); err != nil {
		return false, 0, err
	}
	for _, c := range d.Steer {
		if err := l.steered(ctx, c); err != nil && !errors.Is(err, errRefused) {
			return false, 0, err
		}
	}
	if d.Reissue != nil {
		r, err := l.planned(ctx, d.Reissue.Rotation, d.Reissue.Waves)
		if err == nil {
			err = l.start(ctx, r)
		}
		if err != nil {
			return false, 0, err
		}
	}
	if d.Told != nil {
		if err := l.storeTold(ctx, *d.Told); err != nil {
			return false, 0, err
		}
	}
	again, pause, err = l.storeRollout(ctx, kind, d)
	if err != nil {
		return false, 0, err
	}
	wait, err := l.askMove(ctx, kind, d.Command)
	return again, min(pause, wait), err
}

func (l *leader) tell(ctx context.Context, facts []rollout.Fact) error {
	for _, f := range facts {
		if err := bus.Publish(ctx, l.bus, f.Kind, f.Meta, f.Data); err != nil {
			return err
		}
		l.env.Log.InfoContext(ctx, "told of the authority", "fact", f.Kind.Type(), "rotation", f.Data.Rollout, "level", f.Data.Level, "missing", f.Data.Count)
	}
	return nil
}

// storeRollout stores a rollout that has changed; counts alone no more often than
// once in a while.
func (l *leader) storeRollout(ctx context.Context, kind fleet.RolloutKind, d rollout.Decision) (again bool, pause time.Duration, err error) {
	c := l.memory.course
	if d.Rollout == nil {
		return false, clock.MaxWait, nil
	}
	if left := c.stored[kind].Add(minorEvery).Sub(clock.Wall()); d.Minor && left > 0 && left <= minorEvery {
		return false, left, nil
	}
	last, before := c.last(kind)
	if _, err := c.rollouts.write(ctx, l.documents.rollouts, before, *d.Rollout); err != nil {
		return false, 0, err
	}
	c.stored[kind] = clock.Wall()
	if r := d.Rollout; last == nil || last.ID != r.ID || last.Phase != r.Phase {
		l.env.Log.InfoContext(ctx, "rotation of the authority", "rotation", r.ID, "kind", string(kind), "phase", string(r.Phase), "reason", string(r.Reason), "from", r.From, "to", r.To)
	} else if r.Halted != last.Halted && r.Halted != "" {
		l.env.Log.WarnContext(ctx, "rotation of the authority has halted", "rotation", r.ID, "kind", string(kind), "phase", string(r.Phase), "why", r.Halted)
	}
	return !d.Minor, clock.MaxWait, nil
}

// askMove asks the issuer for a change of phase, again when it has had the time to
// answer: its answer is the document of the authority. It returns when that will
// be, on the machine's time.
func (l *leader) askMove(ctx context.Context, kind fleet.RolloutKind, c *rollout.Command) (time.Duration, error) {
	asked := l.memory.course.asked
	if c == nil {
		delete(asked, kind)
		return clock.MaxWait, nil
	}
	m, what := asked[kind], c.Data.Rollout+" "+string(c.Data.Move)+" "+c.Data.ID
	if m.what != what {
		m = move{what: what}
	}
	if m.tries > 0 {
		if left := m.until().Sub(clock.Wall()); left > 0 {
			return left, nil
		}
	}
	if c.Data.Move == fleet.MoveRetire && kind == fleet.RolloutCA {
		departed, err := l.departed(ctx)
		if err != nil {
			return 0, err
		}
		c.Data.Except = append(c.Data.Except, departed...)
	}
	if err := bus.Publish(ctx, l.bus, event.Phase, c.Meta, c.Data); err != nil {
		return 0, err
	}
	m.tries, m.at = m.tries+1, clock.Wall()
	asked[kind] = m
	l.env.Log.InfoContext(ctx, "asked the issuer to change a phase", "rotation", c.Data.Rollout, "kind", string(kind), "move", string(c.Data.Move), "id", c.Data.ID, "tries", m.tries)
	return m.until().Sub(clock.Wall()), nil
}

// departed returns the clusters that were taken out of the fleet and whose records
// are kept. Nobody renews what they have, and nobody waits for them; the issuer
// sees the records of all, and not who is in the fleet.
func (l *leader) departed(ctx context.Context) ([]string, error) {
	var names []string
	watching, done := context.WithCancel(ctx)
	defer done()
	l.state.recordNames.Watch(watching, kv.Watcher[struct{}]{
		Changed: func(e kv.Entry[struct{}]) {
			if _, ok := l.state.clusters.Get(e.Key); !ok && !e.Deleted && !slices.Contains(names, e.Key) {
				names = append(names, e.Key)
			}
		},
		Current: done,
	})
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("look for records of clusters that are gone: %w", err)
	}
	departed := names[:0]
	for _, name := range names {
		known, err := l.exists(ctx, name)
		if err != nil {
			return nil, err
		}
		if !known {
			departed = append(departed, name)
		}
	}
	slices.Sort(departed)
	return departed, nil
}

// readTold reads what was told of the dates of the CA, once.
func (l *leader) readTold(ctx context.Context) error {
	c := l.memory.course
	if c.told != nil {
		return nil
	}
	e, err := l.documents.dues.Get(ctx, dueKey)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		return fmt.Errorf("read what was told of the CA: %w", err)
	}
	e.Key = dueKey
	c.told = &e
	return nil
}

func (l *leader) storeTold(ctx context.Context, told rollout.Told) error {
	c := l.memory.course
	e := *c.told
	c.told = nil // to be read again, if this fails
	var err error
	if e.Revision == 0 {
		e.Revision, err = l.documents.dues.Create(ctx, dueKey, told)
	} else {
		e.Revision, err = l.documents.dues.Update(ctx, dueKey, told, e.Revision)
	}
	if err != nil {
		return fmt.Errorf("store what was told of the CA: %w", err)
	}
	e.Value = told
	c.told = &e
	return nil
}
