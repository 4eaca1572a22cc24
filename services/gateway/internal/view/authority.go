package view

import (
	"fmt"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Authority is all that is known about the authority.
type Authority struct {
	Document fleet.Authority
	Settings fleet.Settings
	Clusters []fleet.Cluster // that are declared
	CA       *fleet.Rollout  // the last rotation of the CA, nil if there was none
	Token    *fleet.Rollout  // likewise of the token key
	Now      time.Time
	Rate     float64 // of the clock of the fleet
}

// AuthorityOf returns the public state of the authority.
func AuthorityOf(a fleet.Authority) api.AuthorityView {
	return api.AuthorityView{
		CAs: orEmpty(a.CAs), Keys: orEmpty(a.Keys), TokenIssuer: a.TokenIssuer,
		TrustDomain: a.TrustDomain, Bundle: a.Bundle.Version, FleetKey: a.Bundle.FleetKey, Checkpoint: a.Checkpoint,
	}
}

// Status returns the authority as it is shown.
func (a Authority) Status() api.AuthorityStatus {
	return api.AuthorityStatus{
		AuthorityView: AuthorityOf(a.Document), Now: a.Now, Policy: a.policy(), Dates: a.dates(),
		CA: a.CA, Token: a.Token, Pending: a.Document.Pending, Attention: a.Attention(), Next: a.next(),
	}
}

func (a Authority) policy() fleet.AuthorityPolicy {
	return a.Settings.Authority.Over(fleet.DefaultAuthorityPolicy())
}

// dates returns the dates of the CA that signs, nil while none does.
func (a Authority) dates() *fleet.AuthorityDates {
	ca := a.Document.ActiveCA()
	if ca == nil {
		return nil
	}
	leaf := longest(a.Settings.Policy.Over(fleet.DefaultPolicy()))
	for i := range a.Clusters {
		leaf = max(leaf, longest(fleet.PolicyOf(a.Settings, &a.Clusters[i])))
	}
	d := fleet.DatesOf(ca, leaf, a.policy().Slack.Std())
	return &d
}

// longest returns how long a generation of a client lives at most.
func longest(p fleet.Policy) time.Duration { return p.LongestLife() }

// Attention says what an operator should look at, in a line each; nothing while
// all goes on as it should.
func (a Authority) Attention() []string {
	var lines []string
	for _, r := range []*fleet.Rollout{a.CA, a.Token} {
		if r != nil && !r.Phase.Done() {
			if line := a.trouble(r); line != "" {
				lines = append(lines, line)
			}
		}
	}
	if ca := a.forgotten(); ca != nil {
		lines = append(lines, fmt.Sprintf("the CA %s is compromised since %s and still %s, and no rotation replaces it; rotor authority taint %s",
			Short(ca.ID), minute(ca.TaintedAt), ca.Phase, Short(ca.ID)))
	}
	if line := a.late(); line != "" {
		lines = append(lines, line)
	}
	return lines
}

// UnderWay says which rotations go on as they should, in a line each.
func (a Authority) UnderWay() []string {
	var lines []string
	for _, r := range []*fleet.Rollout{a.CA, a.Token} {
		if r == nil || r.Phase.Done() || a.trouble(r) != "" {
			continue
		}
		line := fmt.Sprintf("the %s is being rotated: %s since %s", r.Kind.Name(), r.Phase, minute(r.Since()))
		if r.Total > 0 {
			line += fmt.Sprintf(", %d of %d clusters", r.Ready, r.Total)
		}
		lines = append(lines, line+"; rotor authority status")
	}
	return lines
}

// The times after which a gate that is still closed is worth a look. An agent
// that runs proves its trust within a minute, whatever the clock of the fleet;
// clients are reissued in waves and maintenance windows.
const (
	trustHeld   = 5 * time.Minute
	reissueHeld = fleet.Day
)

// held reports whether somebody keeps a rotation waiting for longer than is
// normal.
func (a Authority) held(r *fleet.Rollout) bool {
	limit := max(reissueHeld, time.Duration(float64(trustHeld)*a.Rate))
	if r.Phase == fleet.RolloutTrusted || r.Reason == fleet.RolloutTainted {
		limit = time.Duration(float64(trustHeld) * max(a.Rate, 1))
	}
	return r.MissingCount > 0 && a.Now.Sub(r.Since()) >= limit
}

// unanswered reports whether a rotation waits for the issuer alone, and for longer
// than is normal.
func (a Authority) unanswered(r *fleet.Rollout) bool {
	asks := r.Phase == fleet.RolloutPrepare || r.Phase == fleet.RolloutActivate || r.Phase == fleet.RolloutRetire && r.Reason != fleet.RolloutTainted
	return asks && r.MissingCount == 0 && a.Now.Sub(r.Since()) >= time.Duration(float64(trustHeld)*max(a.Rate, 1))
}

// refused says why the issuer does not do what a rotation needs, empty if it does.
func (a Authority) refused(r *fleet.Rollout) string {
	if f := a.Document.Refused; f != nil && f.Kind == r.Kind && f.Rollout == r.ID {
		return fmt.Sprintf("%s: %s", f.Move, f.Why)
	}
	return ""
}

func (a Authority) trouble(r *fleet.Rollout) string {
	what := "the rotation of the " + r.Kind.Name()
	switch {
	case a.refused(r) != "":
		return fmt.Sprintf("%s is in phase %s, and the issuer refuses to go on: %s; rotor authority status", what, r.Phase, a.refused(r))
	case r.Halted != "":
		return fmt.Sprintf("%s has halted in phase %s: %s; rotor authority status", what, r.Phase, r.Halted)
	case r.AwaitsRetirement():
		return fmt.Sprintf("no client uses the compromised CA %s any more, and it is still trusted; rotor authority retire", tainted(r))
	case r.Reason == fleet.RolloutTainted && !r.RetireAsked && r.Phase != fleet.RolloutRollback:
		return fmt.Sprintf("the CA %s is compromised since %s; its rotation is in phase %s, %s; rotor authority status",
			tainted(r), minute(r.TaintedSince()), r.Phase, waited(r))
	case a.unanswered(r):
		return fmt.Sprintf("%s is in phase %s since %s, waiting for the issuer: check that one runs, and what its /readyz says", what, r.Phase, minute(r.Since()))
	case a.held(r):
		return fmt.Sprintf("%s is in phase %s since %s, %s; rotor authority status", what, r.Phase, minute(r.Since()), waited(r))
	}
	return ""
}

// tainted names the CAs that a rotation knows to be compromised.
func tainted(r *fleet.Rollout) string {
	var all []string
	for _, id := range r.TaintedCAs() {
		all = append(all, Short(id))
	}
	return strings.Join(all, " and ")
}

// forgotten returns a CA that is compromised and trusted while no rotation of the
// CA is under way: a restore from a backup, or the end of the other CA, may leave
// one. It is nil if there is none.
func (a Authority) forgotten() *fleet.CA {
	if a.CA != nil && !a.CA.Phase.Done() {
		return nil
	}
	for i := range a.Document.CAs {
		if ca := &a.Document.CAs[i]; !ca.TaintedAt.IsZero() && (ca.Phase == fleet.PhaseActive || ca.Phase == fleet.PhaseOutgoing) {
			return ca
		}
	}
	return nil
}

// waited names who is waited for, the first few of many.
func waited(r *fleet.Rollout) string {
	const most = 3
	var who []string
	for _, l := range r.Missing {
		if len(who) == most {
			break
		}
		who = append(who, Lagging(l)+" ("+l.Why+")")
	}
	if more := r.MissingCount - len(who); more > 0 && len(who) > 0 {
		who = append(who, fmt.Sprintf("and %d more", more))
	}
	if len(who) == 0 {
		return fmt.Sprintf("%d of %d clusters ready", r.Ready, r.Total)
	}
	return "waiting for " + strings.Join(who, ", ")
}

// Lagging names who keeps a gate closed.
func Lagging(l fleet.Laggard) string {
	if l.Client == nil {
		return l.Cluster
	}
	return l.Cluster + "/" + l.Client.String()
}

// late says that the CA should have been replaced by now. Where leaves live nearly
// as long as the CA there is no date that could be kept.
func (a Authority) late() string {
	d := a.dates()
	if d == nil || !d.Warning.After(d.Start) || a.Now.Before(d.Warning) {
		return ""
	}
	how := "late"
	if !a.Now.Before(d.Critical) {
		how = "very late"
	}
	remedy := "rotor authority rotate"
	if len(a.Document.ActiveCA().Anchor) > 0 {
		remedy = "rotor authority csr"
	}
	if a.CA != nil && !a.CA.Phase.Done() {
		remedy = "rotor authority status says what it waits for"
	}
	return fmt.Sprintf("the next CA is %s: it should sign by %s, and from %s on certificates are cut short; %s",
		how, d.ActiveBy.UTC().Format(time.DateOnly), d.CutsFrom.UTC().Format(time.DateOnly), remedy)
}

// Short cuts the id of a CA or key to what people compare by eye.
func Short(id string) string { return id[:min(len(id), 12)] }

func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
