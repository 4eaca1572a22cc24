// Package waves decides how a rotation proceeds over its clusters: which of them
// may begin, when the next wave begins, when too many have failed, when all have
// ended. It is a function of the rotation and its parts, which are stored: what a
// Progress remembers beside them (whose turn it is, who waits for a window) is
// lost with the process, and a new one comes to the same end.
package waves

import (
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// status is how far a cluster has come.
type status uint8

const (
	idle    status = iota // its turn has not come
	granted               // its turn has come, and it was not looked at since
	held                  // its turn has come, and its maintenance window is closed
	begun
	ended
)

// Look is what a look at a cluster shows beside the results: only of a rotation
// for the authority, which has no deadline.
type Look struct {
	Quiet   bool // its agent was not heard of late: nobody knows when it comes back
	Overdue bool // its agent is there, and what waits should have been proven by now
}

// place is a cluster at its place in the order.
type place struct {
	status    status
	attempted int // clients of which the turn has come
	rotated   int
	failed    int // that have ended so
	waiting   int
	look      Look
}

// failing returns the clients that count against the limit.
func (p place) failing() int {
	if p.look.Overdue {
		return p.failed + p.waiting
	}
	return p.failed
}

// busy reports whether the cluster is one of those in progress.
func (p place) busy() bool {
	return p.status == granted || p.status == begun && !p.look.Quiet && !p.look.Overdue
}

// tally sums up places.
type tally struct {
	open, unbegun, granted, begun, busy, quiet, overdue int // clusters
	attempted, rotated, failing, failed                 int // clients
}

func (t *tally) add(p place, n int) {
	t.attempted += n * p.attempted
	t.rotated += n * p.rotated
	t.failed += n * p.failed
	t.failing += n * p.failing()
	if p.busy() {
		t.busy += n
	}
	switch p.status {
	case ended:
		return
	case begun:
		t.begun += n
		switch {
		case p.look.Overdue:
			t.overdue += n
		case p.look.Quiet:
			t.quiet += n
		}
	case granted:
		t.granted += n
		t.unbegun += n
	default:
		t.unbegun += n
	}
	t.open += n
}

// Progress is what is known of a rotation that has not ended. It is not safe for
// concurrent use.
type Progress struct {
	order  []string
	at     map[string]int
	places []place
	waves  []tally // one for each wave, a single one for a rotation without
	all    tally
	next   int // no place before it is idle
}

// New returns the progress that follows from the stored parts; the zero part
// stands for one that is not stored.
func New(r *fleet.Rotation, part func(cluster string) fleet.ClusterRotation) *Progress {
	p := &Progress{
		order: r.Clusters, at: make(map[string]int, len(r.Clusters)),
		places: make([]place, len(r.Clusters)), waves: make([]tally, 1),
	}
	if r.Waves != nil {
		p.waves = make([]tally, max(1, len(r.Waves.Sizes)))
	}
	for i, name := range r.Clusters {
		p.at[name] = i
		p.count(r, i, 1)
		p.note(r, i, part(name), Look{})
	}
	return p
}

func (p *Progress) wave(r *fleet.Rotation, i int) *tally {
	if r.Waves == nil {
		return &p.waves[0]
	}
	return &p.waves[min(r.Waves.Of(i), len(p.waves))-1]
}

func (p *Progress) count(r *fleet.Rotation, i, n int) {
	p.wave(r, i).add(p.places[i], n)
	p.all.add(p.places[i], n)
}

func (p *Progress) set(r *fleet.Rotation, i int, now place) {
	p.count(r, i, -1)
	p.places[i] = now
	p.count(r, i, 1)
	if now.status == idle {
		p.next = min(p.next, i)
	}
}

// Note takes notice of a part as it is stored. To be told the same again changes
// nothing.
func (p *Progress) Note(r *fleet.Rotation, part fleet.ClusterRotation, look Look) {
	if i, ok := p.at[part.Cluster]; ok {
		p.note(r, i, part, look)
	}
}

func (p *Progress) note(r *fleet.Rotation, i int, part fleet.ClusterRotation, look Look) {
	was, now := p.places[i].status, place{look: look}
	for _, c := range part.Clients {
		switch {
		case part.State == fleet.RotationAccepted, r.Anew(part, c):
		case c.Outcome.Attempted():
			now.attempted++
			switch {
			case r.Fails(c.Outcome):
				now.failed++
			case c.Outcome == fleet.OutcomeRotated:
				now.rotated++
			case c.Outcome == fleet.OutcomeWaiting:
				now.waiting++
			}
		}
	}
	switch {
	case part.State == fleet.RotationAccepted && r.Cancel != nil:
		now.status = begun // what it says has to be put right
	case part.State == "" || part.State == fleet.RotationAccepted || r.Again(part):
		now.look = Look{}
		if was == granted || was == held {
			now.status = was
		}
	case part.State.Done():
		now.status, now.look = ended, Look{}
	default:
		now.status = begun
	}
	p.set(r, i, now)
}

// Turn reports whether a cluster that has not begun may begin now.
func (p *Progress) Turn(r *fleet.Rotation, cluster string) bool {
	i, ok := p.at[cluster]
	switch {
	case !ok || r.State != fleet.RotationRunning || r.Cancel != nil:
		return false
	case r.Waves == nil:
		return true
	default:
		return p.places[i].status == granted
	}
}

// Holds reports whether a cluster waits for its maintenance window.
func (p *Progress) Holds(cluster string) bool {
	i, ok := p.at[cluster]
	return ok && p.places[i].status == held
}

// Hold takes notice that the maintenance window of a cluster whose turn has come
// is closed: others may begin in its place.
func (p *Progress) Hold(r *fleet.Rotation, cluster string) { p.move(r, cluster, granted, held) }

// Release takes notice that the maintenance window has opened: its turn is the
// next one that is free.
func (p *Progress) Release(r *fleet.Rotation, cluster string) { p.move(r, cluster, held, idle) }

func (p *Progress) move(r *fleet.Rotation, cluster string, from, to status) {
	if i, ok := p.at[cluster]; ok && p.places[i].status == from {
		now := p.places[i]
		now.status = to
		p.set(r, i, now)
	}
}

// Begun returns the clusters that have begun and not ended.
func (p *Progress) Begun() []string {
	var names []string
	for i, pl := range p.places {
		if pl.status == begun {
			names = append(names, p.order[i])
		}
	}
	return names
}

// Counts returns how many clients were rotated, and how many have failed.
func (p *Progress) Counts() (rotated, failed int) { return p.all.rotated, p.all.failed }

// Failing returns how many clients count against the limit, accepted or not.
func (p *Progress) Failing() int { return p.all.failing }

// Decision is what follows from the progress of a rotation.
type Decision struct {
	Ended bool        // nothing is left to wait for
	Halt  *fleet.Halt // too many have failed, and there are some that have not begun
	Wave  int         // the wave that is to be under way; 0 if that does not change
	Begin []string    // clusters whose turn has come
}

// Decide says what follows now. The clusters whose turn has come are named once;
// each counts as one in progress until it is noted, or its window was found
// closed.
func (p *Progress) Decide(r *fleet.Rotation, now time.Time) Decision {
	switch {
	case p.all.open == 0, r.Cancel != nil && p.all.begun == 0:
		return Decision{Ended: true}
	case r.Cancel != nil, r.Waves == nil:
		return Decision{}
	case r.State != fleet.RotationRunning:
		p.revoke(r)
		return Decision{}
	}
	if h := p.halt(r, now); h != nil {
		p.revoke(r)
		return Decision{Halt: h}
	}
	var d Decision
	wave := max(r.Wave, 1)
	for wave < len(p.waves) && p.passed(r, wave) {
		wave++
	}
	if wave != r.Wave {
		d.Wave = wave
	}
	_, to := r.Waves.Range(wave)
	for ; p.next < to && p.all.busy < max(r.Waves.MaxParallel, 1); p.next++ {
		if i := p.next; p.places[i].status == idle {
			p.move(r, p.order[i], idle, granted)
			d.Begin = append(d.Begin, p.order[i])
		}
	}
	return d
}

// revoke takes back the turns of clusters that have not begun.
func (p *Progress) revoke(r *fleet.Rotation) {
	for i := 0; i < len(p.places) && p.all.granted > 0; i++ {
		p.move(r, p.order[i], granted, idle)
	}
}

// passed reports whether a wave and all before it are proven: every cluster has
// ended. A rotation for the authority does not end what waits, so there what is
// overdue passes as a failure that was within the limit or accepted would; and
// after the canary a cluster whose agent is silent does not hold the others up.
func (p *Progress) passed(r *fleet.Rotation, wave int) bool {
	for i := range wave {
		t := p.waves[i]
		open := t.open - t.overdue
		if !r.Waves.Canary(i + 1) {
			open -= t.quiet
		}
		if open > 0 {
			return false
		}
	}
	return true
}

// halt decides whether so many have failed that the rest must not begin. What
// has begun all the same goes on: a halt holds back what has not.
func (p *Progress) halt(r *fleet.Rotation, now time.Time) *fleet.Halt {
	if p.all.unbegun == 0 {
		return nil
	}
	h := &fleet.Halt{Number: 1, At: now, Wave: max(r.Wave, 1), Failed: p.all.failing - r.Accepted, Attempted: p.all.attempted}
	if r.Halt != nil {
		h.Number = r.Halt.Number + 1
	}
	canary := r.Waves.Canary(h.Wave)
	switch {
	case canary && h.Failed > 0:
		h.Reason = fmt.Sprintf("%d of %s failed in the canary %s, where one is enough", h.Failed, clients(h.Attempted), p.order[0])
	case !canary && h.Failed > 0 && r.Waves.MaxFailures.Exceeded(h.Failed, h.Attempted):
		h.Reason = fmt.Sprintf("%d of %s failed, more than the limit of %s", h.Failed, clients(h.Attempted), r.Waves.MaxFailures)
	default:
		return nil
	}
	return h
}

func clients(n int) string {
	if n == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", n)
}
