package clock

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		c := Fast(time.Now(), start, 86400)
		time.Sleep(10 * time.Second)
		if got := c.Now(); !got.Equal(start.AddDate(0, 0, 10)) {
			t.Errorf("ten seconds at a day a second show %v", got)
		}
		if got := c.Wait(24 * time.Hour); got != time.Second {
			t.Errorf("a day takes %v", got)
		}
		if got := c.Until(c.Now().Add(48 * time.Hour)); got != 2*time.Second {
			t.Errorf("two days are %v away", got)
		}
		if got := c.Until(start); got != 0 {
			t.Errorf("the past is %v away", got)
		}
		if got := Real().Until(time.Now().Add(time.Hour)); got != MaxWait {
			t.Errorf("an hour's wait is cut to %v, want %v", got, MaxWait)
		}
	})
}

func TestRealIsUTC(t *testing.T) {
	if c := Real(); c.Now().Location() != time.UTC || c.Rate() != 1 {
		t.Errorf("real clock: %v, rate %v", c.Now(), c.Rate())
	}
	if c := Fast(time.Now(), time.Now(), 0.1); c.Rate() != 1 {
		t.Errorf("a clock must not run slower than the machine's, got rate %v", c.Rate())
	}
}

func TestSleepEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if err := Sleep(ctx, time.Hour); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

// What one program says of its clock, another understands.
func TestParseIsTheInverseOfString(t *testing.T) {
	if c, err := Parse(Real().String()); err != nil || c != Real() {
		t.Errorf("%v, %v", c, err)
	}
	origin := time.Date(2026, 11, 25, 13, 29, 1, 123456789, time.UTC)
	want := Fast(origin, origin.AddDate(1, 0, 0), 345600.5)
	got, err := Parse(want.String())
	if err != nil || got != want {
		t.Errorf("%q gives %v, %v", want.String(), got, err)
	}
	for _, wrong := range []string{"x", "2026-11-25T13:29:01Z 2026-11-25T13:29:01Z", "2026-11-25 2026-11-25T13:29:01Z 2", "2026-11-25T13:29:01Z now 2", "2026-11-25T13:29:01Z 2026-11-25T13:29:01Z NaN"} {
		if _, err := Parse(wrong); err == nil {
			t.Errorf("%q was taken", wrong)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("2026-11-25T13:29:01Z 2027-11-25T13:29:01Z 345600")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(c.String()); err != nil || again != c {
			t.Errorf("%q: %v, %v", text, again, err)
		}
	})
}
