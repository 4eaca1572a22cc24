package install

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"
)

// TestBackAtEveryStep goes back from a second set, with the power going at each
// operation in turn: readers see one of the two, and repeating it ends with the
// first, which is then the only one.
func TestBackAtEveryStep(t *testing.T) {
	first, second := newSet(t, 1), newSet(t, 2)
	for at := 1; ; at++ {
		dir := filepath.Join(t.TempDir(), "kms")
		if err := errors.Join(New(dir).Install(first), New(dir).Install(second)); err != nil {
			t.Fatal(err)
		}
		ops := &stopping{at: at}
		err := Folder{Path: dir, Ops: ops}.Back(2)
		if err == nil {
			if at < 4 {
				t.Errorf("only %d steps were walked", at)
			}
			return
		}
		where := fmt.Sprintf("step %d (%s)", at, ops.names[at-1])
		if s, err := New(dir).Read(); err != nil || !matching(s) {
			t.Fatalf("%s: generation %d: %v", where, s.Metadata.Generation, err)
		}
		for range 2 { // the second has no effect
			if err := New(dir).Back(2); err != nil {
				t.Fatalf("%s, again: %v", where, err)
			}
		}
		if s, err := New(dir).Read(); err != nil || !matching(s) || s.Metadata.Generation != 1 {
			t.Fatalf("%s, again: generation %d: %v", where, s.Metadata.Generation, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "..g2*")); len(left) > 0 {
			t.Errorf("%s: what was given up is still there: %v", where, left)
		}
	}
}

func TestBackNeedsASetOfBefore(t *testing.T) {
	f := New(filepath.Join(t.TempDir(), "kms"))
	if err := errors.Join(f.Install(newSet(t, 1)), f.Install(newSet(t, 2))); err != nil {
		t.Fatal(err)
	}
	if s, err := f.Previous(); err != nil || s.Metadata.Generation != 1 {
		t.Errorf("generation %d, %v; want 1", s.Metadata.Generation, err)
	}
	if err := f.Prune(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Previous(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("previous: %v", err)
	}
	if err := f.Back(2); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("back: %v", err)
	}
	if s, err := f.Read(); err != nil || s.Metadata.Generation != 2 {
		t.Errorf("generation %d, %v; want 2", s.Metadata.Generation, err)
	}
}
