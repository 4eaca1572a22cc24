package record

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/notifier/internal/rule"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

var (
	now  = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC) // on the clock of the fleet
	wall = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)   // the machine's time
)

const lease = time.Minute

// story is an alert about which things happen, one step after the other.
type story struct {
	fleet.Alert
	t *testing.T
}

func (s *story) raise(level, hour int) {
	s.t.Helper()
	Raise(&s.Alert, fleet.Alert{
		Fingerprint: "f", Rule: rule.WindowMissed, Cluster: "a", State: fleet.AlertFiring, Level: level, Since: now.Add(time.Duration(hour) * time.Hour),
	}, []string{"ops"})
}

func (s *story) end(hour int, silent bool) {
	End(&s.Alert, rule.Ending{Cluster: "a", At: now.Add(time.Duration(hour) * time.Hour), Silent: silent})
}

func (s *story) claim(holder string, after time.Duration) string {
	about, _ := Claim(&s.Alert, "ops", holder, wall.Add(after), lease)
	return about
}

func (s *story) settle(holder, about string, state fleet.DeliveryState) {
	Settle(&s.Alert, Outcome{Channel: "ops", About: about, Holder: holder, State: state, Now: now})
}

func (s *story) told(hour int) {
	m := Message{now.Add(time.Duration(hour) * time.Hour), "ops", "firing/0"}
	if at, changed := Told(&s.Alert, m, now.Add(time.Hour)); changed && !at.Equal(now.Add(time.Hour)) || at.IsZero() == WasTold(&s.Alert, m) {
		s.t.Errorf("told at %s, changed %t, known %t", at, changed, WasTold(&s.Alert, m))
	}
}

func (s *story) want(want string) {
	s.t.Helper()
	var all []string
	for _, d := range s.Deliveries {
		text := d.About + " " + string(d.State)
		if d.Holder != "" {
			text += " by " + d.Holder
		}
		all = append(all, text)
	}
	if got := fmt.Sprintf("%s %d: %s", s.State, s.Level, strings.Join(all, ", ")); got != want {
		s.t.Errorf("alert is %q, want %q", got, want)
	}
}

const (
	sent    = fleet.DeliverySent
	failed  = fleet.DeliveryFailed
	pending = fleet.DeliveryPending
)

func TestStories(t *testing.T) {
	for name, c := range map[string]struct {
		tell func(*story)
		want string
	}{
		"raised":               {func(s *story) { s.raise(0, 0) }, "firing 0: firing/0 pending"},
		"raised twice":         {func(s *story) { s.raise(0, 0); s.raise(0, 1) }, "firing 0: firing/0 pending"},
		"escalated unsent":     {func(s *story) { s.raise(0, 0); s.raise(1, 1) }, "firing 1: firing/1 pending"},
		"level comes late":     {func(s *story) { s.raise(1, 1); s.raise(0, 2) }, "firing 1: firing/1 pending"},
		"older, higher, late":  {func(s *story) { s.raise(0, 1); s.raise(1, 0) }, "firing 0: firing/0 pending"},
		"over before sent":     {func(s *story) { s.raise(0, 0); s.end(1, false) }, "resolved 0: "},
		"end is older":         {func(s *story) { s.raise(0, 1); s.end(0, false) }, "firing 0: firing/0 pending"},
		"late after the end":   {func(s *story) { s.raise(0, 0); s.end(2, false); s.raise(1, 1) }, "resolved 0: "},
		"again after the end":  {func(s *story) { s.raise(0, 0); s.end(2, false); s.raise(0, 3) }, "firing 0: firing/0 pending"},
		"ended before started": {func(s *story) { s.end(2, false) }, " 0: "},
		"sent":                 {func(s *story) { s.raise(0, 0); s.settle("x", s.claim("x", 0), sent) }, "firing 0: firing/0 sent"},
		"sent and over": {func(s *story) {
			s.raise(0, 0)
			s.settle("x", s.claim("x", 0), sent)
			s.end(1, false)
			s.end(2, false)
		}, "resolved 0: firing/0 sent, resolved pending"},
		"sent and over in silence": {func(s *story) {
			s.raise(0, 0)
			s.settle("x", s.claim("x", 0), sent)
			s.end(1, true)
		}, "resolved 0: firing/0 sent"},
		"given up and over": {func(s *story) { s.raise(0, 0); s.settle("x", s.claim("x", 0), failed); s.end(1, false) }, "resolved 0: firing/0 failed"},
		"over while sending": {func(s *story) {
			s.raise(0, 0)
			about := s.claim("x", 0)
			s.end(1, false)
			if got := s.claim("y", 0); got != "" {
				s.t.Errorf("y got %q in between", got)
			}
			s.settle("x", about, sent)
		}, "resolved 0: firing/0 sent, resolved pending"},
		"over while an attempt fails": {func(s *story) {
			s.raise(0, 0)
			about := s.claim("x", 0)
			s.end(1, false)
			s.settle("x", about, pending)
		}, "resolved 0: "},
		"over while the holder dies": {func(s *story) {
			s.raise(0, 0)
			s.claim("x", 0)
			s.end(1, false)
			s.claim("y", 2*lease)
		}, "resolved 0: resolved pending by y"},
		"holder dies": {func(s *story) { s.raise(0, 0); s.claim("x", 0); s.claim("y", lease/2) }, "firing 0: firing/0 pending by x"},
		"lease ends": {func(s *story) {
			s.raise(0, 0)
			s.claim("x", 0)
			s.claim("y", lease)
			s.settle("x", "firing/0", sent) // too late: it is y's
		}, "firing 0: firing/0 pending by y"},
		"given up and told after all": {
			func(s *story) { s.raise(0, 0); s.settle("x", s.claim("x", 0), failed); s.told(0); s.end(1, false) },
			"resolved 0: firing/0 sent, resolved pending",
		},
		"told after all when it is over": {
			func(s *story) {
				s.raise(0, 0)
				s.settle("x", s.claim("x", 0), failed)
				s.end(1, false)
				s.told(0)
				s.told(0)
			},
			"resolved 0: firing/0 sent, resolved pending",
		},
		"told after all when it is another": {func(s *story) {
			s.raise(0, 0)
			s.settle("x", s.claim("x", 0), failed)
			s.end(1, false)
			s.raise(0, 2)
			s.told(0)
		}, "firing 0: firing/0 pending"},
		"again while sending the one before": {func(s *story) {
			s.raise(0, 0)
			about := s.claim("x", 0)
			s.end(1, false)
			s.raise(0, 2)
			s.settle("x", about, sent)
		}, "firing 0: firing/0 pending"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &story{t: t}
			c.tell(s)
			s.want(c.want)
		})
	}
}

func TestDeliveriesStayBounded(t *testing.T) {
	s := &story{t: t}
	for level := range 300 { // more than five years of weeks
		s.raise(level, level)
		state := sent
		if level%3 == 0 {
			state = failed
		}
		s.settle("x", s.claim("x", 0), state)
	}
	if n := len(s.Deliveries); n > maxKept {
		t.Errorf("%d deliveries", n)
	}
	s.end(1000, false)
	if d := Pending(&s.Alert, "ops"); d == nil || d.About != Resolved {
		t.Errorf("pending: %+v", d)
	}
}

func TestIDNamesTheOccurrence(t *testing.T) {
	a := fleet.Alert{Fingerprint: "f", Since: now}
	later := a
	later.Since = now.Add(time.Hour)
	ids, repeat := map[string]bool{}, a
	for _, id := range []string{ID(&a, "ops", "firing/0"), ID(&a, "chat", "firing/0"), ID(&a, "ops", "firing/1"), ID(&later, "ops", "firing/0")} {
		ids[id] = true
	}
	if len(ids) != 4 || !ids[ID(&repeat, "ops", "firing/0")] {
		t.Errorf("ids: %v", ids)
	}
}

func TestExpired(t *testing.T) {
	s := &story{t: t}
	s.raise(0, 0)
	if Expired(&s.Alert, []string{"ops"}, now.Add(time.Hour)) {
		t.Error("a firing alert may be forgotten")
	}
	s.settle("x", s.claim("x", 0), sent)
	s.end(1, false)
	if Expired(&s.Alert, []string{"ops"}, now.Add(2*time.Hour)) {
		t.Error("forgotten before its end was told")
	}
	s.settle("x", s.claim("x", 0), sent)
	if !Expired(&s.Alert, []string{"ops"}, now.Add(2*time.Hour)) || Expired(&s.Alert, []string{"ops"}, now.Add(time.Hour)) {
		t.Error("not forgotten by its age")
	}
}
