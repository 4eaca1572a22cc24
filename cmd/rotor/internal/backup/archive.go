package backup

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"filippo.io/age"
)

// The archive is a file of age (age-encryption.org/v1) that holds gzip, that
// holds lines of JSON: a header, documents, and at the end a manifest. So it can
// be opened with age, gunzip and an editor, should Rotor itself be gone.
const (
	formatName    = "rotor-backup"
	formatVersion = 1
)

// Header is the first line.
type Header struct {
	Format    string    `json:"format"`
	Version   int       `json:"version"`
	CreatedAt time.Time `json:"createdAt"` // by the machine's time
	Rotor     string    `json:"rotor"`     // version of the program that wrote it
	KEK       []byte    `json:"kek,omitempty"`
}

// Document is one message of a stream; in a bucket, one document.
type Document struct {
	Stream  string              `json:"stream"`
	Subject string              `json:"subject"`
	Header  map[string][]string `json:"header,omitempty"`
	Data    []byte              `json:"data"`
	Time    time.Time           `json:"time"`
	Seq     uint64              `json:"seq"`
}

// Manifest is the last line. A file without it is not whole.
type Manifest struct {
	Counts map[string]int `json:"counts"`
	SHA256 string         `json:"sha256"` // of all lines before
}

// line is one line after the header.
type line struct {
	Document *Document `json:"document,omitempty"`
	Manifest *Manifest `json:"manifest,omitempty"`
}

// writer writes an archive as it comes; it holds nothing back.
type writer struct {
	seal   io.WriteCloser
	pack   *gzip.Writer
	sum    hash.Hash
	counts map[string]int
}

func newWriter(w io.Writer, h Header, recipients []age.Recipient) (*writer, error) {
	seal, err := age.Encrypt(w, recipients...)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	a := &writer{seal: seal, pack: gzip.NewWriter(seal), sum: sha256.New(), counts: map[string]int{}}
	return a, a.put(h)
}

func (a *writer) put(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	raw = append(raw, '\n')
	a.sum.Write(raw)
	_, err = a.pack.Write(raw)
	return err
}

func (a *writer) add(d Document) error {
	a.counts[d.Stream]++
	return a.put(line{Document: &d})
}

// end writes the manifest, without which nobody takes the file for whole.
func (a *writer) end() (Manifest, error) {
	m := Manifest{Counts: a.counts, SHA256: hex.EncodeToString(a.sum.Sum(nil))}
	return m, errors.Join(a.put(line{Manifest: &m}), a.pack.Close(), a.seal.Close())
}

// maxLine bounds one line: a document of 1 MiB in base64, with its headers.
const maxLine = 8 << 20

// ErrDamaged says that a file is not a whole backup.
var ErrDamaged = errors.New("the file is damaged or not whole")

// read passes every document of an archive on, and returns only when all of it
// was there and unchanged.
func read(r io.Reader, identities []age.Identity, each func(Header, Document) error) (Header, Manifest, error) {
	var h Header
	opened, err := age.Decrypt(r, identities...)
	if err != nil {
		if _, wrong := errors.AsType[*age.NoIdentityMatchError](err); wrong {
			return h, Manifest{}, errors.New("the passphrase or identity does not open the file")
		}
		return h, Manifest{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	unpacked, err := gzip.NewReader(opened)
	if err != nil {
		return h, Manifest{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	lines := bufio.NewScanner(unpacked)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	sum, counts := sha256.New(), map[string]int{}
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &h) != nil || h.Format != formatName {
		return h, Manifest{}, errors.Join(fmt.Errorf("%w: it is no backup of Rotor", ErrDamaged), lines.Err())
	}
	if h.Version != formatVersion {
		return h, Manifest{}, fmt.Errorf("backup of format %d, written by Rotor %s: this one reads format %d", h.Version, h.Rotor, formatVersion)
	}
	for add(sum, lines.Bytes()); lines.Scan(); add(sum, lines.Bytes()) {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return h, Manifest{}, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if l.Manifest != nil {
			return h, *l.Manifest, l.Manifest.check(sum, counts, lines, unpacked)
		}
		if l.Document == nil {
			continue // of a later version that adds to the format
		}
		counts[l.Document.Stream]++
		if err := each(h, *l.Document); err != nil {
			return h, Manifest{}, err
		}
	}
	return h, Manifest{}, errors.Join(fmt.Errorf("%w: its end is missing", ErrDamaged), lines.Err())
}

func add(sum hash.Hash, text []byte) {
	sum.Write(text)
	sum.Write([]byte{'\n'})
}

func (m Manifest) check(sum hash.Hash, counts map[string]int, lines *bufio.Scanner, rest io.Reader) error {
	if hex.EncodeToString(sum.Sum(nil)) != m.SHA256 {
		return fmt.Errorf("%w: its checksum is another", ErrDamaged)
	}
	for stream, n := range m.Counts {
		if counts[stream] != n {
			return fmt.Errorf("%w: %d documents of %s, and %d were written", ErrDamaged, counts[stream], stream, n)
		}
	}
	if lines.Scan() {
		return fmt.Errorf("%w: something follows its end", ErrDamaged)
	}
	// To the very end: only there the last check of age and of gzip is made.
	if _, err := io.Copy(io.Discard, rest); err != nil || lines.Err() != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, errors.Join(err, lines.Err()))
	}
	return nil
}
