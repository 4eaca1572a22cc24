package agent

import (
	"context"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// rehearse takes over the clock that the server has told of. Nothing of the
// agent runs beside that reads the one before.
func (a *agent) rehearse() {
	c, err := clock.Parse(a.link.Offered())
	if err != nil {
		_ = a.warn("the server tells of a clock that cannot be read", err)
		return
	}
	if c != a.env.Clock {
		a.env.Log.Warn("REHEARSAL: this agent takes the time from the server", "now", c.Now().Truncate(time.Second), "rate", c.Rate())
	}
	a.env.Clock = c
	a.link.SetClock(c)
}

// keepTime asks the server again for its clock when that has changed its pace.
func (a *agent) keepTime(ctx context.Context) error {
	if !a.config.Rehearsal || !a.round.skewed {
		return nil
	}
	return a.refresh(ctx)
}
