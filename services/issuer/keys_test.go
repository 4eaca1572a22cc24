package issuer

import (
	"errors"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/fleet"

	"github.com/rotor-fleet/rotor/services/issuer/internal/pkcs11"
)

func TestKeystoreConfig(t *testing.T) {
	full := KeystoreConfig{Kind: KeystorePKCS11, Module: "/usr/lib/softhsm/libsofthsm2.so", TokenLabel: "rotor", PINFile: "pin"}
	built := ""
	if pkcs11.Built() != nil {
		built = "this rotor was built without PKCS#11: build with make build-pkcs11"
	}
	for name, test := range map[string]struct {
		change func(*KeystoreConfig)
		want   string // empty: valid
	}{
		"pkcs11":            {func(*KeystoreConfig) {}, built},
		"sealed":            {func(c *KeystoreConfig) { *c = KeystoreConfig{Kind: KeystoreSealed} }, ""},
		"nothing":           {func(c *KeystoreConfig) { *c = KeystoreConfig{} }, ""},
		"no module":         {func(c *KeystoreConfig) { c.Module = "" }, "module: name"},
		"no token":          {func(c *KeystoreConfig) { c.TokenLabel = "" }, "tokenLabel: name"},
		"no PIN":            {func(c *KeystoreConfig) { c.PINFile = "" }, "pinFile: name"},
		"sealed and module": {func(c *KeystoreConfig) { *c = KeystoreConfig{Module: "x"} }, "belong to kind pkcs11"},
		"another kind":      {func(c *KeystoreConfig) { c.Kind = "tpm" }, `kind "tpm": use sealed or pkcs11`},
	} {
		c := Defaults()
		c.Keystore = full
		test.change(&c.Keystore)
		err := c.Validate()
		if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, fleet.ErrInvalid) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}
