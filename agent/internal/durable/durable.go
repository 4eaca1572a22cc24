// Package durable writes files so that a crash at any moment, of the process or
// of the machine, leaves either what was there before or all of what is new.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Mode is the mode of a file that belongs to the agent alone.
const Mode = 0o600

// DirMode is the mode of a folder that belongs to the agent alone.
const DirMode = 0o700

// Temporary is the prefix of a file that is being written. What carries it
// after a crash is worth nothing.
const Temporary = ".tmp-"

// Replace puts a file with this content in the place of whatever has the name.
func Replace(path string, data []byte) error { return ReplaceWith(Disk{}, path, data, Private) }

// ReplaceWith is like Replace, with other operations and attributes.
func ReplaceWith(ops Ops, path string, data []byte, a Attributes) error {
	dir := filepath.Dir(path)
	temporary := filepath.Join(dir, Temporary+filepath.Base(path))
	if err := ops.RemoveAll(temporary); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	err := ops.Create(temporary, data, a)
	if err == nil {
		err = ops.Rename(temporary, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), ops.RemoveAll(temporary))
	}
	return ops.SyncDir(dir)
}

// Remove takes a file away for good. A file that is not there is no error.
func Remove(ops Ops, path string) error {
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := ops.RemoveAll(path); err != nil {
		return err
	}
	return ops.SyncDir(filepath.Dir(path))
}
