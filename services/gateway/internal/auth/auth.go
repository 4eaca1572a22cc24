// Package auth holds who may call the API: whoever has the admin token.
package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/rotor-fleet/rotor/shared/secret"
)

// OpenToken reads the admin token from a file, and makes it where there is no
// file. A file that others than its owner may read is an error.
func OpenToken(path string) (secret.Text, error) {
	token, err := secret.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil && !errors.Is(err, fs.ErrExist) {
			return secret.Text{}, fmt.Errorf("make admin token: %w", err)
		}
		token, err = secret.ReadFile(path)
	}
	if err != nil {
		return secret.Text{}, fmt.Errorf("admin token: %w", err)
	}
	if len(token.Reveal()) < minToken {
		return secret.Text{}, fmt.Errorf("admin token: %s holds fewer than %d characters: remove it, and a new one is made", path, minToken)
	}
	return token, nil
}

// minToken is the least length of a token that an operator wrote by hand.
const minToken = 20

// create writes a new token under another name and links it into place: a
// reader sees all of it or nothing, and one of two that start at once wins.
func create(path string) error {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".admin-token-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.WriteString(base64.RawURLEncoding.EncodeToString(raw) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Guard lets a request through if it carries the token, or if its path is one
// of those that are open to everyone.
type Guard struct {
	hash [sha256.Size]byte
	open map[string]bool // by method and path
}

// NewGuard returns a guard for a token and the open paths.
func NewGuard(token secret.Text, open ...string) *Guard {
	g := &Guard{hash: sha256.Sum256([]byte(token.Reveal())), open: map[string]bool{}}
	for _, path := range open {
		g.open[http.MethodGet+" "+path], g.open[http.MethodHead+" "+path] = true, true
	}
	return g
}

// Open lets everyone write to paths that look at their callers themselves.
func (g *Guard) Open(paths ...string) {
	for _, path := range paths {
		g.open[http.MethodPost+" "+path] = true
	}
}

// IsOpen reports whether a request needs no token: its path is one of those, or
// below one that ends in a slash.
func (g *Guard) IsOpen(r *http.Request) bool {
	path := r.URL.Path
	return g.open[r.Method+" "+path] || g.open[r.Method+" "+path[:strings.LastIndexByte(path, '/')+1]]
}

// Wrap returns a handler that answers 401 to whoever may not pass. refuse
// writes the answer.
func (g *Guard) Wrap(next http.Handler, refuse func(w http.ResponseWriter, r *http.Request, detail string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.IsOpen(r) {
			next.ServeHTTP(w, r)
			return
		}
		token, ok := Bearer(r.Header.Get("Authorization"))
		// Hashes have one length, so that the comparison tells nothing of it.
		hash := sha256.Sum256([]byte(token))
		if same := subtle.ConstantTimeCompare(hash[:], g.hash[:]) == 1; ok && same {
			next.ServeHTTP(w, r)
			return
		}
		challenge, detail := `Bearer realm="rotor"`, "send the admin token: Authorization: Bearer <token>"
		if ok { // RFC 6750, 3.1: an error code only if a token was sent
			challenge, detail = challenge+`, error="invalid_token"`, "the token is not the admin token of this Rotor"
		}
		w.Header().Set("WWW-Authenticate", challenge)
		refuse(w, r, detail)
	})
}

// Bearer returns the token of an Authorization header (RFC 6750, 2.1).
func Bearer(header string) (token string, ok bool) {
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}
