package dpop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/secret"
)

const token = "header.payload.signature"

var now = time.Unix(1_780_000_000, 0)

// made is a proof in the making.
type made struct {
	key    crypto.Signer
	header map[string]any
	claims map[string]any
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func proof(key crypto.Signer) *made {
	sum := sha256.Sum256([]byte(token))
	return &made{
		key:    key,
		header: map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": jose.JSONWebKey{Key: key.Public()}},
		claims: map[string]any{
			"jti": "one", "htm": "POST", "htu": "https://rotor.example:8080/v1/login", "iat": now.Unix(),
			"ath": base64.RawURLEncoding.EncodeToString(sum[:]),
		},
	}
}

// sign signs with ES256, whatever the header says: what is wrong stays wrong.
func (m *made) sign(t testing.TB) string {
	t.Helper()
	part := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	input := part(m.header) + "." + part(m.claims)
	key, ok := m.key.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("not ECDSA")
	}
	sum := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func thumbprint(t testing.TB, key crypto.Signer) string {
	t.Helper()
	text, err := identity.Thumbprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func call(t testing.TB, key crypto.Signer) Call {
	t.Helper()
	place, err := Place("https://rotor.example:8080/v1/login")
	if err != nil {
		t.Fatal(err)
	}
	return Call{Method: "POST", URLs: []string{place}, Token: token, Key: thumbprint(t, key), Now: now, Skew: 5 * time.Minute}
}

func TestCheck(t *testing.T) {
	key, other := newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	set := func(name string, value any) func(*made) { return func(m *made) { m.claims[name] = value } }
	header := func(name string, value any) func(*made) { return func(m *made) { m.header[name] = value } }
	unset := func(name string) func(*made) { return func(m *made) { delete(m.claims, name) } }
	for name, tt := range map[string]struct {
		change func(*made)
		wrong  string // part of the error; empty if it holds
	}{
		"as it should be":      {func(*made) {}, ""},
		"URL in another form":  {set("htu", "HTTPS://Rotor.Example:8080/v1/login?x=1#y"), ""},
		"as old as may be":     {set("iat", now.Add(-5*time.Minute).Unix()), ""},
		"as new as may be":     {set("iat", now.Add(5*time.Minute).Unix()), ""},
		"too old":              {set("iat", now.Add(-5*time.Minute-time.Second).Unix()), "iat"},
		"of the future":        {set("iat", now.Add(5*time.Minute+time.Second).Unix()), "iat"},
		"no iat":               {unset("iat"), "iat"},
		"iat is text":          {set("iat", "now"), "claims"},
		"no jti":               {unset("jti"), "jti"},
		"endless jti":          {set("jti", strings.Repeat("x", 257)), "jti"},
		"another method":       {set("htm", "GET"), "htm"},
		"method in small":      {set("htm", "post"), "htm"},
		"no method":            {unset("htm"), "htm"},
		"another host":         {set("htu", "https://evil.example:8080/v1/login"), "htu"},
		"another port":         {set("htu", "https://rotor.example/v1/login"), "htu"},
		"another path":         {set("htu", "https://rotor.example:8080/v1/recover"), "htu"},
		"another scheme":       {set("htu", "http://rotor.example:8080/v1/login"), "htu"},
		"a user in the URL":    {set("htu", "https://me@rotor.example:8080/v1/login"), "htu"},
		"no URL":               {unset("htu"), "htu"},
		"another token":        {set("ath", "x"), "ath"},
		"no ath":               {unset("ath"), "ath"},
		"another typ":          {header("typ", "JWT"), "typ"},
		"no typ":               {func(m *made) { delete(m.header, "typ") }, "typ"},
		"alg none":             {header("alg", "none"), "signed"},
		"alg HS256":            {header("alg", "HS256"), "signed"},
		"alg of another curve": {header("alg", "ES384"), "jwk"},
		"alg of another kind":  {header("alg", "EdDSA"), "jwk"},
		"no jwk":               {func(m *made) { delete(m.header, "jwk") }, "jwk"},
		"a private jwk":        {header("jwk", jose.JSONWebKey{Key: key}), "public key"},
		"a symmetric jwk":      {header("jwk", map[string]any{"kty": "oct", "k": "AAAA"}), "public key"},
		"an RSA jwk":           {header("jwk", jose.JSONWebKey{Key: weak.Public()}), "jwk"},
		"another jwk":          {header("jwk", jose.JSONWebKey{Key: other.Public()}), "signature"},
		"another key":          {func(m *made) { *m = *proof(other) }, "cnf.jkt"},
		"a critical header":    {header("crit", []string{"exp"}), "signature"},
	} {
		t.Run(name, func(t *testing.T) {
			m := proof(key)
			tt.change(m)
			got, err := call(t, key).Check(m.sign(t))
			switch {
			case tt.wrong == "" && (err != nil || got.Key != thumbprint(t, key) || got.ID != "one"):
				t.Errorf("%+v, %v", got, err)
			case tt.wrong != "" && err == nil:
				t.Error("believed")
			case tt.wrong != "" && !strings.Contains(err.Error(), tt.wrong):
				t.Errorf("%v does not name %s", err, tt.wrong)
			}
		})
	}
	for name, raw := range map[string]string{"nothing": "", "not a JWT": "x", "endless": strings.Repeat("x", maxProof+1), "unsigned": "e30.e30."} {
		if _, err := call(t, key).Check(raw); err == nil {
			t.Errorf("%s: believed", name)
		}
	}
}

// What the client of package api makes holds, with each kind of key.
func TestClientsProof(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P-256": newKey(t, elliptic.P256()), "P-384": newKey(t, elliptic.P384()), "Ed25519": edwards} {
		raw, err := api.Credential{Token: secret.New(token), Key: key}.Prove(http.MethodPost, "https://rotor.example:8080/v1/login", now)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, err := call(t, key).Check(raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (api.Credential{Key: newKey(t, elliptic.P521())}).Prove("POST", "x", now); err == nil {
		t.Error("a proof with a key on P-521")
	}
}

func TestPlace(t *testing.T) {
	for raw, want := range map[string]string{
		"https://a/x":         "https://a:443/x",
		"http://A:80?q#f":     "http://a:80/",
		"http://[::1]:8080/x": "http://[::1]:8080/x",
		"/x":                  "",
		"https:opaque":        "",
		"https://u:p@a/x":     "",
	} {
		if got, err := Place(raw); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", raw, got, err)
		}
	}
}

func TestMemory(t *testing.T) {
	var m Memory
	use := func(key, id string, at time.Time) bool {
		first, err := m.Use(Proof{Key: key, ID: id}, at.Add(time.Minute), at)
		if err != nil {
			t.Fatal(err)
		}
		return first
	}
	if !use("k", "1", now) || use("k", "1", now) || use("k", "1", now.Add(time.Minute)) {
		t.Error("a proof was used twice")
	}
	if !use("k", "2", now) || !use("l", "1", now) {
		t.Error("another proof counts as used")
	}
	if !use("k", "1", now.Add(2*time.Minute)) {
		t.Error("a proof that is too old to be used is still remembered")
	}
	for i := range maxRemembered {
		if _, err := m.Use(Proof{Key: "many", ID: fmt.Sprint(i)}, now.Add(time.Hour), now.Add(3*time.Minute)); err != nil && !errors.Is(err, ErrFull) {
			t.Fatal(err)
		}
	}
	if _, err := m.Use(Proof{Key: "one more"}, now.Add(time.Hour), now.Add(3*time.Minute)); !errors.Is(err, ErrFull) {
		t.Errorf("more than the memory holds: %v", err)
	}
	if first, err := m.Use(Proof{Key: "one more"}, now.Add(3*time.Hour), now.Add(2*time.Hour)); !first || err != nil {
		t.Errorf("after the window: %v, %v", first, err)
	}
}

func FuzzCheck(f *testing.F) {
	key := newKey(f, elliptic.P256())
	f.Add(proof(key).sign(f))
	none := proof(key)
	none.header["alg"] = "none"
	f.Add(none.sign(f))
	f.Add("e30.e30.")
	c := call(f, newKey(f, elliptic.P256())) // of nobody
	f.Fuzz(func(t *testing.T, raw string) {
		if _, err := c.Check(raw); err == nil {
			t.Error("believed")
		}
	})
}
