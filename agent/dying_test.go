package agent

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
)

var errDead = errors.New("the process is dead")

// dying is a disk whose user dies at one operation, counted from 1: before it,
// or in the middle of it. From then on nothing has an effect.
type dying struct {
	durable.Disk
	at   int
	half bool
	kill func() // what else ends

	mu sync.Mutex
	n  int
	in string // the operation at which it died
}

// step counts an operation. It returns last where the process dies in it.
func (d *dying) step(name string) (last bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n++
	if d.at == 0 || d.n < d.at {
		return false, nil
	}
	if d.n > d.at {
		return false, errDead
	}
	d.in = name
	if d.half {
		return true, nil
	}
	d.kill()
	return false, errDead
}

// do runs an operation that is there or is not.
func (d *dying) do(name string, f func() error) error {
	last, err := d.step(name)
	if err != nil {
		return err
	}
	if last {
		d.kill()
		return errDead
	}
	return f()
}

func (d *dying) Mkdir(path string, a durable.Attributes) error {
	return d.do("mkdir "+filepath.Base(path), func() error { return d.Disk.Mkdir(path, a) })
}

func (d *dying) Change(path string, a durable.Attributes) error {
	return d.do("change "+filepath.Base(path), func() error { return d.Disk.Change(path, a) })
}

func (d *dying) SyncDir(path string) error {
	return d.do("sync "+filepath.Base(path), func() error { return d.Disk.SyncDir(path) })
}

func (d *dying) Rename(from, to string) error {
	return d.do("rename "+filepath.Base(to), func() error { return d.Disk.Rename(from, to) })
}

func (d *dying) Symlink(target, path string) error {
	return d.do("symlink "+filepath.Base(path), func() error { return d.Disk.Symlink(target, path) })
}

// Create leaves half of a file, if it dies in the middle.
func (d *dying) Create(path string, data []byte, a durable.Attributes) error {
	last, err := d.step("create " + filepath.Base(path))
	if err != nil {
		return err
	}
	if last {
		_ = os.WriteFile(path, data[:len(data)/2], 0o600)
		d.kill()
		return errDead
	}
	return d.Disk.Create(path, data, a)
}

// RemoveAll leaves a part of a folder, if it dies in the middle.
func (d *dying) RemoveAll(path string) error {
	last, err := d.step("remove " + filepath.Base(path))
	if err != nil {
		return err
	}
	if last {
		if inside, _ := os.ReadDir(path); len(inside) > 0 {
			_ = os.RemoveAll(filepath.Join(path, inside[0].Name()))
		}
		d.kill()
		return errDead
	}
	return d.Disk.RemoveAll(path)
}
