package rule

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// authorityDue raises nothing in time: a rotation begins by itself, or waits for
// an operator who wants it so. Once it is late, that is worth a message.
func authorityDue(e event.Event, r event.Rollout) Effect {
	if r.Level < 1 {
		return Effect{}
	}
	a := fleet.Alert{
		Rule: AuthorityLate, Severity: fleet.SeverityWarning, Cluster: event.FleetWide, Level: r.Level - 1,
		Summary: lateSummary(r), Remedy: "rotor authority status",
	}
	if r.Level > 1 {
		a.Severity = fleet.SeverityCritical
	}
	return Effect{Raise: []fleet.Alert{raise(e, a)}}
}

func lateSummary(r event.Rollout) string {
	how := "late"
	if r.Level > 1 {
		how = "very late"
	}
	return fmt.Sprintf("the next CA is %s: it should sign by %s in place of %.12s, which ends on %s; before that, certificates would be cut short",
		how, day(r.By), r.From, day(r.End))
}

// authorityHeld raises one alert for a rollout; each further day is a higher level
// of the same.
func authorityHeld(e event.Event, r event.Rollout) Effect {
	return Effect{Raise: []fleet.Alert{raise(e, fleet.Alert{
		Rule: AuthorityHeld, Severity: fleet.SeverityWarning, Cluster: event.FleetWide, Rotation: r.Rollout, Level: max(r.Level-1, 0),
		Began: r.Since.UTC(), Summary: heldSummary(r), Remedy: heldRemedy(r),
	})}}
}

// namedLaggards is how many of those who are waited for a message names.
const namedLaggards = 3

func heldSummary(r event.Rollout) string {
	text := fmt.Sprintf("the rotation of the %s is in phase %s since %s", half(r.Kind), r.Phase, moment(r.Since))
	if awaitsWord(r) {
		return text + ": nobody uses the compromised CA any more, and an operator has to say that it goes"
	}
	if r.Halted != "" {
		text += " and does not go on: " + r.Halted
	}
	var who []string
	for _, l := range r.Missing[:min(len(r.Missing), namedLaggards)] {
		name := l.Cluster
		if l.Client != nil {
			name += "/" + l.Client.String()
		}
		who = append(who, fmt.Sprintf("%s (%s)", name, l.Why))
	}
	if more := r.Count - len(who); more > 0 && len(who) > 0 {
		who = append(who, fmt.Sprintf("%d more", more))
	}
	switch {
	case len(who) == 0 && r.Halted == "":
		return text + "; it waits for the issuer"
	case len(who) == 0:
		return text
	}
	return text + "; it waits for " + strings.Join(who, ", ")
}

// awaitsWord reports whether all that is left of a compromise is an operator's
// word.
func awaitsWord(r event.Rollout) bool {
	return r.Reason == fleet.RolloutTainted && r.Phase == fleet.RolloutRetire && r.Count == 0 && r.Halted == ""
}

func heldRemedy(r event.Rollout) string {
	switch {
	case awaitsWord(r):
		return "rotor authority retire"
	case r.Halted == "" && len(r.Missing) == 0:
		return "check that an issuer runs, and what its /readyz says; rotor authority status"
	case r.Halted != "":
		return "rotor authority status"
	default:
		return fmt.Sprintf("bring it back, or do not wait for it: rotor authority exclude %s --reason WHY", r.Missing[0].Cluster)
	}
}

func half(k fleet.RolloutKind) string {
	if k == fleet.RolloutToken {
		return "token key"
	}
	return "CA"
}

// authorityTrusted ends what was told about the gate that has opened.
func authorityTrusted(e event.Event, r event.Rollout) Effect {
	return Effect{End: []Ending{{Rules: []string{AuthorityHeld}, Cluster: event.FleetWide, Halted: r.Rollout, At: e.Time(), Timely: true}}}
}

// authorityActivated ends what is late: another CA signs.
func authorityActivated(e event.Event, a event.Authority) Effect {
	var effect Effect
	if a.What == string(fleet.RolloutCA) {
		effect.End = append(effect.End, Ending{Rules: []string{AuthorityLate, AuthorityCut}, Cluster: event.FleetWide, At: e.Time()})
	}
	if a.Rollout != "" {
		effect.End = append(effect.End, Ending{Rules: []string{AuthorityHeld}, Cluster: event.FleetWide, Halted: a.Rollout, At: e.Time(), Timely: true})
	}
	return effect
}

// authorityEnded ends what was told about a rollout, for good.
func authorityEnded(e event.Event, r event.Rollout) Effect {
	return Effect{End: []Ending{{Rules: []string{AuthorityHeld}, Cluster: event.FleetWide, Halted: r.Rollout, At: e.Time()}}}
}

// cut raises one alert for the fleet when certificates had to be cut to the end of
// the CA.
func cut(e event.Event, c event.Credentials) []fleet.Alert {
	i := slices.IndexFunc(c.Clients, func(client event.Client) bool { return client.Cut })
	if i < 0 {
		return nil
	}
	_, end := first(c.Clients[i])
	return []fleet.Alert{raise(e, fleet.Alert{
		Rule: AuthorityCut, Severity: fleet.SeverityWarning, Cluster: event.FleetWide, Remedy: "rotor authority status",
		Summary: fmt.Sprintf("what is issued now lives shorter than its policy says, as the CA ends before: %s/%s ends on %s; another CA should sign by now",
			e.Subject(), c.Clients[i].Client, day(end)),
	})}
}

// authorityUnavailable raises one alert for the fleet: all that is renewed has to
// wait for the HSM, and no revocation gets on a CRL.
func authorityUnavailable(e event.Event, k event.Keystore) Effect {
	return Effect{Raise: []fleet.Alert{raise(e, fleet.Alert{
		Rule: KeystoreAway, Severity: fleet.SeverityCritical, Cluster: event.FleetWide, Began: k.Since.UTC(),
		Summary: fmt.Sprintf("an issuer cannot use the HSM since %s, and signs nothing: %s", moment(k.Since), k.Why),
		Remedy:  "look at the HSM, its module, token and PIN; /readyz of the issuer says more",
	})}}
}

func authorityAvailable(e event.Event, _ event.Keystore) Effect {
	return Effect{End: []Ending{{Rules: []string{KeystoreAway}, Cluster: event.FleetWide, At: e.Time()}}}
}
