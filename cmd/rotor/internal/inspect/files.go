package inspect

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// maxFile bounds what is read of one file: bundles of all public authorities
// stay far below it.
const maxFile = 8 << 20

// path looks at a file or folder. It reports whether there is one.
func (r *run) path(name string) (known bool, err error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return true, err
	case info.IsDir():
		return true, r.folder(name)
	case !info.Mode().IsRegular():
		return true, fmt.Errorf("%w: not a regular file", fleet.ErrInvalid)
	}
	return true, r.file(name, true)
}

// folder looks at every file below a folder. Hidden folders are left out: those
// of volumes (..data) hold what the visible links lead to.
func (r *run) folder(root string) error {
	return filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			r.fail(name, err)
			return nil
		}
		if entry.IsDir() {
			if name != root && strings.HasPrefix(entry.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		info, err := os.Stat(name) // a link counts as what it leads to
		if err != nil || !info.Mode().IsRegular() {
			return nil //nolint:nilerr // a link that leads nowhere holds nothing that could end
		}
		if err := r.file(name, false); err != nil {
			r.fail(name, err)
		}
		return nil
	})
}

// file looks at one file. One that was named by its user must hold something;
// of others only a failure to read is one.
func (r *run) file(name string, named bool) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return err
	}
	if len(content) > maxFile {
		if named {
			return fmt.Errorf("%w: larger than %d MiB", fleet.ErrInvalid, maxFile>>20)
		}
		return nil
	}
	at := place{source: name}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".p12", ".pfx":
		return r.pkcs12(at, content)
	case ".yaml", ".yml", ".json", ".conf", "":
		if r.document(at, content, filepath.Dir(name)) {
			return nil
		}
	}
	if !r.text(at, content) && !r.der(at, content) && named {
		r.document(at, content, filepath.Dir(name))
	}
	return nil
}

// pkcs12 looks at a key store (RFC 7292).
func (r *run) pkcs12(at place, content []byte) error {
	_, leaf, chain, err := pkcs12.DecodeChain(content, r.Password.Reveal())
	if err != nil {
		trusted, trustErr := pkcs12.DecodeTrustStore(content, r.Password.Reveal())
		if trustErr != nil {
			if errors.Is(err, pkcs12.ErrIncorrectPassword) {
				return errors.New("the password is wrong: name the file that holds it with --password-file")
			}
			return fmt.Errorf("PKCS #12: %w", err)
		}
		chain = trusted
	}
	if leaf != nil {
		r.found(certificate(at.sub("leaf"), leaf, ""))
	}
	for i, c := range chain {
		r.found(certificate(at.sub(fmt.Sprintf("chain %d of %d", i+1, len(chain))), c, ""))
	}
	return nil
}
