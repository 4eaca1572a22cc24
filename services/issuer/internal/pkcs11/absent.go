//go:build !pkcs11 || !cgo

package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
)

const built = false

// Token is a token that cannot be used: see Built.
type Token struct{}

// New returns a token that cannot be used.
func New(Config) *Token { return &Token{} }

// Generate implements keystore.Token.
func (*Token) Generate(context.Context, string, string) (*ecdsa.PublicKey, error) {
	return nil, ErrNotBuilt
}

// Signer implements keystore.Token.
func (*Token) Signer(context.Context, string, string) (crypto.Signer, error) {
	return nil, ErrNotBuilt
}

// Check implements keystore.Token.
func (*Token) Check(context.Context) error { return ErrNotBuilt }

// Delete implements keystore.Token.
func (*Token) Delete(context.Context, string, string) error { return ErrNotBuilt }

// Close ends nothing.
func (*Token) Close() error { return nil }
