package keystoretest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"sync"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

// Token is an HSM in memory, for tests of those who use one: it signs with
// randomness, has no unique names, can fail and can lose its keys. Several
// processes share it as they share an HSM. It is safe for concurrent use.
type Token struct {
	mu      sync.Mutex
	objects []object
	failure error
	calls   int
}

type object struct {
	id, label string
	key       func() *ecdsa.PrivateKey
}

// Fail has every call fail from now on, or none if err is nil.
func (t *Token) Fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failure = err
}

// Lose forgets all keys.
func (t *Token) Lose() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.objects = nil
}

// Labels returns the labels of the keys.
func (t *Token) Labels() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var labels []string
	for _, o := range t.objects {
		labels = append(labels, o.label)
	}
	return labels
}

// Calls returns how often the token was asked.
func (t *Token) Calls() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.calls
}

// Generate implements keystore.Token.
func (t *Token) Generate(_ context.Context, id, label string) (*ecdsa.PublicKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.calls++; t.failure != nil {
		return nil, t.failure
	}
	t.objects = append(t.objects, object{id, label, func() *ecdsa.PrivateKey { return key }})
	return &key.PublicKey, nil
}

// Signer implements keystore.Token.
func (t *Token) Signer(_ context.Context, id, label string) (crypto.Signer, error) {
	key, err := t.find(id, label)
	if err != nil {
		return nil, err
	}
	return &handle{t, id, label, &key.PublicKey}, nil
}

func (t *Token) find(id, label string) (*ecdsa.PrivateKey, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.calls++; t.failure != nil {
		return nil, t.failure
	}
	for _, o := range t.objects {
		if o.id == id && o.label == label {
			return o.key(), nil
		}
	}
	return nil, fmt.Errorf("%w: token in memory", keystore.ErrLost)
}

// Check implements keystore.Token.
func (t *Token) Check(context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls++
	return t.failure
}

// Delete implements keystore.Token.
func (t *Token) Delete(_ context.Context, id, label string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.calls++; t.failure != nil {
		return t.failure
	}
	for i, o := range t.objects {
		if o.id == id && o.label == label {
			t.objects = append(t.objects[:i:i], t.objects[i+1:]...)
			return nil
		}
	}
	return nil
}

// handle is a key in the token.
type handle struct {
	token     *Token
	id, label string
	public    *ecdsa.PublicKey
}

// Public implements crypto.Signer.
func (h *handle) Public() crypto.PublicKey { return h.public }

// Sign implements crypto.Signer, with fresh randomness whatever it is given.
func (h *handle) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	key, err := h.token.find(h.id, h.label)
	if err != nil {
		return nil, err
	}
	return key.Sign(rand.Reader, digest, opts)
}
