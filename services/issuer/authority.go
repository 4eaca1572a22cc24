package issuer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
	"github.com/rotor-fleet/rotor/services/issuer/internal/token"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// authorities gives the authority as it is stored now, ready to sign. It is
// safe for concurrent use.
type authorities struct {
	documents documents[fleet.Authority]
	keys      keystore.Keystore
	tool      ca.Tool

	succession *succession // asked before each use

	mu    sync.Mutex
	known *authority
}

// authority is one revision of the authority, ready to sign.
type authority struct {
	revision uint64
	doc      fleet.Authority
	ca       *ca.Authority            // the one that signs
	minter   token.Minter             // the one that signs
	cas      map[string]*ca.Authority // by id, also those that sign no more
	listers  map[string]*ca.Authority // by id, those whose CRL is kept
	tainted  []fleet.CA               // those that are compromised and have not expired
	minters  map[string]token.Minter  // by kid
}

// current returns the authority as it is stored now. A succession that is held
// up is no matter while the CA is good; afterwards it is the error.
func (a *authorities) current(ctx context.Context) (*authority, error) {
	held := a.succession.keep(ctx)
	known, err := a.stored(ctx)
	if err == nil && held != nil && !a.succession.env.Clock.Now().Before(known.ca.NotAfter()) {
		return nil, held
	}
	return known, err
}

func (a *authorities) stored(ctx context.Context) (*authority, error) {
	e, err := a.documents.Get(ctx, fleet.AuthorityKey)
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	a.mu.Lock()
	known := a.known
	a.mu.Unlock()
	if known != nil && known.revision == e.Revision {
		return known, nil
	}
	a.succession.look() // it may be another issuer that has changed it
	made, err := a.load(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("open authority: %w", alarm(err))
	}
	if m := a.succession.metrics; m != nil {
		m.notAfter.Set(float64(made.ca.NotAfter().Unix()))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known = made
	return made, nil
}

func (a *authorities) load(ctx context.Context, e kv.Entry[fleet.Authority]) (*authority, error) {
	doc := e.Value
	made := &authority{
		revision: e.Revision, doc: doc, cas: map[string]*ca.Authority{}, listers: map[string]*ca.Authority{}, minters: map[string]token.Minter{},
	}
	if doc.Restoring {
		return nil, errRestoring
	}
	secret, err := a.keys.Secret(ctx, keyDerivation)
	if err != nil {
		return nil, err
	}
	derivation := epoch{secret, doc.Epoch}
	tool := a.tool
	tool.Serial = derivation
	now := a.succession.env.Clock.Now()
	needed := []string{keyDerivation, keyFleet}
	if doc.Pending != nil {
		needed = append(needed, keyCA(doc.Pending.Number))
	}
	for _, c := range doc.CAs {
		if !c.Listed(now) {
			continue
		}
		needed = append(needed, keyCA(c.Number))
		if !c.TaintedAt.IsZero() {
			made.tainted = append(made.tainted, c)
		}
		signer, err := a.keys.Signer(ctx, keyCA(c.Number))
		if err != nil {
			return nil, err
		}
		opened, err := ca.Open(slices.Concat(c.Certificate, c.Chain), signer, doc.TrustDomain, tool)
		if err != nil {
			return nil, err
		}
		made.listers[c.ID] = opened
		if c.Phase == fleet.PhaseRetired {
			continue
		}
		made.cas[c.ID] = opened
		if c.Phase == fleet.PhaseActive {
			made.ca = opened
		}
	}
	for _, k := range doc.Keys {
		if k.Phase == fleet.PhaseRetired {
			continue
		}
		needed = append(needed, keyToken(k.Number))
		signer, err := a.keys.Signer(ctx, keyToken(k.Number))
		if err != nil {
			return nil, err
		}
		minter := token.Minter{KeyID: k.ID, Signer: signer, IDs: derivation, Issuer: doc.TokenIssuer, Audience: doc.Audience}
		made.minters[k.ID] = minter
		if k.Phase == fleet.PhaseActive {
			made.minter = minter
		}
	}
	if made.ca == nil || made.minter.Signer == nil {
		return nil, fmt.Errorf("%w: authority has no CA or no token key that signs", fleet.ErrInvalid)
	}
	// The key of a CA that is retired may be destroyed: that is no alarm.
	if keys, ok := a.keys.(interface{ Retain(ids ...string) }); ok {
		keys.Retain(needed...)
	}
	return made, nil
}

// errRestoring stops an issuer on a store that is only partly restored.
var errRestoring = errors.New("ALARM: a restore from a backup has begun and has not ended: run `rotor restore` again; nothing was signed")

// epoch derives under the id of the last restore: what was signed since the
// backup is not on record, and none of its serial numbers and token ids may come
// again.
type epoch struct {
	secret interface{ Derive(parts ...string) []byte }
	id     string
}

// Derive implements the derivers of ca and token. Without a restore it is the
// derivation of the key itself.
func (e epoch) Derive(parts ...string) []byte {
	if e.id != "" {
		parts = append(slices.Clone(parts), "epoch", e.id)
	}
	return e.secret.Derive(parts...)
}
