package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rotor-fleet/rotor/services/issuer"
)

// CheckKeys makes sure that the key-encryption key in a file opens the keys of
// the backup. A missing file is written if the backup holds the key.
func (c *Content) CheckKeys(keyFile string) error {
	_, err := os.Stat(keyFile)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case missing && len(c.Header.KEK) == 0:
		return fmt.Errorf("the key-encryption key %s is missing, and the backup does not hold it: put your copy there, or name it with --key-file", keyFile)
	case missing:
		if err := os.MkdirAll(filepath.Dir(keyFile), 0o700); err != nil {
			return fmt.Errorf("key-encryption key: %w", err)
		}
		if err := os.WriteFile(keyFile, append(c.Header.KEK, '\n'), 0o600); err != nil {
			return fmt.Errorf("key-encryption key: %w", err)
		}
	case err != nil:
		return fmt.Errorf("key-encryption key: %w", err)
	}
	if err := issuer.CheckKeys(keyFile, c.keys); err != nil {
		if missing {
			err = errors.Join(err, os.Remove(keyFile))
		}
		return fmt.Errorf("the keys of the backup: %w", err)
	}
	return nil
}
