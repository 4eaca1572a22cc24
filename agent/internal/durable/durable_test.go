package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	// Left over by a crash, and in the way of O_EXCL.
	if err := os.WriteFile(filepath.Join(dir, Temporary+"f"), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		if err := Replace(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err != nil || statErr != nil || string(b) != text || info.Mode().Perm() != Mode {
			t.Errorf("%q %v %v %v", b, info, err, statErr)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left over: %v", entries)
	}
	if err := Replace(filepath.Join(dir, "none", "f"), nil); err == nil {
		t.Error("wrote into a folder that is not there")
	}
}

func TestCreateNeverReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := (Disk{}).Create(path, []byte("one"), Private); err != nil {
		t.Fatal(err)
	}
	if err := (Disk{}).Create(path, []byte("two"), Private); !os.IsExist(err) {
		t.Errorf("created over another: %v", err)
	}
	for range 2 { // the second finds nothing
		if err := Remove(Disk{}, path); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
}

func TestAttributes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	path := filepath.Join(dir, "f")
	wanted := Attributes{Mode: 0o640, UID: os.Getuid(), GID: os.Getgid()}
	if os.Getuid() == 0 { // only root may give files away
		wanted.UID, wanted.GID = 12345, 23456
	}
	folder := Attributes{Mode: 0o750, UID: wanted.UID, GID: wanted.GID}
	if err := errors.Join((Disk{}).Mkdir(dir, folder), (Disk{}).Create(path, nil, wanted)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]Attributes{path: wanted, dir: folder, filepath.Dir(dir): folder} {
		if info, err := os.Stat(path); err != nil || AttributesOf(info) != want {
			t.Errorf("%s: %+v, %v; want %+v", path, AttributesOf(info), err, want)
		}
	}
	if err := (Disk{}).Change(path, Attributes{Mode: 0o600, UID: Keep, GID: Keep}); err != nil {
		t.Fatal(err)
	}
	wanted.Mode = 0o600
	if info, err := os.Stat(path); err != nil || AttributesOf(info) != wanted {
		t.Errorf("%+v, %v", AttributesOf(info), err)
	}
	if err := (Disk{}).Mkdir(path, folder); err == nil {
		t.Error("a file passed for a folder")
	}
}

func TestOwnerErrorSaysWhatWouldHelp(t *testing.T) {
	err := ownerError("/x/token", Attributes{UID: 7, GID: 8}, &fs.PathError{Op: "chown", Path: "/x/token", Err: syscall.EPERM})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "give token to user 7 and group 8") || !strings.Contains(err.Error(), "only root may do that") {
		t.Errorf("%v", err)
	}
}
