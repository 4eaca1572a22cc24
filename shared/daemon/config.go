package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// Config holds the sections that every process reads. One file serves all of
// them: a process reads these and its own section, strictly, and leaves the
// sections of the others alone.
type Config struct {
	Log    LogConfig    `yaml:"log"`
	NATS   NATSConfig   `yaml:"nats"`
	Health HealthConfig `yaml:"health"`
	Clock  ClockConfig  `yaml:"clock"`
}

// LogConfig says what is logged and how.
type LogConfig struct {
	Level  string `yaml:"level"`  // debug, info (default), warn, error
	Format string `yaml:"format"` // text (default) or json
}

// NATSConfig says how to reach NATS.
type NATSConfig struct {
	URL      string `yaml:"url"`      // default nats://127.0.0.1:4222; several with commas
	NKeyFile string `yaml:"nkeyFile"` // seed of the user (mode 0600); none, if empty
	CAFile   string `yaml:"caFile"`   // CA of the server, PEM; the system's, if empty
	Replicas int    `yaml:"replicas"` // of streams and buckets; default 1
	// GiveUpAfter is how long a message that fails again and again is tried,
	// before it moves to the dead letters; on the machine's time, default 72h.
	GiveUpAfter time.Duration `yaml:"giveUpAfter"`
}

// The bounds of GiveUpAfter. Messages are kept for longer than the upper one.
const (
	minGiveUp = time.Minute
	maxGiveUp = 21 * 24 * time.Hour
)

// Validate reports a value that cannot work.
func (c NATSConfig) Validate() error {
	if c.GiveUpAfter != 0 && (c.GiveUpAfter < minGiveUp || c.GiveUpAfter > maxGiveUp) {
		return fmt.Errorf("nats: giveUpAfter %s: use %s to %s", c.GiveUpAfter, minGiveUp, maxGiveUp)
	}
	return nil
}

// HealthConfig says where /livez, /readyz and /metrics are served without a
// token; nowhere, if Listen is empty. Bind it to a private address.
type HealthConfig struct {
	Listen string `yaml:"listen"`
}

// ClockConfig runs the process on a fast clock, for rehearsals. All processes
// of one fleet need the same values.
type ClockConfig struct {
	Rate   float64   `yaml:"rate"`   // times as fast as the machine's clock; default 1
	Origin time.Time `yaml:"origin"` // moment at which the fast clock showed the machine's time
}

// Clock returns the clock of this configuration.
func (c ClockConfig) Clock() clock.Clock {
	if c.Rate <= 1 {
		return clock.Real()
	}
	origin := c.Origin
	if origin.IsZero() {
		origin = clock.Wall()
	}
	return clock.Fast(origin, origin, c.Rate)
}

// sections are the keys that a configuration file may have at the top.
var sections = []string{"log", "nats", "health", "clock", "scheduler", "issuer", "notifier", "gateway", "server"}

// Load reads the named sections of a configuration file into what the map
// points to. An unknown key, a wrong type or a second document is an error that
// shows file, line and column. An empty path leaves the defaults.
func Load(path string, want map[string]any) error {
	if path == "" {
		return nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := decode(raw, want); err != nil {
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	return nil
}

func decode(raw []byte, want map[string]any) error {
	file, err := parser.ParseBytes(raw, 0)
	if err != nil {
		return errors.New(yaml.FormatError(err, false, true))
	}
	for i, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if i > 0 {
			return errors.New("more than one document: remove the line '---'")
		}
		top, ok := doc.Body.(*ast.MappingNode)
		if !ok {
			if single, isOne := doc.Body.(*ast.MappingValueNode); isOne {
				top = &ast.MappingNode{Values: []*ast.MappingValueNode{single}}
			} else {
				return fmt.Errorf("line %d: want sections such as %q", doc.Body.GetToken().Position.Line, "gateway:")
			}
		}
		if err := decodeSections(top, want); err != nil {
			return err
		}
	}
	return nil
}

func decodeSections(top *ast.MappingNode, want map[string]any) error {
	for _, value := range top.Values {
		name := value.Key.GetToken().Value
		if !slices.Contains(sections, name) {
			return fmt.Errorf("line %d: unknown section %q: use one of %s",
				value.Key.GetToken().Position.Line, name, strings.Join(sections, ", "))
		}
		target, mine := want[name]
		if !mine || value.Value.Type() == ast.NullType {
			continue
		}
		if err := yaml.NodeToValue(value.Value, target, yaml.Strict()); err != nil {
			return fmt.Errorf("section %s: %s", name, yaml.FormatError(err, false, true))
		}
	}
	return nil
}

// LoadAll reads the common sections and one section of the process's own.
func LoadAll(_ context.Context, path, section string, own any) (Config, error) {
	var c Config
	err := Load(path, map[string]any{"log": &c.Log, "nats": &c.NATS, "health": &c.Health, "clock": &c.Clock, section: own})
	if err == nil {
		err = c.NATS.Validate()
	}
	return c, err
}
