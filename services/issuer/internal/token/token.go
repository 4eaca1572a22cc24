// Package token mints the tokens of clients and publishes the keys that verify
// them: pure, no network and no clock.
//
// A token is a JWT access token (RFC 9068) signed with Ed25519 (RFC 8037) or with
// ECDSA on P-256 (RFC 7518, 3.4), by the kind of its key, and bound to the key of its client by cnf.jkt (RFC 7800, RFC 9449 6.1): whoever
// steals it alone can do nothing with it.
package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"
	"github.com/google/uuid"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// Type is the typ of a token (RFC 9068, 2.1).
const Type = "at+jwt"

// The algorithms of tokens (RFC 7518, 3.1; RFC 8037, 3.1). A key has one, and
// nothing signed with it is accepted under the other.
const (
	EdDSA = string(jose.EdDSA)
	ES256 = string(jose.ES256)
)

// algorithm returns that of a key.
func algorithm(public crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return jose.EdDSA, nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return jose.ES256, nil
		}
	}
	return "", fmt.Errorf("%w: token key of type %T: want Ed25519, or ECDSA on P-256", fleet.ErrInvalid, public)
}

// Deriver gives values that look random and depend on nothing but a secret key
// and the parts.
type Deriver interface{ Derive(parts ...string) []byte }

// Minter mints tokens under one generation of the signing key. It is safe for
// concurrent use.
type Minter struct {
	KeyID    string
	Signer   crypto.Signer // Ed25519, or ECDSA on P-256
	IDs      Deriver
	Issuer   string
	Audience []string
}

// Request asks for the token of one generation of a client.
type Request struct {
	Cluster    string
	Client     fleet.ClientKey
	Generation int
	Key        string    // JWK thumbprint of the client's key
	At         time.Time // moment from which validity counts
	ExpiresAt  time.Time // end that is wanted
	Limit      time.Time // end of the CA, which it must not outlast
}

// Token is a minted token with its public record.
type Token struct {
	Text   secret.Text
	Record fleet.Token
	Cut    bool // its life was cut to that of the CA
}

// claims are in the order of RFC 9068, 2.2; the order is part of the bytes.
type claims struct {
	Issuer    string       `json:"iss"`
	Subject   string       `json:"sub"`
	Audience  []string     `json:"aud"`
	ClientID  string       `json:"client_id"`
	IssuedAt  int64        `json:"iat"`
	NotBefore int64        `json:"nbf"`
	Expiry    int64        `json:"exp"`
	ID        string       `json:"jti"`
	Confirm   confirmation `json:"cnf"`
}

type confirmation struct {
	Thumbprint string `json:"jkt"`
}

// Draft is a token that was checked, but not signed.
type Draft struct {
	Record fleet.Token
	Cut    bool // its life was cut to that of the CA

	claims claims
}

// Prepare checks a request and settles all that is signed.
func (m Minter) Prepare(r Request) (Draft, error) {
	at, expires := r.At.UTC().Truncate(time.Second), r.ExpiresAt.UTC().Truncate(time.Second)
	cut := expires.After(r.Limit)
	if cut {
		expires = r.Limit.UTC().Truncate(time.Second)
	}
	subject := identity.Subject(r.Cluster, r.Client)
	if !expires.After(at) {
		return Draft{}, fmt.Errorf("%w: token of %s from %s to %s has no life",
			fleet.ErrInvalid, subject, at.Format(time.RFC3339), expires.Format(time.RFC3339))
	}
	if r.Key == "" {
		return Draft{}, fmt.Errorf("%w: token of %s is not bound to a key", fleet.ErrInvalid, subject)
	}
	record := fleet.Token{ID: m.id(r, at), NotBefore: at.Add(-fleet.Backdate), ExpiresAt: expires, KeyID: m.KeyID}
	return Draft{Record: record, Cut: cut, claims: claims{
		Issuer: m.Issuer, Subject: subject, Audience: m.Audience, ClientID: subject,
		IssuedAt: at.Unix(), NotBefore: record.NotBefore.Unix(), Expiry: expires.Unix(),
		ID: record.ID, Confirm: confirmation{r.Key},
	}}, nil
}

// Mint signs what was prepared. The same draft gives the same bytes.
func (m Minter) Mint(d Draft) (Token, error) {
	text, err := m.sign(d.claims)
	if err != nil {
		return Token{}, fmt.Errorf("mint token of %s: %w", d.claims.Subject, err)
	}
	return Token{Text: secret.New(text), Record: d.Record, Cut: d.Cut}, nil
}

// id derives the jti: a UUID of version 8, whose bits are ours (RFC 9562, 5.8).
func (m Minter) id(r Request, at time.Time) string {
	sum := m.IDs.Derive("rotor token id", m.KeyID, r.Cluster, r.Client.String(), strconv.Itoa(r.Generation), at.Format(time.RFC3339))
	var id uuid.UUID
	copy(id[:], sum)
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

func (m Minter) sign(c claims) (string, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	alg, err := algorithm(m.Signer.Public())
	if err != nil {
		return "", err
	}
	options := (&jose.SignerOptions{}).WithType(Type).WithHeader("kid", m.KeyID)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: cryptosigner.Opaque(m.Signer)}, options)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// Public is the public half of a signing key.
type Public struct {
	ID        string // kid: the thumbprint of the key, so that two keys never share one
	JWK       []byte // RFC 7517
	Algorithm string // alg
}

// PublicKey returns the public half of a signing key.
func PublicKey(public crypto.PublicKey) (Public, error) {
	alg, err := algorithm(public)
	if err != nil {
		return Public{}, err
	}
	id, err := identity.Thumbprint(public)
	if err != nil {
		return Public{}, err
	}
	jwk, err := json.Marshal(jose.JSONWebKey{Key: public, KeyID: id, Use: "sig", Algorithm: string(alg)})
	return Public{ID: id, JWK: jwk, Algorithm: string(alg)}, err
}

// KeySet returns the JWK Set (RFC 7517, 5) of the keys that are trusted: all
// but the retired ones.
func KeySet(keys []fleet.SigningKey) (jose.JSONWebKeySet, error) {
	var set jose.JSONWebKeySet
	for _, key := range keys {
		if key.Phase == fleet.PhaseRetired {
			continue
		}
		var jwk jose.JSONWebKey
		if err := json.Unmarshal(key.JWK, &jwk); err != nil {
			return set, fmt.Errorf("signing key %s: %w", key.ID, err)
		}
		if !jwk.IsPublic() {
			return set, fmt.Errorf("%w: signing key %s is not public", fleet.ErrInvalid, key.ID)
		}
		set.Keys = append(set.Keys, jwk)
	}
	return set, nil
}
