package install

import (
	"fmt"
	"io/fs"
	"os"
)

// Previous returns the set that Back returns to: the newest whole one before
// that which readers see. The error is fs.ErrNotExist if there is none.
func (f Folder) Previous() (Set, error) {
	_, s, err := f.previous()
	if err != nil {
		return Set{}, fmt.Errorf("read the set of before in %s: %w", f.Path, err)
	}
	return s, nil
}

func (f Folder) previous() (namedSet, Set, error) {
	current, err := f.read(dataLink)
	if err != nil {
		return namedSet{}, Set{}, err
	}
	entries, err := os.ReadDir(f.Path)
	if err != nil {
		return namedSet{}, Set{}, err
	}
	before, s := f.newest(entries, current.Metadata.Generation)
	if before.number == 0 {
		return namedSet{}, Set{}, fs.ErrNotExist
	}
	return before, s, nil
}

// Back makes readers see the set of before instead of a generation. It has no
// effect when they see another one, so it may be repeated; when there is no set
// of before nothing changes, and the error is fs.ErrNotExist.
func (f Folder) Back(generation int) error {
	if err := f.back(generation); err != nil {
		return fmt.Errorf("go back from generation %d in %s: %w", generation, f.Path, err)
	}
	return nil
}

func (f Folder) back(generation int) error {
	current, err := f.read(dataLink)
	if err != nil {
		return err
	}
	if current.Metadata.Generation == generation {
		before, _, err := f.previous()
		if err != nil {
			return err
		}
		if err := f.link(before.name, dataLink); err != nil {
			return err
		}
		if err := f.Ops.SyncDir(f.Path); err != nil {
			return err
		}
	}
	// What was given up must not pass for a way back, nor stay behind when its
	// removal fails once.
	if err := f.removeLeft(); err != nil {
		return err
	}
	return f.Link()
}
