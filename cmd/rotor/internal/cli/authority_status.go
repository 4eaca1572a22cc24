package cli

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func (a *app) authorityStatusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the CAs and token keys, their rotation, and the dates ahead",
		Long: `Show the generations of the CA and of the token key, how far a rotation has come,
who keeps it waiting and why, and the dates ahead. JSON is what the API sends.

The exit code is 0 when all goes on as it should, 1 when something wants attention:
a rotation that has halted or is held by somebody, a CA that is late, or a
compromised one.`,
		Example: "  rotor authority status\n  rotor authority status -o json | jq .rotation.missing",
		Args:    ExactArgs(),
	}
	output := formatFlag(c, "table", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		s, err := show(a, c, output, sheet[api.AuthorityStatus]{api.PathAuthority, a.printAuthority})
		if err == nil && len(s.Attention) > 0 {
			return &ExitError{Code: exitFailure}
		}
		return err
	}
	return c
}

func (a *app) printAuthority(w io.Writer, s *api.AuthorityStatus) error {
	if len(s.CAs) == 0 {
		_, err := fmt.Fprintln(w, "the issuer has made no authority yet: check that it runs")
		return err
	}
	steps := []func(io.Writer, *api.AuthorityStatus) error{a.printGenerations, a.printRollouts, a.printDates, a.printNext}
	for _, step := range steps {
		if err := step(w, s); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printGenerations(w io.Writer, s *api.AuthorityStatus) error {
	t := a.table("CA", "ID", "PHASE", "NOT AFTER", "SIGNED BY")
	retired := 0
	for i := range s.CAs {
		ca := &s.CAs[i]
		if ca.Phase == fleet.PhaseRetired {
			retired++
			continue
		}
		phase := string(ca.Phase)
		phase += compromisedText(ca)
		t.add(strconv.Itoa(ca.Number), short(ca.ID), phase, date(&ca.NotAfter), signedBy(ca.Certificate))
	}
	if err := t.print(w); err != nil {
		return err
	}
	text := fmt.Sprintf("trust bundle %d", s.Bundle)
	if retired > 0 {
		text += fmt.Sprintf(", %s retired", plural(retired, "CA"))
	}
	if s.Pending != nil {
		text += fmt.Sprintf("; CA %d waits since %s for the signature of an offline root", s.Pending.Number, moment(s.Pending.CreatedAt))
	}
	if _, err := fmt.Fprintf(w, "%s\n\n", text); err != nil {
		return err
	}
	keys := a.table("TOKEN KEY", "ID", "PHASE", "ALGORITHM", "SIGNS SINCE", "KEPT UNTIL")
	for _, key := range s.Keys {
		if key.Phase != fleet.PhaseRetired {
			keys.add(strconv.Itoa(key.Number), short(key.ID), string(key.Phase), first(key.Algorithm, "EdDSA"), moment(key.ActivatedAt), moment(key.RetireAt))
		}
	}
	return keys.print(w)
}

// signedBy names who has signed a CA certificate.
func signedBy(text []byte) string {
	block, _ := pem.Decode(text)
	if block == nil {
		return ""
	}
	c, err := x509.ParseCertificate(block.Bytes)
	switch {
	case err != nil:
		return ""
	case string(c.RawIssuer) == string(c.RawSubject):
		return "itself"
	default:
		return first(c.Issuer.CommonName, c.Issuer.String())
	}
}

func (a *app) printRollouts(w io.Writer, s *api.AuthorityStatus) error {
	for _, r := range []*fleet.Rollout{s.CA, s.Token} {
		if r == nil {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s\n", printableLines(rolloutText(r, s.Now))); err != nil {
			return err
		}
		if len(r.Missing) > 0 && !r.Phase.Done() {
			if err := a.printMissing(w, r, s.Now); err != nil {
				return err
			}
		}
		if err := a.printExcluded(w, r); err != nil {
			return err
		}
	}
	return nil
}

// rolloutText says in a few lines how a rotation stands.
func rolloutText(r *fleet.Rollout, now time.Time) string {
	what := "rotation of the " + r.Kind.Name()
	why := map[fleet.RolloutReason]string{
		fleet.RolloutScheduled: "by schedule", fleet.RolloutAsked: "asked for by " + first(r.By, "an operator"),
		fleet.RolloutImported: "imported by " + first(r.By, "an operator"), fleet.RolloutTainted: taintedBy(r),
	}[r.Reason]
	if r.Phase.Done() {
		text := fmt.Sprintf("last %s: %s %s UTC, in %s, %s", what, r.Phase, moment(r.EndedAt), span(r.EndedAt.Sub(r.CreatedAt)), why)
		return text + replacedText(r)
	}
	lines := []string{
		fmt.Sprintf("%s, %s: %s -> %s", what, why, first(short(r.From), "?"), first(short(r.To), "not made yet")),
		fmt.Sprintf("phase: %s since %s UTC (%s): %s", r.Phase, moment(r.Since()), span(now.Sub(r.Since())), phaseText(r, r.Phase)),
	}
	if r.Replaces != "" {
		lines = append(lines, "it has taken over rotation "+r.Replaces+", as the CA to which that one led is compromised")
	}
	if r.Total > 0 {
		lines = append(lines, fmt.Sprintf("gate:  %d of %s ready", r.Ready, plural(r.Total, "cluster")))
	}
	if !r.OpensAt.IsZero() {
		lines = append(lines, fmt.Sprintf("gate:  opens %s UTC, %s", r.OpensAt.UTC().Format(time.DateTime), fromNow(r.OpensAt, now)))
	}
	if r.Halted != "" {
		lines = append(lines, "halted: "+r.Halted)
	}
	return strings.Join(lines, "\n") + replacedText(r)
}

// replacedText is how long it took after a taint until the last client was off
// the compromised CA.
func replacedText(r *fleet.Rollout) string {
	if r.Reason != fleet.RolloutTainted || r.LastReplacedAt.IsZero() || r.MissingCount > 0 {
		return ""
	}
	return fmt.Sprintf("\nfrom the taint to the last client replaced: %s", replacedIn(r))
}

// replacedIn is what was measured, to a tenth of a second.
func replacedIn(r *fleet.Rollout) time.Duration {
	return r.LastReplacedAt.Sub(r.TaintedSince()).Round(100 * time.Millisecond)
}

// taintedBy says why a rotation is an emergency: it began as one, or has become one.
func taintedBy(r *fleet.Rollout) string {
	if r.TaintedSince().Equal(r.CreatedAt) {
		return "after a taint by " + first(r.By, "an operator")
	}
	return "an emergency since a taint at " + moment(r.TaintedAt) + " UTC"
}

// taintedText names the CAs that are compromised.
func taintedText(r *fleet.Rollout) string {
	var all []string
	for _, id := range r.TaintedCAs() {
		all = append(all, short(id))
	}
	return strings.Join(all, " and ")
}

func (a *app) printMissing(w io.Writer, r *fleet.Rollout, now time.Time) error {
	t := a.table("WAITING FOR", "SINCE", "FOR", "WHY")
	for _, l := range r.Missing {
		long := ""
		if !l.Since.IsZero() {
			long = span(now.Sub(l.Since))
		}
		t.add(lagging(l), moment(l.Since), long, l.Why)
	}
	if err := t.print(w); err != nil {
		return err
	}
	if more := r.MissingCount - len(r.Missing); more > 0 {
		_, err := fmt.Fprintf(w, "and %d more\n", more)
		return err
	}
	return nil
}

func (a *app) printExcluded(w io.Writer, r *fleet.Rollout) error {
	if len(r.Excluded) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	t := a.table("EXCLUDED", "SINCE", "BY", "REASON")
	for _, name := range sortedKeys(r.Excluded) {
		e := r.Excluded[name]
		t.add(name, moment(e.At), e.By, e.Reason)
	}
	return t.print(w)
}

func (a *app) printDates(w io.Writer, s *api.AuthorityStatus) error {
	d := s.Dates
	if d == nil {
		return nil
	}
	start := "a rotation begins by itself"
	switch ca := activeCA(s.CAs); {
	case ca != nil && len(ca.Anchor) > 0:
		start = "a rotation is due; the root is yours: rotor authority csr"
	case s.Policy.Mode == fleet.ModeManual:
		start = "a rotation is due; the mode is manual: rotor authority rotate"
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	t := a.table("DATE", "DAY", "FROM NOW", "WHAT")
	for _, row := range []struct {
		name string
		at   time.Time
		what string
	}{
		{"start", d.Start, start},
		{"warning", d.Warning, "it is late, if no other CA signs"},
		{"critical", d.Critical, "it is very late, if no other CA signs"},
		{"active by", d.ActiveBy, "another CA should sign at the latest"},
		{"cuts from", d.CutsFrom, "new certificates would outlive the CA and are cut short"},
		{"end", d.End, "the CA expires"},
	} {
		t.add(row.name, date(&row.at), fromNow(row.at, s.Now), row.what)
	}
	return t.print(w)
}

func (a *app) printNext(w io.Writer, s *api.AuthorityStatus) error {
	var out strings.Builder
	if len(s.Attention)+len(s.Next) > 0 {
		out.WriteByte('\n')
	}
	for _, line := range s.Attention {
		fmt.Fprintf(&out, "attention: %s\n", printable(line))
	}
	for _, n := range s.Next {
		fmt.Fprintf(&out, "  -> %s: %s\n", printable(n.Command), printable(n.Why))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// fromNow writes a moment as seen from now in one unit: "in 78d", "14d ago".
func fromNow(t, now time.Time) string {
	d := t.Sub(now)
	text := ""
	switch abs := d.Abs(); {
	case abs >= 2*fleet.Day:
		text = fmt.Sprintf("%dd", abs/fleet.Day)
	case abs >= 2*time.Hour:
		text = fmt.Sprintf("%dh", abs/time.Hour)
	case abs >= 2*time.Minute:
		text = fmt.Sprintf("%dm", abs/time.Minute)
	default:
		text = fmt.Sprintf("%ds", abs/time.Second)
	}
	if d < 0 {
		return text + " ago"
	}
	return "in " + text
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
