package scheduler

import (
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/plan"
	"github.com/rotor-fleet/rotor/services/scheduler/internal/rollout"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// course is what a leader remembers of the rotations of the authority. To lose it
// costs a look at every cluster while one of the CA is under way, and a repeat.
type course struct {
	deciding sync.Mutex // one decision at a time, or one command of an operator
	rollouts *latest[fleet.Rollout]
	asked    map[fleet.RolloutKind]move      // under deciding
	stored   map[fleet.RolloutKind]time.Time // under deciding: the last write, on the machine's time
	told     *kv.Entry[rollout.Told]         // under deciding; nil until it was read
	lives    lives                           // under deciding

	standings standings
}

func newCourse(s *state) *course {
	return &course{
		rollouts: newLatest(func(key string) (kv.Entry[fleet.Rollout], bool) {
			e, ok := s.operations.Get(key)
			if !ok || e.Value.rollout == nil {
				return kv.Entry[fleet.Rollout]{Key: key}, false
			}
			return kv.Entry[fleet.Rollout]{Key: key, Value: *e.Value.rollout, Revision: e.Revision}, true
		}),
		asked: map[fleet.RolloutKind]move{}, stored: map[fleet.RolloutKind]time.Time{}, lives: lives{of: map[string]life{}},
	}
}

// last returns the last rotation of one half of the authority, nil if there was
// none.
func (c *course) last(kind fleet.RolloutKind) (*fleet.Rollout, kv.Entry[fleet.Rollout]) {
	e := c.rollouts.get(kind.Key())
	if e.Revision == 0 || e.Value.ID == "" {
		return nil, e
	}
	return &e.Value, e
}

// move is a change of phase that the issuer was asked for.
type move struct {
	what  string
	tries int
	at    time.Time // by the machine's time
}

// until returns until when the issuer is not asked again.
func (m move) until() time.Time { return asked{tries: m.tries, at: m.at}.until() }

// standings are how the clusters stand to the rotation of the CA. They are safe
// for concurrent use.
type standings struct {
	mu    sync.Mutex
	about rollout.About
	of    map[string]rollout.Standing
	lacks map[string]time.Time // clusters of which there is none, since when on the machine's time
}

// turn says what standings are about from now on, and reports whether every
// cluster has to be looked at for it.
func (s *standings) turn(about rollout.About) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.about == about {
		return false
	}
	s.about = about
	s.of, s.lacks = map[string]rollout.Standing{}, map[string]time.Time{}
	return about.Rollout != ""
}

// set notes how a cluster stands, and reports whether that is news.
func (s *standings) set(about rollout.About, name string, now rollout.Standing) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.about != about || about.Rollout == "" {
		return false
	}
	before, ok := s.of[name]
	s.of[name] = now
	delete(s.lacks, name)
	return !ok || !before.Equal(now)
}

// drop forgets a cluster, and reports whether it was known.
func (s *standings) drop(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.of[name]
	delete(s.of, name)
	delete(s.lacks, name)
	return ok
}

// lacking reports whether there is none of a cluster, and whether that has been so
// for longer than it takes to look at it. The caller holds the lock.
func (s *standings) lacking(name string) (lacks, unseen bool) {
	if _, ok := s.of[name]; ok {
		return false, false
	}
	since, known := s.lacks[name]
	if !known {
		since = clock.Wall()
		s.lacks[name] = since
	}
	return true, clock.Wall().Sub(since) >= unseenAfter
}

// lives are the lives that the policies of clusters set, as far as the documents
// were read.
type lives struct {
	of      map[string]life
	version uint64 // of the documents; see state.declared
	longest time.Duration
}

type life struct {
	revision uint64
	longest  time.Duration
}

// longestLife returns the longest life of a certificate or a token that the policy
// of the fleet or of a cluster gives. Documents that have not changed are not
// decoded again.
func (l *leader) longestLife(settings fleet.Settings) time.Duration {
	known := &l.memory.course.lives
	if version := l.state.declared.Load(); version != known.version || len(known.of) == 0 {
		of := make(map[string]life, len(known.of))
		known.longest = 0
		for _, e := range l.state.clusters.All() {
			one, ok := known.of[e.Key]
			if !ok || one.revision != e.Revision {
				// What cannot be read holds up nothing here: the look at that cluster
				// says so, and a compromised CA is replaced all the same.
				if d, err := e.Value.open(); err == nil {
					one = life{e.Revision, d.cluster.Policy.LongestLife()}
				}
			}
			of[e.Key] = one
			known.longest = max(known.longest, one.longest)
		}
		known.of, known.version = of, version
	}
	return max(known.longest, settings.Policy.Over(fleet.DefaultPolicy()).LongestLife())
}

// stands notes how a cluster stands to the rotation of the CA, if there is one.
func (l *leader) stands(name string, in plan.Input, parts []part) {
	c := l.memory.course
	if in.Cluster == nil {
		if c.standings.drop(name) {
			l.state.turn()
		}
		return
	}
	r, _ := c.last(fleet.RolloutCA)
	authority := l.state.theAuthority()
	about := rollout.AboutOf(r, &authority)
	if about.Rollout == "" {
		return
	}
	look := rollout.Look{Authority: &authority, Cluster: in.Cluster, Agent: in.Agent, Records: in.Credentials, Now: in.Now}
	for i := range parts {
		if parts[i].rotation.ID == r.Reissue && parts[i].now.State != "" {
			look.Part = &parts[i].now
		}
	}
	if c.standings.set(about, name, rollout.StandingOf(about, look)) {
		l.state.turn()
	}
}
