// Package secret holds the types of what must never be printed, and the sealed
// box in which tokens travel. A value of these types shows itself only where
// Reveal is called.
package secret

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
)

// Hidden is what stands for a secret wherever one is printed.
const Hidden = "[hidden]"

// Text is a secret string, such as a password or a token. It does not print,
// log or marshal; the zero value is the empty secret.
//
// The string lies behind a pointer: package fmt ignores every method of a value
// that it meets under a wrong verb, and would print a plain field.
type Text struct{ s *string }

// New returns s as a secret.
func New(s string) Text { return Text{&s} }

// Reveal returns the secret itself.
func (t Text) Reveal() string {
	if t.s == nil {
		return ""
	}
	return *t.s
}

// Empty reports whether there is no secret.
func (t Text) Empty() bool { return t.Reveal() == "" }

// String hides the secret.
func (t Text) String() string { return Hidden }

// GoString hides the secret from %#v.
func (t Text) GoString() string { return Hidden }

// Format hides the secret from every verb of package fmt.
func (t Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Hidden) }

// LogValue hides the secret from slog.
func (t Text) LogValue() slog.Value { return slog.StringValue(Hidden) }

// MarshalText hides the secret from JSON and YAML.
func (t Text) MarshalText() ([]byte, error) { return []byte(Hidden), nil }

// UnmarshalText takes the secret from a configuration file.
func (t *Text) UnmarshalText(b []byte) error {
	*t = New(string(b))
	return nil
}

// ReadFile reads a secret from a file, without the white space around it. A
// file that others than its owner may read is an error, as ssh does it.
func ReadFile(path string) (Text, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Text{}, fmt.Errorf("secret file: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return Text{}, fmt.Errorf("secret file %s: mode %04o lets others read it: run chmod 600 %s", path, mode, path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Text{}, fmt.Errorf("secret file: %w", err)
	}
	return New(strings.TrimSpace(string(b))), nil
}
