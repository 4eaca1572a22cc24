//go:build pkcs11 && cgo

package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	p11 "github.com/miekg/pkcs11"
	"go.step.sm/crypto/kms/apiv1"
	"go.step.sm/crypto/kms/pkcs11"
	"go.step.sm/crypto/kms/uri"

	"github.com/rotor-fleet/rotor/shared/secret"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

// sessions is how many sessions are open at most: one for each call under way,
// one that keeps the login, one to spare.
const sessions = parallel + 2

// connection is a login to the token, with what was found there.
type connection struct {
	kms *pkcs11.PKCS11

	mu      sync.Mutex
	signers map[string]crypto.Signer // by name
}

// connect logs in. Each call with a wrong PIN brings the token nearer to being
// locked.
func connect(c Config) (*connection, error) {
	pin, err := secret.ReadFile(c.PINFile)
	if err != nil {
		return nil, fmt.Errorf("%w: PIN: %w", keystore.ErrUnavailable, err)
	}
	if pin.Empty() {
		return nil, fmt.Errorf("%w: PIN file %s is empty: write the PIN of the token's user into it", keystore.ErrUnavailable, c.PINFile)
	}
	// The loader looks for a name without a folder in places of its own.
	if filepath.Base(c.Module) != c.Module {
		if _, err := os.Stat(c.Module); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: there is no PKCS#11 module %s: install it, or correct issuer.keystore.module", keystore.ErrUnavailable, c.Module)
		}
	}
	name := uri.New(pkcs11.Scheme, url.Values{"module-path": {c.Module}, "token": {c.Token}, "max-sessions": {strconv.Itoa(sessions)}})
	kms, err := pkcs11.New(context.Background(), apiv1.Options{Type: apiv1.PKCS11, URI: name.String(), Pin: pin.Reveal()})
	if err != nil {
		return nil, explain(err, c)
	}
	return &connection{kms: kms, signers: map[string]crypto.Signer{}}, nil
}

// explain says what a failed login means.
func explain(err error, c Config) error {
	var code p11.Error
	switch {
	case errors.As(err, &code) && refusals[code]:
		return fmt.Errorf("%w by token %q (%w): put the right one into %s, see that the token is not locked, and start again; "+
			"no other attempt is made until then, for each could lock the token", keystore.ErrRefused, c.Token, code, c.PINFile)
	case strings.Contains(err.Error(), "could not find PKCS#11 token"):
		return fmt.Errorf("%w: module %s has no token with the label %q: initialise it, or correct issuer.keystore.tokenLabel",
			keystore.ErrUnavailable, c.Module, c.Token)
	case strings.Contains(err.Error(), "failed to open module"):
		return fmt.Errorf("%w: %s is no PKCS#11 module that can be loaded: correct issuer.keystore.module", keystore.ErrUnavailable, c.Module)
	default:
		return fmt.Errorf("%w: log in to token %q of module %s: %w", keystore.ErrUnavailable, c.Token, c.Module, err)
	}
}

// refusals are the answers to a login that no repetition mends (PKCS#11, 5.1.6).
var refusals = map[p11.Error]bool{
	p11.CKR_PIN_INCORRECT: true, p11.CKR_PIN_INVALID: true, p11.CKR_PIN_LEN_RANGE: true, p11.CKR_PIN_EXPIRED: true, p11.CKR_PIN_LOCKED: true,
}

// nameOf names a key as RFC 7512 does.
func nameOf(id, label string) string {
	return uri.New(pkcs11.Scheme, url.Values{"id": {id}, "object": {label}}).String()
}

// generate makes a key.
func (c *connection) generate(id, label string) (*ecdsa.PublicKey, error) {
	made, err := c.kms.CreateKey(&apiv1.CreateKeyRequest{Name: nameOf(id, label), SignatureAlgorithm: apiv1.ECDSAWithSHA256})
	if err != nil {
		return nil, err
	}
	key, ok := made.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the HSM made a %T where ECDSA was asked for", made.PublicKey)
	}
	return key, nil
}

// find returns the signer of a key, as this connection knows it.
func (c *connection) find(id, label string) (crypto.Signer, error) {
	s, err := c.kms.CreateSigner(&apiv1.CreateSignerRequest{SigningKey: nameOf(id, label)})
	if errors.As(err, new(apiv1.NotFoundError)) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.signers[id] = s
	return s, nil
}

// remove deletes a key, or says that it finds none: it may be hidden.
func (c *connection) remove(id, label string) error {
	if _, err := c.find(id, label); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.signers, id)
	c.mu.Unlock()
	return c.kms.DeleteKey(nameOf(id, label))
}

// known is find without asking the HSM again.
func (c *connection) known(id, label string) (crypto.Signer, error) {
	c.mu.Lock()
	s, ok := c.signers[id]
	c.mu.Unlock()
	if ok {
		return s, nil
	}
	return c.find(id, label)
}

// errNotFound says that a key is not there, or hidden as from one who is not
// logged in.
var errNotFound = errors.New("no such key in the token")

// probe looks for what is never there: it is the answer that counts.
func (c *connection) probe() error {
	if _, err := c.find("00", "rotor-probe"); err != nil && !errors.Is(err, errNotFound) {
		return err
	}
	return nil
}
