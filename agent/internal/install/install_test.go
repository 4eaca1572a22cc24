package install

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// newSet returns a set whose token names its generation, so that a mixture
// shows.
func newSet(t testing.TB, number int) Set {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(int64(1000 + number)), NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return Set{
		Certificate: certificate, CA: certificate, Token: secret.New(fmt.Sprintf("token-%d", number)),
		Key: secret.New(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))),
		Metadata: Metadata{
			Cluster: "edge-01", Client: fleet.ClientKey{Kind: "kms"}, Generation: number, Serial: template.SerialNumber.Text(16), Fleet: "sha256:00", Bundle: 1,
		},
	}
}

// matching reports whether the parts of a set are of one generation.
func matching(s Set) bool {
	return s.check() == nil && s.Token.Reveal() == fmt.Sprintf("token-%d", s.Metadata.Generation)
}

var errStop = errors.New("the power is gone")

// stopping is a disk that stops at an operation: before it, or halfway.
type stopping struct {
	durable.Disk
	at, n int
	half  bool
	names []string
}

func (s *stopping) step(name string) error {
	s.n++
	s.names = append(s.names, name)
	if s.n >= s.at && s.at > 0 { // whatever is tried now has no effect
		return errStop
	}
	return nil
}

func (s *stopping) Mkdir(path string, a durable.Attributes) error {
	if err := s.step("mkdir"); err != nil {
		return err
	}
	return s.Disk.Mkdir(path, a)
}

func (s *stopping) Change(path string, a durable.Attributes) error {
	if err := s.step("change"); err != nil {
		return err
	}
	return s.Disk.Change(path, a)
}

func (s *stopping) Create(path string, data []byte, a durable.Attributes) error {
	if err := s.step("create " + filepath.Base(path)); err != nil {
		if s.half && s.n == s.at {
			_ = os.WriteFile(path, data[:len(data)/2], 0o600)
		}
		return err
	}
	return s.Disk.Create(path, data, a)
}

func (s *stopping) SyncDir(path string) error {
	if err := s.step("sync"); err != nil {
		return err
	}
	return s.Disk.SyncDir(path)
}

func (s *stopping) Rename(from, to string) error {
	if err := s.step("rename " + filepath.Base(to)); err != nil {
		return err
	}
	return s.Disk.Rename(from, to)
}

func (s *stopping) Symlink(target, path string) error {
	if err := s.step("symlink " + filepath.Base(path)); err != nil {
		return err
	}
	return s.Disk.Symlink(target, path)
}

func (s *stopping) RemoveAll(path string) error {
	if err := s.step("remove"); err != nil {
		if s.half && s.n == s.at { // a part of the folder is gone
			_ = os.Remove(filepath.Join(path, fileKey))
		}
		return err
	}
	return s.Disk.RemoveAll(path)
}

// TestCrashAtEveryStep installs a first and a second set, and prunes, with the
// power going at each operation in turn. Whatever happens readers see one whole
// set, never an older one than before, and the next attempt succeeds.
func TestCrashAtEveryStep(t *testing.T) {
	first, second := newSet(t, 1), newSet(t, 2)
	for _, half := range []bool{false, true} {
		steps := 0
		for at := 1; ; at++ {
			dir := filepath.Join(t.TempDir(), "kms")
			ops := &stopping{at: at, half: half}
			before, done := 0, 0
			err := func() error {
				f := Folder{Path: dir, Ops: ops}
				for _, s := range []Set{first, second} {
					if err := f.Install(s); err != nil {
						return err
					}
					before, done = s.Metadata.Generation, s.Metadata.Generation
				}
				return f.Prune()
			}()
			if err == nil {
				steps = at
				break
			}
			if !errors.Is(err, errStop) {
				t.Fatalf("step %d %s: %v", at, ops.names[at-1], err)
			}
			where := fmt.Sprintf("step %d (%s), half %v", at, ops.names[at-1], half)
			check := func(when string) {
				s, err := New(dir).Read()
				if errors.Is(err, fs.ErrNotExist) && before == 0 {
					return
				}
				if err != nil || !matching(s) || s.Metadata.Generation < before {
					t.Fatalf("%s, %s: generation %d after %d: %v", where, when, s.Metadata.Generation, before, err)
				}
			}
			check("after the crash")
			if err := New(dir).Clean(); err != nil {
				t.Fatalf("%s: %v", where, err)
			}
			check("after the start")
			if entries, _ := filepath.Glob(filepath.Join(dir, "..tmp-*")); len(entries) > 0 {
				t.Errorf("%s: left over %v", where, entries)
			}
			for _, s := range []Set{first, second}[done:] {
				if err := New(dir).Install(s); err != nil {
					t.Fatalf("%s, again: %v", where, err)
				}
			}
			if err := New(dir).Prune(); err != nil {
				t.Fatalf("%s: prune: %v", where, err)
			}
			wantClean(t, dir, where)
		}
		if steps < 40 {
			t.Errorf("only %d steps were walked", steps)
		}
	}
}

// wantClean checks that generation 2 is there, through the names that readers
// use, and nothing else.
func wantClean(t *testing.T, dir, where string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(fileNames)+2 {
		t.Fatalf("%s: %d entries, %v", where, len(entries), entries)
	}
	for _, name := range fileNames {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %s: %v %v", where, name, info, err)
		}
	}
	token, _ := os.ReadFile(filepath.Join(dir, fileToken))
	if s, err := New(dir).Read(); err != nil || s.Metadata.Generation != 2 || string(token) != "token-2" {
		t.Errorf("%s: generation %d, token %q: %v", where, s.Metadata.Generation, token, err)
	}
}

func TestReadersAlwaysSeeOneSet(t *testing.T) {
	f := New(filepath.Join(t.TempDir(), "kms"))
	if err := f.Install(newSet(t, 1)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for last := 0; ; {
				select {
				case <-stop:
					return
				default:
				}
				s, err := f.Read()
				if errors.Is(err, ErrDamaged) && strings.Contains(err.Error(), "no such file") {
					continue // pruned between opening the folder and the file: the reader opens it again
				}
				if err != nil || !matching(s) || s.Metadata.Generation < last {
					t.Errorf("generation %d after %d: %v", s.Metadata.Generation, last, err)
					return
				}
				last = s.Metadata.Generation
			}
		})
	}
	for number := 2; number < 60; number++ {
		if err := errors.Join(f.Install(newSet(t, number)), f.Prune()); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	readers.Wait()
}

func TestFolderStaysTheSameAndOldFilesGiveWay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kms")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileToken), []byte("of a simpler time"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(dir)
	f := New(dir)
	if err := errors.Join(f.Install(newSet(t, 1)), f.Install(newSet(t, 2))); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(dir); !os.SameFile(before, after) {
		t.Error("the folder was replaced: a bind mount of it would be lost")
	}
	if _, err := os.Stat(filepath.Join(dir, "..g1")); err != nil {
		t.Error("the way back is gone before the new set is proven")
	}
	if err := f.Prune(); err != nil {
		t.Fatal(err)
	}
	wantClean(t, dir, "after two")
}

func TestCleanTurnsToAWholeSet(t *testing.T) {
	f := New(filepath.Join(t.TempDir(), "kms"))
	if err := errors.Join(f.Install(newSet(t, 1)), f.Install(newSet(t, 2))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f.at("..g2/token")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged set read: %v", err)
	}
	if err := f.Clean(); err != nil {
		t.Fatal(err)
	}
	if s, err := f.Read(); err != nil || s.Metadata.Generation != 1 {
		t.Errorf("generation %d, %v; want the whole set of before", s.Metadata.Generation, err)
	}
}

func TestInstallAgainWithAnotherBundle(t *testing.T) {
	f := New(filepath.Join(t.TempDir(), "kms"))
	s := newSet(t, 2)
	for version := 1; version <= 3; version++ {
		s.Metadata.Bundle = version
		if err := f.Install(s); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Read(); err != nil || got.Metadata.Bundle != version {
			t.Errorf("bundle %d, %v; want %d", got.Metadata.Bundle, err, version)
		}
	}
	if err := f.Prune(); err != nil {
		t.Fatal(err)
	}
	wantClean(t, f.Path, "after three")
}

func TestReadTellsAbsentFromDamaged(t *testing.T) {
	dir := t.TempDir()
	if _, err := New(filepath.Join(dir, "none")).Read(); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrDamaged) {
		t.Errorf("absent: %v", err)
	}
	if err := os.Symlink("..g9", filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if _, err := New(dir).Read(); errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrDamaged) {
		t.Errorf("dangling: %v", err)
	}
}

func TestSetDoesNotPrintItsSecrets(t *testing.T) {
	s := newSet(t, 1)
	var b bytes.Buffer
	_, _ = fmt.Fprintf(&b, "%v %+v %#v", s, s, s)
	if strings.Contains(b.String(), "token-1") || strings.Contains(b.String(), "PRIVATE") {
		t.Error("a secret is printed")
	}
}

func FuzzParseMetadata(f *testing.F) {
	f.Add([]byte(`{"cluster":"edge-01","client":"node-agent/host-1","generation":3}`))
	f.Add([]byte(`{"cluster":"../..","client":"kms","generation":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMetadata(b)
		if err == nil && (m.Generation < 1 || fleet.CheckName("cluster", m.Cluster) != nil || m.Client.Kind == "") {
			t.Errorf("took %+v", m)
		}
	})
}
