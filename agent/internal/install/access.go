package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
)

// Access says who may read what is installed. What is zero is kept from the
// files that are replaced, and is the agent's alone where there are none.
type Access struct {
	Mode    fs.FileMode // of files
	DirMode fs.FileMode // of folders
	Owner   string      // name or number
	Group   string      // name or number
}

// attributes are those of files and folders, with the accounts looked up.
type attributes struct{ file, dir durable.Attributes }

func (a Access) resolve() (attributes, error) {
	uid, err := number(a.Owner, "user", func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	if err != nil {
		return attributes{}, err
	}
	gid, err := number(a.Group, "group", func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	if err != nil {
		return attributes{}, err
	}
	return attributes{
		file: durable.Attributes{Mode: a.Mode, UID: uid, GID: gid},
		dir:  durable.Attributes{Mode: a.DirMode, UID: uid, GID: gid},
	}, nil
}

// ForFile returns the attributes of a file, with the accounts looked up.
func (a Access) ForFile() (durable.Attributes, error) {
	found, err := a.resolve()
	return found.file, err
}

// number returns the number of an account that is given by name or number.
func number(name, kind string, lookup func(string) (string, error)) (int, error) {
	if name == "" {
		return durable.Keep, nil
	}
	if id, err := strconv.Atoi(name); err == nil {
		return id, nil
	}
	text, err := lookup(name)
	if err != nil {
		return 0, fmt.Errorf("%s %s is not known on this machine: %w", kind, name, err)
	}
	return strconv.Atoi(text)
}

// secretFile reports whether nobody but owner and group may read a file, whatever
// the mode of the one before.
func secretFile(name string) bool { return name == fileKey || name == fileToken }

// ofFile returns the attributes of a new file: those that are wanted, else those
// of the file that it replaces.
func (f Folder) ofFile(want durable.Attributes, name string) (durable.Attributes, error) {
	have := durable.Private
	info, err := os.Stat(f.at(name)) // through the link
	switch {
	case err == nil && info.Mode().IsRegular():
		have = durable.AttributesOf(info)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return have, err
	}
	out := want.Over(have)
	if secretFile(name) {
		out.Mode &^= 0o007
	}
	return out, nil
}

// ofFolder is like ofFile for the folder of a generation.
func (f Folder) ofFolder(want durable.Attributes) durable.Attributes {
	info, err := os.Stat(f.at(dataLink))
	if err != nil {
		return want.Over(durable.PrivateDir)
	}
	return want.Over(durable.AttributesOf(info))
}

// Mend sees to it that the names that readers use lead to the set, and that what
// is asked for about owners and modes holds. It costs a few look-ups when all is
// well.
func (f Folder) Mend() error {
	if err := f.Link(); err != nil {
		return err
	}
	if f.Access == (Access{}) {
		return nil
	}
	want, err := f.Access.resolve()
	if err != nil {
		return fmt.Errorf("mend %s: %w", f.Path, err)
	}
	if err := errors.Join(f.mendFolders(want), f.mend(f.at(dataLink), want.dir)); err != nil {
		return fmt.Errorf("mend %s: %w", f.Path, err)
	}
	for _, name := range fileNames {
		if err := f.mend(filepath.Join(f.at(dataLink), name), want.file); err != nil {
			return fmt.Errorf("mend %s: %w", f.Path, err)
		}
	}
	return nil
}

// mendFolders sees to it that whoever may read the files can reach them. The
// folders above, up to the agent's own, let others pass and show them nothing.
func (f Folder) mendFolders(want attributes) error {
	if err := f.mend(f.Path, want.dir); err != nil {
		return err
	}
	if f.Access == (Access{}) || f.Within == "" {
		return nil
	}
	for dir := filepath.Dir(f.Path); inside(dir, f.Within); dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); mode&0o011 != 0o011 {
			if err := f.Ops.Change(dir, durable.Attributes{Mode: mode | 0o011, UID: durable.Keep, GID: durable.Keep}); err != nil {
				return err
			}
		}
	}
	return nil
}

// inside reports whether a folder is another one, or lies in it.
func inside(dir, within string) bool {
	relative, err := filepath.Rel(within, dir)
	return err == nil && filepath.IsLocal(relative)
}

func (f Folder) mend(path string, want durable.Attributes) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if have := durable.AttributesOf(info); want.Over(have) == have {
		return nil
	}
	return f.Ops.Change(path, want)
}
