package chaos

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// reader reads every set on the disk, over and over, as careful clients do.
type reader struct {
	dir    string // holds <cluster>/<kind>
	broken *broken

	mu    sync.Mutex
	reads int
	first map[string]bool   // clients that had a set once
	seen  map[string]string // client@generation -> digest of what was seen
}

// pause lets others have the machine too: a swap takes microseconds, and no
// reader can look at each.
const pause = 50 * time.Millisecond

func (r *reader) run(ctx context.Context) {
	for ctx.Err() == nil {
		folders, err := filepath.Glob(filepath.Join(r.dir, "*", "*", "..data"))
		if err != nil {
			return
		}
		r.mu.Lock()
		for _, folder := range folders {
			r.first[filepath.Dir(folder)] = true
		}
		known := make([]string, 0, len(r.first))
		for folder := range r.first {
			known = append(known, folder)
		}
		r.mu.Unlock()
		for _, folder := range known {
			if ctx.Err() != nil {
				return
			}
			r.look(folder)
		}
		_ = clock.Sleep(ctx, pause)
	}
}

// look reads one set. One that met a swap looks again.
func (r *reader) look(folder string) {
	s, err := readSet(folder)
	if err != nil {
		s, err = readSet(folder)
	}
	name := strings.TrimPrefix(folder, r.dir+string(filepath.Separator))
	if err != nil {
		kind := noMatch
		if errors.Is(err, errNotValid) || errors.Is(err, fs.ErrNotExist) {
			kind = noCredential
		}
		r.broken.add(kind, "%s: %v", name, err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	key := fmt.Sprintf("%s@%d", name, s.generation)
	if before, known := r.seen[key]; known && before != s.identity() {
		r.broken.add(twoCertificates, "%s on the disk: %s and %s", key, before, s.identity())
	}
	r.seen[key] = s.identity()
}

// set is what was read of one client.
type set struct {
	generation  int
	serial      string
	tokenID     string
	certificate [32]byte
}

func (s set) identity() string {
	return fmt.Sprintf("%s %s %x", s.serial, s.tokenID, s.certificate[:6])
}

var errNotValid = errors.New("not valid now")

// readSet reads through ..data once and checks that the files belong together
// and are good at this moment.
func readSet(folder string) (set, error) {
	var s set
	target, err := os.Readlink(filepath.Join(folder, "..data"))
	if err != nil {
		return s, err
	}
	at := filepath.Join(folder, target)
	content := map[string][]byte{}
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt", "token", "metadata.json"} {
		if content[name], err = os.ReadFile(filepath.Join(at, name)); err != nil {
			return s, err
		}
	}
	var meta struct {
		Generation int    `json:"generation"`
		Serial     string `json:"serial"`
		TokenID    string `json:"tokenID"`
	}
	if err := json.Unmarshal(content["metadata.json"], &meta); err != nil {
		return s, err
	}
	pair, err := tls.X509KeyPair(content["tls.crt"], content["tls.key"])
	if err != nil {
		return s, err
	}
	if got := pair.Leaf.SerialNumber.Text(16); got != meta.Serial {
		return s, fmt.Errorf("metadata names serial %s, the certificate has %s", meta.Serial, got)
	}
	now := clock.Wall()
	if err := checkCertificate(pair.Leaf, content["ca.crt"], now); err != nil {
		return s, err
	}
	id, err := checkToken(strings.TrimSpace(string(content["token"])), pair.Leaf, now)
	if err != nil {
		return s, err
	}
	if meta.TokenID != "" && meta.TokenID != id {
		return s, fmt.Errorf("metadata names token %s, the token is %s", meta.TokenID, id)
	}
	return set{meta.Generation, meta.Serial, id, sha256.Sum256(pair.Leaf.Raw)}, nil
}

func checkCertificate(leaf *x509.Certificate, ca []byte, now time.Time) error {
	roots := x509.NewCertPool()
	for block, rest := pem.Decode(ca); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		roots.AddCert(certificate)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return fmt.Errorf("certificate: %w: %w", errNotValid, err)
	}
	return nil
}

// checkToken looks at what the token says. Its signature is checked by the
// gateway when the client proves it.
func checkToken(token string, leaf *x509.Certificate, now time.Time) (id string, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", errors.New("token: not three parts")
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	var claims struct {
		ID        string `json:"jti"`
		NotBefore int64  `json:"nbf"`
		Expiry    int64  `json:"exp"`
		Confirm   struct {
			Thumbprint string `json:"jkt"`
		} `json:"cnf"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	if now.Unix() < claims.NotBefore || now.Unix() >= claims.Expiry {
		return "", fmt.Errorf("token: %w", errNotValid)
	}
	want, err := thumbprint(leaf)
	if err == nil && claims.Confirm.Thumbprint != want {
		err = errors.New("token: bound to another key than that of the certificate")
	}
	return claims.ID, err
}

// thumbprint returns the JWK thumbprint of a P-256 key (RFC 7638).
func thumbprint(leaf *x509.Certificate) (string, error) {
	public, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return "", fmt.Errorf("key of type %T", leaf.PublicKey)
	}
	point, err := public.Bytes()
	if err != nil {
		return "", err
	}
	half := len(point) / 2
	encode := base64.RawURLEncoding.EncodeToString
	sum := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + encode(point[1:1+half]) + `","y":"` + encode(point[1+half:]) + `"}`))
	return encode(sum[:]), nil
}
