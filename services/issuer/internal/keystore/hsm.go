package keystore

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// Place says where in an HSM a key lies.
type Place struct {
	ID     string `json:"id"`     // CKA_ID, hexadecimal: random, so that no two keys share it
	Label  string `json:"label"`  // CKA_LABEL, for people
	Public []byte `json:"public"` // its public key, SubjectPublicKeyInfo (RFC 5280, 4.1.2.7)
}

// String names the key as tools of PKCS#11 do.
func (p *Place) String() string { return fmt.Sprintf("object %s with id %s", p.Label, p.ID) }

// Token is an HSM that this process has a way to. It is safe for concurrent
// use; each method ends with ctx, also when the HSM does not. The errors are
// ErrLost for a key that is not there, and ErrUnavailable.
type Token interface {
	// Generate makes an ECDSA key on P-256 that never leaves the HSM, under an
	// id (hexadecimal) that no other has.
	Generate(ctx context.Context, id, label string) (*ecdsa.PublicKey, error)
	// Signer returns the signer of a key.
	Signer(ctx context.Context, id, label string) (crypto.Signer, error)
	// Check looks whether the HSM answers.
	Check(ctx context.Context) error
	// Delete removes a key. That there is none is no error.
	Delete(ctx context.Context, id, label string) error
}

// HSM is a Keystore whose ECDSAP256 keys lie in an HSM and sign there. The other
// keys are Sealed. So are ECDSAP256 keys from before there was an HSM: where a
// key lies is on record, and it stays there.
//
// PKCS#11 knows no unique names: of several that make a key of one label at once
// each gets its own. So each makes its own, under a random id, and the first to
// put that id on record wins; the others remove theirs. Until it is on record a
// key has signed nothing.
type HSM struct {
	sealed *Sealed
	token  Token
	log    *slog.Logger
	making chan struct{} // held while a key is made

	mu      sync.Mutex
	signers map[string]*signer // by id
	places  map[string]*Place  // of the signers
	begun   map[string]*Place  // made, and perhaps not on record
}

// NewHSM returns a keystore on a token, and on a sealed one for what the token
// does not hold.
func NewHSM(sealed *Sealed, token Token, log *slog.Logger) *HSM {
	return &HSM{
		sealed: sealed, token: token, log: log, making: make(chan struct{}, 1),
		signers: map[string]*signer{}, places: map[string]*Place{}, begun: map[string]*Place{},
	}
}

// Format shows nothing of what a keystore holds.
func (h *HSM) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, secret.Hidden) }

// Create implements Keystore.
func (h *HSM) Create(ctx context.Context, id string, a Algorithm) error {
	if a != ECDSAP256 {
		return h.sealed.Create(ctx, id, a)
	}
	e, err := h.sealed.store.Get(ctx, id)
	if err == nil && e.Value.HSM == nil {
		return h.sealed.Create(ctx, id, a) // from before there was an HSM, or of another algorithm
	}
	if errors.Is(err, fleet.ErrNotFound) {
		err = h.make(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("create key %s in the HSM: %w", id, err)
	}
	_, err = h.Signer(ctx, id)
	return err
}

// make makes a key and puts it on record, unless another was first.
func (h *HSM) make(ctx context.Context, id string) error {
	select {
	case h.making <- struct{}{}:
		defer func() { <-h.making }()
	case <-ctx.Done():
		return ctx.Err()
	}
	place, err := h.begin(ctx, id)
	if err != nil {
		return err
	}
	box, err := h.sealed.kek.seal(Box{ID: id, Algorithm: ECDSAP256, HSM: place}, nil)
	if err != nil {
		return err
	}
	_, err = h.sealed.store.Create(ctx, id, box)
	if err != nil && !errors.Is(err, fleet.ErrConflict) {
		return err // it may be on record all the same: the next attempt is with the same key
	}
	stored, err := h.sealed.store.Get(ctx, id)
	if err != nil {
		return err
	}
	if first := stored.Value.HSM; first == nil || first.ID != place.ID {
		h.discard(ctx, place)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.begun, id)
	return nil
}

// begin returns a key that was made for an id and is perhaps not on record yet.
func (h *HSM) begin(ctx context.Context, id string) (*Place, error) {
	h.mu.Lock()
	place, ok := h.begun[id]
	h.mu.Unlock()
	if ok {
		return place, nil
	}
	place, err := h.generate(ctx, id)
	if errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrRefused) {
		place, err = h.generate(ctx, id) // a session of long ago may have been lost
	}
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begun[id] = place
	return place, nil
}

// generate makes a key in the token, each time under another id.
func (h *HSM) generate(ctx context.Context, id string) (*Place, error) {
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	place := &Place{ID: hex.EncodeToString(random), Label: "rotor-" + id}
	public, err := h.token.Generate(ctx, place.ID, place.Label)
	if err != nil {
		return nil, err
	}
	place.Public, err = x509.MarshalPKIXPublicKey(public)
	return place, err
}

// discard removes a key that lost: it has signed nothing. One that stays harms
// nobody and takes space.
func (h *HSM) discard(ctx context.Context, place *Place) {
	if err := h.token.Delete(ctx, place.ID, place.Label); err != nil {
		h.log.WarnContext(ctx, "a key that is not used stays in the HSM; it may be deleted by hand", "label", place.Label, "id", place.ID, "err", err)
	}
}

// Signer implements Keystore.
func (h *HSM) Signer(ctx context.Context, id string) (Signer, error) {
	h.mu.Lock()
	known, ok := h.signers[id]
	h.mu.Unlock()
	if ok {
		return known, nil
	}
	e, err := h.sealed.store.Get(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", id, err)
	}
	if e.Value.HSM == nil {
		return h.sealed.Signer(ctx, id)
	}
	made, err := h.open(ctx, id, e.Value)
	if err != nil {
		return nil, fmt.Errorf("key %s in the HSM: %w", id, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.signers[id], h.places[id] = made, e.Value.HSM
	return made, nil
}

func (h *HSM) open(ctx context.Context, id string, b Box) (*signer, error) {
	if err := h.sealed.kek.Check(id, b); err != nil {
		return nil, err
	}
	inner, err := h.find(ctx, b.HSM)
	if err != nil {
		return nil, err
	}
	return &signer{public: inner.Public(), random: true, sign: func(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
			return nil, fmt.Errorf("%w: key %s signs SHA-256 digests", fleet.ErrInvalid, id)
		}
		signature, err := inner.Sign(nil, digest, opts)
		if err != nil {
			return nil, fmt.Errorf("sign with key %s in the HSM: %w", id, err)
		}
		return signature, nil
	}}, nil
}

// find returns the key at a place, if it is the one that is on record.
func (h *HSM) find(ctx context.Context, place *Place) (crypto.Signer, error) {
	inner, err := h.token.Signer(ctx, place.ID, place.Label)
	if err != nil {
		return nil, err
	}
	recorded, err := x509.ParsePKIXPublicKey(place.Public)
	if err != nil {
		return nil, ErrUnreadable
	}
	if public, ok := recorded.(*ecdsa.PublicKey); !ok || !public.Equal(inner.Public()) {
		return nil, fmt.Errorf("%w: %s is another key", ErrLost, place)
	}
	return inner, nil
}

// Secret implements Keystore.
func (h *HSM) Secret(ctx context.Context, id string) (Secret, error) { return h.sealed.Secret(ctx, id) }

// Retain says which keys are still needed. One that is not may go from the HSM,
// and is opened again if it is asked for all the same.
func (h *HSM) Retain(ids ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	unneeded := func(id string) bool { return !slices.Contains(ids, id) }
	maps.DeleteFunc(h.signers, func(id string, _ *signer) bool { return unneeded(id) })
	maps.DeleteFunc(h.places, func(id string, _ *Place) bool { return unneeded(id) })
}

// Check looks whether the HSM answers and holds every key that was used and is
// needed.
func (h *HSM) Check(ctx context.Context) error {
	h.mu.Lock()
	places := maps.Clone(h.places)
	h.mu.Unlock()
	if len(places) == 0 {
		return h.token.Check(ctx)
	}
	for id, place := range places {
		if _, err := h.find(ctx, place); err != nil {
			return fmt.Errorf("key %s in the HSM: %w", id, err)
		}
	}
	return nil
}
