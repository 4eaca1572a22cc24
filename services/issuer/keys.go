package issuer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
	"github.com/rotor-fleet/rotor/services/issuer/internal/pkcs11"
)

// KeystoreKind says where the private keys lie that are made from now on.
type KeystoreKind string

// The kinds of keystores.
const (
	KeystoreSealed KeystoreKind = "sealed" // in the store, under the key-encryption key
	KeystorePKCS11 KeystoreKind = "pkcs11" // ECDSA keys in an HSM, the others sealed
)

// KeystoreConfig says where the private keys lie. A key stays where it was made:
// to move a CA to an HSM or away from it, change this and rotate the CA.
type KeystoreConfig struct {
	Kind       KeystoreKind `yaml:"kind"`       // sealed, if empty
	Module     string       `yaml:"module"`     // library with the PKCS#11 of the HSM
	TokenLabel string       `yaml:"tokenLabel"` // of the token in it
	PINFile    string       `yaml:"pinFile"`    // PIN of the token's user, mode 0600
}

// Validate says what is wrong with the configuration.
func (c KeystoreConfig) Validate() error {
	bad := func(what string) error { return fmt.Errorf("%w: issuer: keystore: %s", fleet.ErrInvalid, what) }
	switch c.Kind {
	case KeystoreSealed, "":
		if c.Module != "" || c.TokenLabel != "" || c.PINFile != "" {
			return bad("module, tokenLabel and pinFile belong to kind pkcs11: set the kind, or remove them")
		}
		return nil
	case KeystorePKCS11:
	default:
		return bad(fmt.Sprintf("kind %q: use %s or %s", c.Kind, KeystoreSealed, KeystorePKCS11))
	}
	switch {
	case c.Module == "":
		return bad("module: name the library with the PKCS#11 of the HSM, such as /usr/lib/softhsm/libsofthsm2.so")
	case c.TokenLabel == "":
		return bad("tokenLabel: name the token")
	case c.PINFile == "":
		return bad("pinFile: name the file with the PIN of the token's user, mode 0600")
	}
	if err := pkcs11.Built(); err != nil {
		return bad("kind pkcs11: " + err.Error())
	}
	return nil
}

// keystoreHealth is the condition under which /readyz shows the keystore.
const keystoreHealth = "keystore"

// openKeystore opens the keystore, and waits for an HSM.
func openKeystore(ctx context.Context, look *lookout, c Config) (keystore.Keystore, error) {
	env := look.env
	sealed, err := openSealed(ctx, env, c.KeyFile)
	if err != nil {
		return nil, err
	}
	token := c.token
	if token == nil {
		if c.Keystore.Kind != KeystorePKCS11 {
			env.Health.Met(keystoreHealth)
			return sealed, nil
		}
		token = pkcs11.New(pkcs11.Config{Module: c.Keystore.Module, Token: c.Keystore.TokenLabel, PINFile: c.Keystore.PINFile})
	}
	return keystore.NewHSM(sealed, token, env.Log), patiently(ctx, look, func() error { return token.Check(ctx) })
}

// openSealed opens the sealed keystore. A key-encryption key is made only where
// no key could be lost by it: when the store holds none.
func openSealed(ctx context.Context, env daemon.Env, keyFile string) (*keystore.Sealed, error) {
	store, err := kv.Open[keystore.Box](ctx, env.NATS, bus.Keys)
	if err != nil {
		return nil, err
	}
	kek, err := keystore.ReadKEK(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		kek, err = firstKEK(ctx, env, keyFile, store)
	}
	if err != nil {
		return nil, err
	}
	return keystore.NewSealed(kek, store), nil
}

// firstKEK makes the key-encryption key of a store that holds no key.
func firstKEK(ctx context.Context, env daemon.Env, keyFile string, store *kv.Bucket[keystore.Box]) (keystore.KEK, error) {
	held, err := count(ctx, store)
	if err != nil {
		return keystore.KEK{}, err
	}
	if held == 0 {
		if err := keystore.MakeKEK(keyFile); err != nil {
			return keystore.KEK{}, err
		}
		env.Log.Info("key-encryption key made; back it up apart from the store", "file", keyFile)
	}
	kek, err := keystore.ReadKEK(keyFile) // another issuer may have made it meanwhile
	if errors.Is(err, fs.ErrNotExist) {
		return kek, fmt.Errorf("ALARM: the key-encryption key %s is missing, and bucket %s holds %d keys sealed under it: "+
			"restore the file from its backup; nothing was changed", keyFile, bus.Keys, held)
	}
	return kek, err
}

// The pauses between two looks at an HSM, on the machine's time.
const (
	lookEvery = 15 * time.Second
	lookAgain = 10 * time.Second // at most, after a failure
)

// patiently does what needs the HSM until the HSM is there, and shows on /readyz
// why it waits. A PIN that is refused is not tried again: the process stays, for
// one that ended would be started again and would try.
func patiently(ctx context.Context, look *lookout, do func() error) error {
	env := look.env
	for attempt := 1; ; attempt++ {
		err := do()
		if !errors.Is(err, keystore.ErrUnavailable) {
			if err == nil {
				env.Health.Met(keystoreHealth)
			}
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		env.Health.Wait(keystoreHealth, err.Error())
		env.Log.Error("the HSM cannot be used, and nothing is signed", "attempt", attempt, "err", err)
		look.away(ctx, err)
		if errors.Is(err, keystore.ErrRefused) {
			for clock.Sleep(ctx, lookEvery) == nil {
				look.away(ctx, err)
			}
			return ctx.Err()
		}
		if err := clock.Sleep(ctx, bus.Backoff(attempt, lookAgain)); err != nil {
			return err
		}
	}
}

// watchKeys shows on /readyz whether an HSM can be used, until ctx ends. Without
// it commands wait for their next attempt, and all else goes on.
func (s *service) watchKeys(ctx context.Context) error {
	watched, ok := s.keys.(interface{ Check(context.Context) error })
	if !ok {
		<-ctx.Done()
		return nil
	}
	s.look.told = true // whoever was told of an issuer that ended since hears that this one can use it
	for attempt := 1; ctx.Err() == nil; attempt++ {
		pause := lookEvery
		switch err := watched.Check(ctx); {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			if attempt > 1 {
				s.log.Info("the HSM can be used again")
			}
			attempt = 0
			s.env.Health.Met(keystoreHealth)
			s.look.back(ctx)
		default:
			err = alarm(err)
			s.env.Health.Wait(keystoreHealth, err.Error())
			s.look.away(ctx, err)
			if attempt == 1 {
				s.log.Error("the HSM cannot be used, and nothing is signed until it can", "err", err)
			}
			pause = bus.Backoff(attempt, lookAgain)
			if errors.Is(err, keystore.ErrRefused) {
				pause = lookEvery // it is not asked, the text alone is shown again
			}
		}
		_ = clock.Sleep(ctx, pause)
	}
	return nil
}
