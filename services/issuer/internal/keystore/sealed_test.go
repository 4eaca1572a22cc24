package keystore_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/kv"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore/keystoretest"
)

func newKEK(t testing.TB) keystore.KEK {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sub", "kek")
	if err := keystore.MakeKEK(path); err != nil {
		t.Fatal(err)
	}
	kek, err := keystore.ReadKEK(path)
	if err != nil {
		t.Fatal(err)
	}
	return kek
}

func newStore(t testing.TB) *kv.Bucket[keystore.Box] {
	t.Helper()
	store, err := kv.Open[keystore.Box](t.Context(), bustest.New(t).NATS, bus.Keys)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestSealed(t *testing.T) {
	kek, store := newKEK(t), newStore(t)
	keystoretest.Run(t, func(*testing.T) keystore.Keystore { return keystore.NewSealed(kek, store) })
}

func TestSealedUnderAnotherKey(t *testing.T) {
	ctx, store := t.Context(), newStore(t)
	if err := keystore.NewSealed(newKEK(t), store).Create(ctx, "ca-1", keystore.ECDSAP256); err != nil {
		t.Fatal(err)
	}
	other := keystore.NewSealed(newKEK(t), store)
	_, err := other.Signer(ctx, "ca-1")
	for name, err := range map[string]error{"open": err, "create": other.Create(ctx, "ca-1", keystore.ECDSAP256)} {
		if !errors.Is(err, keystore.ErrUnreadable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A box is bound to its id and algorithm.
func TestSealedBoxCannotBePassedOff(t *testing.T) {
	ctx, store, kek := t.Context(), newStore(t), newKEK(t)
	if err := keystore.NewSealed(kek, store).Create(ctx, "token-1", keystore.Ed25519); err != nil {
		t.Fatal(err)
	}
	e, err := store.Get(ctx, "token-1")
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte{}, e.Value.Box...)
	flipped[3] ^= 1
	for id, change := range map[string]func(*keystore.Box){
		"other-id":        func(*keystore.Box) {},
		"renamed":         func(b *keystore.Box) { b.ID = "renamed" },
		"other-algorithm": func(b *keystore.Box) { b.ID, b.Algorithm = "other-algorithm", keystore.ECDSAP256 },
		"flipped":         func(b *keystore.Box) { b.ID, b.Box = "flipped", flipped },
		"no-nonce":        func(b *keystore.Box) { b.ID, b.Nonce = "no-nonce", nil },
	} {
		b := e.Value
		change(&b)
		if _, err := store.Create(ctx, id, b); err != nil {
			t.Fatal(err)
		}
		if _, err := keystore.NewSealed(kek, store).Signer(ctx, id); !errors.Is(err, keystore.ErrUnreadable) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestReadKEK(t *testing.T) {
	good := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, test := range []struct {
		name, text string
		mode       fs.FileMode
		ok         bool
	}{
		{"good", good, 0o600, true},
		{"good with a new line", good + "\n", 0o400, true},
		{"group may read", good, 0o640, false},
		{"others may read", good, 0o604, false},
		{"too short", base64.StdEncoding.EncodeToString(make([]byte, 16)), 0o600, false},
		{"empty", "", 0o600, false},
		{"not base64", "secret-that-must-not-be-quoted", 0o600, false},
	} {
		path := filepath.Join(t.TempDir(), "kek")
		if err := os.WriteFile(path, []byte(test.text), test.mode); err != nil {
			t.Fatal(err)
		}
		kek, err := keystore.ReadKEK(path)
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
		if test.text != "" && strings.Contains(fmt.Sprintf("%v %+v %#v", err, kek, kek), test.text) {
			t.Errorf("%s: the key is quoted", test.name)
		}
	}
	if _, err := keystore.ReadKEK(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

// Several who start at once end with one key, and one there is stays.
func TestMakeKEKOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := keystore.MakeKEK(path); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := keystore.MakeKEK(path); err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile(path)
	info, _ := os.Stat(path)
	left, _ := os.ReadDir(filepath.Dir(path))
	if string(before) != string(after) || info.Mode().Perm() != 0o600 || len(left) != 1 {
		t.Errorf("replaced %v, mode %v, %d files", string(before) != string(after), info.Mode(), len(left))
	}
}

func FuzzBox(f *testing.F) {
	kek := newKEK(f)
	f.Add([]byte(`{"id":"ca-1","algorithm":"ecdsa-p256","nonce":"AAAAAAAAAAAAAAAA","box":"AAAA"}`))
	f.Add([]byte(`{"id":"ca-1","nonce":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b keystore.Box
		if json.Unmarshal(raw, &b) != nil {
			return
		}
		if _, err := keystore.Open(kek, "ca-1", b); !errors.Is(err, keystore.ErrUnreadable) {
			t.Errorf("opened a box that was never sealed: %v", err)
		}
	})
}
