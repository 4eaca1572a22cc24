package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/rotor-fleet/rotor/services/gateway/internal/token"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// pair is a token key, both halves.
type pair struct {
	fleet.SigningKey
	private crypto.Signer
	alg     jose.SignatureAlgorithm
}

func newPair(t *testing.T, id string, phase fleet.Phase, alg jose.SignatureAlgorithm) pair {
	t.Helper()
	var private crypto.Signer
	var err error
	if alg == jose.ES256 {
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		_, private, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := json.Marshal(jose.JSONWebKey{Key: private.Public(), KeyID: id, Use: "sig", Algorithm: string(alg)})
	if err != nil {
		t.Fatal(err)
	}
	return pair{fleet.SigningKey{ID: id, Phase: phase, JWK: jwk, Algorithm: string(alg)}, private, alg}
}

// mint signs a token with a key, under the kid and the algorithm that are given.
func mint(t *testing.T, kid string, alg jose.SignatureAlgorithm, key any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithType("at+jwt").WithHeader("kid", kid))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: "https://rotor.example", Subject: "edge-01/kms", Audience: jwt.Audience{"rotor"}, ID: "1",
		NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(time.Hour)),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Keys of both kinds are accepted in every phase but the last, each with its own
// algorithm and with no other.
func TestVerifyByTheKeysOwnAlgorithm(t *testing.T) {
	old, signs := newPair(t, "old", fleet.PhaseOutgoing, jose.EdDSA), newPair(t, "signs", fleet.PhaseActive, jose.ES256)
	next, gone := newPair(t, "next", fleet.PhaseIncoming, jose.EdDSA), newPair(t, "gone", fleet.PhaseRetired, jose.ES256)
	authority := fleet.Authority{
		Keys:        []fleet.SigningKey{old.SigningKey, signs.SigningKey, next.SigningKey, gone.SigningKey},
		TokenIssuer: "https://rotor.example", Audience: []string{"rotor"},
	}
	spki := func(p pair) []byte { return p.JWK }
	for _, tt := range []struct {
		name string
		raw  string
		want string // part of the refusal; empty if it is believed
	}{
		{"of the one that signs", mint(t, "signs", jose.ES256, signs.private), ""},
		{"of the one before", mint(t, "old", jose.EdDSA, old.private), ""},
		{"of the next", mint(t, "next", jose.EdDSA, next.private), ""},
		{"of one that is retired", mint(t, "gone", jose.ES256, gone.private), "kid is not a key"},
		{"of nobody", mint(t, "nobody", jose.ES256, signs.private), "kid is not a key"},
		{"of another key of its kind", mint(t, "next", jose.EdDSA, old.private), "signature is wrong"},
		{"EdDSA under a key of ES256", mint(t, "signs", jose.EdDSA, old.private), "alg is not ES256"},
		{"ES256 under a key of EdDSA", mint(t, "old", jose.ES256, signs.private), "alg is not EdDSA"},
		{"HMAC with what is public", mint(t, "signs", jose.HS256, spki(signs)), "not a JWT"},
	} {
		_, err := token.Verify(tt.raw, authority, now)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", tt.name, err, tt.want)
		}
	}
	if got := token.Algorithms(authority); !slices.Equal(got, []string{"ES256", "EdDSA"}) {
		t.Errorf("in use: %s", got)
	}
	if got := token.Algorithms(fleet.Authority{Keys: []fleet.SigningKey{old.SigningKey, gone.SigningKey}}); !slices.Equal(got, []string{"EdDSA"}) {
		t.Errorf("in use: %s", got)
	}
}
