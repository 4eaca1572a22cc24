package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// secretSize is the size of an HMAC256 key and of a key-encryption key, bytes.
const secretSize = 32

// generate returns the private form of a new key.
func generate(a Algorithm) ([]byte, error) {
	switch a {
	case ECDSAP256:
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return k.Bytes()
	case Ed25519:
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return k.Seed(), nil
	case HMAC256:
		b := make([]byte, secretSize)
		_, err := rand.Read(b)
		return b, err
	default:
		return nil, fmt.Errorf("%w: algorithm %q: use %s, %s or %s", fleet.ErrInvalid, a, ECDSAP256, Ed25519, HMAC256)
	}
}

// newSigner returns the signer of a private form.
func newSigner(a Algorithm, private []byte) (*signer, error) {
	switch a {
	case ECDSAP256:
		k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), private)
		if err != nil {
			return nil, ErrUnreadable // the cause could quote the key
		}
		return &signer{public: k.Public(), sign: func(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
			return k.Sign(nil, digest, opts) // without randomness: RFC 6979
		}}, nil
	case Ed25519:
		if len(private) != ed25519.SeedSize {
			return nil, ErrUnreadable
		}
		k := ed25519.NewKeyFromSeed(private)
		return &signer{public: k.Public(), sign: func(message []byte, opts crypto.SignerOpts) ([]byte, error) {
			return k.Sign(nil, message, opts)
		}}, nil
	default:
		return nil, fmt.Errorf("%w: a key of algorithm %q signs nothing", fleet.ErrInvalid, a)
	}
}

func newSecret(private []byte) Secret {
	return Secret{mac: func(parts []string) []byte {
		h := hmac.New(sha256.New, private)
		var size [8]byte
		for _, part := range parts {
			binary.BigEndian.PutUint64(size[:], uint64(len(part)))
			h.Write(size[:])
			h.Write([]byte(part))
		}
		return h.Sum(nil)
	}}
}
