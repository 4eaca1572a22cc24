package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Trial is what has become of a generation of one client since readers see it.
// Losing it costs one more reload and, where a generation had been given up,
// the attempts at it. Its times are those of the machine.
type Trial struct {
	Loaded     Loaded    `json:"loaded,omitzero"`    // what the client is known to use
	Generation int       `json:"generation"`         // the one on trial; all below is about it
	Attempts   int       `json:"attempts,omitempty"` // that were begun without success
	Since      time.Time `json:"since,omitzero"`     // of the first failure
	Error      string    `json:"error,omitempty"`    // of the last one
	GivenUp    bool      `json:"givenUp,omitempty"`  // readers must not see it again
	AskAt      time.Time `json:"askAt,omitzero"`     // when to ask for another one
	InARow     int       `json:"inARow,omitempty"`   // generations given up one after the other
	How        string    `json:"how,omitempty"`      // names the configuration that it was tried with
}

// Loaded names what a client uses. The zero value says that it is not known.
type Loaded struct {
	Generation int `json:"generation,omitempty"`
	Bundle     int `json:"bundle,omitempty"` // version of the trust bundle
}

// Failed notes that an attempt went wrong.
func (t *Trial) Failed(now time.Time, err error) {
	t.Error = err.Error()
	if t.Since.IsZero() {
		t.Since = now.UTC().Truncate(time.Second)
	}
}

// ParseTrial reads a trial.
func ParseTrial(b []byte) (Trial, error) {
	var t Trial
	if err := json.Unmarshal(b, &t); err != nil {
		return Trial{}, err
	}
	if t.Generation < 0 || t.Attempts < 0 || t.InARow < 0 {
		return Trial{}, errors.New("a count is negative")
	}
	return t, nil
}

func trialName(client fleet.ClientKey) string {
	return strings.ReplaceAll(client.String(), "/", "_") + ".json"
}

// Trial returns the trial of a client, the zero value if there is none or it
// makes no sense.
func (s *Store) Trial(client fleet.ClientKey) Trial {
	b, err := os.ReadFile(s.path(trialFolder, trialName(client)))
	if err == nil {
		var t Trial
		if t, err = ParseTrial(b); err == nil {
			return t
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		s.absent(trialFolder+"/"+trialName(client), err)
	}
	return Trial{}
}

// SaveTrial keeps the trial of a client.
func (s *Store) SaveTrial(client fleet.ClientKey, t Trial) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := s.replace(append(b, '\n'), trialFolder, trialName(client)); err != nil {
		return fmt.Errorf("keep what was tried with %s: %w", client, err)
	}
	return nil
}

// DropTrial forgets the trial of a client.
func (s *Store) DropTrial(client fleet.ClientKey) error {
	return durable.Remove(s.ops, s.path(trialFolder, trialName(client)))
}
