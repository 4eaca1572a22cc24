package ca

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	zx509 "github.com/zmap/zcrypto/x509"
	_ "github.com/zmap/zlint/v3" // brings the rules
	"github.com/zmap/zlint/v3/lint"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Linter holds the rules against which every certificate is checked before it
// is signed. Making one costs milliseconds: make it once. It is safe for
// concurrent use.
type Linter struct {
	rules  []rule
	config lint.Configuration
}

// rule is one of zlint. To run it by its own Execute costs as much as most rules
// do: a new instance, a look for its configuration, and a result, also of the
// half of all rules that are about what no certificate of ours has.
type rule struct {
	*lint.CertificateLint
	made lint.CertificateLintInterface // its one instance, if it has no state and no configuration; else nil
}

func newRule(l *lint.CertificateLint) rule {
	r, made := rule{CertificateLint: l}, l.Lint()
	_, configurable := made.(lint.Configurable)
	of := reflect.TypeOf(made)
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if !configurable && of.Size() == 0 && slices.Contains(sources(), l.Source) {
		r.made = made
	}
	return r
}

// check runs the rule, in the order and with the meaning of zlint's Execute. It
// returns nil if the rule is not about such a certificate.
func (r rule) check(c *zx509.Certificate, config lint.Configuration) (result *lint.LintResult) {
	if r.made == nil {
		return r.Execute(c, config)
	}
	defer func() {
		if p := recover(); p != nil {
			result = &lint.LintResult{Status: lint.Fatal, Details: fmt.Sprintf("panicked: %v", p)}
		}
	}()
	if !r.made.CheckApplies(c) || !r.CheckEffective(c) {
		return nil
	}
	return r.made.Execute(c)
}

// sources are the rules that bind a private CA: those of the standards. The
// rules of browsers, of the CA/Browser Forum and of ETSI are about public CAs.
func sources() lint.SourceList {
	return lint.SourceList{
		lint.RFC3279, lint.RFC5280, lint.RFC5480, lint.RFC5891, lint.RFC8813, lint.Community,
	}
}

// excluded are the rules that do not hold here, each with its reason.
func excluded() map[string]string {
	return map[string]string{
		// It verifies the signature against public intermediates of one company:
		// 7 ms for a certificate that none of them can have signed.
		"e_cert_issued_by_compromised_emudhra_ca": "about a public CA, and nine tenths of the time",
		"e_ecdsa_small_private_key":               "weak.go says the same in a fifteenth of the time",
	}
}

// NewLinter returns the linter.
func NewLinter() (*Linter, error) {
	names := slices.Sorted(maps.Keys(excluded()))
	rules, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: sources(), ExcludeNames: names})
	if err != nil {
		return nil, fmt.Errorf("make linter: %w", err)
	}
	l := &Linter{config: rules.GetConfiguration()}
	for _, r := range rules.CertificateLints().Lints() {
		l.rules = append(l.rules, newRule(r))
	}
	return l, nil
}

// check lints a TBSCertificate. A notice is no finding; a warning is one, as
// nothing here has to please old software.
func (l *Linter) check(tbs []byte) error {
	// No rule looks at the signature, which is not made yet: one byte stands
	// in its place.
	der, err := assemble(tbs, []byte{0})
	if err != nil {
		return fmt.Errorf("lint: %w", err)
	}
	c, err := zx509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("lint: %w", err)
	}
	if !bytes.Equal(c.RawTBSCertificate, tbs) {
		return errors.New("lint: what was read differs from what was to be linted")
	}
	if key, ok := c.PublicKey.(*zx509.AugmentedECDSA); ok {
		if err := checkWeak(key.Pub); err != nil {
			return fmt.Errorf("lint: %w", err)
		}
	}
	var findings []string
	for _, rule := range l.rules {
		// One by one, as zlint.LintCertificateEx collects what was not found as well.
		if result := rule.check(c, l.config); result != nil && result.Status >= lint.Warn {
			findings = append(findings, strings.TrimSpace(rule.Name+" "+result.Details))
		}
	}
	if len(findings) > 0 {
		slices.Sort(findings)
		return fmt.Errorf("%w: lint: %s", fleet.ErrInvalid, strings.Join(findings, ", "))
	}
	return nil
}
