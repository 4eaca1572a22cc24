package signin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestParseRequest(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := api.NewRequest(key)
	if err != nil {
		t.Fatal(err)
	}
	good, err := parseRequest(pem)
	if err != nil {
		t.Fatal(err)
	}
	der := base64.StdEncoding.EncodeToString(good.der)
	if same, err := parseRequest("\n" + der + "\n"); err != nil || same.key != good.key {
		t.Errorf("DER: %v", err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	weakDER, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak)
	if err != nil {
		t.Fatal(err)
	}
	forged := append([]byte(nil), good.der...)
	forged[len(forged)-1] ^= 1
	for name, text := range map[string]string{
		"nothing": "", "not base64": "?", "not a request": "AAAA", "two blocks": pem + pem, "text behind": pem + "x", "endless": strings.Repeat("A", 4*maxCSR),
		"a certificate": strings.ReplaceAll(pem, "CERTIFICATE REQUEST", "CERTIFICATE"),
		"RSA":           base64.StdEncoding.EncodeToString(weakDER), "forged": base64.StdEncoding.EncodeToString(forged),
	} {
		if _, err := parseRequest(text); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLifeOf(t *testing.T) {
	p, at := fleet.DefaultPolicy(), time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	p.TokenLife = fleet.Duration(30 * fleet.Day)
	for asked, want := range map[time.Duration][2]time.Duration{
		0:              {90 * fleet.Day, 30 * fleet.Day},
		60 * fleet.Day: {60 * fleet.Day, 30 * fleet.Day},
		time.Hour:      {time.Hour, time.Hour},
	} {
		life, err := lifeOf(fleet.Duration(asked), p, at)
		if err != nil || life.Certificate.Sub(at) != want[0] || life.Token.Sub(at) != want[1] {
			t.Errorf("%s: %+v, %v", asked, life, err)
		}
	}
	for _, asked := range []time.Duration{-time.Hour, time.Minute, 91 * fleet.Day} {
		if _, err := lifeOf(fleet.Duration(asked), p, at); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %v", asked, err)
		}
	}
}

func TestLimiter(t *testing.T) {
	l := limiter{rate: 0.001, burst: 3}
	for range 3 {
		if _, ok := l.take("a"); !ok {
			t.Fatal("refused within the burst")
		}
	}
	if wait, ok := l.take("a"); ok || wait < time.Minute {
		t.Errorf("past the burst: %v, %s", ok, wait)
	}
	if _, ok := l.take("b"); !ok {
		t.Error("another one is refused")
	}
	for remote, want := range map[string]string{
		"192.0.2.7:1": "192.0.2.7", "[2001:db8:0:1::7]:1": "2001:db8:0:1::/64", "[fe80::1%eth0]:1": "fe80::/64", "[::ffff:192.0.2.7]:1": "::ffff:192.0.2.7", "x": "x",
	} {
		if got := addressOf(remote); got != want {
			t.Errorf("%s: %s", remote, got)
		}
	}
}

// Whatever a stranger sends as a body: only a request whose key signed it gets
// through, and only a life within the policy.
func FuzzBody(f *testing.F) {
	f.Add(`{"csr":"AAAA","life":"90d"}`)
	f.Add(`{"token":"x","csr":"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"}`)
	f.Fuzz(func(t *testing.T, body string) {
		var login api.LoginRequest
		var recovery api.RecoverRequest
		_ = json.Unmarshal([]byte(body), &recovery)
		if json.Unmarshal([]byte(body), &login) != nil {
			return
		}
		for _, text := range []string{login.CSR, recovery.CSR} {
			if r, err := parseRequest(text); err == nil && (r.key == "" || len(r.der) > maxCSR) {
				t.Errorf("passed: %+v", r)
			}
		}
		at := time.Unix(0, 0)
		if life, err := lifeOf(login.Life, fleet.DefaultPolicy(), at); err == nil && !life.Token.After(at) {
			t.Errorf("a life of %s", life.Token.Sub(at))
		}
	})
}
