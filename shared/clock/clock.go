// Package clock is the one source of time of the program. Everything that
// decides takes its now from a Clock, so that a fleet year can be run in
// minutes; nothing else calls time.Now.
//
// Two kinds of duration exist and must not be mixed. Policy durations (lives,
// windows, back-dating) pass on the Clock. Machinery durations (network time-
// outs, lease lives, back-off) pass on the machine's own time: a fast clock
// makes certificates old, it does not make the network quick.
package clock

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// MaxWait bounds one uninterrupted wait, so that a machine that was suspended,
// or whose time was stepped, is noticed within this real duration.
const MaxWait = time.Minute

// Clock tells a time that may pass faster than the machine's own. The zero
// value is the machine's own clock. A Clock is a value and safe for concurrent
// use.
type Clock struct {
	origin time.Time // the machine's time at which the clock showed start
	start  time.Time
	rate   float64 // 0 means 1
}

// Real returns the machine's own clock.
func Real() Clock { return Clock{} }

// Fast returns a clock that showed start when the machine showed origin, and
// runs rate times as fast. A rate of 1 or less gives the machine's own pace.
func Fast(origin, start time.Time, rate float64) Clock {
	if rate < 1 {
		rate = 1
	}
	return Clock{origin: origin, start: start, rate: rate}
}

// Wall returns the machine's own time in UTC, whatever the rate of any clock.
// It is for machinery: log lines, lease ages, throttles.
func Wall() time.Time { return time.Now().UTC() }

// Rate returns how many times faster than the machine the clock runs.
func (c Clock) Rate() float64 {
	if c.rate == 0 {
		return 1
	}
	return c.rate
}

// Now returns the clock's time in UTC.
func (c Clock) Now() time.Time {
	if c.rate == 0 {
		return time.Now().UTC()
	}
	return c.At(time.Now())
}

// At returns what the clock showed, in UTC, when the machine showed wall.
func (c Clock) At(wall time.Time) time.Time {
	if c.rate == 0 {
		return wall.UTC()
	}
	passed := wall.Sub(c.origin)
	return c.start.Add(time.Duration(float64(passed) * c.rate)).UTC()
}

// Wait converts a duration on the clock into the machine's time, at least 0.
func (c Clock) Wait(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(float64(d) / c.Rate())
}

// Until returns how long the machine must wait until the clock shows t, cut to
// [0, MaxWait]: whoever waits looks at Now again afterwards.
func (c Clock) Until(t time.Time) time.Duration {
	return min(c.Wait(t.Sub(c.Now())), MaxWait)
}

// String describes a fast clock, so that Parse makes the same one of it on a
// machine whose own time agrees. It is empty for the machine's own clock.
func (c Clock) String() string {
	if c.rate == 0 {
		return ""
	}
	return strings.Join([]string{
		c.origin.UTC().Format(time.RFC3339Nano), c.start.UTC().Format(time.RFC3339Nano), strconv.FormatFloat(c.rate, 'g', -1, 64),
	}, " ")
}

// Parse is the inverse of String.
func Parse(text string) (Clock, error) {
	if text == "" {
		return Real(), nil
	}
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return Clock{}, fmt.Errorf("clock %q: want two moments and a rate", text)
	}
	origin, err := time.Parse(time.RFC3339Nano, fields[0])
	if err != nil {
		return Clock{}, fmt.Errorf("clock: %w", err)
	}
	start, err := time.Parse(time.RFC3339Nano, fields[1])
	if err != nil {
		return Clock{}, fmt.Errorf("clock: %w", err)
	}
	rate, err := strconv.ParseFloat(fields[2], 64)
	if err != nil || math.IsNaN(rate) || math.IsInf(rate, 0) {
		return Clock{}, fmt.Errorf("clock: rate %q is not a number", fields[2])
	}
	return Fast(origin, start, rate), nil
}

// Sleep waits for the real duration d or until ctx ends, and returns the cause
// of the end in the latter case.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
