package keystore

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// Box is a key as it is stored: sealed with AES-256-GCM under the key-encryption
// key. Id and algorithm are bound to the box, so that no box can be passed off
// as another. The box of a key in an HSM is empty: it authenticates the place.
type Box struct {
	ID        string    `json:"id"`
	Algorithm Algorithm `json:"algorithm"`
	HSM       *Place    `json:"hsm,omitempty"` // where it lies, if not in the box
	Nonce     []byte    `json:"nonce"`
	Box       []byte    `json:"box"`
	CreatedAt time.Time `json:"createdAt"` // by the machine's time
}

// Store is where the boxes lie: a kv.Bucket[Box].
type Store interface {
	Get(ctx context.Context, id string) (kv.Entry[Box], error)
	Create(ctx context.Context, id string, b Box) (uint64, error)
}

// KEK is a key-encryption key. It does not print.
type KEK struct{ aead func() cipher.AEAD }

func newKEK(key []byte) (KEK, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return KEK{}, fmt.Errorf("key-encryption key: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return KEK{}, fmt.Errorf("key-encryption key: %w", err)
	}
	return KEK{aead: func() cipher.AEAD { return aead }}, nil
}

// Sealed is a Keystore in a bucket. What it has opened once it keeps in memory,
// as a key never changes.
type Sealed struct {
	kek   KEK
	store Store

	mu      sync.Mutex
	signers map[string]*signer
	secrets map[string]Secret
}

// NewSealed returns a keystore on a store, under a key-encryption key.
func NewSealed(kek KEK, store Store) *Sealed {
	return &Sealed{kek: kek, store: store, signers: map[string]*signer{}, secrets: map[string]Secret{}}
}

// Create implements Keystore. When another has made the key meanwhile, theirs
// is the one.
func (s *Sealed) Create(ctx context.Context, id string, a Algorithm) error {
	_, err := s.store.Get(ctx, id)
	if errors.Is(err, fleet.ErrNotFound) {
		err = s.make(ctx, id, a)
	}
	if err != nil && !errors.Is(err, fleet.ErrConflict) {
		return fmt.Errorf("create key %s: %w", id, err)
	}
	_, err = s.open(ctx, id, a)
	return err
}

func (s *Sealed) make(ctx context.Context, id string, a Algorithm) error {
	private, err := generate(a)
	if err != nil {
		return err
	}
	box, err := s.kek.seal(Box{ID: id, Algorithm: a}, private)
	if err != nil {
		return err
	}
	_, err = s.store.Create(ctx, id, box)
	return err
}

// Signer implements Keystore.
func (s *Sealed) Signer(ctx context.Context, id string) (Signer, error) {
	s.mu.Lock()
	known, ok := s.signers[id]
	s.mu.Unlock()
	if ok {
		return known, nil
	}
	opened, err := s.open(ctx, id, "")
	if err != nil {
		return nil, err
	}
	made, err := newSigner(opened.algorithm, opened.private)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signers[id] = made
	return made, nil
}

// Secret implements Keystore.
func (s *Sealed) Secret(ctx context.Context, id string) (Secret, error) {
	s.mu.Lock()
	known, ok := s.secrets[id]
	s.mu.Unlock()
	if ok {
		return known, nil
	}
	opened, err := s.open(ctx, id, HMAC256)
	if err != nil {
		return Secret{}, err
	}
	made := newSecret(opened.private)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[id] = made
	return made, nil
}

type opened struct {
	algorithm Algorithm
	private   []byte
}

// open reads and opens a box; want may be empty for any algorithm.
func (s *Sealed) open(ctx context.Context, id string, want Algorithm) (opened, error) {
	e, err := s.store.Get(ctx, id)
	if err != nil {
		return opened{}, fmt.Errorf("read key %s: %w", id, err)
	}
	if want != "" && e.Value.Algorithm != want {
		return opened{}, fmt.Errorf("%w: key %s: algorithm is %q, want %q", fleet.ErrInvalid, id, e.Value.Algorithm, want)
	}
	private, err := s.kek.open(id, e.Value)
	if err != nil {
		return opened{}, fmt.Errorf("open key %s: %w", id, err)
	}
	if e.Value.HSM != nil {
		return opened{}, fmt.Errorf("%w: key %s lies in an HSM, as %s: set issuer.keystore to kind pkcs11", fleet.ErrInvalid, id, e.Value.HSM)
	}
	return opened{e.Value.Algorithm, private}, nil
}

// bound is what a box is bound to.
func (b Box) bound() []byte {
	if b.HSM == nil {
		return fmt.Appendf(nil, "rotor issuer key v1\x00%s\x00%s", b.ID, b.Algorithm)
	}
	return fmt.Appendf(nil, "rotor issuer key in an HSM v1\x00%s\x00%s\x00%s\x00%s\x00%x", b.ID, b.Algorithm, b.HSM.ID, b.HSM.Label, b.HSM.Public)
}

// Check reports, as ErrUnreadable, that the key does not open a box. Nothing of
// what is inside is returned.
func (k KEK) Check(id string, b Box) error {
	_, err := k.open(id, b)
	return err
}

// seal completes a box with what it shall hold.
func (k KEK) seal(b Box, private []byte) (Box, error) {
	aead := k.aead()
	b.Nonce = make([]byte, aead.NonceSize())
	if _, err := rand.Read(b.Nonce); err != nil {
		return Box{}, fmt.Errorf("seal: %w", err)
	}
	b.Box, b.CreatedAt = aead.Seal(nil, b.Nonce, private, b.bound()), clock.Wall()
	return b, nil
}

// open never quotes what it read.
func (k KEK) open(id string, b Box) ([]byte, error) {
	aead := k.aead()
	if b.ID != id || len(b.Nonce) != aead.NonceSize() {
		return nil, ErrUnreadable
	}
	private, err := aead.Open(nil, b.Nonce, b.Box, b.bound())
	if err != nil {
		return nil, ErrUnreadable
	}
	return private, nil
}
