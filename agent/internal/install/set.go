package install

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// The files of a set.
const (
	fileCertificate = "tls.crt"
	fileKey         = "tls.key"
	fileCA          = "ca.crt"
	fileToken       = "token"
	fileMetadata    = "metadata.json"
)

var fileNames = []string{fileCertificate, fileKey, fileCA, fileToken, fileMetadata}

// Set is what a client needs to authenticate: one generation.
type Set struct {
	Certificate []byte      // client certificate, bridges to its issuer, and its issuer, PEM
	Key         secret.Text // PKCS #8, PEM
	CA          []byte      // the trust bundle, PEM
	Token       secret.Text
	Metadata    Metadata
}

// Metadata tells, without a secret, what the set is.
type Metadata struct {
	Cluster     string          `json:"cluster"`
	Client      fleet.ClientKey `json:"client"`
	Generation  int             `json:"generation"`
	Serial      string          `json:"serial"`
	TokenID     string          `json:"tokenID,omitempty"`
	NotBefore   time.Time       `json:"notBefore"`
	NotAfter    time.Time       `json:"notAfter"`
	ExpiresAt   time.Time       `json:"expiresAt,omitzero"` // of the token
	Fleet       string          `json:"fleet"`              // pin of the fleet key
	Bundle      int             `json:"bundle"`             // version of the trust bundle in ca.crt
	InstalledAt time.Time       `json:"installedAt"`
}

// Expiry returns when the first of certificate and token ends.
func (m Metadata) Expiry() time.Time {
	if m.ExpiresAt.IsZero() || m.NotAfter.Before(m.ExpiresAt) {
		return m.NotAfter
	}
	return m.ExpiresAt
}

// ErrDamaged says that something is installed, but not one whole set.
var ErrDamaged = errors.New("damaged")

// ParseMetadata reads metadata.json.
func ParseMetadata(b []byte) (Metadata, error) {
	var m Metadata
	if err := json.Unmarshal(b, &m); err != nil {
		return Metadata{}, fmt.Errorf("%s: %w", fileMetadata, err)
	}
	if err := fleet.CheckName("cluster", m.Cluster); err != nil {
		return Metadata{}, fmt.Errorf("%s: %w", fileMetadata, err)
	}
	if _, err := fleet.ParseClientKey(m.Client.String()); err != nil {
		return Metadata{}, fmt.Errorf("%s: %w", fileMetadata, err)
	}
	if m.Generation < 1 {
		return Metadata{}, fmt.Errorf("%s: generation %d: want 1 or more", fileMetadata, m.Generation)
	}
	return m, nil
}

// Files returns the parts of the set by the names that readers use. It is the
// inverse of Parse.
func (s *Set) Files() (map[string][]byte, error) {
	metadata, err := json.MarshalIndent(s.Metadata, "", "  ")
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		fileCertificate: s.Certificate,
		fileKey:         []byte(s.Key.Reveal()),
		fileCA:          s.CA,
		fileToken:       []byte(s.Token.Reveal()),
		fileMetadata:    append(metadata, '\n'),
	}, nil
}

// KeyPair returns the certificate with its key, for use in TLS. It fails if
// they do not belong together.
func (s *Set) KeyPair() (tls.Certificate, error) {
	return tls.X509KeyPair(s.Certificate, []byte(s.Key.Reveal()))
}

// Read returns the set that readers see. The error is fs.ErrNotExist when
// nothing is installed, and ErrDamaged when what is there is not one whole set;
// any other means that the disk did not let us look.
func (f Folder) Read() (Set, error) {
	s, err := f.read(dataLink)
	if err != nil {
		return Set{}, fmt.Errorf("read %s: %w", f.Path, err)
	}
	return s, nil
}

func (f Folder) read(name string) (Set, error) {
	if _, err := os.Lstat(f.at(name)); err != nil {
		return Set{}, err
	}
	// The folder is opened once, so that a swap meanwhile cannot mix two sets.
	root, err := os.OpenRoot(f.at(name))
	if err != nil {
		return Set{}, damage(err)
	}
	defer func() { _ = root.Close() }()
	content := map[string][]byte{}
	for _, file := range fileNames {
		if content[file], err = root.ReadFile(file); err != nil {
			return Set{}, damage(err)
		}
	}
	return Parse(content)
}

// Parse makes a set of its parts. The error is ErrDamaged if they are not those
// of one whole set.
func Parse(content map[string][]byte) (Set, error) {
	s := Set{
		Certificate: content[fileCertificate], CA: content[fileCA],
		Key: secret.New(string(content[fileKey])), Token: secret.New(string(content[fileToken])),
	}
	var err error
	if s.Metadata, err = ParseMetadata(content[fileMetadata]); err != nil {
		return Set{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return s, s.check()
}

// check reports whether the parts of the set belong together.
func (s *Set) check() error {
	pair, err := s.KeyPair()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	switch {
	case pair.Leaf.SerialNumber.Text(16) != s.Metadata.Serial:
		return fmt.Errorf("%w: %s is not the certificate that %s tells of", ErrDamaged, fileCertificate, fileMetadata)
	case s.Token.Empty():
		return fmt.Errorf("%w: %s is empty", ErrDamaged, fileToken)
	case len(s.CA) == 0:
		return fmt.Errorf("%w: %s is empty", ErrDamaged, fileCA)
	}
	return nil
}

// damage tells a set that is not whole from a disk that does not let us look:
// the first must be replaced, the second may come back.
func damage(err error) error {
	for _, passing := range []error{fs.ErrPermission, syscall.EIO, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM} {
		if errors.Is(err, passing) {
			return err
		}
	}
	return fmt.Errorf("%w: %v", ErrDamaged, err) //nolint:errorlint // a missing part must not pass for an empty folder
}
