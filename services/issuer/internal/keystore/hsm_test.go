package keystore_test

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore/keystoretest"
)

// hsm is a store and a token that several processes share.
type hsm struct {
	kek   keystore.KEK
	store *kv.Bucket[keystore.Box]
	token *keystoretest.Token
}

func newHSM(t testing.TB) hsm {
	return hsm{newKEK(t), newStore(t), &keystoretest.Token{}}
}

func (h hsm) sealed() *keystore.Sealed { return keystore.NewSealed(h.kek, h.store) }

func (h hsm) open() *keystore.HSM { return h.on(h.store) }

func (h hsm) on(store keystore.Store) *keystore.HSM {
	return keystore.NewHSM(keystore.NewSealed(h.kek, store), h.token, bustest.Quiet())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestHSM(t *testing.T) {
	h := newHSM(t)
	keystoretest.Run(t, func(*testing.T) keystore.Keystore { return h.open() })
	seen := map[string]int{}
	for _, label := range h.token.Labels() {
		seen[label]++
	}
	for label, n := range seen {
		if n != 1 {
			t.Errorf("%d keys with the label %s stay in the token", n, label)
		}
	}
	if seen["rotor-race-ecdsa-p256"] != 1 || seen["rotor-race-ed25519"] != 0 {
		t.Errorf("in the token: %v", seen)
	}
}

// What is stored of a key in an HSM is its place, and nothing is in the box.
func TestHSMOnRecord(t *testing.T) {
	ctx, h := t.Context(), newHSM(t)
	must(t, h.open().Create(ctx, "ca-1", keystore.ECDSAP256))
	e, err := h.store.Get(ctx, "ca-1")
	must(t, err)
	b := e.Value
	if b.HSM == nil || len(b.HSM.ID) != 32 || b.HSM.Label != "rotor-ca-1" || len(b.Box) != 16 {
		raw, _ := json.Marshal(b)
		t.Fatalf("on record: %s", raw)
	}
	other := *b.HSM
	other.ID = strings.Repeat("0", 32)
	for id, change := range map[string]func(*keystore.Box){
		"other-id":    func(*keystore.Box) {},
		"other-place": func(b *keystore.Box) { b.ID, b.HSM = "other-place", &other },
		"no-place":    func(b *keystore.Box) { b.ID, b.HSM = "no-place", nil },
	} {
		moved := b
		change(&moved)
		_, err := h.store.Create(ctx, id, moved)
		must(t, err)
		if _, err := h.open().Signer(ctx, id); !errors.Is(err, keystore.ErrUnreadable) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// A key stays where it was made, whatever the configuration says later.
func TestHSMBesideSealed(t *testing.T) {
	ctx, h := t.Context(), newHSM(t)
	must(t, h.sealed().Create(ctx, "ca-1", keystore.ECDSAP256))
	before, err := h.sealed().Signer(ctx, "ca-1")
	must(t, err)
	k := h.open()
	must(t, k.Create(ctx, "ca-1", keystore.ECDSAP256))
	must(t, k.Create(ctx, "ca-2", keystore.ECDSAP256))
	old, err := k.Signer(ctx, "ca-1")
	must(t, err)
	made, err := k.Signer(ctx, "ca-2")
	must(t, err)
	if !old.Deterministic() || made.Deterministic() || !equal(old, before) || len(h.token.Labels()) != 1 {
		t.Errorf("in the token: %v", h.token.Labels())
	}
	_, err = h.sealed().Signer(ctx, "ca-2")
	for name, err := range map[string]error{"signer": err, "create": h.sealed().Create(ctx, "ca-2", keystore.ECDSAP256)} {
		if !errors.Is(err, fleet.ErrInvalid) || !strings.Contains(err.Error(), "pkcs11") {
			t.Errorf("%s without the HSM: %v", name, err)
		}
	}
}

func equal(a, b keystore.Signer) bool {
	public, ok := a.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(b.Public())
}

func TestHSMAway(t *testing.T) {
	ctx, h := t.Context(), newHSM(t)
	k := h.open()
	h.token.Fail(keystore.ErrUnavailable)
	if err := k.Create(ctx, "ca-1", keystore.ECDSAP256); !errors.Is(err, keystore.ErrUnavailable) || !keystore.Held(err) {
		t.Errorf("create: %v", err)
	}
	if err := k.Check(ctx); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("check: %v", err)
	}
	must(t, k.Create(ctx, "derivation", keystore.HMAC256)) // does not need it
	h.token.Fail(nil)
	must(t, k.Create(ctx, "ca-1", keystore.ECDSAP256))
	must(t, k.Check(ctx))

	h.token.Lose()
	_, err := h.open().Signer(ctx, "ca-1")
	for name, err := range map[string]error{
		"signer": err, "create": h.open().Create(ctx, "ca-1", keystore.ECDSAP256), "check": k.Check(ctx),
	} {
		if !errors.Is(err, keystore.ErrLost) {
			t.Errorf("%s of a key that is lost: %v", name, err)
		}
	}
	// Another key under the same id is not that key either.
	e, err := h.store.Get(ctx, "ca-1")
	must(t, err)
	_, err = h.token.Generate(ctx, e.Value.HSM.ID, e.Value.HSM.Label)
	must(t, err)
	if _, err := h.open().Signer(ctx, "ca-1"); !errors.Is(err, keystore.ErrLost) {
		t.Errorf("another key: %v", err)
	}
}

// flaky fails the first write, before or after it has happened.
type flaky struct {
	keystore.Store
	after  bool
	failed bool
}

var errFlaky = errors.New("no answer")

func (f *flaky) Create(ctx context.Context, id string, b keystore.Box) (uint64, error) {
	if f.failed {
		return f.Store.Create(ctx, id, b)
	}
	f.failed = true
	if f.after {
		_, _ = f.Store.Create(ctx, id, b)
	}
	return 0, errFlaky
}

// A write of which nobody knows whether it has happened leaves one key.
func TestHSMWriteUnknown(t *testing.T) {
	for _, after := range []bool{false, true} {
		ctx, h := t.Context(), newHSM(t)
		k := h.on(&flaky{Store: h.store, after: after})
		if err := k.Create(ctx, "ca-1", keystore.ECDSAP256); !errors.Is(err, errFlaky) {
			t.Fatal(err)
		}
		must(t, k.Create(ctx, "ca-1", keystore.ECDSAP256))
		must(t, h.open().Create(ctx, "ca-1", keystore.ECDSAP256))
		if labels := h.token.Labels(); len(labels) != 1 {
			t.Errorf("after %v: %d keys", after, len(labels))
		}
	}
}
