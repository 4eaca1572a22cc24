package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type deriver struct{}

func (deriver) Derive(parts ...string) []byte {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return sum[:]
}

func newMinter(t testing.TB) (Minter, fleet.SigningKey) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return minterOf(t, public, key)
}

func minterOf(t testing.TB, public crypto.PublicKey, key crypto.Signer) (Minter, fleet.SigningKey) {
	t.Helper()
	made, err := PublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return Minter{KeyID: made.ID, Signer: key, IDs: deriver{}, Issuer: "https://rotor.example", Audience: []string{"rotor"}},
		fleet.SigningKey{ID: made.ID, Phase: fleet.PhaseActive, JWK: made.JWK, Algorithm: made.Algorithm}
}

// repeatable signs as a keystore does: without randomness.
type repeatable struct{ *ecdsa.PrivateKey }

func (r repeatable) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return r.PrivateKey.Sign(nil, digest, opts)
}

// A key on P-256 signs ES256, with which a kube-apiserver verifies, and the same
// request gives the same bytes.
func TestMintES256(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m, key := minterOf(t, k.Public(), repeatable{k})
	if key.Algorithm != ES256 || !strings.Contains(string(key.JWK), `"alg":"ES256"`) {
		t.Errorf("%s: %s", key.Algorithm, key.JWK)
	}
	first, err := mint(m, request())
	if err != nil {
		t.Fatal(err)
	}
	again, err := mint(m, request())
	if err != nil || first.Text.Reveal() != again.Text.Reveal() {
		t.Errorf("another token: %v", err)
	}
	set, err := KeySet([]fleet.SigningKey{key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jose.ParseSignedCompact(first.Text.Reveal(), []jose.SignatureAlgorithm{jose.EdDSA}); err == nil {
		t.Error("read as EdDSA")
	}
	jws, err := jose.ParseSignedCompact(first.Text.Reveal(), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if header := jws.Signatures[0].Protected; header.KeyID != m.KeyID || header.ExtraHeaders[jose.HeaderType] != "at+jwt" {
		t.Errorf("%+v", header)
	}
	if _, err := jws.Verify(set.Keys[0]); err != nil {
		t.Error(err)
	}
}

func request() Request {
	return Request{
		Cluster: "hq", Client: fleet.ClientKey{Kind: "node-agent", Instance: "host-1"}, Generation: 3, Key: "thumbprint",
		At: now, ExpiresAt: now.Add(90 * fleet.Day), Limit: now.Add(365 * fleet.Day),
	}
}

func TestMint(t *testing.T) {
	m, key := newMinter(t)
	minted, err := mint(m, request())
	if err != nil {
		t.Fatal(err)
	}
	set, err := KeySet([]fleet.SigningKey{key})
	if err != nil {
		t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(minted.Text.Reveal(), []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	header := jws.Signatures[0].Protected
	if header.KeyID != m.KeyID || header.ExtraHeaders[jose.HeaderType] != "at+jwt" || header.Algorithm != "EdDSA" {
		t.Errorf("header %+v", header)
	}
	payload, err := jws.Verify(set.Keys[0])
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"iss":"https://rotor.example","sub":"hq/node-agent/host-1","aud":["rotor"],"client_id":"hq/node-agent/host-1",`+
		`"iat":%d,"nbf":%d,"exp":%d,"jti":%q,"cnf":{"jkt":"thumbprint"}}`,
		now.Unix(), now.Add(-5*time.Minute).Unix(), now.Add(90*fleet.Day).Unix(), minted.Record.ID)
	if string(payload) != want {
		t.Errorf("claims\n%s\nwant\n%s", payload, want)
	}
	if strings.Contains(fmt.Sprintf("%v %+v %#v", minted, minted, minted), minted.Text.Reveal()) {
		t.Error("a minted token prints itself")
	}
}

func TestSameRequestSameBytes(t *testing.T) {
	m, _ := newMinter(t)
	first, err := mint(m, request())
	if err != nil {
		t.Fatal(err)
	}
	second, err := mint(m, request())
	if err != nil || first.Text.Reveal() != second.Text.Reveal() {
		t.Errorf("other bytes: %v", err)
	}
	r := request()
	r.Generation++
	other, err := mint(m, r)
	if err != nil || other.Record.ID == first.Record.ID {
		t.Errorf("two generations share a jti: %v", err)
	}
}

func TestLife(t *testing.T) {
	m, _ := newMinter(t)
	for _, test := range []struct {
		name    string
		expires time.Time
		limit   time.Time
		want    time.Time // zero: refused
		cut     bool
	}{
		{"whole", now.Add(90 * fleet.Day), now.Add(365 * fleet.Day), now.Add(90 * fleet.Day), false},
		{"ends with the CA", now.Add(fleet.Day), now.Add(fleet.Day), now.Add(fleet.Day), false},
		{"cut to the CA", now.Add(90 * fleet.Day), now.Add(fleet.Day), now.Add(fleet.Day), true},
		{"CA over", now.Add(90 * fleet.Day), now, time.Time{}, false},
		{"no life", now, now.Add(fleet.Day), time.Time{}, false},
		{"no end", time.Time{}, now.Add(fleet.Day), time.Time{}, false},
	} {
		r := request()
		r.ExpiresAt, r.Limit = test.expires, test.limit
		minted, err := mint(m, r)
		if test.want.IsZero() {
			if !errors.Is(err, fleet.ErrInvalid) {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if err != nil || !minted.Record.ExpiresAt.Equal(test.want) || minted.Cut != test.cut {
			t.Errorf("%s: until %s, cut %v: %v", test.name, minted.Record.ExpiresAt, minted.Cut, err)
		}
	}
	r := request()
	r.Key = ""
	if _, err := mint(m, r); !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("a token bound to no key: %v", err)
	}
}

func TestKeySet(t *testing.T) {
	_, active := newMinter(t)
	_, retired := newMinter(t)
	retired.Phase = fleet.PhaseRetired
	set, err := KeySet([]fleet.SigningKey{active, retired})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 || set.Keys[0].Use != "sig" || set.Keys[0].Algorithm != "EdDSA" || set.Keys[0].KeyID != active.ID {
		t.Errorf("%s", raw)
	}
	if strings.Contains(string(raw), `"d"`) {
		t.Error("the set holds a private key")
	}
	_, private, _ := ed25519.GenerateKey(rand.Reader)
	jwk, _ := json.Marshal(jose.JSONWebKey{Key: private})
	for name, bad := range map[string][]byte{"private key": jwk, "not JSON": []byte("x")} {
		if _, err := KeySet([]fleet.SigningKey{{JWK: bad}}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := PublicKey(ec.Public()); !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("P-384 key for tokens: %v", err)
	}
}

func BenchmarkMint(b *testing.B) {
	m, _ := newMinter(b)
	for b.Loop() {
		if _, err := mint(m, request()); err != nil {
			b.Fatal(err)
		}
	}
}

// mint prepares a token and signs it.
func mint(m Minter, r Request) (Token, error) {
	d, err := m.Prepare(r)
	if err != nil {
		return Token{}, err
	}
	return m.Mint(d)
}
