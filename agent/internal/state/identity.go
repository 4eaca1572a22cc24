package state

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// Identity is who the agent is to the server: a key that signs and a key that
// opens. The two are made together and lost together, since the server knows
// them as one.
type Identity struct {
	ID          string          // identity.AgentID of the enrolment key
	Certificate tls.Certificate // of the enrolment key, signed by itself; it never expires
	Seal        secret.OpenKey
	Fresh       bool // made just now, so the server cannot know it
}

// agentHeader binds the file of the seal key to the enrolment key.
const agentHeader = "Agent"

// Identity returns the keys of the agent, and makes new ones if either is
// missing. With new keys the old pending ones are useless and are forgotten:
// the tokens that belong to them are sealed to a key that is gone.
func (s *Store) Identity() (Identity, error) {
	me, err := s.LoadIdentity()
	if err == nil {
		return me, nil
	}
	if !errors.Is(err, errUnusable) && !errors.Is(err, fs.ErrNotExist) {
		return Identity{}, fmt.Errorf("read the agent's keys: %w", err)
	}
	s.absent(agentFile+" and "+sealFile, err)
	return s.Renew()
}

// errUnusable says that a key file can be read and makes no sense.
var errUnusable = errors.New("unusable")

// LoadIdentity returns the keys of the agent, or an error if either is missing
// or makes no sense.
func (s *Store) LoadIdentity() (Identity, error) {
	text, err := os.ReadFile(s.path(agentFile))
	if err != nil {
		return Identity{}, err
	}
	parsed, err := parseKey(text)
	if err != nil {
		return Identity{}, fmt.Errorf("%s: %w: %w", agentFile, errUnusable, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Identity{}, fmt.Errorf("%s: %w: not an Ed25519 key", agentFile, errUnusable)
	}
	text, err = os.ReadFile(s.path(sealFile))
	if err != nil {
		return Identity{}, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return Identity{}, fmt.Errorf("%s: %w: not PEM", sealFile, errUnusable)
	}
	seal, err := secret.ParseOpenKey(block.Bytes)
	if err != nil {
		return Identity{}, fmt.Errorf("%s: %w: not an HPKE key", sealFile, errUnusable)
	}
	me, err := identityOf(key, seal)
	if err == nil && block.Headers[agentHeader] != me.ID {
		return Identity{}, fmt.Errorf("%s: %w: belongs to another agent", sealFile, errUnusable)
	}
	return me, err
}

// Renew makes new keys in the place of those that there are, if any.
func (s *Store) Renew() (Identity, error) {
	if err := s.dropAllNextKeys(); err != nil {
		return Identity{}, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("make the enrolment key: %w", err)
	}
	seal, err := secret.NewOpenKey()
	if err != nil {
		return Identity{}, err
	}
	me, err := identityOf(key, seal)
	if err != nil {
		return Identity{}, err
	}
	me.Fresh = true
	private, err := seal.Bytes()
	if err != nil {
		return Identity{}, fmt.Errorf("encode the seal key: %w", err)
	}
	sealText := pem.EncodeToMemory(&pem.Block{
		Type: "HPKE PRIVATE KEY", Headers: map[string]string{agentHeader: me.ID}, Bytes: private,
	})
	if err := s.replace(sealText, sealFile); err != nil {
		return Identity{}, err
	}
	agentText, err := EncodeKey(key)
	if err != nil {
		return Identity{}, err
	}
	return me, s.replace(agentText, agentFile)
}

func (s *Store) dropAllNextKeys() error {
	if err := s.ops.RemoveAll(s.path(nextFolder)); err != nil {
		return fmt.Errorf("drop keys: %w", err)
	}
	if err := s.ops.Mkdir(s.path(nextFolder), durable.PrivateDir); err != nil {
		return fmt.Errorf("drop keys: %w", err)
	}
	return s.ops.SyncDir(s.dir)
}

func identityOf(key ed25519.PrivateKey, seal secret.OpenKey) (Identity, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return Identity{}, fmt.Errorf("encode the enrolment key: %w", err)
	}
	id := identity.AgentID(spki)
	// The certificate only carries the key into the handshake: the server knows
	// the key and looks at nothing else, so an agent cannot lock itself out.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: id},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // "no well-defined expiration", RFC 5280, 4.1.2.5
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Identity{}, fmt.Errorf("sign the enrolment certificate: %w", err)
	}
	certificate := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return Identity{ID: id, Certificate: certificate, Seal: seal}, nil
}
