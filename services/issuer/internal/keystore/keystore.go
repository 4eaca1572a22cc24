// Package keystore holds the private keys of the authority. Nothing of a key
// leaves it: a caller gets a signer or a derivation, never the bytes. It is the
// only package of Rotor that sees them.
package keystore

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/rotor-fleet/rotor/shared/secret"
)

// Algorithm says what kind of key it is.
type Algorithm string

// The algorithms.
const (
	ECDSAP256 Algorithm = "ecdsa-p256" // signs certificates
	Ed25519   Algorithm = "ed25519"    // signs tokens and trust bundles (RFC 8032)
	HMAC256   Algorithm = "hmac-256"   // 256 random bits from which serials and token ids are derived
)

var (
	// ErrUnreadable says that a key is there, but not under the key-encryption
	// key that this process holds. No repetition mends it: the right one must be
	// restored.
	ErrUnreadable = errors.New("sealed under another key-encryption key, or damaged")
	// ErrLost says that a key is on record and not in the HSM. No repetition
	// mends it: the token must be restored from its backup.
	ErrLost = errors.New("on record, and not in the HSM")
	// ErrUnavailable says that the HSM cannot be used now.
	ErrUnavailable = errors.New("HSM unavailable")
	// ErrRefused says that the HSM refuses the PIN. It is an ErrUnavailable that
	// stays until the process starts again: each attempt brings the token nearer
	// to being locked, so no other one is made.
	ErrRefused = fmt.Errorf("%w: the PIN is refused", ErrUnavailable)
)

// Held reports whether an error says that a key cannot be used for now, whatever
// is asked of it: what was to be signed is not refused, it must wait.
func Held(err error) bool { return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrLost) }

// Keystore makes and uses keys. An implementation must pass the suite of
// keystoretest. It is safe for concurrent use by several processes on the same
// store; each method may block on a network and ends with ctx.
//
// A key is named once and for all: ids are never reused, and no method replaces
// or removes a key. The errors are fleet.ErrNotFound for an id that has no key,
// ErrUnreadable for one that cannot be opened, ErrLost for one that an HSM has
// lost, fleet.ErrInvalid for the wrong algorithm; anything else, such as
// ErrUnavailable, may go away by itself.
type Keystore interface {
	// Create makes a key, unless the id has one of this algorithm already:
	// when several ask at once, one key is made and all of them use it.
	Create(ctx context.Context, id string, a Algorithm) error
	// Signer returns the signer of an ECDSAP256 or Ed25519 key. Whether it gives
	// the same bytes for the same message is for the signer to say. Nobody may
	// rely on it: what was signed and stored first is what counts, and a repeat
	// takes the signature from there.
	Signer(ctx context.Context, id string) (Signer, error)
	// Secret returns the derivations of an HMAC256 key.
	Secret(ctx context.Context, id string) (Secret, error)
}

// Signer signs with a key of a keystore, and with randomness of its own if with
// any: it ignores the source that Sign is given. It is safe for concurrent use.
type Signer interface {
	crypto.Signer
	// Deterministic reports whether the same message always gives the same
	// bytes, in each process that opens the key.
	Deterministic() bool
}

// signer holds its key in a closure, so that no printer that walks through
// fields, not even one that ignores methods, comes across it.
type signer struct {
	public crypto.PublicKey
	random bool // each signature is another
	sign   func(digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// Deterministic implements Signer.
func (s *signer) Deterministic() bool { return !s.random }

// Public returns the public key.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign ignores the source of randomness: a key whose signatures repeat must not
// depend on who calls.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.sign(digest, opts)
}

// Format hides the key from every verb of package fmt.
func (s *signer) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, secret.Hidden) }

// LogValue hides the key from slog.
func (s *signer) LogValue() slog.Value { return slog.StringValue(secret.Hidden) }

// MarshalJSON hides the key from JSON.
func (s *signer) MarshalJSON() ([]byte, error) { return json.Marshal(secret.Hidden) }

// Secret derives values from a key that it does not show. The zero value
// panics; get one from a Keystore.
type Secret struct{ mac func(parts []string) []byte }

// Derive returns the HMAC-SHA256 of the parts, which are framed by their
// lengths: no two lists of parts give the same value.
func (s Secret) Derive(parts ...string) []byte { return s.mac(parts) }

// Format hides the key from every verb of package fmt.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, secret.Hidden) }

// LogValue hides the key from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(secret.Hidden) }

// MarshalJSON hides the key from JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(secret.Hidden) }
