package scheduler

import (
	"context"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// asked is a generation that the issuer was asked for.
type asked struct {
	generation int
	key        string // of the request: another request is another question
	tries      int
	at         time.Time // by the machine's time
}

// patience bounds how long an answer of the issuer is waited for. The issuer
// takes no notice of a repeat, so an early one costs a message.
const (
	patience    = 30 * time.Second
	maxPatience = time.Hour
)

func (a asked) until() time.Time {
	return a.at.Add(min(patience<<min(a.tries-1, 10), maxPatience))
}

// pace limits how much is asked for in one second of the machine's time.
type pace struct {
	mu     sync.Mutex
	limit  int
	used   int
	second time.Time
}

func (p *pace) wait(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock() // also while it waits: all others wait as well
	now := clock.Wall()
	if now.Sub(p.second) >= time.Second || now.Before(p.second) {
		p.second, p.used = now, 0
	}
	if p.used++; p.used <= p.limit {
		return nil
	}
	if err := clock.Sleep(ctx, p.second.Add(time.Second).Sub(now)); err != nil {
		return err
	}
	p.second, p.used = clock.Wall(), 1
	return nil
}
