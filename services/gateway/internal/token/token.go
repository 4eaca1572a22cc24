// Package token verifies the tokens of clients: their signature, their validity and
// whom they belong to. It decides from the authority document and now; whether a
// token is still on record is for the caller to look up.
package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

// tokenType is the typ of the tokens (RFC 9068, 2.1).
const tokenType = "at+jwt"

// Claims are the claims of a token that are looked at.
type Claims struct {
	jwt.Claims
	Confirmation struct {
		Thumbprint string `json:"jkt"` // RFC 9449, 6.1
	} `json:"cnf"`
}

// Verify returns the claims of a token that the authority has signed and that is
// valid at now (RFC 9068, 4). No error of it shows the token.
func Verify(raw string, authority fleet.Authority, now time.Time) (Claims, error) {
	var claims Claims
	parsed, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.EdDSA, jose.ES256})
	if err != nil || len(parsed.Headers) != 1 {
		return claims, errors.New("not a JWT that is signed with EdDSA or ES256")
	}
	header := parsed.Headers[0]
	if typ, _ := header.ExtraHeaders[jose.HeaderType].(string); typ != tokenType {
		return claims, fmt.Errorf("typ is not %s", tokenType)
	}
	key, alg, err := signingKey(authority, header.KeyID)
	if err != nil {
		return claims, err
	}
	if header.Algorithm != string(alg) { // a key has one, whatever the token says (RFC 8725, 3.1)
		return claims, fmt.Errorf("alg is not %s, that of its key", alg)
	}
	if err := parsed.Claims(key, &claims); err != nil {
		return claims, errors.New("its signature is wrong")
	}
	switch {
	case !authority.Issued(claims.Issuer, claims.Audience):
		return claims, errors.New("iss or aud is not this Rotor")
	case claims.NotBefore == nil || now.Before(claims.NotBefore.Time()):
		return claims, errors.New("it is not valid yet (nbf)")
	case claims.Expiry == nil:
		return claims, errors.New("it has no exp")
	case !now.Before(claims.Expiry.Time()):
		return claims, fmt.Errorf("it has expired %s (exp)", claims.Expiry.Time().UTC().Format(time.RFC3339))
	case claims.ID == "":
		return claims, errors.New("it has no jti")
	}
	return claims, nil
}

// signingKey returns a key of the authority that is not retired, and its one
// algorithm.
func signingKey(authority fleet.Authority, id string) (crypto.PublicKey, jose.SignatureAlgorithm, error) {
	k := authority.FindKey(id)
	if k == nil || k.Phase == fleet.PhaseRetired {
		return nil, "", errors.New("kid is not a key of this Rotor")
	}
	var jwk jose.JSONWebKey
	if err := jwk.UnmarshalJSON(k.JWK); err != nil {
		return nil, "", errors.New("the key that signed it cannot be read")
	}
	switch public := jwk.Key.(type) {
	case ed25519.PublicKey:
		return public, jose.EdDSA, nil
	case *ecdsa.PublicKey:
		if public.Curve == elliptic.P256() {
			return public, jose.ES256, nil
		}
	}
	return nil, "", errors.New("the key that signed it is of no kind that signs tokens")
}

// Algorithms returns those of the keys that are not retired, sorted: what a
// verifier has to know (OpenID Connect Discovery 1.0, 3).
func Algorithms(authority fleet.Authority) []string {
	var all []string
	for i := range authority.Keys {
		if _, alg, err := signingKey(authority, authority.Keys[i].ID); err == nil && !slices.Contains(all, string(alg)) {
			all = append(all, string(alg))
		}
	}
	slices.Sort(all)
	return all
}

// BelongTo demands that the token was made for the key and the name of the
// certificate that was shown with it: a stolen token alone signs nobody in.
func (c Claims) BelongTo(leaf *x509.Certificate, subject string) error {
	if c.Subject != subject {
		return fmt.Errorf("sub is not %s, whose certificate was shown", subject)
	}
	thumbprint, err := identity.Thumbprint(leaf.PublicKey)
	if err != nil {
		return err
	}
	if c.Confirmation.Thumbprint != thumbprint {
		return errors.New("cnf.jkt is not the key of the certificate that was shown")
	}
	return nil
}
