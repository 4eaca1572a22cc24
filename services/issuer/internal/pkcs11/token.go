//go:build pkcs11 && cgo

package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

const built = true

const (
	// parallel bounds the calls under way, those that the HSM never ends included.
	parallel = 8
	// patience is how long one call may take.
	patience = 15 * time.Second
	// maxPause bounds the pause between two attempts to log in.
	maxPause = 30 * time.Second
)

// Token is a token of a PKCS#11 module. A session that is lost is opened again,
// but for one whose PIN is refused: that takes a new Token.
type Token struct {
	config Config
	calls  chan struct{} // held by each call

	mu       sync.Mutex
	conn     *connection // nil: none
	failed   error       // why there is none
	attempts int         // that failed, one after the other
	next     time.Time   // not to be tried before; by the machine's time
}

// New returns a token, which is opened when it is needed.
func New(c Config) *Token { return &Token{config: c, calls: make(chan struct{}, parallel)} }

// Generate implements keystore.Token. It asks once: a second try under the same
// id could meet half of a pair.
func (t *Token) Generate(ctx context.Context, id, label string) (*ecdsa.PublicKey, error) {
	return within(ctx, t, func() (*ecdsa.PublicKey, error) {
		conn, _, err := t.connection()
		if err != nil {
			return nil, err
		}
		public, err := conn.generate(id, label)
		if err != nil {
			t.drop(conn)
			return nil, fmt.Errorf("%w: token %q: %w", keystore.ErrUnavailable, t.config.Token, err)
		}
		return public, nil
	})
}

// Signer implements keystore.Token.
func (t *Token) Signer(ctx context.Context, id, label string) (crypto.Signer, error) {
	found, err := call(ctx, t, func(c *connection) (crypto.Signer, error) { return c.find(id, label) })
	if err != nil {
		return nil, err
	}
	return &key{token: t, id: id, label: label, public: found.Public()}, nil
}

// Check implements keystore.Token.
func (t *Token) Check(ctx context.Context) error {
	_, err := call(ctx, t, func(c *connection) (struct{}, error) { return struct{}{}, c.probe() })
	return err
}

// Delete implements keystore.Token.
func (t *Token) Delete(ctx context.Context, id, label string) error {
	_, err := call(ctx, t, func(c *connection) (struct{}, error) { return struct{}{}, c.remove(id, label) })
	if errors.Is(err, keystore.ErrLost) {
		return nil
	}
	return err
}

// Close logs out. The token opens again when it is used.
func (t *Token) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn == nil {
		return nil
	}
	err := t.conn.kms.Close()
	t.conn = nil
	return err
}

// key signs with a key in the token, over whichever connection there is.
type key struct {
	token     *Token
	id, label string
	public    crypto.PublicKey
}

// Public implements crypto.Signer.
func (k *key) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer. CKM_ECDSA takes its randomness from the HSM.
func (k *key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return call(context.Background(), k.token, func(c *connection) ([]byte, error) {
		s, err := c.known(k.id, k.label)
		if err != nil {
			return nil, err
		}
		return s.Sign(nil, digest, opts)
	})
}

// call asks the HSM as attempt does, within the time there is.
func call[T any](ctx context.Context, t *Token, f func(*connection) (T, error)) (T, error) {
	return within(ctx, t, func() (T, error) { return attempt(t, f) })
}

// within waits no longer than the context and patience allow: nothing ends a
// call of a C library from outside.
func within[T any](ctx context.Context, t *Token, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answered := make(chan answer, 1)
	select {
	case t.calls <- struct{}{}:
		go func() {
			defer func() { <-t.calls }()
			value, err := f()
			answered <- answer{value, err}
		}()
	case <-ctx.Done():
	}
	select {
	case a := <-answered:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("%w: token %q has not answered: %w", keystore.ErrUnavailable, t.config.Token, ctx.Err())
	}
}

// attempt asks once, and once more over a new connection: the one there is may
// be lost, and from one who is not logged in the keys are hidden.
func attempt[T any](t *Token, f func(*connection) (T, error)) (T, error) {
	var value T
	for last := false; ; last = true {
		conn, fresh, err := t.connection()
		if err != nil {
			return value, err
		}
		value, err = f(conn)
		missing := errors.Is(err, errNotFound)
		switch {
		case err == nil:
			return value, nil
		case missing && (fresh || last):
			return value, fmt.Errorf("%w: token %q", keystore.ErrLost, t.config.Token)
		case last:
			t.drop(conn)
			return value, fmt.Errorf("%w: token %q: %w", keystore.ErrUnavailable, t.config.Token, err)
		}
		t.drop(conn)
	}
}

// connection returns the connection there is, or a fresh one. After a failure
// there is none for a while, and after a refusal none any more.
func (t *Token) connection() (conn *connection, fresh bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn != nil {
		return t.conn, false, nil
	}
	if errors.Is(t.failed, keystore.ErrRefused) || clock.Wall().Before(t.next) {
		return nil, false, t.failed
	}
	if t.conn, err = connect(t.config); err != nil {
		t.conn, t.failed, t.attempts = nil, err, t.attempts+1
		t.next = clock.Wall().Add(bus.Backoff(t.attempts, maxPause))
		return nil, false, err
	}
	t.failed, t.attempts = nil, 0
	return t.conn, true, nil
}

// drop ends a connection that has failed, unless another call has done so.
func (t *Token) drop(conn *connection) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn == conn {
		_ = conn.kms.Close()
		t.conn = nil
	}
}
