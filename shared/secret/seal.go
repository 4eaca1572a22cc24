package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hpke"
	"errors"
	"fmt"
	"slices"
)

// The one suite in use: ML-KEM-768 with X25519, so that what is recorded today
// stays closed to a quantum computer; HKDF-SHA256 (RFC 9180). Of a context only
// the export of secrets is used (5.3), each of which is the key of one box.
func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.ExportOnly()
}

const (
	// encapsulated is the size of an encapsulated key: that of ML-KEM-768 (FIPS
	// 203, 8) and a public key of X25519.
	encapsulated = 1088 + 32
	sealInfo     = "rotor secrets v1" // what the contexts of HPKE are for
	boxKeySize   = 32                 // AES-256
)

// OpenKey is the private key that opens what is sealed to an agent.
type OpenKey struct{ k hpke.PrivateKey }

// NewOpenKey makes a key.
func NewOpenKey() (OpenKey, error) {
	kem, _, _ := suite()
	k, err := kem.GenerateKey()
	if err != nil {
		return OpenKey{}, fmt.Errorf("make HPKE key: %w", err)
	}
	return OpenKey{k}, nil
}

// ParseOpenKey is the inverse of Bytes.
func ParseOpenKey(b []byte) (OpenKey, error) {
	kem, _, _ := suite()
	k, err := kem.NewPrivateKey(b)
	if err != nil {
		return OpenKey{}, fmt.Errorf("read HPKE key: %w", err)
	}
	return OpenKey{k}, nil
}

// Bytes returns the private key itself, for its owner's disk only.
func (k OpenKey) Bytes() ([]byte, error) { return k.k.Bytes() }

// SealKey returns the public half.
func (k OpenKey) SealKey() []byte { return k.k.PublicKey().Bytes() }

// String hides the key.
func (k OpenKey) String() string { return Hidden }

// GoString hides the key from %#v.
func (k OpenKey) GoString() string { return Hidden }

// CheckSealKey reports whether b is a public key that Seal accepts.
func CheckSealKey(b []byte) error {
	kem, _, _ := suite()
	if _, err := kem.NewPublicKey(b); err != nil {
		return fmt.Errorf("read HPKE public key: %w", err)
	}
	return nil
}

// Seal encrypts a secret to the holder of a key. The context says what it is
// for and must be the same in Open, so that no box can be passed off as another.
func Seal(sealKey []byte, context string, t Text) ([]byte, error) {
	s, err := NewSealer(sealKey)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", context, err)
	}
	return s.Seal(context, t)
}

// Sealer seals several secrets to one holder with one encapsulation, which is
// what a box costs: each box has a key of its own, exported from it. A box is
// opened alone, and looks as if it had been sealed alone.
type Sealer struct {
	enc    []byte
	sender *hpke.Sender
}

// NewSealer returns a sealer to the holder of a key.
func NewSealer(sealKey []byte) (*Sealer, error) {
	kem, kdf, aead := suite()
	public, err := kem.NewPublicKey(sealKey)
	if err != nil {
		return nil, fmt.Errorf("read HPKE public key: %w", err)
	}
	enc, sender, err := hpke.NewSender(public, kdf, aead, []byte(sealInfo))
	if err != nil {
		return nil, fmt.Errorf("encapsulate: %w", err)
	}
	return &Sealer{enc: enc, sender: sender}, nil
}

// Seal works as the function of the same name.
func (s *Sealer) Seal(context string, t Text) ([]byte, error) {
	key, err := s.sender.Export(context, boxKeySize)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", context, err)
	}
	box, err := boxAEAD(key)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", context, err)
	}
	// The nonce is random and part of the box: one context may be sealed twice.
	return box.Seal(slices.Clip(s.enc), nil, []byte(t.Reveal()), nil), nil //nolint:gosec // nil asks for a random nonce
}

// Open decrypts what Seal has sealed to this key with the same context.
func (k OpenKey) Open(context string, box []byte) (Text, error) {
	t, err := k.open(context, box)
	if err != nil {
		return Text{}, fmt.Errorf("open %s: %w", context, err)
	}
	return t, nil
}

func (k OpenKey) open(context string, box []byte) (Text, error) {
	if len(box) < encapsulated {
		return Text{}, errors.New("the box is too short")
	}
	_, kdf, aead := suite()
	recipient, err := hpke.NewRecipient(box[:encapsulated], k.k, kdf, aead, []byte(sealInfo))
	if err != nil {
		return Text{}, err
	}
	key, err := recipient.Export(context, boxKeySize)
	if err != nil {
		return Text{}, err
	}
	opener, err := boxAEAD(key)
	if err != nil {
		return Text{}, err
	}
	b, err := opener.Open(nil, nil, box[encapsulated:], nil)
	if err != nil {
		return Text{}, err
	}
	return New(string(b)), nil
}

func boxAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// TokenContext is the context in which the token of a generation is sealed.
func TokenContext(cluster, client string, generation int) string {
	return fmt.Sprintf("rotor token %s %s %d", cluster, client, generation)
}
