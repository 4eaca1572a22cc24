package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Ops are the operations that change the disk. Tests stop the world at each.
type Ops interface {
	// Mkdir makes a folder, and those above it that are missing.
	Mkdir(path string, a Attributes) error
	// Create writes a new file and waits until it is on the disk. It fails if
	// something has that name. Nobody but the owner of the process can open the
	// file before it has its attributes.
	Create(path string, data []byte, a Attributes) error
	// Change gives a file or folder other attributes.
	Change(path string, a Attributes) error
	// SyncDir waits until the names in a folder are on the disk.
	SyncDir(path string) error
	// Rename moves a file, folder or link over what has the name, if anything.
	Rename(from, to string) error
	// Symlink makes a link.
	Symlink(target, path string) error
	// RemoveAll takes away what has the name, if anything.
	RemoveAll(path string) error
}

// Attributes say who may read a file. An owner or group of Keep stays as the
// system makes it.
type Attributes struct {
	Mode     fs.FileMode
	UID, GID int
}

// Keep leaves the owner or the group alone.
const Keep = -1

// Private are the attributes of what belongs to the agent alone.
var (
	Private    = Attributes{Mode: Mode, UID: Keep, GID: Keep}
	PrivateDir = Attributes{Mode: DirMode, UID: Keep, GID: Keep}
)

// AttributesOf returns the attributes of what exists.
func AttributesOf(info fs.FileInfo) Attributes {
	a := Attributes{Mode: info.Mode().Perm(), UID: Keep, GID: Keep}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		a.UID, a.GID = int(sys.Uid), int(sys.Gid)
	}
	return a
}

// Over returns a with what it leaves to the system taken from base.
func (a Attributes) Over(base Attributes) Attributes {
	if a.Mode == 0 {
		a.Mode = base.Mode
	}
	if a.UID == Keep {
		a.UID = base.UID
	}
	if a.GID == Keep {
		a.GID = base.GID
	}
	return a
}

// Disk is the real disk.
type Disk struct{}

// Mkdir implements Ops.
func (d Disk) Mkdir(path string, a Attributes) error {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return nil
	}
	if err == nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if parent := filepath.Dir(path); parent != path {
		if err := d.Mkdir(parent, a); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, DirMode); err != nil {
		return err
	}
	return d.Change(path, a)
}

// Create implements Ops.
func (Disk) Create(path string, data []byte, a Attributes) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, Mode)
	if err != nil {
		return err
	}
	err = change(file, a)
	if err == nil {
		_, err = file.Write(data)
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// Change implements Ops.
func (Disk) Change(path string, a Attributes) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(change(file, a), file.Close())
}

// change leaves alone what is right already: only root may give a file away,
// and it need not be asked to when the file has that owner.
func change(file *os.File, a Attributes) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	have := AttributesOf(info)
	if a = a.Over(have); a == have {
		return nil
	}
	// The owner first: a change of it may take mode bits away.
	if a.UID != have.UID || a.GID != have.GID {
		if err := file.Chown(a.UID, a.GID); err != nil {
			return ownerError(file.Name(), a, err)
		}
	}
	return file.Chmod(a.Mode)
}

// ownerError says what would help.
func ownerError(path string, a Attributes, err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("give %s to user %d and group %d: %w: the agent runs as user %d, and only root may do that: run it as root, or let it keep its own user and a group that it is in",
		filepath.Base(path), a.UID, a.GID, syscall.EPERM, os.Geteuid())
}

// SyncDir implements Ops.
func (Disk) SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Rename implements Ops.
func (Disk) Rename(from, to string) error { return os.Rename(from, to) }

// Symlink implements Ops.
func (Disk) Symlink(target, path string) error { return os.Symlink(target, path) }

// RemoveAll implements Ops.
func (Disk) RemoveAll(path string) error { return os.RemoveAll(path) }
