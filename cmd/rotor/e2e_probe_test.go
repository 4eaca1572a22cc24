package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// cmdProbe has every client below some folders call all the time, as its program
// would, and wants that no call ever fails: probe start DIR... begins it, ten
// times a second for each client; probe stop PHASE... ends it and wants that calls
// were made in each of these phases of a rotation of the CA.
//
// A call reads the set from the disk, opens a new mutual TLS connection to the
// gateway, and presents the token; then it asks the introspection about the
// token, and shows its chain to a verifier that reads the trust bundle of another
// client.
func cmdProbe(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	switch args[0] {
	case "start":
		p := newProbe(ts)
		for _, dir := range args[1:] {
			p.dirs = append(p.dirs, clientFolders(ts, dir)...)
		}
		if len(p.dirs) == 0 {
			ts.Fatalf("probe: no client below %v", args[1:])
		}
		w.probe = p
		p.run()
		w.env.Defer(p.stop)
	case "stop":
		p := w.probe
		p.stop()
		report := p.report()
		_, _ = ts.Stdout().Write([]byte(report))
		ts.Logf("%s", report)
		if len(p.failures) > 0 {
			ts.Fatalf("%d calls failed:\n%s", p.failed, strings.Join(p.failures, "\n"))
		}
		for _, phase := range args[1:] {
			if p.calls[phase] == 0 {
				ts.Fatalf("no call was made in phase %s", phase)
			}
		}
	default:
		ts.Fatalf("probe %s: use start or stop", args[0])
	}
}

// clientFolders finds the sets below a folder.
func clientFolders(ts *testscript.TestScript, dir string) []string {
	var found []string
	for _, pattern := range []string{"*", "*/*", "*/*/*"} {
		links, err := filepath.Glob(filepath.Join(ts.MkAbs(dir), pattern, "..data"))
		ts.Check(err)
		for _, link := range links {
			found = append(found, filepath.Dir(link))
		}
	}
	slices.Sort(found)
	return found
}

type probe struct {
	ts     *testscript.TestScript
	api    *api.Client
	agents string
	root   string // of the script
	dirs   []string
	cancel context.CancelFunc
	all    sync.WaitGroup

	mu       sync.Mutex
	phase    string
	calls    map[string]int // by phase
	failed   int
	failures []string
	leaves   map[string][][]byte       // chain as installed last, by the CA that signed its leaf
	bundles  map[string][]byte         // trust bundles that were installed, by the CAs in them
	matrix   map[string]map[string]int // by phase: "leaf of CA against bundle", how often
}

// maxFailures bounds what is told of failed calls.
const maxFailures = 20

func newProbe(ts *testscript.TestScript) *probe {
	return &probe{
		ts: ts, api: &api.Client{URL: ts.Getenv("API"), Token: secret.New(ts.Getenv("TOKEN"))}, agents: ts.Getenv("AGENTS"), root: ts.MkAbs("."),
		phase: "none", calls: map[string]int{}, leaves: map[string][][]byte{}, bundles: map[string][]byte{}, matrix: map[string]map[string]int{},
	}
}

func (p *probe) run() {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.all.Go(func() { p.watch(ctx) })
	for i, dir := range p.dirs {
		p.all.Go(func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				p.call(ctx, dir, p.dirs[(i+1)%len(p.dirs)])
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
}

func (p *probe) stop() {
	p.cancel()
	p.all.Wait()
}

// watch follows the phase of the rotation of the CA, and tries old and new leaf
// against old and new bundle in each.
func (p *probe) watch(ctx context.Context) {
	for ctx.Err() == nil {
		var status api.AuthorityStatus
		if err := p.api.Call(ctx, http.MethodGet, api.PathAuthority, nil, &status); err == nil {
			phase := "none"
			if status.CA != nil {
				phase = string(status.CA.Phase)
			}
			p.mu.Lock()
			p.phase = phase
			p.mu.Unlock()
			p.tryMatrix(phase, status)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// call makes one round of a client. A set that was swapped while it was read is
// read again.
func (p *probe) call(ctx context.Context, dir, other string) {
	p.mu.Lock()
	phase := p.phase
	p.mu.Unlock()
	err := errors.Join(p.calling(ctx, dir), p.verified(dir, other))
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[phase]++
	if err != nil {
		if p.failed++; len(p.failures) < maxFailures {
			name, _ := filepath.Rel(p.root, dir)
			p.failures = append(p.failures, fmt.Sprintf("%s, phase %s: %v", name, phase, err))
		}
	}
}

func readTwice(dir string) (set, error) {
	s, err := readSet(dir)
	if err != nil {
		s, err = readSet(dir)
	}
	return s, err
}

// calling proves the set by a new connection, and asks about its token.
func (p *probe) calling(ctx context.Context, dir string) error {
	s, err := readTwice(dir)
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: s.roots, Certificates: []tls.Certificate{s.pair}}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.agents+"/v1/agent/prove", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+s.token)
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return fmt.Errorf("mutual TLS: %w", err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("call with certificate and token: %s", response.Status)
	}
	active, err := tryIntrospection(p.ts, s)
	if err == nil && !active {
		err = errors.New("the token is not active")
	}
	return err
}

// verified shows the chain of a client to a verifier that reads the trust bundle
// of another one.
func (p *probe) verified(dir, other string) error {
	s, err := readTwice(dir)
	if err != nil {
		return err
	}
	verifier, err := readTwice(other)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.leaves[hex.EncodeToString(s.leaf.AuthorityKeyId)] = s.pair.Certificate
	p.bundles[casOf(verifier.ca)] = verifier.ca
	p.mu.Unlock()
	return verifies(s.pair.Certificate, verifier.ca)
}

// verifies builds the path as any server with a client CA file does.
func verifies(chain [][]byte, bundle []byte) error {
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	for _, der := range chain[1:] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		between.AddCert(c)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// casOf names the CAs of a bundle.
func casOf(bundle []byte) string {
	var ids []string
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			ids = append(ids, hex.EncodeToString(c.SubjectKeyId))
		}
	}
	slices.Sort(ids)
	return strings.Join(ids, "+")
}

// tryMatrix tries every leaf that is of a CA that is trusted now against the
// bundle of before, with that CA alone, and against the one of now: by the
// bridges each of them has to do.
func (p *probe) tryMatrix(phase string, status api.AuthorityStatus) {
	trusted := map[string]string{}
	var now []byte
	for _, c := range status.CAs {
		if c.Phase != "retired" {
			trusted[c.ID] = fmt.Sprintf("CA %d", c.Number)
			now = append(now, c.Certificate...)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.matrix[phase] == nil {
		p.matrix[phase] = map[string]int{}
	}
	for id, chain := range p.leaves {
		if trusted[id] == "" {
			continue
		}
		bundles := map[string][]byte{"bundle of now": now}
		for _, c := range status.CAs {
			// A verifier with the other CA alone needs the bridge, which is in the
			// chains once the agents have them.
			if trusted[c.ID] != "" && (c.ID == id || bridged(chain, c.Certificate)) {
				bundles[fmt.Sprintf("CA %d alone", c.Number)] = c.Certificate
			}
		}
		for name, bundle := range bundles {
			what := fmt.Sprintf("leaf of %s against %s", trusted[id], name)
			if err := verifies(chain, bundle); err != nil {
				if p.failed++; len(p.failures) < maxFailures {
					p.failures = append(p.failures, fmt.Sprintf("phase %s: %s: %v", phase, what, err))
				}
				continue
			}
			p.matrix[phase][what]++
		}
	}
}

// bridged reports whether a chain has a certificate that a CA has signed, beside
// its leaf and the CA's own.
func bridged(chain [][]byte, ca []byte) bool {
	block, _ := pem.Decode(ca)
	root, err := x509.ParseCertificate(block.Bytes)
	return err == nil && slices.ContainsFunc(chain[1:], func(der []byte) bool {
		c, err := x509.ParseCertificate(der)
		return err == nil && !bytes.Equal(c.Raw, root.Raw) && c.CheckSignatureFrom(root) == nil
	})
}

func (p *probe) report() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	total := 0
	for _, phase := range slices.Sorted(maps.Keys(p.calls)) {
		_, _ = fmt.Fprintf(&b, "%-10s %6d calls\n", phase, p.calls[phase])
		total += p.calls[phase]
		for _, what := range slices.Sorted(maps.Keys(p.matrix[phase])) {
			_, _ = fmt.Fprintf(&b, "             %s: ok %d times\n", what, p.matrix[phase][what])
		}
	}
	_, _ = fmt.Fprintf(&b, "%d clients, %d calls, %d failures\n", len(p.dirs), total, p.failed)
	return b.String()
}

// cmdOpenSSLVerify verifies a leaf with one trusted root, and certificates that are
// trusted for nothing by themselves: openssl-verify ROOT BETWEEN LEAF. Go verifies
// too; OpenSSL where it is there.
func cmdOpenSSLVerify(ts *testscript.TestScript, neg bool, args []string) {
	root, between, leaf := ts.MkAbs(args[0]), ts.MkAbs(args[1]), ts.MkAbs(args[2])
	var chain [][]byte
	for block, rest := pem.Decode([]byte(ts.ReadFile(args[2]))); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	for block, rest := pem.Decode([]byte(ts.ReadFile(args[1]))); block != nil; block, rest = pem.Decode(rest) {
		chain = append(chain, block.Bytes)
	}
	if err := verifies(chain, []byte(ts.ReadFile(args[0]))); (err != nil) != neg {
		ts.Fatalf("crypto/x509: %v", err)
	}
	if program, err := exec.LookPath("openssl"); err == nil {
		out, err := exec.Command(program, "verify", "-CAfile", root, "-untrusted", between, leaf).CombinedOutput()
		if (err != nil) != neg {
			ts.Fatalf("openssl verify: %v\n%s", err, out)
		}
		_, _ = ts.Stdout().Write(out)
	}
}
