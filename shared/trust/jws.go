package trust

import (
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"
)

// signJWS returns a payload as a JWS in compact form (RFC 7515) of a typ, signed by
// the fleet key, whose public half stands in the header. The same payload gives
// the same text.
func signJWS(signer crypto.Signer, typ string, payload []byte) (string, error) {
	options := (&jose.SignerOptions{EmbedJWK: true}).WithType(jose.ContentType(typ))
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: cryptosigner.Opaque(signer)}, options)
	if err != nil {
		return "", err
	}
	signed, err := s.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// openJWS reads into out what the fleet key has signed under a typ, and returns the
// pin of the key. With an empty pin any key will do.
func openJWS(signed, typ, pin string, out any) (signer string, err error) {
	jws, err := jose.ParseSignedCompact(signed, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return "", err
	}
	header := jws.Signatures[0].Protected
	if header.JSONWebKey == nil {
		return "", fmt.Errorf("no key in the header: %w", ErrUntrusted)
	}
	public, ok := header.JSONWebKey.Key.(ed25519.PublicKey)
	if !ok {
		return "", fmt.Errorf("key is not Ed25519: %w", ErrUntrusted)
	}
	have, err := Pin(public)
	if err != nil {
		return "", err
	}
	if pin != "" && have != pin {
		return have, fmt.Errorf("signed by %s, pinned is %s: %w", have, pin, ErrUntrusted)
	}
	payload, err := jws.Verify(public)
	if err != nil {
		return have, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	if have, _ := header.ExtraHeaders[jose.HeaderType].(string); have != typ {
		return "", fmt.Errorf("typ is %q, want %q: %w", have, typ, ErrUntrusted)
	}
	return have, json.Unmarshal(payload, out)
}
