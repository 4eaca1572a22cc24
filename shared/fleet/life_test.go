package fleet

import (
	"testing"
	"time"
)

func TestHearTellsRestartsFromCopies(t *testing.T) {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	type call struct {
		after time.Duration // since the one before
		name  string
		count int
	}
	const poll = 25 * time.Second
	for name, c := range map[string]struct {
		calls []call
		want  string
	}{
		"one process":                        {[]call{{0, "a", 1}, {poll, "a", 1}, {poll, "a", 1}}, ""},
		"restarts":                           {[]call{{0, "a", 1}, {time.Second, "b", 2}, {time.Second, "c", 3}, {poll, "c", 3}}, ""},
		"restarts that never reached us":     {[]call{{0, "a", 1}, {poll, "b", 17}}, ""},
		"a call that was held back":          {[]call{{0, "a", 1}, {time.Second, "b", 2}, {9 * time.Second, "a", 1}, {poll, "b", 2}}, ""},
		"two alive":                          {[]call{{0, "a", 1}, {5 * time.Second, "b", 2}, {20 * time.Second, "a", 1}}, CopiedAlive},
		"two alive, with many":               {[]call{{0, "a", 1}, {poll, "b", 2}, {poll, "c", 3}, {poll, "a", 1}}, CopiedAlive},
		"a copy on another machine, later":   {[]call{{0, "a", 5}, {Day, "b", 6}, {Day, "c", 6}}, CopiedOlder},
		"a folder that was restored":         {[]call{{0, "a", 5}, {Day, "b", 3}}, CopiedOlder},
		"a folder that moved with its agent": {[]call{{0, "a", 5}, {Day, "b", 6}, {poll, "b", 6}}, ""},
		"a disk too full to count":           {[]call{{0, "a", 5}, {Day, "b", 0}, {Day, "c", 6}}, ""},
		"an agent that tells nothing":        {[]call{{0, "", 0}, {poll, "", 0}}, ""},
		"newer program, then older again":    {[]call{{0, "a", 1}, {poll, "", 0}, {poll, "b", 2}}, ""},
	} {
		var l AgentLife
		wall := at
		for _, call := range c.calls {
			wall = wall.Add(call.after)
			l.Hear(Heard{call.name, call.count}, wall, wall)
		}
		how := ""
		if l.Copied != nil {
			how = l.Copied.How
		}
		if how != c.want || len(l.Former) > MaxInstances {
			t.Errorf("%s: %q, want %q; %+v", name, how, c.want, l)
		}
	}
}

// What is known already is not written again, however often two take turns.
func TestHearChangesNothingOnceItIsKnown(t *testing.T) {
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	var l AgentLife
	changes := 0
	for i := range 20 {
		if l.Hear(Heard{string(rune('a' + i%2)), 1 + i%2}, at, at.Add(time.Duration(i)*20*time.Second)) {
			changes++
		}
	}
	if changes != 3 || l.Copied == nil {
		t.Errorf("%d changes, want 3: %+v", changes, l)
	}
}

func TestHearClock(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	var l AgentLife
	for _, c := range []struct {
		ahead        time.Duration
		changed, off bool
	}{
		{0, false, false},
		{5 * time.Minute, false, false},
		{5*time.Minute + 1, true, true},
		{-6 * time.Minute, false, true},
		{-5 * time.Minute, true, false},
		{time.Second, false, false},
	} {
		if changed := l.HearClock(c.ahead, 5*time.Minute, now); changed != c.changed || l.Skewed.IsZero() == c.off {
			t.Errorf("%s: changed %v, %+v", c.ahead, changed, l)
		}
	}
}
