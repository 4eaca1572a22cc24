// Package truststore keeps the trust bundle of the fleet in a file for those who
// verify what its clients show, such as a kube-apiserver's --client-ca-file.
//
// The file is replaced by one rename(2) of itself: a verifier that watches it
// sees the old bundle or the new one, and a kube-apiserver takes it within a
// tenth of a second. Behind a link that is swapped it would not notice. It is
// never empty, for then it would trust nobody, and no certificate that stands in
// it and is not Rotor's goes missing without a word.
package truststore

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"github.com/rotor-fleet/rotor/agent/internal/durable"
	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// File is where verifiers read the trust bundle, PEM.
type File struct {
	Path    string
	Access  install.Access // what is zero is kept from the file that is replaced; 0644 for a new one
	Ops     durable.Ops
	Include []string // files with further certificates that the verifiers trust
	Log     *slog.Logger
}

// String names the file for people.
func (f File) String() string { return "file " + f.Path }

// Read returns what verifiers find.
func (f File) Read(context.Context) ([]byte, error) { return os.ReadFile(f.Path) }

// mark begins every file that is written here, and says so to people. Text
// outside of the blocks is skipped by whoever reads PEM (RFC 7468, 2).
const mark = "# Trust bundle of Rotor"

// newMode is the mode of a new file: there is nothing secret in it.
const newMode = 0o644

// Keep makes the file hold the bundle and what it is to include. It costs some
// reads when all is well.
func (f File) Keep(ctx context.Context, b trust.Bundle) error {
	if err := f.keep(ctx, b); err != nil {
		return fmt.Errorf("trust bundle %d in %s: %w", b.Version, f.Path, err)
	}
	return nil
}

func (f File) keep(ctx context.Context, b trust.Bundle) error {
	if _, err := b.Pool(); err != nil {
		return err
	}
	want, err := f.certificates(b)
	if err != nil {
		return err
	}
	text := render(b.Version, want)
	info, err := os.Lstat(f.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		a, err := f.attributes(durable.Attributes{Mode: newMode, UID: durable.Keep, GID: durable.Keep})
		if err != nil {
			return err
		}
		return f.write(ctx, b, text, a)
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: it is no plain file: name the file itself, not a link to it", fleet.ErrInvalid)
	}
	have, err := os.ReadFile(f.Path)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, text) && !bytes.HasPrefix(have, []byte(mark)) {
		if err := checkForeign(have, want); err != nil {
			return err
		}
	}
	a, err := f.attributes(durable.AttributesOf(info))
	if err != nil {
		return err
	}
	if bytes.Equal(have, text) && a == durable.AttributesOf(info) {
		return nil
	}
	return f.write(ctx, b, text, a)
}

// attributes are those that are asked for, else those of before.
func (f File) attributes(before durable.Attributes) (durable.Attributes, error) {
	want, err := f.Access.ForFile()
	return want.Over(before), err
}

func (f File) write(ctx context.Context, b trust.Bundle, text []byte, a durable.Attributes) error {
	if err := durable.ReplaceWith(f.Ops, f.Path, text, a); err != nil {
		return err
	}
	f.Log.InfoContext(ctx, "trust bundle written", "file", f.Path, "bundle", b.Version)
	return nil
}

// certificates returns those of the bundle and of the included files, each once.
func (f File) certificates(b trust.Bundle) ([][]byte, error) {
	all := parse(b.PEM())
	for _, path := range f.Include {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("include: %w", err)
		}
		more := parse(text)
		if len(more) == 0 {
			return nil, fmt.Errorf("%w: include %s: no certificate in it", fleet.ErrInvalid, path)
		}
		for _, der := range more {
			if !slices.ContainsFunc(all, func(have []byte) bool { return bytes.Equal(have, der) }) {
				all = append(all, der)
			}
		}
	}
	return all, nil
}

// checkForeign makes sure that every certificate that somebody has put in the
// file stands in the new one too: without it, those whom it lets in would be
// locked out, such as the kubelets of a cluster.
func checkForeign(have []byte, want [][]byte) error {
	for _, der := range parse(have) {
		if slices.ContainsFunc(want, func(w []byte) bool { return bytes.Equal(w, der) }) {
			continue
		}
		name := "a certificate"
		if c, err := x509.ParseCertificate(der); err == nil {
			name = c.Subject.String()
		}
		return fmt.Errorf("%w: it trusts %s, which the bundle does not hold: copy it to a file of its own and name that under include", fleet.ErrConflict, name)
	}
	return nil
}

func parse(text []byte) [][]byte {
	var all [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			all = append(all, block.Bytes)
		}
	}
	return all
}

func render(version int, certificates [][]byte) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s, version %d. Whatever else is written here is undone: use include of the agent's configuration.\n", mark, version)
	for _, der := range certificates {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return out.Bytes()
}
