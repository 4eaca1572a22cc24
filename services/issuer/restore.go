package issuer

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

// CheckKeys reports whether the key-encryption key in a file opens every one of
// the sealed keys, given as they lie in their bucket by their ids. A restore
// asks before it changes anything.
func CheckKeys(keyFile string, sealed map[string][]byte) error {
	kek, err := keystore.ReadKEK(keyFile)
	if err != nil {
		return err
	}
	for id, raw := range sealed {
		var box keystore.Box
		if err := json.Unmarshal(raw, &box); err != nil {
			return fmt.Errorf("key %s of bucket %s: %w", id, bus.Keys, err)
		}
		if err := kek.Check(id, box); err != nil {
			return fmt.Errorf("key %s of bucket %s: %w: %s is not the key-encryption key of this fleet", id, bus.Keys, err, keyFile)
		}
	}
	return nil
}

// liftBundle signs the trust bundle under a version that no agent has seen yet,
// after a restore: agents refuse a version below the last they saw.
func (f founder) liftBundle(ctx context.Context, tool ca.Tool) error {
	_, err := f.documents.Edit(ctx, fleet.AuthorityKey, func(doc *fleet.Authority) error {
		if doc.Bundle.Version >= doc.BundleFloor {
			return kv.Keep
		}
		sealer, err := f.sealer(ctx, tool)
		if err != nil {
			return err
		}
		doc.Bundle.Version = doc.BundleFloor
		for i := range doc.CAs {
			// What was proven on a version of before may have been proven without it.
			if c := &doc.CAs[i]; c.Bundle > 0 && c.Phase != fleet.PhaseRetired {
				c.Bundle = doc.BundleFloor
			}
		}
		return sealer.seal(ctx, doc)
	})
	if err != nil {
		return fmt.Errorf("sign the trust bundle after a restore: %w", err)
	}
	return nil
}
