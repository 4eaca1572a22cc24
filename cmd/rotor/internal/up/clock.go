package up

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// clockFile keeps a fast clock in the data folder, so that a restart goes on
// where time had come to: certificates of the future must not be met by a past
// now.
type clockFile struct {
	Origin time.Time `json:"origin"` // the machine's time
	Start  time.Time `json:"start"`  // what the clock showed then
	Rate   float64   `json:"rate"`
}

// resumeClock returns the clock of a data folder at the wanted rate (0 keeps
// the folder's). A folder that never had a fast clock has the machine's own.
func resumeClock(data string, rate float64) (clock.Clock, error) {
	path := filepath.Join(data, "clock.json")
	var saved clockFile
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if rate <= 1 {
			return clock.Real(), nil
		}
		now := clock.Wall()
		saved = clockFile{Origin: now, Start: now, Rate: rate}
	case err != nil:
		return clock.Clock{}, fmt.Errorf("clock: %w", err)
	default:
		if err := json.Unmarshal(raw, &saved); err != nil {
			return clock.Clock{}, fmt.Errorf("clock %s: %w", path, err)
		}
		if rate > 0 && rate != saved.Rate {
			// Another rate from here on: time goes on from where it is.
			saved = clockFile{Origin: clock.Wall(), Start: clock.Fast(saved.Origin, saved.Start, saved.Rate).Now(), Rate: max(rate, 1)}
		}
	}
	if raw, err = json.Marshal(saved); err != nil {
		return clock.Clock{}, fmt.Errorf("clock: %w", err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return clock.Clock{}, fmt.Errorf("clock: %w", err)
	}
	return clock.Fast(saved.Origin, saved.Start, saved.Rate), nil
}
