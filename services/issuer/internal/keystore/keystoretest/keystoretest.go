// Package keystoretest holds the suite that every Keystore must pass.
package keystoretest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

// Run holds a keystore against its contract. Each call of open must return a
// keystore of another process on the same store.
func Run(t *testing.T, open func(t *testing.T) keystore.Keystore) {
	t.Run("missing key", func(t *testing.T) { missing(t, open(t)) })
	t.Run("signatures", func(t *testing.T) { signatures(t, open(t), open(t)) })
	t.Run("derivations", func(t *testing.T) { derivations(t, open(t), open(t)) })
	t.Run("wrong algorithm", func(t *testing.T) { wrongAlgorithm(t, open(t)) })
	t.Run("race", func(t *testing.T) { race(t, open) })
	t.Run("printing", func(t *testing.T) { printing(t, open(t)) })
}

func missing(t *testing.T, k keystore.Keystore) {
	if _, err := k.Signer(t.Context(), "missing"); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("signer: %v", err)
	}
	if _, err := k.Secret(t.Context(), "missing"); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("secret: %v", err)
	}
}

// signer returns a signer of a key that is made if need be.
func signer(t *testing.T, k keystore.Keystore, id string, a keystore.Algorithm) keystore.Signer {
	t.Helper()
	if err := k.Create(t.Context(), id, a); err != nil {
		t.Fatal(err)
	}
	s, err := k.Signer(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func signatures(t *testing.T, one, other keystore.Keystore) {
	digest := sha256.Sum256([]byte("message"))
	for _, a := range []keystore.Algorithm{keystore.ECDSAP256, keystore.Ed25519} {
		id := "sign-" + string(a)
		first, second := signer(t, one, id, a), signer(t, other, id, a)
		message, opts := digest[:], crypto.SignerOpts(crypto.SHA256)
		if a == keystore.Ed25519 {
			message, opts = []byte("message"), crypto.Hash(0)
		}
		got, err := first.Sign(rand.Reader, message, opts)
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		again, err := second.Sign(nil, message, opts)
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		if same := bytes.Equal(got, again); same != first.Deterministic() || same != second.Deterministic() {
			t.Errorf("%s: says deterministic %v, and the same message gives the same signature: %v", a, first.Deterministic(), same)
		}
		for _, signature := range [][]byte{got, again} {
			if !valid(first.Public(), message, signature) {
				t.Errorf("%s: signature of a %T is not valid", a, first.Public())
			}
		}
	}
}

func valid(public crypto.PublicKey, message, signature []byte) bool {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, message, signature)
	case ed25519.PublicKey:
		return ed25519.Verify(public, message, signature)
	}
	return false
}

func derivations(t *testing.T, one, other keystore.Keystore) {
	if err := one.Create(t.Context(), "derive", keystore.HMAC256); err != nil {
		t.Fatal(err)
	}
	first, err := one.Secret(t.Context(), "derive")
	if err != nil {
		t.Fatal(err)
	}
	second, err := other.Secret(t.Context(), "derive")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Derive("a", "b"), second.Derive("a", "b")) || len(first.Derive("a")) != 32 {
		t.Error("the same parts give two values")
	}
	seen := map[string]string{}
	for _, parts := range [][]string{{"a", "b"}, {"ab"}, {"a", "b", ""}, {"", "ab"}, {"a\x00b"}, {}} {
		value := string(first.Derive(parts...))
		if same, ok := seen[value]; ok {
			t.Errorf("%q and %s give the same value", parts, same)
		}
		seen[value] = fmt.Sprintf("%q", parts)
	}
}

func wrongAlgorithm(t *testing.T, k keystore.Keystore) {
	ctx := t.Context()
	if err := errors.Join(k.Create(ctx, "wrong-ec", keystore.ECDSAP256), k.Create(ctx, "wrong-mac", keystore.HMAC256)); err != nil {
		t.Fatal(err)
	}
	_, signs := k.Signer(ctx, "wrong-mac")
	_, derives := k.Secret(ctx, "wrong-ec")
	for name, err := range map[string]error{
		"create over another": k.Create(ctx, "wrong-ec", keystore.Ed25519), "create of nothing": k.Create(ctx, "wrong-x", "rot13"),
		"sign with a derivation key": signs, "derive from a signing key": derives,
	} {
		if !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// race has several processes make the same key at once: there is one.
func race(t *testing.T, open func(t *testing.T) keystore.Keystore) {
	stores := make([]keystore.Keystore, 4)
	for i := range stores {
		stores[i] = open(t)
	}
	for _, a := range []keystore.Algorithm{keystore.Ed25519, keystore.ECDSAP256} {
		id := "race-" + string(a)
		errs := make([]error, 2*len(stores))
		var all sync.WaitGroup
		for i := range errs { // two at once in each process
			all.Go(func() { errs[i] = create(t.Context(), stores[i/2], id, a) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		first := signer(t, stores[0], id, a).Public().(interface{ Equal(crypto.PublicKey) bool })
		for _, k := range stores {
			if !first.Equal(signer(t, k, id, a).Public()) {
				t.Errorf("%s: two keys of one id", a)
			}
		}
	}
}

// create makes a key as the issuer does: what is unavailable is tried again.
func create(ctx context.Context, k keystore.Keystore, id string, a keystore.Algorithm) error {
	var err error
	for attempt := 1; attempt <= 20; attempt++ {
		if err = k.Create(ctx, id, a); !errors.Is(err, keystore.ErrUnavailable) || errors.Is(err, keystore.ErrRefused) {
			return err
		}
		if err := clock.Sleep(ctx, bus.Backoff(attempt, time.Second)); err != nil {
			return err
		}
	}
	return err
}

// printing looks for the words in which private keys show themselves.
func printing(t *testing.T, k keystore.Keystore) {
	s := signer(t, k, "print", keystore.ECDSAP256)
	if err := k.Create(t.Context(), "print-mac", keystore.HMAC256); err != nil {
		t.Fatal(err)
	}
	mac, err := k.Secret(t.Context(), "print-mac")
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		s crypto.Signer
		m keystore.Secret
	}
	for name, value := range map[string]any{"keystore": k, "signer": s, "secret": mac} {
		printed := fmt.Sprintf("%v %+v %#v %s %q", value, value, value, value, value)
		marshalled, _ := json.Marshal(value)
		var logged strings.Builder
		slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "value", value)
		for _, word := range []string{"D:", `"D"`, "PrivateKey", "seed"} {
			if strings.Contains(printed+string(marshalled)+logged.String(), word) {
				t.Errorf("%s prints %s: %s %s %s", name, word, printed, marshalled, logged.String())
			}
		}
	}
	if printed := fmt.Sprintf("%+v", holder{s, mac}); strings.Contains(printed, "D:") {
		t.Errorf("in a field that is not exported: %s", printed)
	}
}
