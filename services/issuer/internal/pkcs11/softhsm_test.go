//go:build pkcs11 && cgo

package pkcs11_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rotor-fleet/rotor/shared/bustest"

	"github.com/rotor-fleet/rotor/services/issuer/internal/pkcs11"
)

const (
	label = "rotor test"
	pin   = "2468-and-more"
)

// softHSM is a token of SoftHSM in a folder of its own.
type softHSM struct {
	pkcs11.Config
	dir string
}

// newSoftHSM initialises a token. Only one test at a time has one: the module
// reads its configuration once, when the process uses it first.
func newSoftHSM(t testing.TB) softHSM {
	t.Helper()
	h := softHSM{dir: t.TempDir()}
	h.Module, h.Token, h.PINFile = module(t), label, filepath.Join(h.dir, "pin")
	h.write(t, "softhsm2.conf", "directories.tokendir = "+filepath.Join(h.dir, "tokens")+"\nobjectstore.backend = file\nlog.level = ERROR\n")
	h.write(t, "pin", pin+"\n")
	if err := os.Mkdir(filepath.Join(h.dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", filepath.Join(h.dir, "softhsm2.conf"))
	out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", "1357-and-more").CombinedOutput()
	if err != nil {
		t.Fatalf("initialise a token: %v\n%s", err, out)
	}
	return h
}

// module returns the path of SoftHSM, as Debian and Fedora install it.
func module(t testing.TB) string {
	t.Helper()
	for _, path := range []string{
		os.Getenv("SOFTHSM2_MODULE"), "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so",
	} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatal("SoftHSM is missing: apt-get install softhsm2, or name its library in SOFTHSM2_MODULE")
	return ""
}

func (h softHSM) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// hide takes the tokens away, as if the HSM were unplugged; show brings them back.
func (h softHSM) hide(t testing.TB) { h.move(t, "tokens", "away") }
func (h softHSM) show(t testing.TB) { h.move(t, "away", "tokens") }

func (h softHSM) move(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(filepath.Join(h.dir, from), filepath.Join(h.dir, to)); err != nil {
		t.Fatal(err)
	}
}

// open returns the token as another process sees it, until the test ends.
func (h softHSM) open(t testing.TB) *pkcs11.Token {
	t.Helper()
	token := pkcs11.New(h.Config)
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	return token
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var quiet = bustest.Quiet
