package truststore

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

func newCA(t testing.TB, name string) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func newFile(t testing.TB) File {
	return File{Path: filepath.Join(t.TempDir(), "client-ca.crt"), Ops: durable.Disk{}, Log: slog.New(slog.DiscardHandler)}
}

// names returns the subjects in the file, as a verifier reads it.
func names(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, der := range parse(text) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c.Subject.CommonName)
	}
	return strings.Join(all, " ")
}

func TestTheFileFollowsTheBundle(t *testing.T) {
	f, old, fresh := newFile(t), newCA(t, "old"), newCA(t, "new")
	for i, step := range []struct {
		certificates []string
		want         string
	}{{[]string{old}, "old"}, {[]string{old, fresh}, "old new"}, {[]string{fresh}, "new"}} {
		if err := f.Keep(t.Context(), trust.Bundle{Version: i + 1, Certificates: step.certificates}); err != nil {
			t.Fatal(err)
		}
		if got := names(t, f.Path); got != step.want {
			t.Errorf("version %d: %s, want %s", i+1, got, step.want)
		}
	}
	info, err := os.Stat(f.Path)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v; want one that verifiers can read", info, err)
	}
	if err := f.Keep(t.Context(), trust.Bundle{Version: 3, Certificates: []string{fresh}}); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(f.Path); !os.SameFile(info, after) {
		t.Error("what is well was written again")
	}
	if entries, _ := os.ReadDir(filepath.Dir(f.Path)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// TestNeverAnEmptyTrustStore: a verifier that reads at any moment finds one of
// the two bundles (trust-manager once left its targets empty meanwhile).
func TestNeverAnEmptyTrustStore(t *testing.T) {
	f, old, fresh := newFile(t), newCA(t, "old"), newCA(t, "new")
	keep := func(i int) error {
		return f.Keep(t.Context(), trust.Bundle{Version: i + 1, Certificates: []string{old, fresh}[i%2 : i%2+1]})
	}
	if err := keep(0); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if text, err := os.ReadFile(f.Path); err != nil || len(parse(text)) != 1 {
				t.Errorf("a verifier reads %d certificates: %v", len(parse(text)), err)
				return
			}
		}
	})
	for i := range 30 {
		if err := keep(i); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	reader.Wait()
	before := names(t, f.Path)
	for _, b := range []trust.Bundle{{Version: 40}, {Version: 40, Certificates: []string{"nothing"}}} {
		if err := f.Keep(t.Context(), b); err == nil {
			t.Error("an empty bundle was taken")
		}
	}
	if got := names(t, f.Path); got != before {
		t.Errorf("%s, want %s", got, before)
	}
}

// TestNobodyIsLockedOut: what a verifier has trusted so far goes on being
// trusted, or the file stays as it is.
func TestNobodyIsLockedOut(t *testing.T) {
	f, rotor, cluster := newFile(t), newCA(t, "rotor"), newCA(t, "kubernetes")
	if err := os.WriteFile(f.Path, []byte(cluster), 0o640); err != nil {
		t.Fatal(err)
	}
	b := trust.Bundle{Version: 1, Certificates: []string{rotor}}
	if err := f.Keep(t.Context(), b); !errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), "CN=kubernetes") || !strings.Contains(err.Error(), "include") {
		t.Errorf("%v", err)
	}
	if got := names(t, f.Path); got != "kubernetes" {
		t.Errorf("it was replaced all the same: %s", got)
	}
	f.Include = []string{filepath.Join(t.TempDir(), "ca.crt")}
	if err := f.Keep(t.Context(), b); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("included file is not there: %v", err)
	}
	if err := os.WriteFile(f.Include[0], []byte(cluster), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.Keep(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if got := names(t, f.Path); got != "rotor kubernetes" {
			t.Errorf("%s", got)
		}
	}
	if info, _ := os.Stat(f.Path); info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v; want that of before", info.Mode())
	}
	if err := os.WriteFile(f.Include[0], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Keep(t.Context(), b); !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("included file is empty: %v", err)
	}
	if got := names(t, f.Path); got != "rotor kubernetes" {
		t.Errorf("%s", got)
	}
}

func TestForeignChangesArePutRight(t *testing.T) {
	f, rotor := newFile(t), newCA(t, "rotor")
	f.Access.Mode = 0o640
	b := trust.Bundle{Version: 1, Certificates: []string{rotor}}
	if err := f.Keep(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func() error{
		"deleted": func() error { return os.Remove(f.Path) },
		"emptied": func() error { return os.Truncate(f.Path, 0) },
		"added to": func() error {
			text, err := os.ReadFile(f.Path)
			return errors.Join(err, os.WriteFile(f.Path, append(text, newCA(t, "theirs")...), 0o600))
		},
		"mode": func() error { return os.Chmod(f.Path, 0o600) },
	} {
		if err := errors.Join(change(), f.Keep(t.Context(), b)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		info, err := os.Stat(f.Path)
		if err != nil || names(t, f.Path) != "rotor" || info.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v, %v", name, names(t, f.Path), info)
		}
	}
}

func TestOddPaths(t *testing.T) {
	f, dir := newFile(t), t.TempDir()
	b := trust.Bundle{Version: 1, Certificates: []string{newCA(t, "rotor")}}
	if err := os.Symlink("ca.crt", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{dir: fleet.ErrInvalid, filepath.Join(dir, "link"): fleet.ErrInvalid, filepath.Join(dir, "none", "ca.crt"): fs.ErrNotExist} {
		f.Path = path
		if err := f.Keep(t.Context(), b); !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	f.Path = filepath.Join(dir, "owned")
	f.Access.Owner = "nobody-of-this-name"
	if err := f.Keep(t.Context(), b); err == nil || !strings.Contains(err.Error(), f.Access.Owner) {
		t.Errorf("an owner that is not known: %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}
