// Package install puts the credentials of one client where the client reads
// them, so that a reader never sees a certificate of one generation beside a
// key or token of another, whenever the power goes.
//
// The layout is that of Kubernetes' atomic writer. The folder itself stays the
// same inode, so that a bind mount of it survives:
//
//	<folder>/..g2/{tls.crt,tls.key,ca.crt,token,metadata.json}
//	<folder>/..data  -> ..g2            swapped by one rename(2)
//	<folder>/tls.crt -> ..data/tls.crt  and so on; never changed again
//
// Who opens ..data once, and the files below it, sees one set.
package install

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
)

// The names in the folder.
const (
	dataLink   = "..data"
	generation = "..g"    // prefix of complete sets
	building   = "..tmp-" // prefix of what is being made
)

// Folder is the folder of one client. It has one writer.
type Folder struct {
	Path   string
	Ops    durable.Ops
	Access Access
	Within string // folder of the agent: what lies between lets pass whoever may read the files
}

// New returns the folder at path.
func New(path string) Folder { return Folder{Path: path, Ops: durable.Disk{}} }

func (f Folder) at(name string) string { return filepath.Join(f.Path, name) }

// Install makes s the set that readers see. When it fails, or the machine
// stops, they see the set of before or this one. It may be repeated.
func (f Folder) Install(s Set) error {
	if err := f.Stage(s); err != nil {
		return err
	}
	return f.Show(s)
}

// Stage is the first half of Install, which takes most of its time: it puts the
// set beside the one that readers see.
func (f Folder) Stage(s Set) error {
	err := s.check()
	if err == nil {
		if err = f.build(s, temporary(s)); err != nil {
			// A part of a set is of no use, and takes room where there may be none. If
			// this fails too, the next attempt begins with it.
			_ = f.Ops.RemoveAll(f.at(temporary(s)))
		}
	}
	return f.wrap(s, err)
}

// Show is the second half: readers see what was staged.
func (f Folder) Show(s Set) error { return f.wrap(s, f.show(s)) }

// Unstage takes away what was staged and is not to be shown now.
func (f Folder) Unstage(s Set) error { return f.wrap(s, f.Ops.RemoveAll(f.at(temporary(s)))) }

func (f Folder) wrap(s Set, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("install generation %d in %s: %w", s.Metadata.Generation, f.Path, err)
}

func temporary(s Set) string { return building + strconv.Itoa(s.Metadata.Generation) }

func (f Folder) show(s Set) error {
	// Only complete sets carry the name of a generation.
	name, err := f.freeName(s.Metadata.Generation)
	if err != nil {
		return err
	}
	if err := f.Ops.Rename(f.at(temporary(s)), f.at(name)); err != nil {
		return err
	}
	if err := f.Ops.SyncDir(f.Path); err != nil {
		return err
	}
	if err := f.link(name, dataLink); err != nil {
		return err
	}
	if err := f.Ops.SyncDir(f.Path); err != nil {
		return err
	}
	return f.Link()
}

// build makes a complete set in a folder of its own. No reader can open a file
// of it before it has its owner and mode.
func (f Folder) build(s Set, temporary string) error {
	files, err := s.Files()
	if err != nil {
		return err
	}
	want, err := f.Access.resolve()
	if err != nil {
		return err
	}
	if err := f.Ops.Mkdir(f.Path, want.dir.Over(durable.PrivateDir)); err != nil {
		return err
	}
	if err := f.mendFolders(want); err != nil {
		return err
	}
	if err := f.Ops.RemoveAll(f.at(temporary)); err != nil {
		return err
	}
	if err := f.Ops.Mkdir(f.at(temporary), f.ofFolder(want.dir)); err != nil {
		return err
	}
	for _, name := range fileNames {
		attributes, err := f.ofFile(want.file, name)
		if err != nil {
			return err
		}
		if err := f.Ops.Create(filepath.Join(f.at(temporary), name), files[name], attributes); err != nil {
			return err
		}
	}
	return f.Ops.SyncDir(f.at(temporary))
}

// freeName returns the name for a complete set of a generation. The plain name
// may be taken: by a damaged set, or by the same one with an older ca.crt.
func (f Folder) freeName(number int) (string, error) {
	plain := generation + strconv.Itoa(number)
	for name, i := plain, 1; ; i++ {
		_, err := os.Lstat(f.at(name))
		if errors.Is(err, os.ErrNotExist) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
		name = plain + "." + strconv.Itoa(i)
	}
}

// link makes name a symbolic link to target by one rename, whatever file or
// link has the name now.
func (f Folder) link(target, name string) error {
	temporary := f.at(building + name)
	if err := f.Ops.RemoveAll(temporary); err != nil {
		return err
	}
	if err := f.Ops.Symlink(target, temporary); err != nil {
		return err
	}
	return f.Ops.Rename(temporary, f.at(name))
}

// Link sees to it that the five names that readers use lead to the set. It
// costs five look-ups when all is well.
func (f Folder) Link() error {
	changed := false
	for _, name := range fileNames {
		target := filepath.Join(dataLink, name)
		if have, err := os.Readlink(f.at(name)); err == nil && have == target {
			continue
		}
		if err := f.link(target, name); err != nil {
			return fmt.Errorf("link %s: %w", f.at(name), err)
		}
		changed = true
	}
	if !changed {
		return nil
	}
	return f.Ops.SyncDir(f.Path)
}

// Clean takes away what a crash has left behind. If the set that readers see is
// not whole but another complete one is there, readers see that one afterwards.
func (f Folder) Clean() error {
	if err := f.clean(); err != nil {
		return fmt.Errorf("clean %s: %w", f.Path, err)
	}
	return nil
}

func (f Folder) clean() error {
	entries, err := os.ReadDir(f.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	current := f.repair(entries)
	if err := f.remove(entries, current); err != nil || current.number == 0 {
		return err
	}
	return f.Link()
}

// removeLeft takes away what is newer than the set that readers see, and what
// was not finished.
func (f Folder) removeLeft() error {
	entries, err := os.ReadDir(f.Path)
	if err != nil {
		return err
	}
	s, err := f.read(dataLink)
	if err != nil {
		return err
	}
	target, err := os.Readlink(f.at(dataLink))
	if err != nil {
		return err
	}
	return f.remove(entries, namedSet{target, s.Metadata.Generation})
}

func (f Folder) remove(entries []os.DirEntry, current namedSet) error {
	for _, e := range entries {
		number, isSet := numberOf(e.Name())
		left := strings.HasPrefix(e.Name(), building) || isSet && e.Name() != current.name && number >= current.number
		if !left {
			continue
		}
		if err := f.Ops.RemoveAll(f.at(e.Name())); err != nil {
			return err
		}
	}
	return nil
}

type namedSet struct {
	name   string
	number int
}

// repair returns the set that readers see, after turning ..data to the newest
// whole one if it leads nowhere.
func (f Folder) repair(entries []os.DirEntry) namedSet {
	if s, err := f.read(dataLink); err == nil {
		target, _ := os.Readlink(f.at(dataLink))
		return namedSet{target, s.Metadata.Generation}
	}
	best, _ := f.newest(entries, math.MaxInt)
	if best.number == 0 || f.link(best.name, dataLink) != nil {
		return namedSet{}
	}
	return best
}

// newest returns the newest whole set below a generation, the zero value if
// there is none.
func (f Folder) newest(entries []os.DirEntry, below int) (namedSet, Set) {
	best, found := namedSet{}, Set{}
	for _, e := range entries {
		number, isSet := numberOf(e.Name())
		if !isSet || number <= best.number || number >= below {
			continue
		}
		if s, err := f.read(e.Name()); err == nil {
			best, found = namedSet{e.Name(), number}, s
		}
	}
	return best, found
}

// Prune takes away every set but the one that readers see. Call it when that
// one is proven: until then the one before is the way back.
func (f Folder) Prune() error {
	current, err := os.Readlink(f.at(dataLink))
	if err != nil {
		return fmt.Errorf("prune %s: %w", f.Path, err)
	}
	entries, err := os.ReadDir(f.Path)
	if err != nil {
		return fmt.Errorf("prune %s: %w", f.Path, err)
	}
	for _, e := range entries {
		_, isSet := numberOf(e.Name())
		if !isSet && !strings.HasPrefix(e.Name(), building) || e.Name() == current {
			continue
		}
		if err := f.Ops.RemoveAll(f.at(e.Name())); err != nil {
			return fmt.Errorf("prune %s: %w", f.Path, err)
		}
	}
	return nil
}

// numberOf returns the generation of a complete set by its name.
func numberOf(name string) (number int, isSet bool) {
	rest, isSet := strings.CutPrefix(name, generation)
	if !isSet {
		return 0, false
	}
	rest, _, _ = strings.Cut(rest, ".")
	number, err := strconv.Atoi(rest)
	return number, err == nil && number > 0
}
