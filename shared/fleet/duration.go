package fleet

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Day is 24 hours. Lives and windows count days of 24 hours in UTC, whatever a
// local calendar does.
const Day = 24 * time.Hour

// Duration is a time.Duration that people write in days: "90d", "36h", "1d12h".
type Duration time.Duration

// Std returns the duration as the standard type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String returns whole days as "90d", all else as time.Duration prints it.
func (d Duration) String() string {
	if d != 0 && time.Duration(d)%Day == 0 {
		return strconv.Itoa(int(time.Duration(d)/Day)) + "d"
	}
	return time.Duration(d).String()
}

// ParseDuration reads "90d", "1d12h" or what time.ParseDuration reads.
func ParseDuration(s string) (Duration, error) {
	bad := fmt.Errorf("%w: duration %q: write days, hours or minutes, such as 90d, 36h or 30m", ErrInvalid, s)
	days, rest, hasDays := strings.Cut(s, "d")
	if !hasDays {
		days, rest = "", s
	}
	var total time.Duration
	if hasDays {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, bad
		}
		total = time.Duration(n) * Day
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 {
			return 0, bad
		}
		total += d
	} else if !hasDays {
		return 0, bad
	}
	if total < 0 { // the sum overflowed
		return 0, bad
	}
	return Duration(total), nil
}

// MarshalText is used by JSON and YAML.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (d *Duration) UnmarshalText(b []byte) error {
	parsed, err := ParseDuration(string(b))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

// Share is a part of a life, between 0 and 1; people write "61%" or "0.61".
type Share float64

// String returns the share in per cent with at most two decimals.
func (s Share) String() string {
	return strconv.FormatFloat(float64(int64(float64(s)*10000+0.5))/100, 'f', -1, 64) + "%"
}

// ParseShare reads "61%" or "0.61".
func ParseShare(text string) (Share, error) {
	number, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if percent {
		f /= 100
	}
	if err != nil || !(f >= 0 && f <= 1) {
		return 0, fmt.Errorf("%w: share %q: write a part of a life between 0%% and 100%%, such as 61%%", ErrInvalid, text)
	}
	return Share(f), nil
}

// MarshalText is used by JSON and YAML.
func (s Share) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *Share) UnmarshalText(b []byte) error {
	parsed, err := ParseShare(string(b))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// Of returns this share of a life.
func (s Share) Of(life time.Duration) time.Duration {
	return time.Duration(float64(life) * float64(s))
}
