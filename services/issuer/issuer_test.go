package issuer

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"

	"github.com/rotor-fleet/rotor/services/issuer/internal/token"
)

// From the command to the proof, over a real bus.
func TestRun(t *testing.T) {
	w := newWorld(t)
	w.run(t, 1)
	w.file(t, 1, someClients...)
	must(t, w.Bus.Publish(t.Context(), w.order(t, "first", 1, someClients...)))
	issued := bustest.Expect(t, w.Server, event.CredentialIssued, nil)
	if len(issued.Clients) != len(someClients) {
		t.Fatalf("issued %d clients, want %d", len(issued.Clients), len(someClients))
	}
	for _, key := range someClients {
		checkPickup(t, w, key, 1)
	}
	must(t, w.Bus.Publish(t.Context(), w.report(t, event.CredentialDelivered, 1, someClients...)))
	must(t, w.Bus.Publish(t.Context(), w.report(t, event.CredentialInstalled, 1, someClients...)))
	must(t, w.Bus.Publish(t.Context(), w.report(t, event.CredentialProven, 1, someClients...)))
	bustest.Eventually(t, func() error {
		for _, key := range someClients {
			if g := w.record(t, key).Newest(); g.Step != fleet.StepProven || g.ProvenAt.IsZero() {
				return fmt.Errorf("%s is %s", key, g.Step)
			}
			if _, waits := w.pickup(t, key); waits {
				return fmt.Errorf("pick-up of %s still waits", key)
			}
		}
		return nil
	})
}

// checkPickup does what an agent and the gateway do with a pick-up.
func checkPickup(t *testing.T, w *world, key fleet.ClientKey, generation int) {
	t.Helper()
	pickup, ok := w.pickup(t, key)
	if !ok || pickup.Generation != generation || pickup.Agent != "agent-1" {
		t.Fatalf("%s: pick-up %v of generation %d for %q", key, ok, pickup.Generation, pickup.Agent)
	}
	c := leaf(t, pickup.Chain)
	if _, err := c.Verify(x509.VerifyOptions{Roots: w.pool(t), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: clock.Wall()}); err != nil {
		t.Errorf("%s: %v", key, err)
	}
	if !w.keys[key].PublicKey.Equal(c.PublicKey) {
		t.Errorf("%s: certificate is for another key", key)
	}
	gotCluster, gotClient, err := identity.FromCertificate(c, w.config.TrustDomain)
	if err != nil || gotCluster != cluster || gotClient != key {
		t.Errorf("%s: certificate names %s/%s: %v", key, gotCluster, gotClient, err)
	}
	g := w.record(t, key).Newest()
	if g.Certificate.Serial != identity.Serial(c) || g.Certificate.Fingerprint != identity.Fingerprint(c.Raw) {
		t.Errorf("%s: record and certificate differ", key)
	}
	checkToken(t, w, w.token(t, key, pickup), g)
}

func checkToken(t *testing.T, w *world, text string, g *fleet.Generation) {
	t.Helper()
	set, err := token.KeySet(w.authority(t).Keys)
	must(t, err)
	jws, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.EdDSA})
	must(t, err)
	keys := set.Key(jws.Signatures[0].Header.KeyID)
	if len(keys) != 1 {
		t.Fatalf("kid %q names %d keys", jws.Signatures[0].Header.KeyID, len(keys))
	}
	payload, err := jws.Verify(keys[0])
	must(t, err)
	var claims struct {
		ID  string `json:"jti"`
		Exp int64  `json:"exp"`
		Cnf struct {
			JKT string `json:"jkt"`
		} `json:"cnf"`
	}
	must(t, json.Unmarshal(payload, &claims))
	if claims.ID != g.Token.ID || claims.Exp != g.Token.ExpiresAt.Unix() || claims.Cnf.JKT != g.Key {
		t.Errorf("claims %+v differ from record %+v", claims, g.Token)
	}
}

// No secret of the issuer may stand in what anyone else reads.
func TestSecretInDebugOutput(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.file(t, 1, someClients...)
	must(t, s.issue(t.Context(), w.order(t, "first", 1, someClients...)))
	pickup, _ := w.pickup(t, kms)
	text := w.token(t, kms, pickup)
	for name, value := range map[string]any{
		"credentials": w.record(t, kms), "pick-up": pickup, "authority": w.authority(t), "config": w.config,
		"facts": bustest.Stored(t, w.Server, event.CredentialIssued), "service": s, "keys": s.authority.keys,
	} {
		printed := fmt.Appendf(nil, "%+v %#v", value, value)
		marshalled, _ := json.Marshal(value)
		if bytes.Contains(append(printed, marshalled...), []byte(text)) {
			t.Errorf("%s holds the token in clear", name)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no key file":         func(c *Config) { c.KeyFile = "" },
		"no issuer":           func(c *Config) { c.TokenIssuer = "" },
		"no audience":         func(c *Config) { c.Audience = nil },
		"no trust domain":     func(c *Config) { c.TrustDomain = "" },
		"a URL as the domain": func(c *Config) { c.TrustDomain = "https://rotor" },
	} {
		c := Defaults()
		if err := c.Validate(); err != nil {
			t.Fatalf("defaults: %v", err)
		}
		if change(&c); c.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
