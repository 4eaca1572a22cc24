// Package inspect finds certificates, tokens and revocation lists where they lie
// today, and says when each of them ends: in files and folders, on servers, and
// in the Secrets of a Kubernetes cluster. It needs no Rotor and changes nothing.
// What is secret in what it reads is never kept.
package inspect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// Kind is what a finding is.
type Kind string

// The kinds.
const (
	Certificate Kind = "certificate"
	Authority   Kind = "ca" // a certificate that may sign others
	Token       Kind = "token"
	CRL         Kind = "crl" // ends with its nextUpdate (RFC 5280, 5.1.2.5)
)

// State is how urgent a finding is.
type State string

// The states.
const (
	Well     State = "ok"
	Warning  State = "warning"
	Critical State = "critical"
	Expired  State = "expired"
	NotYet   State = "not-yet-valid"
)

// Finding is one thing that ends some day.
type Finding struct {
	Source      string    `json:"source"`         // file, host:port or Secret, as it can be found again
	Item        string    `json:"item,omitempty"` // which of several in the source
	Kind        Kind      `json:"kind"`
	State       State     `json:"state"`
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	Names       []string  `json:"names,omitempty"` // subjectAltName
	Serial      string    `json:"serial,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"` // SHA-256 of the certificate, hexadecimal
	Key         string    `json:"key"`                   // algorithm and size
	NotBefore   time.Time `json:"notBefore,omitzero"`
	NotAfter    time.Time `json:"notAfter"`
	DaysLeft    int       `json:"daysLeft"` // whole days, below 0 once expired
	Note        string    `json:"note,omitempty"`
}

// Result is all that was found.
type Result struct {
	Findings []Finding `json:"findings"` // the most urgent first
	Failures []Failure `json:"failures"` // what could not be looked at
}

// Failure is something that could not be looked at.
type Failure struct {
	Source string `json:"source"`
	Error  string `json:"error"`
}

// Options say how to look.
type Options struct {
	Now        time.Time
	Warn       time.Duration // what ends sooner is a warning
	Critical   time.Duration // what ends sooner is critical
	Timeout    time.Duration // of one connection
	ServerName string        // to ask servers for; the host, if empty
	Password   secret.Text   // of PKCS #12 files
	Cluster    *Cluster      // whose Secrets to read; none, if nil
}

// Worst returns the exit code that belongs to a result: 0 when nothing ends
// soon, 1 for a warning or for something that could not be looked at, 2 for
// what is critical or has ended.
func (r Result) Worst() int {
	code := 0
	if len(r.Failures) > 0 {
		code = 1
	}
	for _, f := range r.Findings {
		switch f.State {
		case Critical, Expired:
			return 2
		case Warning, NotYet:
			code = 1
		case Well:
		}
	}
	return code
}

// errNothing says that a place was looked at and holds nothing.
var errNothing = errors.New("no certificate, token or revocation list found")

// Run looks at each target: a file, a folder, host:port or an https URL.
func Run(ctx context.Context, targets []string, o Options) Result {
	r := &run{Options: o, out: Result{Findings: []Finding{}, Failures: []Failure{}}}
	for _, target := range targets {
		before := len(r.out.Findings)
		err := r.target(ctx, target)
		if err == nil && len(r.out.Findings) == before {
			err = errNothing
		}
		if err != nil && ctx.Err() == nil {
			r.fail(target, err)
		}
	}
	if o.Cluster != nil {
		if err := r.secrets(ctx, *o.Cluster); err != nil && ctx.Err() == nil {
			r.fail(o.Cluster.String(), err)
		}
	}
	slices.SortStableFunc(r.out.Findings, func(a, b Finding) int {
		return cmp.Or(a.NotAfter.Compare(b.NotAfter), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Item, b.Item))
	})
	return r.out
}

// run is one look around.
type run struct {
	Options
	out Result
}

func (r *run) fail(source string, err error) {
	r.out.Failures = append(r.out.Failures, Failure{Source: source, Error: err.Error()})
}

// found adds a finding, with its state.
func (r *run) found(f Finding) {
	f.NotBefore, f.NotAfter = f.NotBefore.UTC(), f.NotAfter.UTC()
	left := f.NotAfter.Sub(r.Now)
	f.DaysLeft = days(left)
	switch {
	case left < 0, left == 0 && f.Kind == Token: // a token has ended at its exp (RFC 7519, 4.1.4), a certificate after its notAfter
		f.State = Expired
	case f.NotBefore.After(r.Now):
		f.State = NotYet
	case left <= r.Critical:
		f.State = Critical
	case left <= r.Warn:
		f.State = Warning
	default:
		f.State = Well
	}
	r.out.Findings = append(r.out.Findings, f)
}

// days returns whole days, rounded down: what ended an hour ago is at -1.
func days(d time.Duration) int {
	n := int(d / fleet.Day)
	if d < 0 && d%fleet.Day != 0 {
		n--
	}
	return n
}

// target looks at one target.
func (r *run) target(ctx context.Context, target string) error {
	known, err := r.path(target)
	if known || err != nil {
		return err
	}
	address, host, ok := hostPort(target)
	if !ok {
		return fmt.Errorf("%w: neither a file or folder nor host:port", fleet.ErrNotFound)
	}
	return r.remote(ctx, address, host)
}
