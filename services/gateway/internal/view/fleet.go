package view

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Fleet is all that is known, for the view at a glance.
type Fleet struct {
	Clusters  []Cluster // in the order in which they are shown
	Releases  []fleet.Release
	Alerts    []fleet.Alert
	Authority fleet.Authority
	Settings  fleet.Settings
	CA, Token *fleet.Rollout // the last rotations of the authority, nil if there was none
	Now       time.Time
	Rate      float64

	DeadLetters int // open ones
}

// maxReasons bounds what one answer lists; the clusters have the rest.
const maxReasons = 100

// Status returns the fleet at a glance.
func (f Fleet) Status() api.Status {
	s := api.Status{
		Health: api.HealthWell, Now: f.Now, ClockRate: f.Rate, Clusters: []api.ClusterView{},
		States: map[fleet.State]int{}, Authority: AuthorityOf(f.Authority),
	}
	byCluster := AlertsByCluster(f.Alerts)
	var worst, reasons []string
	if len(f.Authority.CAs) == 0 {
		s.Health = api.HealthAttention
		reasons = append(reasons, "the issuer has made no authority yet: check that it runs")
	}
	authority := f.whole()
	s.UnderWay = authority.UnderWay()
	if wants := authority.Attention(); len(wants) > 0 {
		s.Health = api.HealthAttention
		reasons = append(reasons, wants...)
	}
	for _, c := range f.Clusters {
		alerts := byCluster[c.Declared.Name]
		v := c.View(f.Releases, alerts)
		health, why := c.Judge(v, alerts)
		switch health {
		case api.HealthBroken:
			s.Health = health
			worst = append(worst, why...)
		case api.HealthAttention:
			if s.Health == api.HealthWell {
				s.Health = health
			}
			reasons = append(reasons, why...)
		}
		for state, n := range v.States {
			s.States[state] += n
		}
		s.Clients += v.Clients
		s.Revoked = append(s.Revoked, c.revoked()...)
		s.Clusters = append(s.Clusters, v)
	}
	if f.DeadLetters > 0 {
		s.DeadLetters = f.DeadLetters
		if s.Health == api.HealthWell {
			s.Health = api.HealthAttention
		}
		reasons = append(reasons, deadReason(f.DeadLetters))
	}
	s.Reasons = append(worst, reasons...)
	if len(s.Reasons) > maxReasons {
		s.Reasons = append(s.Reasons[:maxReasons], "and more: see the clusters")
	}
	if len(s.Revoked) > maxReasons {
		s.Revoked = append(s.Revoked[:maxReasons], "and more: rotor get clients --state revoked")
	}
	return s
}

// whole returns what is known about the authority.
func (f Fleet) whole() Authority {
	a := Authority{Document: f.Authority, Settings: f.Settings, CA: f.CA, Token: f.Token, Now: f.Now, Rate: f.Rate}
	for _, c := range f.Clusters {
		a.Clusters = append(a.Clusters, c.Declared)
	}
	return a
}

func deadReason(n int) string {
	const remedy = "look at what was given up with `rotor alert dead`"
	if n == 1 {
		return "1 dead letter: " + remedy
	}
	return fmt.Sprintf("%d dead letters: %s", n, remedy)
}

// AlertsByCluster groups alerts, oldest first.
func AlertsByCluster(alerts []fleet.Alert) map[string][]fleet.Alert {
	grouped := map[string][]fleet.Alert{}
	for _, a := range alerts {
		grouped[a.Cluster] = append(grouped[a.Cluster], a)
	}
	for _, of := range grouped {
		slices.SortFunc(of, func(a, b fleet.Alert) int {
			if c := a.Since.Compare(b.Since); c != 0 {
				return c
			}
			return strings.Compare(a.Fingerprint, b.Fingerprint)
		})
	}
	return grouped
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// AgentOf returns an enrolled agent as it is shown.
func AgentOf(c Cluster, authority *fleet.Authority) api.AgentView {
	a := c.Agent
	v := api.AgentView{
		Cluster: c.Declared.Name, ID: a.ID, EnrolledAt: a.EnrolledAt, LastSeen: a.LastSeen,
		Version: a.Version, Bundle: a.Bundle, Failures: a.Failures, BundleFailure: a.BundleFailure, Life: a.Life,
		BundleHash: a.BundleHash, Canary: a.Canary,
	}
	if ca := authority.IncomingCA(); ca != nil {
		v.NextCA = &api.NextCA{CA: ca.ID}
		v.NextCA.Why, v.NextCA.Since, v.NextCA.Ready = a.Proves(authority, ca.ID)
	}
	for _, key := range c.Declared.ClientKeys() {
		if request := a.Requests[key]; request.Generation != c.Records.Record(key).Next(request) {
			v.Waiting++
		}
	}
	return v
}
