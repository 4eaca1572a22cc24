// Package fleet holds the nouns of Rotor: cluster, client, credential, release,
// policy, rotation, authority, agent. Everything else speaks in these types,
// and their JSON form is what is stored and served.
//
// The package decides nothing that needs a network: it imports no NATS, no
// HTTP and no clock; what depends on time takes now as an argument. No type of
// this package ever holds a private key or a token in clear.
package fleet

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// The kinds of error that cross package and network boundaries. Tested with
// errors.Is; the gateway maps each to one HTTP status.
var (
	// ErrNotFound says that the named object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that the object changed meanwhile or is in the way.
	ErrConflict = errors.New("conflict")
	// ErrInvalid says that the input is wrong and will stay wrong.
	ErrInvalid = errors.New("invalid")
	// ErrDenied says that the caller may not do this.
	ErrDenied = errors.New("denied")
)

// ErrorKind is the name of a kind of error, where an error is stored.
type ErrorKind string

// kinds are the names.
var kinds = []struct {
	name ErrorKind
	err  error
}{{"not-found", ErrNotFound}, {"conflict", ErrConflict}, {"invalid", ErrInvalid}, {"denied", ErrDenied}}

// KindOf returns the name of an error's kind, empty for one that has none.
func KindOf(err error) ErrorKind {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k.name
		}
	}
	return ""
}

// Error returns an error of this kind with a text that was stored: what KindOf
// and Error have taken apart, put together again.
func (k ErrorKind) Error(text string) error { return stored{k, text} }

type stored struct {
	kind ErrorKind
	text string
}

func (s stored) Error() string { return s.text }

// Is reports whether target is the kind of the error.
func (s stored) Is(target error) bool {
	for _, k := range kinds {
		if k.name == s.kind {
			return target == k.err
		}
	}
	return false
}

// nameRule is the DNS label of RFC 1123: it is safe in NATS subjects, file
// names, URLs and certificates alike.
var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName returns an ErrInvalid that says what a name must look like, or nil.
func CheckName(what, name string) error {
	if nameRule.MatchString(name) {
		return nil
	}
	return fmt.Errorf("%w: %s %q: use 1-63 lower-case letters, digits and '-', starting and ending with a letter or digit", ErrInvalid, what, name)
}

// ClientKey names a client inside its cluster: "kms", or "node-agent/host-3".
type ClientKey struct {
	Kind     string // the component that authenticates, e.g. kms
	Instance string // which one of several, e.g. the host; empty when there is one
}

// String returns kind or kind/instance.
func (k ClientKey) String() string {
	if k.Instance == "" {
		return k.Kind
	}
	return k.Kind + "/" + k.Instance
}

// ParseClientKey is the inverse of String.
func ParseClientKey(s string) (ClientKey, error) {
	kind, instance, more := strings.Cut(s, "/")
	if err := CheckName("client kind", kind); err != nil {
		return ClientKey{}, err
	}
	if more {
		if err := CheckName("client instance", instance); err != nil {
			return ClientKey{}, err
		}
	}
	return ClientKey{Kind: kind, Instance: instance}, nil
}

// MarshalText makes a ClientKey one string in JSON, as a value and as a key.
func (k ClientKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (k *ClientKey) UnmarshalText(b []byte) error {
	parsed, err := ParseClientKey(string(b))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}
