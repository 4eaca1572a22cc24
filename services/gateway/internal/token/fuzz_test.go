package token_test

import (
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway/internal/token"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Tokens come from strangers: none may break the parser, none is believed.
func FuzzVerify(f *testing.F) {
	f.Add("eyJhbGciOiJFZERTQSIsInR5cCI6ImF0K2p3dCJ9.e30.AAAA")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, raw string) {
		authority := fleet.Authority{Keys: []fleet.SigningKey{{ID: "", Phase: fleet.PhaseActive, JWK: []byte(`{}`)}}}
		if _, err := token.Verify(raw, authority, time.Unix(0, 0)); err == nil {
			t.Error("believed")
		}
	})
}
