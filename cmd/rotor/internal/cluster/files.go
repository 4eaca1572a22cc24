package cluster

import (
	"errors"
	"maps"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"
)

// serviceConfig returns the configuration of one service: what the operator
// wrote, with our addresses and files laid over it.
func serviceConfig(own []byte, over map[string]map[string]any) ([]byte, error) {
	var all map[string]map[string]any
	if err := yaml.Unmarshal(own, &all); err != nil {
		return nil, errors.New(yaml.FormatError(err, false, true))
	}
	if all == nil { // an empty file
		all = map[string]map[string]any{}
	}
	for section, values := range over {
		if all[section] == nil {
			all[section] = map[string]any{}
		}
		maps.Copy(all[section], values)
	}
	return yaml.Marshal(all)
}

func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600) //nolint:gosec // the folder is the one that the developer has named
}
