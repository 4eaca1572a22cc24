// Package dpop checks proofs of possession (RFC 9449): that whoever shows a token
// holds the key that the token is bound to. It decides from the proof, the call
// and now; only Memory remembers anything.
package dpop

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/rotor-fleet/rotor/shared/identity"
)

// Algorithms are the algorithms of proofs, as a challenge names them (RFC 9449,
// 7.1): those of the keys that clients may have.
const Algorithms = "ES256 ES384 EdDSA"

const (
	proofType = "dpop+jwt"
	maxProof  = 8 << 10 // a proof with a P-384 key and a long URL stays below 1 KiB
	maxID     = 256
)

// Call is the call that a proof was made for.
type Call struct {
	Method string
	URLs   []string // all under which the resource is reached, as Place returns them
	Token  string   // token that was shown
	Key    string   // thumbprint of the key that the token is bound to (cnf.jkt)
	Now    time.Time
	Skew   time.Duration // how far iat may lie from Now, either way
}

// Proof is a proof that holds.
type Proof struct {
	Key      string // JWK thumbprint (RFC 7638)
	ID       string // jti
	IssuedAt time.Time
}

// claims are those of RFC 9449, 4.2.
type claims struct {
	ID       string           `json:"jti"`
	Method   string           `json:"htm"`
	URL      string           `json:"htu"`
	IssuedAt *jwt.NumericDate `json:"iat"`
	Token    string           `json:"ath"`
}

// Check makes the checks of RFC 9449, 4.3, but for the one that a proof was not
// used before: see Memory. Its errors show no part of the token.
func (c Call) Check(raw string) (Proof, error) {
	if raw == "" || len(raw) > maxProof {
		return Proof{}, fmt.Errorf("want one header DPoP with a JWT of at most %d bytes", maxProof)
	}
	parsed, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA})
	if err != nil || len(parsed.Signatures) != 1 {
		return Proof{}, errors.New("not a JWT that is signed with one of " + Algorithms + " and has a public key as jwk")
	}
	header := parsed.Signatures[0].Protected
	if typ, _ := header.ExtraHeaders[jose.HeaderType].(string); typ != proofType {
		return Proof{}, errors.New("typ is not " + proofType)
	}
	if header.JSONWebKey == nil || !header.JSONWebKey.IsPublic() || !fits(header.Algorithm, header.JSONWebKey.Key) {
		return Proof{}, errors.New("jwk is not a public key for its alg")
	}
	payload, err := parsed.Verify(header.JSONWebKey)
	if err != nil {
		return Proof{}, errors.New("its signature is not by its jwk")
	}
	key, err := identity.Thumbprint(header.JSONWebKey.Key)
	if err != nil {
		return Proof{}, err
	}
	var said claims
	if err := json.Unmarshal(payload, &said); err != nil {
		return Proof{}, errors.New("its payload is not a set of claims")
	}
	if err := c.agrees(said, key); err != nil {
		return Proof{}, err
	}
	return Proof{Key: key, ID: said.ID, IssuedAt: said.IssuedAt.Time()}, nil
}

// agrees compares what a proof says with the call.
func (c Call) agrees(said claims, key string) error {
	sum := sha256.Sum256([]byte(c.Token))
	place, err := Place(said.URL)
	switch {
	case said.ID == "" || len(said.ID) > maxID:
		return fmt.Errorf("jti: want 1 to %d characters", maxID)
	case said.Method != c.Method:
		return fmt.Errorf("htm is not %s", c.Method)
	case err != nil || !slices.Contains(c.URLs, place):
		return fmt.Errorf("htu is not this resource: it is reached at %s (gateway.publicURL and gateway.names of the configuration)", strings.Join(c.URLs, ", "))
	case said.IssuedAt == nil:
		return errors.New("iat is missing")
	case c.Now.Sub(said.IssuedAt.Time()).Abs() > c.Skew:
		return fmt.Errorf("iat is %s, and here it is %s: make a new proof, and check the clocks", said.IssuedAt.Time().UTC().Format(time.RFC3339), c.Now.UTC().Format(time.RFC3339))
	case said.Token != base64.RawURLEncoding.EncodeToString(sum[:]):
		return errors.New("ath is not the SHA-256 of the token")
	case subtle.ConstantTimeCompare([]byte(key), []byte(c.Key)) != 1:
		return errors.New("its key is not the one that the token is bound to (cnf.jkt)")
	}
	return nil
}

// fits reports whether a key is of the kind that an algorithm is for.
func fits(algorithm string, public any) bool {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return algorithm == string(jose.ES256) && k.Curve == elliptic.P256() || algorithm == string(jose.ES384) && k.Curve == elliptic.P384()
	case ed25519.PublicKey:
		return algorithm == string(jose.EdDSA)
	default:
		return false
	}
}

// Place returns a URL without query and fragment, in the form in which URLs are
// compared (RFC 9449, 4.3; RFC 3986, 6.2.2 and 6.2.3).
func Place(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.Opaque != "" {
		return "", errors.New("not an absolute URL")
	}
	scheme, host, port := strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return scheme + "://" + net.JoinHostPort(host, port) + path, nil
}
