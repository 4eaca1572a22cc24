package view

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// View returns the cluster with what follows from its state now. The alerts are
// those of this cluster.
func (c Cluster) View(releases []fleet.Release, alerts []fleet.Alert) api.ClusterView {
	v := api.ClusterView{
		Cluster: c.Declared, States: map[fleet.State]int{},
		Policy: fleet.PolicyOf(c.Settings, &c.Declared),
	}
	v.Window = fleet.WindowOf(&c.Declared, releases, v.Policy, c.Now)
	for _, key := range c.Declared.ClientKeys() {
		record := c.Records.Record(key)
		v.Clients++
		state := fleet.StateOf(record, c.Now)
		v.States[state]++
		if state == fleet.StateRevoked {
			continue
		}
		if g := record.InUse(); g != nil {
			v.EarliestExpiry = earlier(v.EarliestExpiry, g.Expiry())
		}
		if g := record.Newest(); g != nil {
			v.NextRenewal = earlier(v.NextRenewal, g.RenewAt)
		}
	}
	if c.Agent != nil && c.Agent.ID != "" {
		v.Agent = c.Agent.ID
		if !c.Agent.LastSeen.IsZero() {
			v.AgentSeen = &c.Agent.LastSeen
		}
	}
	for i := range alerts {
		if alerts[i].State == fleet.AlertFiring {
			v.Firing++
		}
		if v.LastAlert == nil || touched(&alerts[i]).After(touched(v.LastAlert)) {
			v.LastAlert = &alerts[i]
		}
	}
	return v
}

// touched is when an alert last changed.
func touched(a *fleet.Alert) time.Time { return latest(a.Since, a.ResolvedAt) }

func earlier(have *time.Time, t time.Time) *time.Time {
	if have == nil || t.Before(*have) {
		return &t
	}
	return have
}

// broken are the states in which a client cannot work, or soon will not.
var broken = []fleet.State{fleet.StateLockedOut, fleet.StateRecoverable, fleet.StateDegraded}

// share is how many of the clients of a cluster something is said of.
func share(some, all int) string {
	if all == 1 {
		return "1 of 1 client"
	}
	return fmt.Sprintf("%d of %d clients", some, all)
}

// Judge returns the health of one cluster and the reasons, worst first.
func (c Cluster) Judge(v api.ClusterView, alerts []fleet.Alert) (api.Health, []string) {
	health := api.HealthWell
	worst, reasons := []string{}, []string{}
	grouped := map[string]int{}
	for _, client := range c.Clients() {
		switch {
		case slices.Contains(broken, client.State):
			health = api.HealthBroken
			worst = append(worst, fmt.Sprintf("%s/%s is %s: %s -> %s", client.Cluster, name(client), client.State, client.Reason, client.Remedy))
		case client.State == fleet.StatePending && client.Remedy != "":
			grouped[fmt.Sprintf("%s: %s -> %s", client.State, client.Reason, client.Remedy)]++
		case client.State == fleet.StatePending || c.late(client) || c.failed(client):
			grouped[fmt.Sprintf("%s: %s", client.State, client.Reason)]++
		}
	}
	for _, reason := range sorted(grouped) {
		reasons = append(reasons, fmt.Sprintf("%s: %s %s", v.Name, share(grouped[reason], v.Clients), reason))
	}
	if c.Agent != nil && c.Agent.BundleFailure != nil {
		f := c.Agent.BundleFailure
		reasons = append(reasons, fmt.Sprintf("%s: its agent cannot put the trust bundle everywhere since %s: %s", v.Name, moment(f.Since), f.Error))
	}
	if v.Window.State == fleet.WindowBehind {
		reasons = append(reasons, fmt.Sprintf("%s is past its update window since %s: it has missed %s",
			v.Name, v.Window.Deadline.Format(time.DateOnly), strings.Join(v.Window.Missed, ", ")))
	}
	for _, a := range alerts {
		if a.State == fleet.AlertFiring && a.Severity == fleet.SeverityCritical && v.Window.State != fleet.WindowBehind && len(worst) == 0 {
			reasons = append(reasons, "alert: "+a.Summary)
		}
	}
	if health == api.HealthWell && len(reasons) > 0 {
		health = api.HealthAttention
	}
	return health, append(worst, reasons...)
}

// late reports whether a client in use has less of its life left than the
// warning allows: its renewal should have happened long ago.
func (c Cluster) late(v api.ClientView) bool {
	record := c.Records.Record(fleet.ClientKey{Kind: v.Kind, Instance: v.Instance})
	g := record.InUse()
	return v.State == fleet.StateDue && g != nil && g.Left(c.Now) <= fleet.PolicyOf(c.Settings, &c.Declared).Warning
}

func (c Cluster) failed(v api.ClientView) bool {
	if c.Agent == nil || v.State == fleet.StateRevoked {
		return false
	}
	_, ok := c.Agent.Failures[fleet.ClientKey{Kind: v.Kind, Instance: v.Instance}]
	return ok
}

func name(v api.ClientView) string {
	return fleet.ClientKey{Kind: v.Kind, Instance: v.Instance}.String()
}

func sorted(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// revoked says which clients are revoked, and what would bring them back. It is
// what an operator wanted, and so no reason to call the fleet unwell.
func (c Cluster) revoked() []string {
	var all []string
	for _, key := range c.Declared.ClientKeys() {
		if r := c.Records.Record(key); r != nil && r.Revoked != nil {
			v := c.Client(key)
			all = append(all, fmt.Sprintf("%s/%s is %s; %s", v.Cluster, key, v.Reason, v.Remedy))
		}
	}
	return all
}
