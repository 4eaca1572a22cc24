package install

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
)

// someone is a user and a group that this process may give files to.
func someone() (uid, gid int) {
	if os.Getuid() == 0 { // only root may give files away
		return 12345, 23456
	}
	return os.Getuid(), os.Getgid()
}

// wantAttributes checks the files that readers see.
func wantAttributes(t *testing.T, f Folder, want map[string]durable.Attributes) {
	t.Helper()
	for name, want := range want {
		info, err := os.Stat(f.at(name))
		if err != nil || durable.AttributesOf(info) != want {
			t.Errorf("%s: %+v, %v; want %+v", name, durable.AttributesOf(info), err, want)
		}
	}
}

func TestConfiguredOwnerAndModes(t *testing.T) {
	uid, gid := someone()
	f := New(filepath.Join(t.TempDir(), "kms"))
	f.Access = Access{Mode: 0o640, DirMode: 0o750, Owner: strconv.Itoa(uid), Group: strconv.Itoa(gid)}
	file, dir := durable.Attributes{Mode: 0o640, UID: uid, GID: gid}, durable.Attributes{Mode: 0o750, UID: uid, GID: gid}
	want := map[string]durable.Attributes{".": dir, dataLink: dir, fileKey: file, fileToken: file, fileCertificate: file, fileMetadata: file}
	if err := f.Install(newSet(t, 1)); err != nil {
		t.Fatal(err)
	}
	wantAttributes(t, f, want)
	// A set that was installed before the configuration said so is put right.
	f.Access.Mode, f.Access.DirMode = 0o600, 0o700
	if err := f.Mend(); err != nil {
		t.Fatal(err)
	}
	file.Mode, dir.Mode = 0o600, 0o700
	wantAttributes(t, f, map[string]durable.Attributes{".": dir, dataLink: dir, fileKey: file, fileCA: file})
}

// Whoever may read the files can reach them, and sees nothing else on the way.
func TestFoldersAboveLetPass(t *testing.T) {
	root := filepath.Join(t.TempDir(), "rotor")
	above := filepath.Join(root, "node-agent")
	f := New(filepath.Join(above, "host-1"))
	f.Within = root
	mode := func(path string) os.FileMode {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	if err := f.Install(newSet(t, 1)); err != nil {
		t.Fatal(err)
	}
	if mode(root) != 0o700 || mode(above) != 0o700 {
		t.Errorf("without being asked: %v, %v", mode(root), mode(above))
	}
	f.Access = Access{Mode: 0o640, DirMode: 0o750}
	if err := f.Mend(); err != nil {
		t.Fatal(err)
	}
	if mode(root) != 0o711 || mode(above) != 0o711 || mode(f.Path) != 0o750 {
		t.Errorf("%v, %v, %v", mode(root), mode(above), mode(f.Path))
	}
}

// What an administrator has changed by hand stays over a renewal, so that the
// client can read the next set as well; but never for everyone.
func TestOwnerAndModeAreKeptOnReplace(t *testing.T) {
	uid, gid := someone()
	f := New(filepath.Join(t.TempDir(), "kms"))
	if err := f.Install(newSet(t, 1)); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{fileKey: 0o644, fileToken: 0o440, fileCA: 0o644, "..data": 0o750} {
		path, _ := filepath.EvalSymlinks(f.at(name))
		if err := errors.Join(os.Chown(path, uid, gid), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Install(newSet(t, 2)), f.Prune()); err != nil {
		t.Fatal(err)
	}
	wantAttributes(t, f, map[string]durable.Attributes{
		fileKey: {Mode: 0o640, UID: uid, GID: gid}, fileToken: {Mode: 0o440, UID: uid, GID: gid}, fileCA: {Mode: 0o644, UID: uid, GID: gid},
		dataLink: {Mode: 0o750, UID: uid, GID: gid}, fileCertificate: {Mode: 0o600, UID: os.Getuid(), GID: os.Getgid()},
	})
}

// H12: the token file was world-readable, and readable between write and chmod.
func TestH12_NoSecretIsEverOpenToAll(t *testing.T) {
	f := New(filepath.Join(t.TempDir(), "kms"))
	watch := &watching{}
	f.Ops = watch
	for number := 1; number <= 2; number++ {
		if err := f.Install(newSet(t, number)); err != nil {
			t.Fatal(err)
		}
	}
	if len(watch.modes) != 2*len(fileNames) {
		t.Fatalf("%d files were seen", len(watch.modes))
	}
	for _, mode := range watch.modes {
		if mode&0o077 != 0 {
			t.Errorf("a file was made with mode %v", mode)
		}
	}
}

// watching notes the mode of each file at the moment at which it is there.
type watching struct {
	durable.Disk
	modes []os.FileMode
}

func (w *watching) Create(path string, data []byte, a durable.Attributes) error {
	err := w.Disk.Create(path, data, a)
	if info, statErr := os.Stat(path); statErr == nil {
		w.modes = append(w.modes, info.Mode().Perm())
	}
	return err
}

func TestUnknownOwnerIsSaidAndChangesNothing(t *testing.T) {
	f := New(filepath.Join(t.TempDir(), "kms"))
	if err := f.Install(newSet(t, 1)); err != nil {
		t.Fatal(err)
	}
	f.Access.Owner = "no-such-user-here"
	if err := f.Install(newSet(t, 2)); err == nil || !strings.Contains(err.Error(), "user no-such-user-here is not known on this machine") {
		t.Errorf("%v", err)
	}
	if s, err := f.Read(); err != nil || s.Metadata.Generation != 1 {
		t.Errorf("generation %d, %v", s.Metadata.Generation, err)
	}
}

// full is a disk without room for the nth file.
type full struct {
	durable.Disk
	after int
}

func (d *full) Create(path string, data []byte, a durable.Attributes) error {
	if d.after--; d.after < 0 {
		_ = os.WriteFile(path, data[:len(data)/2], 0o600) // what there was room for
		return &os.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
	}
	return d.Disk.Create(path, data, a)
}

// H5: access file rewritten in place; key and certificate could be lost together.
func TestH5_FullDiskLeavesTheOldSetAndNoRubbish(t *testing.T) {
	for room := range len(fileNames) {
		f := New(filepath.Join(t.TempDir(), "kms"))
		if err := f.Install(newSet(t, 1)); err != nil {
			t.Fatal(err)
		}
		f.Ops = &full{after: room}
		if err := f.Install(newSet(t, 2)); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("room for %d files: %v", room, err)
		}
		if s, err := f.Read(); err != nil || !matching(s) || s.Metadata.Generation != 1 {
			t.Errorf("room for %d files: generation %d, %v", room, s.Metadata.Generation, err)
		}
		if left, _ := filepath.Glob(f.at("..*")); len(left) != 2 {
			t.Errorf("room for %d files: %v is there", room, left)
		}
		f.Ops = durable.Disk{}
		if err := f.Install(newSet(t, 2)); err != nil {
			t.Errorf("with room again: %v", err)
		}
	}
}

// A bundle that is replaced in steps can leave clients with an empty trust
// store; a set without one is refused before anything is touched.
func TestEmptyTrustStoreIsNeverInstalled(t *testing.T) {
	f := New(filepath.Join(t.TempDir(), "kms"))
	if err := f.Install(newSet(t, 1)); err != nil {
		t.Fatal(err)
	}
	empty := newSet(t, 2)
	empty.CA = nil
	if err := f.Install(empty); !errors.Is(err, ErrDamaged) {
		t.Errorf("%v", err)
	}
	if s, err := f.Read(); err != nil || s.Metadata.Generation != 1 || len(s.CA) == 0 {
		t.Errorf("generation %d, %v", s.Metadata.Generation, err)
	}
}
