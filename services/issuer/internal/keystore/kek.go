package keystore

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// ReadKEK reads a key-encryption key from a file: 32 bytes in base64, of mode
// 0600 or stricter. A missing file is fs.ErrNotExist.
func ReadKEK(path string) (KEK, error) {
	text, err := secret.ReadFile(path)
	if err != nil {
		return KEK{}, fmt.Errorf("key-encryption key: %w", err)
	}
	key, err := parseKEK(text)
	if err != nil {
		return KEK{}, fmt.Errorf("key-encryption key: file %s: %w", path, err)
	}
	return newKEK(key)
}

func parseKEK(text secret.Text) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(text.Reveal())
	if err != nil || len(key) != secretSize {
		return nil, fmt.Errorf("%w: want %d bytes in base64: restore the file from its backup", fleet.ErrInvalid, secretSize)
	}
	return key, nil
}

// MakeKEK writes a new key-encryption key to a file that must not exist yet,
// complete and on disk or not at all. When another process made one meanwhile,
// theirs stays.
func MakeKEK(path string) error {
	key := make([]byte, secretSize)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("make key-encryption key: %w", err)
	}
	text := base64.StdEncoding.EncodeToString(key) + "\n"
	if err := writeOnce(path, []byte(text)); err != nil {
		return fmt.Errorf("make key-encryption key: %w", err)
	}
	return nil
}

func writeOnce(path string, b []byte) error {
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(folder, ".kek-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }()
	_, err = temp.Write(b)
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	// A link, unlike a rename, does not replace what is there.
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
