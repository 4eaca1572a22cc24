package fleet

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxParallel is how many clusters of a rotation in waves are in progress at
// once, where nobody says otherwise: at four clients each, what one issuer signs
// in a moment, and few enough to be looked at when they fail together.
const MaxParallel = 50

// DefaultMaxFailures is the limit of the waves after the canary.
const DefaultMaxFailures FailureLimit = "2%"

// AgentHeard is how recent the last call of an agent must be for it to count as
// there, on the machine's time: agents call every two minutes at least, whatever
// the clock of the fleet, and gateways write the last call down every two.
const AgentHeard = 10 * time.Minute

// WaveOptions are what may be said about a rotation in waves. The zero value
// holds the defaults.
type WaveOptions struct {
	Canary            string       `json:"canary,omitempty" doc:"cluster that goes first; chosen, if empty"`
	MaxParallel       int          `json:"maxParallel,omitempty" doc:"clusters in progress at once; 50, if 0"`
	MaxFailures       FailureLimit `json:"maxFailures,omitempty" doc:"failed clients that do not halt it once the canary is proven: a number, or a share such as 2% of the clients whose turn has come; 2%, if empty"`
	IgnoreMaintenance bool         `json:"ignoreMaintenance,omitempty" doc:"do not wait for maintenance windows"`
}

// Validate reports a value that cannot work, as ErrInvalid.
func (o WaveOptions) Validate() error {
	if o.MaxParallel < 0 {
		return fmt.Errorf("%w: maxParallel %d: use at least 1, or 0 for the default of %d", ErrInvalid, o.MaxParallel, MaxParallel)
	}
	return o.MaxFailures.Validate()
}

// Waves is the plan of a rotation in waves. Which clusters are in a wave follows
// from the order of the clusters and the sizes.
type Waves struct {
	Sizes             []int        `json:"sizes" doc:"clusters in each wave: the canary, a tenth, the rest"`
	MaxParallel       int          `json:"maxParallel" doc:"clusters in progress at once"`
	MaxFailures       FailureLimit `json:"maxFailures" doc:"limit of the waves after the canary"`
	IgnoreMaintenance bool         `json:"ignoreMaintenance,omitempty" doc:"it does not wait for maintenance windows"`
}

// Plan puts the canary in front of the clusters and cuts them into waves: the
// canary, a tenth of all (rounded up), the rest.
func (o WaveOptions) Plan(clusters []string) ([]string, *Waves) {
	order := slices.Clone(clusters)
	if i := slices.Index(order, o.Canary); i > 0 {
		order = slices.Insert(slices.Delete(order, i, i+1), 0, o.Canary)
	}
	w := &Waves{MaxParallel: o.MaxParallel, MaxFailures: o.MaxFailures, IgnoreMaintenance: o.IgnoreMaintenance}
	if w.MaxParallel == 0 {
		w.MaxParallel = MaxParallel
	}
	if w.MaxFailures == "" {
		w.MaxFailures = DefaultMaxFailures
	}
	left := len(order)
	for _, size := range []int{1, (len(order) + 9) / 10, len(order)} {
		if size = min(size, left); size > 0 {
			w.Sizes, left = append(w.Sizes, size), left-size
		}
	}
	return order, w
}

// Of returns the wave of the cluster at a place in the order, from 1.
func (w *Waves) Of(place int) int {
	for i, size := range w.Sizes {
		if place -= size; place < 0 {
			return i + 1
		}
	}
	return len(w.Sizes)
}

// Range returns the places in the order that a wave has: from is its first, to
// the one behind its last.
func (w *Waves) Range(wave int) (from, to int) {
	for i, size := range w.Sizes {
		if i+1 == wave {
			return from, from + size
		}
		from += size
	}
	return from, from
}

// Canary reports whether a wave is the canary: the first of several.
func (w *Waves) Canary(wave int) bool { return wave == 1 && len(w.Sizes) > 1 }

// FailureLimit says how many failed clients do not halt a rotation: a number, or
// a share of those attempted, such as 2%. The empty one is the default.
type FailureLimit string

// Validate reports what is wrong with a limit, as ErrInvalid.
func (l FailureLimit) Validate() error {
	if l == "" {
		return nil
	}
	_, _, err := l.parse()
	return err
}

func (l FailureLimit) parse() (limit float64, share bool, err error) {
	text, share := strings.CutSuffix(string(l), "%")
	if share {
		limit, err = strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(limit) || limit < 0 || limit > 100 {
			return 0, true, fmt.Errorf("%w: maxFailures %q: use a share from 0%% to 100%%", ErrInvalid, l)
		}
		return limit, true, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, false, fmt.Errorf("%w: maxFailures %q: use a number such as 3, or a share such as 2%%", ErrInvalid, l)
	}
	return float64(n), false, nil
}

// Exceeded reports whether so many failed clients of so many attempted ones are
// above the limit.
func (l FailureLimit) Exceeded(failed, attempted int) bool {
	limit, share, err := l.parse()
	if err != nil {
		limit, share, _ = DefaultMaxFailures.parse()
	}
	if share {
		return float64(failed)*100 > limit*float64(attempted)
	}
	return float64(failed) > limit
}
