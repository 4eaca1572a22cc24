package agent

import (
	"context"
	"sync"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// changes ends what waits for it, and keeps the settings that came last. The
// zero value is ready; it is safe for concurrent use.
type changes struct {
	mu       sync.Mutex
	settings *Settings     // that were not taken yet
	next     chan struct{} // closed when there are some
}

func (c *changes) give(s Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settings = &s
	if c.next != nil {
		close(c.next)
		c.next = nil
	}
}

// take returns the newest settings, nil if there are none since the last call.
func (c *changes) take() *Settings {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.settings
	c.settings = nil
	return s
}

// wait returns what is closed as soon as there is something to take.
func (c *changes) wait() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = make(chan struct{})
		if c.settings != nil {
			close(c.next)
		}
	}
	return c.next
}

// listen takes changes of the settings until ctx ends.
func (a *agent) listen(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s, open := <-a.config.Changes:
			if !open {
				return
			}
			a.changes.give(s)
		}
	}
}

// untilChange returns a context that ends when the settings change.
func (a *agent) untilChange(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	next := a.changes.wait()
	go func() {
		select {
		case <-ctx.Done():
		case <-next:
			cancel()
		}
	}()
	return ctx, cancel
}

// wait pauses after err. It returns early when ctx ends or the settings change.
func (a *agent) wait(ctx context.Context, pause *backoff, err error) {
	ctx, cancel := a.untilChange(ctx)
	defer cancel()
	_ = clock.Sleep(ctx, pause.next(err))
}

// follow takes changed settings over. The next poll is then answered at once.
func (a *agent) follow() {
	if s := a.changes.take(); s != nil {
		a.adopt(*s)
	}
}
