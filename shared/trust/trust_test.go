package trust

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

func testCA(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func newKey(t testing.TB) (ed25519.PrivateKey, string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := Pin(public)
	if err != nil {
		t.Fatal(err)
	}
	return private, pin
}

func TestSignAndVerify(t *testing.T) {
	key, pin := newKey(t)
	bundle := Bundle{Version: 3, Certificates: []string{testCA(t)}}
	signed, err := Sign(key, bundle)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Sign(key, bundle)
	if err != nil || again != signed {
		t.Errorf("signing twice gave two texts (%v)", err)
	}
	got, err := Verify(signed, pin)
	if err != nil || got.Version != 3 || string(got.PEM()) != bundle.Certificates[0] {
		t.Errorf("%+v, %v", got, err)
	}
}

// A man in the middle has a fleet key of his own.
func TestVerifyRefuses(t *testing.T) {
	key, pin := newKey(t)
	mallory, malloryPin := newKey(t)
	ca := testCA(t)
	signed, err := Sign(key, Bundle{Version: 1, Certificates: []string{ca}})
	if err != nil {
		t.Fatal(err)
	}
	forged, err := Sign(mallory, Bundle{Version: 2, Certificates: []string{ca}})
	if err != nil {
		t.Fatal(err)
	}
	empty, err := Sign(key, Bundle{Version: 2})
	if err != nil {
		t.Fatal(err)
	}
	parts, other := strings.Split(signed, "."), strings.Split(forged, ".")
	for name, test := range map[string]struct {
		signed, pin string
		want        error
	}{
		"another key":          {forged, pin, ErrUntrusted},
		"another pin":          {signed, malloryPin, ErrUntrusted},
		"payload exchanged":    {parts[0] + "." + other[1] + "." + parts[2], pin, ErrUntrusted},
		"signature exchanged":  {parts[0] + "." + parts[1] + "." + other[2], pin, ErrUntrusted},
		"header of the forger": {other[0] + "." + parts[1] + "." + parts[2], pin, ErrUntrusted},
		"no signature":         {parts[0] + "." + parts[1] + ".", pin, ErrUntrusted},
		"empty pin":            {signed, "", ErrUntrusted},
		"bundle of nothing":    {empty, pin, nil},
		"not a JWS":            {"hello", pin, nil},
		"algorithm none":       {"eyJhbGciOiJub25lIn0." + parts[1] + ".", pin, nil},
		"nothing":              {"", pin, nil},
	} {
		if _, err := Verify(test.signed, test.pin); err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key, pin := newKey(f)
	signed, err := Sign(key, Bundle{Version: 1, Certificates: []string{testCA(f)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := Verify(text, pin); err == nil && b.Version != 1 {
			t.Fatalf("a bundle that nobody signed was believed: %+v", b)
		}
	})
}
