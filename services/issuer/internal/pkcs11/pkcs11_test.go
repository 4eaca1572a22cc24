//go:build pkcs11 && cgo

package pkcs11_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	p11 "github.com/miekg/pkcs11"
	"github.com/nats-io/nats.go"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/kv"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore/keystoretest"
	"github.com/rotor-fleet/rotor/services/issuer/internal/pkcs11"
)

func newKEK(t testing.TB) (keystore.KEK, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kek")
	must(t, keystore.MakeKEK(path))
	kek, err := keystore.ReadKEK(path)
	must(t, err)
	return kek, path
}

func newStore(t testing.TB, nc *nats.Conn) *kv.Bucket[keystore.Box] {
	t.Helper()
	store, err := kv.Open[keystore.Box](t.Context(), nc, bus.Keys)
	must(t, err)
	return store
}

// The contract of a keystore, on a real token.
func TestKeystore(t *testing.T) {
	h := newSoftHSM(t)
	kek, _ := newKEK(t)
	store := newStore(t, bustest.New(t).NATS)
	keystoretest.Run(t, func(t *testing.T) keystore.Keystore {
		return keystore.NewHSM(keystore.NewSealed(kek, store), h.open(t), quiet())
	})
	labels := h.labels(t)
	if labels["rotor-race-ecdsa-p256"] < 1 || labels["rotor-sign-ecdsa-p256"] != 1 || labels["rotor-sign-ed25519"] != 0 {
		t.Errorf("private keys in the token: %v", labels)
	}
}

// Several processes that ask for one key at once end with one.
func TestCreateByProcesses(t *testing.T) {
	h := newSoftHSM(t)
	server := bustest.NewAt(t, t.TempDir(), false)
	_, kekFile := newKEK(t)
	publics := make([]string, 4)
	var all sync.WaitGroup
	for i := range publics {
		all.Go(func() {
			c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcess$", "-test.count=1")
			c.Env = append(os.Environ(), "ROTOR_TEST_NATS="+server.Server.ClientURL(), "ROTOR_TEST_KEK="+kekFile, "ROTOR_TEST_HSM="+h.dir)
			out, err := c.CombinedOutput()
			if err != nil {
				t.Errorf("process %d: %v\n%s", i, err, out)
			}
			_, after, _ := strings.Cut(string(out), "public key: ")
			publics[i], _, _ = strings.Cut(after, "\n")
		})
	}
	all.Wait()
	for i := range publics {
		if publics[i] == "" || publics[i] != publics[0] {
			t.Errorf("processes have %q", publics)
		}
	}
	// Those of the processes that were second are gone, but for one of an attempt
	// that failed halfway.
	if labels := h.labels(t); labels["rotor-ca-1"] < 1 {
		t.Errorf("private keys in the token: %v", labels)
	}
}

// TestProcess is one of the processes of TestCreateByProcesses, and passes alone.
func TestProcess(t *testing.T) {
	url := os.Getenv("ROTOR_TEST_NATS")
	if url == "" {
		return
	}
	nc, err := nats.Connect(url)
	must(t, err)
	defer nc.Close()
	kek, err := keystore.ReadKEK(os.Getenv("ROTOR_TEST_KEK"))
	must(t, err)
	h := softHSM{dir: os.Getenv("ROTOR_TEST_HSM")}
	h.Module, h.Token, h.PINFile = module(t), label, filepath.Join(h.dir, "pin")
	k := keystore.NewHSM(keystore.NewSealed(kek, newStore(t, nc)), h.open(t), quiet())
	// SoftHSM fails now and then while another process writes, as others do when
	// they are busy; the issuer tries again.
	bustest.Eventually(t, func() error { return k.Create(t.Context(), "ca-1", keystore.ECDSAP256) })
	s, err := k.Signer(t.Context(), "ca-1")
	must(t, err)
	public, err := s.Public().(*ecdsa.PublicKey).Bytes()
	must(t, err)
	fmt.Printf("public key: %x\n", public) //nolint:forbidigo // read by the process that started this one
}

// A key cannot be read, and never could.
func TestKeyStaysInside(t *testing.T) {
	h := newSoftHSM(t)
	_, err := h.open(t).Generate(t.Context(), "0a0b0c", "rotor-ca-1")
	must(t, err)
	h.objects(t, func(module *p11.Ctx, session p11.SessionHandle, object p11.ObjectHandle) {
		flags, err := module.GetAttributeValue(session, object, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_EXTRACTABLE, nil), p11.NewAttribute(p11.CKA_NEVER_EXTRACTABLE, nil),
			p11.NewAttribute(p11.CKA_SENSITIVE, nil), p11.NewAttribute(p11.CKA_LOCAL, nil),
		})
		must(t, err)
		if flags[0].Value[0] != 0 || flags[1].Value[0] != 1 || flags[2].Value[0] != 1 || flags[3].Value[0] != 1 {
			t.Errorf("extractable %v, never extractable %v, sensitive %v, local %v", flags[0].Value, flags[1].Value, flags[2].Value, flags[3].Value)
		}
		if _, err := module.GetAttributeValue(session, object, []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE, nil)}); !errors.Is(err, p11.Error(p11.CKR_ATTRIBUTE_SENSITIVE)) {
			t.Errorf("read the private key: %v", err)
		}
	})
}

// Every way to a token that fails says what is wrong and what to do.
func TestErrors(t *testing.T) {
	h := newSoftHSM(t)
	h.write(t, "wrong", "1111-wrong\n")
	h.write(t, "empty", "\n")
	h.write(t, "open", pin)
	must(t, os.Chmod(filepath.Join(h.dir, "open"), 0o644))
	h.write(t, "text.so", "no library")
	for name, test := range map[string]struct {
		change  func(*pkcs11.Config)
		refused bool
		want    string
	}{
		"wrong PIN":    {func(c *pkcs11.Config) { c.PINFile = filepath.Join(h.dir, "wrong") }, true, "start again"},
		"no PIN file":  {func(c *pkcs11.Config) { c.PINFile = filepath.Join(h.dir, "missing") }, false, "missing"},
		"empty PIN":    {func(c *pkcs11.Config) { c.PINFile = filepath.Join(h.dir, "empty") }, false, "is empty"},
		"open PIN":     {func(c *pkcs11.Config) { c.PINFile = filepath.Join(h.dir, "open") }, false, "chmod 600"},
		"no module":    {func(c *pkcs11.Config) { c.Module = "/usr/lib/nosuch.so" }, false, "there is no PKCS#11 module /usr/lib/nosuch.so"},
		"not a module": {func(c *pkcs11.Config) { c.Module = filepath.Join(h.dir, "text.so") }, false, "can be loaded"},
		"no token":     {func(c *pkcs11.Config) { c.Token = "other" }, false, `no token with the label "other"`},
	} {
		c := h.Config
		test.change(&c)
		token := pkcs11.New(c)
		err := token.Check(t.Context())
		if !errors.Is(err, keystore.ErrUnavailable) || errors.Is(err, keystore.ErrRefused) != test.refused || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if printed := fmt.Sprintf("%v %+v", err, token); strings.Contains(printed, pin) || strings.Contains(printed, "1111") {
			t.Errorf("%s: prints the PIN: %s", name, printed)
		}
		must(t, token.Close())
	}
}

// Once a PIN was refused, the token is not tried again, also with the right one
// in the file: that takes another start.
func TestRefusedForGood(t *testing.T) {
	h := newSoftHSM(t)
	h.write(t, "pin", "1111-wrong\n")
	token := h.open(t)
	if err := token.Check(t.Context()); !errors.Is(err, keystore.ErrRefused) {
		t.Fatal(err)
	}
	h.write(t, "pin", pin+"\n")
	if err := token.Check(t.Context()); !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("tried again: %v", err)
	}
	must(t, h.open(t).Check(t.Context()))
}

// A session that is lost, and a token that comes back, are found again.
func TestComesBack(t *testing.T) {
	h := newSoftHSM(t)
	token := h.open(t)
	public, err := token.Generate(t.Context(), "0a0b0c", "rotor-ca-1")
	must(t, err)
	s, err := token.Signer(t.Context(), "0a0b0c", "rotor-ca-1")
	must(t, err)
	digest := sha256.Sum256([]byte("message"))
	sign := func() error {
		signature, err := s.Sign(nil, digest[:], crypto.SHA256)
		if err == nil && !ecdsa.VerifyASN1(public, digest[:], signature) {
			t.Error("the signature does not verify")
		}
		return err
	}
	must(t, sign())
	must(t, h.logout(t))
	must(t, sign())
	must(t, h.closeSessions(t))
	must(t, sign())
	must(t, token.Close())
	must(t, sign())

	// Another process deletes the key.
	must(t, h.closeSessions(t))
	must(t, token.Delete(t.Context(), "0a0b0c", "rotor-ca-1"))
	must(t, token.Delete(t.Context(), "0a0b0c", "rotor-ca-1"))
	if _, err := token.Signer(t.Context(), "0a0b0c", "rotor-ca-1"); !errors.Is(err, keystore.ErrLost) {
		t.Errorf("a key that is gone: %v", err)
	}

	// Unplugged, and plugged in again.
	_, err = token.Generate(t.Context(), "0d0e0f", "rotor-ca-2")
	must(t, err)
	must(t, token.Close())
	h.hide(t)
	if err := token.Check(t.Context()); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("without the token: %v", err)
	}
	h.show(t)
	bustest.Eventually(t, func() error {
		_, err := token.Signer(t.Context(), "0d0e0f", "rotor-ca-2")
		return err
	})
}
