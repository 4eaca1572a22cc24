package rule

import (
	"fmt"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// credentialRevoked tells that a client is out, and ends what was told about its
// credentials: nobody has to keep them alive any more.
func credentialRevoked(e event.Event, r event.Revocation) Effect {
	generation := 0
	for _, c := range r.Credentials {
		generation = max(generation, c.Generation)
	}
	return Effect{
		Raise: []fleet.Alert{raise(e, fleet.Alert{
			Rule: ClientRevoked, Severity: fleet.SeverityInfo, Cluster: e.Subject(), Client: &r.Client, Generation: generation,
			Began: r.Since.UTC(), Summary: revokedSummary(e.Subject(), r), Remedy: fmt.Sprintf("rotor reinstate %s/%s", e.Subject(), r.Client),
		})},
		End: []Ending{{
			Rules:   []string{CredentialExpiring, CredentialExpired, CredentialFailed, ClientDegraded, ClientLockedOut},
			Cluster: e.Subject(), Client: &r.Client, At: e.Time(), Silent: true,
		}},
	}
}

func clientReinstated(e event.Event, r event.Revocation) Effect {
	return Effect{End: []Ending{{Rules: []string{ClientRevoked}, Cluster: e.Subject(), Client: &r.Client, At: e.Time()}}}
}

func revokedSummary(cluster string, r event.Revocation) string {
	by := ""
	if r.By != "" {
		by = " by " + r.By
	}
	return fmt.Sprintf("%s/%s was revoked%s: %s; it gets no credentials until it is reinstated; %s of it on the CRL",
		cluster, r.Client, by, r.Reason, count(len(r.Credentials), "certificate"))
}
