// Package state keeps what an agent must not lose: its two keys, the keys of
// the generations that are still to come, and the newest trust bundle it has
// seen. Nothing of it ever leaves the machine.
//
// A file that is missing or makes no sense counts as absent and is replaced:
// what lies on the disk must never block its own replacement.
package state

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

const (
	agentFile  = "agent.key"
	sealFile   = "seal.key"
	recordFile = "state.json"
	bundleFile = "bundle.jws"
	lockFile   = "lock"
	nextFolder = "next"

	trialFolder = "clients"
)

// Store is the folder of an agent. It has one user, and is not safe for
// concurrent use.
type Store struct {
	dir string
	log *slog.Logger
	ops durable.Ops
}

// At returns the store in a folder, for reading only: it makes nothing.
func At(dir string, log *slog.Logger) *Store {
	return &Store{dir: dir, log: log, ops: durable.Disk{}}
}

// Open makes the folder if it is missing, and closes it to all but its owner.
func Open(dir string, log *slog.Logger) (*Store, error) { return OpenWith(durable.Disk{}, dir, log) }

// OpenWith is like Open, with other operations on the disk.
func OpenWith(ops durable.Ops, dir string, log *slog.Logger) (*Store, error) {
	s := &Store{dir: dir, log: log, ops: ops}
	for _, path := range []string{dir, s.path(nextFolder), s.path(trialFolder)} {
		if err := ops.Mkdir(path, durable.PrivateDir); err != nil {
			return nil, fmt.Errorf("open state: %w", err)
		}
		if err := ops.Change(path, durable.PrivateDir); err != nil {
			return nil, fmt.Errorf("open state: %w", err)
		}
	}
	return s, nil
}

// replace writes a file of the store.
func (s *Store) replace(data []byte, name ...string) error {
	return durable.ReplaceWith(s.ops, s.path(name...), data, durable.Private)
}

func (s *Store) path(name ...string) string {
	return filepath.Join(append([]string{s.dir}, name...)...)
}

// Record is what the agent knows of where it belongs.
type Record struct {
	Cluster  string `json:"cluster"`
	Agent    string `json:"agent"`
	Enrolled bool   `json:"enrolled"` // the server was last seen to know this agent
	Server   string `json:"server"`
	Pin      string `json:"pin"`
	Bundle   int    `json:"bundle"` // newest version of the trust bundle seen; an older one is refused
	Starts   int    `json:"starts"` // how often the agent was started; 0 if it lost count

	Refused   *fleet.Refused `json:"refused,omitempty"`   // what was not believed, until the server was told
	Rehearsal bool           `json:"rehearsal,omitempty"` // it takes the time from the server
}

// ParseRecord reads the record.
func ParseRecord(b []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, err
	}
	if r.Bundle < 0 || r.Starts < 0 {
		return Record{}, errors.New("negative version of the bundle, or number of starts")
	}
	return r, nil
}

// LoadRecord returns the record, or why there is none.
func (s *Store) LoadRecord() (Record, error) {
	b, err := os.ReadFile(s.path(recordFile))
	if err != nil {
		return Record{}, err
	}
	r, err := ParseRecord(b)
	if err != nil {
		return Record{}, fmt.Errorf("%s: %w", s.path(recordFile), err)
	}
	return r, nil
}

// Record returns the record, the zero value if there is none.
func (s *Store) Record() Record {
	r, err := s.LoadRecord()
	s.absent(recordFile, err)
	return r
}

// SaveRecord keeps the record.
func (s *Store) SaveRecord(r Record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return s.replace(append(b, '\n'), recordFile)
}

// Bundle returns the signed trust bundle that was kept, empty if there is none.
// The caller verifies it.
func (s *Store) Bundle() string {
	b, err := os.ReadFile(s.path(bundleFile))
	if err != nil {
		s.absent(bundleFile, err)
	}
	return string(b)
}

// SaveBundle keeps a signed trust bundle.
func (s *Store) SaveBundle(signed string) error {
	return s.replace([]byte(signed), bundleFile)
}

// absent logs why a file counts as absent, if it should have been there.
func (s *Store) absent(name string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("a file of the agent's state cannot be used and counts as absent", "file", s.path(name), "err", err)
	}
}

// nextName names the file of a key that waits for its certificate. No client
// name holds a '_'.
func nextName(client fleet.ClientKey, generation int) string {
	return strings.ReplaceAll(client.String(), "/", "_") + ".g" + strconv.Itoa(generation) + ".key"
}

// NextKey returns the key that waits for the certificate of a generation, or
// nil if there is none or it makes no sense. An error means that the disk did
// not let us look.
func (s *Store) NextKey(client fleet.ClientKey, generation int) (crypto.Signer, error) {
	name := filepath.Join(nextFolder, nextName(client, generation))
	b, err := os.ReadFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("key of %s, generation %d: %w", client, generation, err)
	}
	key, err := parseKey(b)
	if err != nil {
		s.absent(name, err)
		return nil, nil
	}
	return key, nil
}

// MakeNextKey returns the key for a generation, and makes it if it is missing.
func (s *Store) MakeNextKey(client fleet.ClientKey, generation int) (crypto.Signer, error) {
	key, err := s.NextKey(client, generation)
	if err != nil || key != nil {
		return key, err
	}
	fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for %s: %w", client, err)
	}
	text, err := EncodeKey(fresh)
	if err != nil {
		return nil, err
	}
	if err := s.replace(text, nextFolder, nextName(client, generation)); err != nil {
		return nil, fmt.Errorf("keep the key of %s: %w", client, err)
	}
	return fresh, nil
}

// DropNextKeys forgets the keys of a client up to and with a generation.
func (s *Store) DropNextKeys(client fleet.ClientKey, upTo int) error {
	entries, err := os.ReadDir(s.path(nextFolder))
	if err != nil {
		return fmt.Errorf("drop keys of %s: %w", client, err)
	}
	prefix := strings.TrimSuffix(nextName(client, 0), "0.key")
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok {
			continue
		}
		number, err := strconv.Atoi(strings.TrimSuffix(rest, ".key"))
		if err != nil || number > upTo {
			continue
		}
		if err := durable.Remove(s.ops, s.path(nextFolder, e.Name())); err != nil {
			return fmt.Errorf("drop key of %s, generation %d: %w", client, number, err)
		}
	}
	return nil
}

// EncodeKey returns a private key as PKCS #8 in PEM.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// parseKey reads what EncodeKey has written. Its errors tell nothing of the
// content.
func parseKey(b []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("not a private key in PKCS #8")
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("not a signing key")
	}
	return key, nil
}
