// Package pkcs11 is the way to an HSM that speaks PKCS#11 (OASIS, version 2.40):
// a keystore.Token on a module, which is a library of the HSM's maker.
//
// A module is C, and Rotor is built without: only with the build tag pkcs11, and
// cgo, is there more to this package than an error that says so.
package pkcs11

import (
	"errors"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

// Config says which token to use.
type Config struct {
	Module  string // path of the library
	Token   string // label of the token
	PINFile string // PIN of its user, mode 0600
}

// ErrNotBuilt says that this program has no PKCS#11.
var ErrNotBuilt = errors.New("this rotor was built without PKCS#11: build with make build-pkcs11")

// Built returns ErrNotBuilt if this program has no PKCS#11.
func Built() error {
	if !built {
		return ErrNotBuilt
	}
	return nil
}

var _ keystore.Token = (*Token)(nil)
