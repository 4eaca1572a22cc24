package rule

import (
	"fmt"
	"slices"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

const anyRule = "*"

// row says what facts of one kind mean.
type row struct {
	kind event.Row
	ends []string // rules whose alerts a fact of this kind can end
	of   func(event.Event) (Effect, error)
}

// table has one row for each kind of fact that people hear of, in one way or
// the other. To add a rule, add a constant, a row and a sentence.
func table() []row {
	return []row{
		on(event.WindowClosing, nil, windowClosing),
		on(event.WindowMissed, []string{WindowClosing}, windowMissed),
		on(event.WindowRestored, []string{WindowClosing, WindowMissed}, ofCluster),
		on(event.CredentialExpiring, nil, credentialExpiring),
		on(event.CredentialExpired, []string{CredentialExpiring}, credentialExpired),
		on(event.CredentialFailed, nil, credentialFailed),
		on(event.CredentialIssued, []string{CredentialFailed}, credentialIssued),
		on(event.CredentialProven, []string{CredentialExpiring, CredentialExpired, CredentialFailed, SigninRefused}, credentialProven),
		on(event.ClientDegraded, nil, clientDegraded),
		on(event.ClientLockedOut, []string{ClientDegraded}, clientLockedOut),
		on(event.ClientRecovered, []string{ClientDegraded, ClientLockedOut}, clientRecovered),
		on(event.CredentialRevoked, []string{CredentialExpiring, CredentialExpired, CredentialFailed, ClientDegraded, ClientLockedOut}, credentialRevoked),
		on(event.ClientReinstated, []string{ClientRevoked}, clientReinstated),
		on(event.RotationFailed, []string{RotationHalted}, rotationFailed),
		on(event.RotationCompleted, []string{RotationFailed, RotationHalted}, rotationCompleted),
		on(event.RotationHalted, nil, rotationHalted),
		on(event.RotationResumed, []string{RotationHalted}, ofHalt),
		on(event.RotationCancelled, []string{RotationHalted}, ofHalt),
		on(event.SigninRefused, nil, signinRefused),
		on(event.LetterBuried, nil, letterBuried),
		on(event.LetterReplayed, []string{DeadLetter}, ofLetter),
		on(event.LetterDropped, []string{DeadLetter}, ofLetter),
		on(event.AgentEnrolled, []string{SigninRefused, AgentSilent, AgentSkewed, AgentDuplicated}, agentEnrolled),
		on(event.AgentSilent, nil, agentSilent),
		on(event.AgentReturned, []string{AgentSilent}, ofAgent(AgentSilent)),
		on(event.AgentSkewed, nil, agentSkewed),
		on(event.AgentSynced, []string{AgentSkewed}, ofAgent(AgentSkewed)),
		on(event.AgentDuplicated, nil, agentDuplicated),
		on(event.BundleRefused, nil, bundleRefused),
		on(event.BundleSettled, []string{BundleRefused}, ofAgent(BundleRefused)),
		on(event.AuthorityDue, nil, authorityDue),
		on(event.AuthorityHeld, nil, authorityHeld),
		on(event.AuthorityTrusted, []string{AuthorityHeld}, authorityTrusted),
		on(event.AuthorityActivated, []string{AuthorityLate, AuthorityCut, AuthorityHeld}, authorityActivated),
		on(event.AuthorityCompleted, []string{AuthorityHeld}, authorityEnded),
		on(event.AuthorityRolledBack, []string{AuthorityHeld}, authorityEnded),
		on(event.AuthorityUnavailable, nil, authorityUnavailable),
		on(event.AuthorityAvailable, []string{KeystoreAway}, authorityAvailable),
		on(event.ClusterRemoved, []string{anyRule}, clusterRemoved),
	}
}

func on[T any](kind event.Kind[T], ends []string, f func(event.Event, T) Effect) row {
	return row{kind: kind.Row(), ends: ends, of: func(e event.Event) (Effect, error) {
		data, err := kind.Decode(e)
		if err != nil {
			return Effect{}, err
		}
		return f(e, data), nil
	}}
}

func windowClosing(e event.Event, w event.Window) Effect {
	return Effect{Raise: []fleet.Alert{raise(e, fleet.Alert{
		Rule: WindowClosing, Severity: fleet.SeverityWarning, Cluster: e.Subject(), Level: w.Level,
		Summary: closingSummary(e, w), Remedy: upgradeRemedy(e.Subject(), w),
	})}}
}

func windowMissed(e event.Event, w event.Window) Effect {
	return Effect{
		Raise: []fleet.Alert{raise(e, fleet.Alert{
			Rule: WindowMissed, Severity: fleet.SeverityCritical, Cluster: e.Subject(), Level: w.Level,
			Began: w.Deadline.UTC(), Summary: missedSummary(e, w), Remedy: upgradeRemedy(e.Subject(), w),
		})},
		End: []Ending{{Rules: []string{WindowClosing}, Cluster: e.Subject(), At: e.Time(), Silent: true}},
	}
}

func ofCluster(e event.Event, _ event.Window) Effect {
	return Effect{End: []Ending{{Rules: []string{WindowClosing, WindowMissed}, Cluster: e.Subject(), At: e.Time()}}}
}

func credentialExpiring(e event.Event, c event.Credentials) Effect {
	return perClient(e, c, func(client event.Client) fleet.Alert {
		a := fleet.Alert{
			Rule: CredentialExpiring, Severity: fleet.SeverityWarning, Level: max(client.Level, 1),
			Summary: expiringSummary(e, client), Remedy: rotateRemedy(e.Subject(), client),
		}
		if client.Level >= 2 {
			a.Severity = fleet.SeverityCritical
		}
		return a
	})
}

func credentialExpired(e event.Event, c event.Credentials) Effect {
	effect := perClient(e, c, func(client event.Client) fleet.Alert {
		return fleet.Alert{
			Rule: CredentialExpired, Severity: fleet.SeverityCritical,
			Summary: expiredSummary(e, client), Remedy: expiredRemedy(e, client),
		}
	})
	effect.End = endings(e, c, 0, true, CredentialExpiring)
	return effect
}

func credentialFailed(e event.Event, c event.Credentials) Effect {
	return perClient(e, c, func(client event.Client) fleet.Alert {
		return fleet.Alert{
			Rule: CredentialFailed, Severity: fleet.SeverityWarning,
			Summary: failedSummary(e, client), Remedy: fmt.Sprintf("rotor get clients %s", e.Subject()),
		}
	})
}

func credentialIssued(e event.Event, c event.Credentials) Effect {
	return Effect{Raise: cut(e, c), End: endings(e, c, 0, false, CredentialFailed)}
}

func credentialProven(e event.Event, c event.Credentials) Effect {
	return Effect{End: append(endings(e, c, 0, false, CredentialFailed),
		endings(e, c, 1, false, CredentialExpiring, CredentialExpired, SigninRefused)...)}
}

func clientDegraded(e event.Event, c event.Credentials) Effect {
	return perClient(e, c, func(client event.Client) fleet.Alert {
		return fleet.Alert{
			Rule: ClientDegraded, Severity: fleet.SeverityWarning,
			Summary: degradedSummary(e, client), Remedy: rotateRemedy(e.Subject(), client),
		}
	})
}

func clientLockedOut(e event.Event, c event.Credentials) Effect {
	effect := perClient(e, c, func(client event.Client) fleet.Alert {
		return fleet.Alert{
			Rule: ClientLockedOut, Severity: fleet.SeverityCritical,
			Summary: lockedOutSummary(e, client), Remedy: recoverRemedy(e.Subject(), client),
		}
	})
	effect.End = endings(e, c, 0, true, ClientDegraded)
	return effect
}

func clientRecovered(e event.Event, c event.Credentials) Effect {
	var effect Effect
	for _, client := range c.Clients {
		effect.End = append(effect.End, Ending{
			Rules: []string{ClientDegraded, ClientLockedOut}, Cluster: e.Subject(), Client: &client.Client, At: e.Time(),
		})
	}
	return effect
}

// rotationFailed raises one alert for each cluster with a failure. Of a
// rotation over many clusters only the first failures are named.
func rotationFailed(e event.Event, r event.Rotation) Effect {
	clusters := []string{e.Subject()}
	if e.Subject() == event.FleetWide && len(r.Failures) > 0 {
		clusters = nil
		for _, f := range r.Failures {
			if !slices.Contains(clusters, f.Cluster) {
				clusters = append(clusters, f.Cluster)
			}
		}
	}
	effect := ofHalt(e, r)
	for _, cluster := range clusters {
		effect.Raise = append(effect.Raise, raise(e, fleet.Alert{
			Rule: RotationFailed, Severity: fleet.SeverityCritical, Cluster: cluster,
			Summary: rotationSummary(cluster, r), Remedy: rotationRemedy(cluster, r),
		}))
	}
	return effect
}

func rotationCompleted(e event.Event, r event.Rotation) Effect {
	effect := ofHalt(e, r)
	effect.End = append(effect.End, Ending{Rules: []string{RotationFailed}, Cluster: e.Subject(), At: e.Time()})
	return effect
}

// rotationHalted raises one alert for a rotation; each further halt of it is a
// higher level of the same.
func rotationHalted(e event.Event, r event.Rotation) Effect {
	return Effect{Raise: []fleet.Alert{raise(e, fleet.Alert{
		Rule: RotationHalted, Severity: fleet.SeverityCritical, Cluster: e.Subject(), Rotation: r.Rotation, Level: max(r.Halt-1, 0),
		Summary: haltSummary(r), Remedy: "rotor rotation show " + r.Rotation,
	})}}
}

// ofHalt ends the alert about a halt: of one that was resumed, up to that halt;
// of a rotation that has ended, for good.
func ofHalt(e event.Event, r event.Rotation) Effect {
	return Effect{End: []Ending{{Rules: []string{RotationHalted}, Cluster: e.Subject(), Halted: r.Rotation, UpTo: r.Halt, At: e.Time()}}}
}

// letterBuried raises one alert a letter. A letter that was tried again in vain
// is told of as before: who had it tried has heard it at once.
func letterBuried(e event.Event, l event.Letter) Effect {
	return Effect{Raise: []fleet.Alert{raise(e, fleet.Alert{
		Rule: DeadLetter, Severity: fleet.SeverityWarning, Cluster: e.Subject(), Letter: l.Letter, Began: l.First.UTC(),
		Summary: letterSummary(e, l), Remedy: "rotor alert dead replay " + l.Letter,
	})}}
}

func ofLetter(e event.Event, l event.Letter) Effect {
	return Effect{End: []Ending{{Rules: []string{DeadLetter}, Cluster: e.Subject(), Letter: l.Letter, At: e.Time()}}}
}

func clusterRemoved(e event.Event, _ event.Cluster) Effect {
	return Effect{End: []Ending{{Cluster: e.Subject(), At: e.Time()}}}
}

func perClient(e event.Event, c event.Credentials, f func(event.Client) fleet.Alert) Effect {
	var effect Effect
	for _, client := range c.Clients {
		a := f(client)
		a.Cluster, a.Client, a.Generation = e.Subject(), &client.Client, client.Generation
		effect.Raise = append(effect.Raise, raise(e, a))
	}
	return effect
}

// endings ends the alerts of the rules about each client of the fact, up to the
// generation that lies back before its own.
func endings(e event.Event, c event.Credentials, back int, silent bool, rules ...string) []Ending {
	var all []Ending
	for _, client := range c.Clients {
		if upTo := client.Generation - back; upTo > 0 {
			all = append(all, Ending{
				Rules: rules, Cluster: e.Subject(), Client: &client.Client, UpTo: upTo, At: e.Time(), Silent: silent,
			})
		}
	}
	return all
}
