// Package apicert keeps the certificate of the API's listener: one that the
// operator has from elsewhere, in two files, which whoever renews it changes
// while the gateway runs.
package apicert

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/rotor-fleet/rotor/shared/clock"
)

// Files are the two files, PEM each: the certificate with those that lead to its
// CA, and its key.
type Files struct {
	Cert, Key string
}

// load reads the files. The error says what is wrong with them at now.
func (f Files) load(now time.Time) (*tls.Certificate, content, error) {
	var c content
	var err error
	if c.cert, err = os.ReadFile(f.Cert); err != nil {
		return nil, c, fmt.Errorf("certFile: %w", err)
	}
	if c.key, err = os.ReadFile(f.Key); err != nil {
		return nil, c, fmt.Errorf("keyFile: %w", err)
	}
	pair, err := tls.X509KeyPair(c.cert, c.key)
	switch {
	case err != nil:
		return nil, c, fmt.Errorf("certFile %s and keyFile %s: %w", f.Cert, f.Key, err)
	case !now.Before(pair.Leaf.NotAfter):
		return nil, c, fmt.Errorf("certFile %s: the certificate has expired at %s", f.Cert, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(pair.Leaf.NotBefore):
		return nil, c, fmt.Errorf("certFile %s: the certificate is not valid before %s: is the clock of this machine right?", f.Cert, pair.Leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	return &pair, c, nil
}

// content is what was read.
type content struct{ cert, key []byte }

func (c content) equal(o content) bool {
	return bytes.Equal(c.cert, o.cert) && bytes.Equal(c.key, o.key)
}

// Check returns what is wrong with the files now, nil if they will do. The
// certificate is for callers of the API, so it is the machine's time that counts,
// also where the fleet's runs fast.
func (f Files) Check() error {
	_, _, err := f.load(clock.Wall())
	return err
}

// Pair is a certificate with its key that follows its files. Make it with Open;
// it is safe for concurrent use.
type Pair struct {
	files   Files
	log     *slog.Logger
	current atomic.Pointer[tls.Certificate]
	read    content // of Run alone, as are the next two
	why     string  // what was wrong last time, as it was logged
	every   time.Duration
}

// lookAgain is how often the files are read again. They are small and few: a look
// is cheaper than to miss a change, as watchers do behind links and mounts.
const lookAgain = time.Second

// Open reads the files.
func Open(f Files, log *slog.Logger) (*Pair, error) {
	p := &Pair{files: f, log: log, every: lookAgain}
	pair, read, err := f.load(clock.Wall())
	if err != nil {
		return nil, err
	}
	p.current.Store(pair)
	p.read = read
	return p, nil
}

// Certificate is for tls.Config.GetCertificate.
func (p *Pair) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := p.current.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("no certificate of the API was read")
}

// NotAfter is when the certificate in use ends.
func (p *Pair) NotAfter() time.Time { return p.current.Load().Leaf.NotAfter }

// Run follows the files until ctx ends. What is wrong with new ones is logged, and
// the certificate of before stays in use: one file may be written a moment after
// the other.
func (p *Pair) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if clock.Sleep(ctx, p.every) != nil {
			break
		}
		p.look(clock.Wall())
	}
	return nil
}

// look reads the files again and takes what has changed.
func (p *Pair) look(now time.Time) {
	pair, read, err := p.files.load(now)
	switch {
	case err == nil && p.read.equal(read):
		p.why = ""
	case err == nil:
		p.current.Store(pair)
		p.read, p.why = read, ""
		p.log.Info("certificate of the API read again", "file", p.files.Cert, "subject", pair.Leaf.Subject.String(), "notAfter", pair.Leaf.NotAfter)
	case p.why != err.Error():
		p.why = err.Error()
		p.log.Warn("certificate of the API not read again; the one of before stays in use", "err", err)
	}
}
