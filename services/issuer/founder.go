package issuer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/trust"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
	"github.com/rotor-fleet/rotor/services/issuer/internal/token"
)

// The ids of keys in the keystore. Those of the CA and of the token key carry
// the number of their generation.
const (
	keyDerivation = "derivation"
	keyFleet      = "fleet"
)

func keyCA(number int) string    { return "ca-" + strconv.Itoa(number) }
func keyToken(number int) string { return "token-" + strconv.Itoa(number) }

// founder makes the authority at the first start. Every step finds what an
// interrupted start, or another issuer that starts at the same time, has made.
type founder struct {
	Config
	env       daemon.Env
	keys      keystore.Keystore
	documents *kv.Bucket[fleet.Authority]
	facts     publisher
	ledger    ledger
	records   records
}

// openAuthority returns the authority, which is made if there is none.
func openAuthority(ctx context.Context, f founder) (*authorities, error) {
	known, err := f.documents.Get(ctx, fleet.AuthorityKey)
	first := errors.Is(err, fleet.ErrNotFound)
	if err != nil && !first {
		return nil, err
	}
	if first {
		if err := f.nothingLost(ctx); err != nil {
			return nil, err
		}
		if err := f.makeKeys(ctx); err != nil {
			return nil, err
		}
	} else if known.Value.Restoring {
		return nil, errRestoring
	} else if _, err := f.keys.Secret(ctx, keyDerivation); err != nil {
		return nil, alarm(err)
	}
	tool, err := newLintTool(ctx, f.keys)
	if err != nil {
		return nil, err
	}
	if first {
		if known.Value, err = f.found(ctx, tool); err != nil {
			return nil, err
		}
	}
	if err := f.configure(ctx, known.Value); err != nil {
		return nil, err
	}
	if err := f.liftBundle(ctx, tool); err != nil {
		return nil, err
	}
	if err := f.announce(ctx, known.Value); err != nil {
		return nil, err
	}
	a := &authorities{documents: f.documents, keys: f.keys, tool: tool, succession: newSuccession(f, tool)}
	// Before anything is signed: the CA may have ended while no issuer ran.
	return a, a.succession.keep(ctx)
}

// alarm explains a key that should be there and is not to be used.
func alarm(err error) error {
	if errors.Is(err, keystore.ErrLost) {
		return fmt.Errorf("ALARM: a key of the authority is gone from the HSM: restore the token from its backup; nothing was changed: %w", err)
	}
	if errors.Is(err, fleet.ErrNotFound) || errors.Is(err, keystore.ErrUnreadable) {
		return fmt.Errorf("ALARM: the authority exists, but its keys cannot be used: "+
			"restore bucket %s and the key-encryption key from one backup; nothing was changed: %w", bus.Keys, err)
	}
	return err
}

// nothingLost refuses to make an authority for a fleet that has credentials of
// another: a store that lost a bucket is an alarm, not a first start.
func (f founder) nothingLost(ctx context.Context) error {
	credentials, err := kv.Open[fleet.Credentials](ctx, f.env.NATS, bus.Credentials)
	if err != nil {
		return err
	}
	held, err := count(ctx, credentials)
	if err != nil {
		return err
	}
	if held > 0 {
		if _, err := f.documents.Get(ctx, fleet.AuthorityKey); !errors.Is(err, fleet.ErrNotFound) {
			return err // another issuer has made it meanwhile, and begun to work
		}
		return fmt.Errorf("ALARM: bucket %s is empty, and %d clusters have credentials: restore it from its backup; nothing was changed", bus.Authority, held)
	}
	return nil
}

// makeKeys makes the keys, in an order in which issuers with different
// key-encryption keys collide at the first one, before anything is mixed.
func (f founder) makeKeys(ctx context.Context) error {
	for _, key := range []struct {
		id        string
		algorithm keystore.Algorithm
	}{
		{keyDerivation, keystore.HMAC256}, {keyFleet, keystore.Ed25519}, {keyCA(1), keystore.ECDSAP256}, {keyToken(1), f.tokenKey()},
	} {
		if err := f.keys.Create(ctx, key.id, key.algorithm); err != nil {
			if errors.Is(err, keystore.ErrUnreadable) {
				return fmt.Errorf("ALARM: bucket %s holds a key that %s does not open: "+
					"give every issuer the same key-encryption key, or restore it from its backup: %w", bus.Keys, f.KeyFile, err)
			}
			return alarm(err)
		}
	}
	return nil
}

// found stores the first authority, or returns the one that another has stored
// meanwhile.
func (f founder) found(ctx context.Context, tool ca.Tool) (fleet.Authority, error) {
	doc, err := f.draft(ctx, tool)
	if err != nil {
		return doc, fmt.Errorf("make authority: %w", err)
	}
	_, err = f.documents.Create(ctx, fleet.AuthorityKey, doc)
	if errors.Is(err, fleet.ErrConflict) {
		theirs, err := f.documents.Get(ctx, fleet.AuthorityKey)
		return theirs.Value, err
	}
	if err != nil {
		return doc, err
	}
	f.env.Log.Info("authority made", "ca", doc.CAs[0].ID, "notAfter", doc.CAs[0].NotAfter, "tokenKey", doc.Keys[0].ID)
	return doc, nil
}

func (f founder) draft(ctx context.Context, tool ca.Tool) (fleet.Authority, error) {
	doc := fleet.Authority{TokenIssuer: f.TokenIssuer, Audience: f.Audience, TrustDomain: f.TrustDomain}
	now := f.env.Clock.Now().Truncate(time.Second)
	caKey, err := f.keys.Signer(ctx, keyCA(1))
	if err != nil {
		return doc, err
	}
	root, err := tool.NewRoot(caKey, ca.RootRequest{Number: 1, At: now}, announceCA(ctx, f.ledger))
	if err != nil {
		return doc, err
	}
	doc.CAs = []fleet.CA{{
		ID: root.ID, Number: 1, Phase: fleet.PhaseActive, Certificate: root.Certificate, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
	}}
	tokenKey, err := f.keys.Signer(ctx, keyToken(1))
	if err != nil {
		return doc, err
	}
	public, err := token.PublicKey(tokenKey.Public())
	if err != nil {
		return doc, err
	}
	doc.Keys = []fleet.SigningKey{{
		ID: public.ID, Number: 1, Phase: fleet.PhaseActive, JWK: public.JWK, Algorithm: public.Algorithm, CreatedAt: now,
	}}
	fleetKey, err := f.keys.Signer(ctx, keyFleet)
	if err != nil {
		return doc, err
	}
	doc.Bundle, err = signBundle(ctx, f.ledger, fleetKey, trust.Bundle{Version: 1, Certificates: []string{string(root.Certificate)}})
	return doc, err
}

// configure stores what an operator has changed since.
func (f founder) configure(ctx context.Context, known fleet.Authority) error {
	if known.TrustDomain != f.TrustDomain {
		return fmt.Errorf("%w: trustDomain is %q, and the certificates of the fleet carry %q: it cannot be changed; set it back",
			fleet.ErrInvalid, f.TrustDomain, known.TrustDomain)
	}
	_, err := f.documents.Edit(ctx, fleet.AuthorityKey, func(doc *fleet.Authority) error {
		if len(doc.CAs) == 0 || (doc.TokenIssuer == f.TokenIssuer && equal(doc.Audience, f.Audience)) {
			return kv.Keep
		}
		f.env.Log.Warn("token issuer or audience changed; tokens issued before keep the old ones",
			"from", doc.TokenIssuer, "to", f.TokenIssuer, "audience", f.Audience)
		doc.Rename(f.TokenIssuer, f.Audience)
		return nil
	})
	return err
}

func equal(a, b []string) bool { return fmt.Sprintf("%q", a) == fmt.Sprintf("%q", b) }
