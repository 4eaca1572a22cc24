package api

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// The paths of programs that sign in by themselves.
const (
	PathLogin   = "/v1/login"
	PathRecover = "/v1/recover"
)

// HeaderProof carries a proof of possession (RFC 9449, 4.1).
const HeaderProof = "DPoP"

// LoginRequest is what a program sends to sign in, beside its token and a proof.
type LoginRequest struct {
	CSR  string         `json:"csr" minLength:"1" maxLength:"16384" doc:"PKCS #10 request with a new key, as PEM or as base64 of DER. Keep the key: a repeat with another one is refused"`
	Life fleet.Duration `json:"life,omitempty" doc:"life wanted, such as 30d; that of the policy, which is the longest, if absent"`
}

// RecoverRequest is what a program sends to redeem a recovery token.
type RecoverRequest struct {
	Token string `json:"token" minLength:"1" maxLength:"1024" doc:"recovery token, from rotor recover"`
	CSR   string `json:"csr" minLength:"1" maxLength:"16384" doc:"PKCS #10 request with a new key, as PEM or as base64 of DER. Keep the key: the token is good for this key only from now on"`
}

// SignInReply is the generation that a program has got.
type SignInReply struct {
	Cluster     string          `json:"cluster"`
	Client      fleet.ClientKey `json:"client"`
	Generation  int             `json:"generation"`
	Certificate string          `json:"certificate" doc:"client certificate and its issuer, PEM"`
	Token       string          `json:"token" doc:"token (RFC 9068), bound to the key of the request"`
	CA          string          `json:"ca" doc:"trust bundle, PEM: what servers are verified with"`
	NotAfter    time.Time       `json:"notAfter" doc:"last moment of the certificate"`
	ExpiresAt   time.Time       `json:"expiresAt" doc:"first moment at which the token is no longer valid"`
	RenewAt     time.Time       `json:"renewAt" doc:"when to sign in again"`
}

// Credential is what a program signs in with: its token, and the key that the
// token is bound to.
type Credential struct {
	Token secret.Text
	Key   crypto.Signer
}

// Login signs in, and returns the next generation for a new key, which must be
// on disk before: if the reply is lost, the call is repeated with the same key.
func (c *Client) Login(ctx context.Context, with Credential, next crypto.Signer) (SignInReply, error) {
	var reply SignInReply
	csr, err := NewRequest(next)
	if err != nil {
		return reply, err
	}
	proof, err := with.Prove(http.MethodPost, strings.TrimSuffix(c.URL, "/")+PathLogin, clock.Wall())
	if err != nil {
		return reply, err
	}
	own := *c
	own.Token, own.headers = secret.Text{}, http.Header{}
	own.headers.Set("Authorization", "DPoP "+with.Token.Reveal())
	own.headers.Set(HeaderProof, proof)
	err = own.Call(ctx, http.MethodPost, PathLogin, LoginRequest{CSR: csr}, &reply)
	return reply, err
}

// Redeem redeems a recovery token for a new key, which must be on disk before.
func (c *Client) Redeem(ctx context.Context, token secret.Text, next crypto.Signer) (SignInReply, error) {
	var reply SignInReply
	csr, err := NewRequest(next)
	if err != nil {
		return reply, err
	}
	err = c.Call(ctx, http.MethodPost, PathRecover, RecoverRequest{Token: token.Reveal(), CSR: csr}, &reply)
	return reply, err
}

// NewRequest returns a certificate request for a key, in PEM.
func NewRequest(key crypto.Signer) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "rotor"}}, key)
	if err != nil {
		return "", fmt.Errorf("make certificate request: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// Prove returns a proof of possession for one call (RFC 9449, 4.2). It is good
// once, and for some minutes.
func (c Credential) Prove(method, url string, now time.Time) (string, error) {
	algorithm, err := algorithmOf(c.Key.Public())
	if err != nil {
		return "", err
	}
	options := (&jose.SignerOptions{}).WithType("dpop+jwt").WithHeader("jwk", jose.JSONWebKey{Key: c.Key.Public()})
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: cryptosigner.Opaque(c.Key)}, options)
	if err != nil {
		return "", fmt.Errorf("make proof: %w", err)
	}
	sum := sha256.Sum256([]byte(c.Token.Reveal()))
	payload, err := json.Marshal(map[string]any{
		"jti": rand.Text(), "htm": method, "htu": url, "iat": now.Unix(), "ath": base64.RawURLEncoding.EncodeToString(sum[:]),
	})
	if err != nil {
		return "", fmt.Errorf("make proof: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("make proof: %w", err)
	}
	return signed.CompactSerialize()
}

func algorithmOf(public crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return jose.EdDSA, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return jose.ES256, nil
		case elliptic.P384():
			return jose.ES384, nil
		}
	}
	return "", fmt.Errorf("%w: key %T: use ECDSA P-256 or P-384, or Ed25519", fleet.ErrInvalid, public)
}
