package state

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/health"
)

// Letters is a copy of the dead letters of all services, without their bodies.
// It is safe for concurrent use.
type Letters struct {
	bus *bus.Bus

	mu      sync.RWMutex
	letters map[string]fleet.Letter
	seen    uint64
	moved   Signal
}

// NewLetters returns an empty copy; Run fills it.
func NewLetters(b *bus.Bus) *Letters { return &Letters{bus: b, letters: map[string]fleet.Letter{}} }

// Run keeps the copy up to date until ctx ends.
func (x *Letters) Run(ctx context.Context, h health.Part) error {
	const condition = "dead-letters"
	h.Wait(condition, "reading the dead letters for the first time")
	x.bus.WatchLetters(ctx, bus.LetterWatcher{
		Changed: func(l fleet.Letter) {
			x.Note(l)
			x.advance(l.Revision)
		},
		Current: func(revision uint64) {
			x.advance(revision)
			h.Met(condition)
		},
		Broken: func(err error) { h.Wait(condition, "reading the dead letters again: "+err.Error()) },
	})
	return nil
}

// Note takes in a letter as it was read; an older one than is known has no
// effect.
func (x *Letters) Note(l fleet.Letter) {
	l.Body = nil
	x.mu.Lock()
	if l.Revision >= x.letters[l.ID].Revision {
		x.letters[l.ID] = l
	}
	x.mu.Unlock()
}

func (x *Letters) advance(revision uint64) {
	x.mu.Lock()
	x.seen = max(x.seen, revision)
	x.mu.Unlock()
	x.moved.WakeAll()
}

// Fresh waits until the copy holds all that was stored before the call, but not
// for longer than a moment.
func (x *Letters) Fresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	revision, err := x.bus.LastLetter(ctx)
	for err == nil {
		moved := x.moved.Wait("")
		x.mu.RLock()
		current := x.seen >= revision
		x.mu.RUnlock()
		if current {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
}

// All returns the letters that are kept, what was changed last first.
func (x *Letters) All() []fleet.Letter {
	x.mu.RLock()
	all := make([]fleet.Letter, 0, len(x.letters))
	for _, l := range x.letters {
		all = append(all, l)
	}
	x.mu.RUnlock()
	gone := clock.Wall().Add(-bus.LetterAge) // nobody tells of what the stream forgets
	all = slices.DeleteFunc(all, func(l fleet.Letter) bool { return l.Stored.Before(gone) })
	slices.SortFunc(all, func(a, b fleet.Letter) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.ID, b.ID))
	})
	return all
}

// Open returns how many letters are open, by service.
func (x *Letters) Open() map[string]int {
	open := map[string]int{}
	for _, l := range x.All() {
		if l.Open() {
			open[l.Service]++
		}
	}
	return open
}

// Find returns a letter by its id.
func (x *Letters) Find(id string) (fleet.Letter, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	l, ok := x.letters[id]
	return l, ok
}

// Await waits until a letter is no longer at a revision, but not for longer than
// d, and returns it as it then is; changed is false when nothing has happened.
func (x *Letters) Await(ctx context.Context, l fleet.Letter, d time.Duration) (now fleet.Letter, changed bool) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		moved := x.moved.Wait("")
		now, _ := x.Find(l.ID)
		if now.Revision > l.Revision {
			return now, true
		}
		// The copy learns of it within a moment; should it be interrupted, the
		// stream knows.
		timer := time.NewTimer(time.Second)
		select {
		case <-moved:
		case <-timer.C:
			if stored, err := x.bus.Letter(ctx, l.Service, l.Cluster, l.ID); err == nil {
				x.Note(stored)
			}
		case <-ctx.Done():
			timer.Stop()
			return l, false
		}
		timer.Stop()
	}
}
