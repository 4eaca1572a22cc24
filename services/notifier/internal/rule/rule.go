// Package rule decides what people are told: it turns one fact into the alerts
// that it raises and the alerts that it ends. It knows no network and no state;
// what is stored already is the matter of package record.
//
// Facts come at least once and sometimes late. So an alert has a name that
// follows from what it is about, and an ending names what it ends by condition:
// both can be applied again without harm.
package rule

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// The rules. Routes name them.
const (
	WindowClosing      = "window-closing"
	WindowMissed       = "window-missed"
	CredentialExpiring = "credential-expiring" //nolint:gosec // the name of a rule, no credential
	CredentialExpired  = "credential-expired"  //nolint:gosec // the name of a rule, no credential
	CredentialFailed   = "credential-failed"   //nolint:gosec // the name of a rule, no credential
	ClientDegraded     = "client-degraded"
	ClientLockedOut    = "client-locked-out"
	ClientRevoked      = "client-revoked"
	RotationFailed     = "rotation-failed"
	RotationHalted     = "rotation-halted"
	SigninRefused      = "signin-refused"
	DeadLetter         = "dead-letter"
	AgentSilent        = "agent-silent"
	AgentSkewed        = "agent-skewed"
	AgentDuplicated    = "agent-duplicated"
	BundleRefused      = "bundle-refused"
	AuthorityLate      = "authority-late"
	AuthorityHeld      = "authority-held"
	AuthorityCut       = "authority-cut"
	KeystoreAway       = "keystore-away"
)

// Effect is what one fact changes. The alerts are raised before the endings
// are applied.
type Effect struct {
	Raise []fleet.Alert // firing, without deliveries; Since is the time of the fact
	End   []Ending
}

// Ending ends every alert that it matches.
type Ending struct {
	Rules   []string         // any rule, if empty
	Cluster string           // any cluster, if event.FleetWide
	Client  *fleet.ClientKey // any client, if nil
	Whole   bool             // only alerts about no client in particular
	Letter  string           // the dead letter concerned, whenever its alert was raised; any alert, if empty
	Halted  string           // the rotation concerned, up to its halt number UpTo; with 0, as it has ended, whenever its alert was raised
	Timely  bool             // with Halted: only alerts that are not younger than At
	UpTo    int              // the last generation concerned; any, and then only alerts not younger than At, if 0
	At      time.Time        // when the fact happened, on the clock of the fleet
	Silent  bool             // another alert takes over: nobody need hear that this one is over
}

// Matches reports whether the ending ends this alert. An alert that was raised
// by a later fact is left alone: the ending has come late. Generations say more
// than times there, as two services tell them by two clocks.
func (e Ending) Matches(a *fleet.Alert) bool {
	switch {
	case e.Cluster != event.FleetWide && e.Cluster != a.Cluster,
		len(e.Rules) > 0 && !slices.Contains(e.Rules, a.Rule),
		e.Whole && a.Client != nil,
		e.Client != nil && (a.Client == nil || *a.Client != *e.Client):
		return false
	case e.Letter != "": // it comes to its end once
		return a.Letter == e.Letter
	case e.Halted != "":
		return a.Rotation == e.Halted && (e.UpTo == 0 || a.Level < e.UpTo) && (!e.Timely || !a.Since.After(e.At))
	case e.UpTo > 0:
		return a.Generation <= e.UpTo
	default:
		return !a.Since.After(e.At)
	}
}

// Of returns what a fact changes. A fact that no rule is about changes nothing;
// the error is one of decoding and permanent.
func Of(e event.Event) (Effect, error) {
	for _, r := range table() {
		if r.kind.Type == e.Type() {
			return r.of(e)
		}
	}
	return Effect{}, nil
}

// Subjects returns the subjects of the facts that rules are about.
func Subjects() []string {
	var all []string
	for _, r := range table() {
		all = append(all, r.kind.Subject("*"))
	}
	return all
}

// Enders returns the subjects of the facts of a cluster that can end an alert
// of the rule.
func Enders(rule, cluster string) []string {
	var all []string
	for _, r := range table() {
		if r.ends == nil || !slices.Contains(r.ends, rule) && !slices.Contains(r.ends, anyRule) {
			continue
		}
		all = append(all, r.kind.Subject(cluster))
		if slices.Contains(r.ends, RotationFailed) {
			all = append(all, r.kind.Subject(event.FleetWide))
		}
	}
	return all
}

// Fingerprint returns the name of the alert of a rule about a cluster, one of
// its clients (nil for none) and a generation: a replaced credential alerts
// afresh.
func Fingerprint(rule, cluster string, client *fleet.ClientKey, generation int) string {
	name := ""
	if client != nil {
		name = client.String()
	}
	return fingerprint(rule, cluster, name, generation)
}

func fingerprint(rule, cluster, name string, generation int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s|%s|%s|%d", rule, cluster, name, generation))
	return hex.EncodeToString(sum[:16])
}

func raise(e event.Event, a fleet.Alert) fleet.Alert {
	a.State, a.Since = fleet.AlertFiring, e.Time().UTC()
	a.Fingerprint = Fingerprint(a.Rule, a.Cluster, a.Client, a.Generation)
	if about := a.Letter + a.Rotation; about != "" {
		a.Fingerprint = fingerprint(a.Rule, a.Cluster, about, a.Generation)
	}
	a.Summary, a.Remedy = sentence(a.Summary), sentence(a.Remedy)
	return a
}
