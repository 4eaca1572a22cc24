package view

import (
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

var (
	now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	kms = fleet.ClientKey{Kind: "kms"}
)

// at returns a cluster with one client whose certificate and token end then.
func at(certificate, token time.Duration) Cluster {
	g := fleet.Generation{
		Number: 1, Step: fleet.StepProven, Agent: "a", At: now.Add(-40 * fleet.Day), RenewAt: now.Add(5 * fleet.Day),
		Certificate: fleet.Certificate{NotBefore: now.Add(-40 * fleet.Day), NotAfter: now.Add(certificate)},
		Token:       fleet.Token{NotBefore: now.Add(-40 * fleet.Day), ExpiresAt: now.Add(token)},
	}
	return Cluster{
		Declared: fleet.Cluster{Name: "edge-01", Kind: fleet.Workload, Clients: []fleet.ClientKey{kms}},
		Records:  &fleet.Credentials{Clients: map[fleet.ClientKey]*fleet.Record{kms: {Generations: []fleet.Generation{g}}}},
		Agent:    &fleet.Agent{ID: "a", LastSeen: now, Requests: map[fleet.ClientKey]fleet.Request{kms: {Generation: 2}}},
		Now:      now,
	}
}

// A client whose token has expired is not well, although its certificate works;
// every cause is named with a remedy.
func TestF7_EveryStateSaysWhyAndWhatToDo(t *testing.T) {
	healthy := at(50*fleet.Day, 50*fleet.Day)
	change := func(c Cluster, f func(*Cluster)) Cluster { f(&c); return c }
	due := func(c *Cluster) { c.Records.Clients[kms].Generations[0].RenewAt = now }
	for name, test := range map[string]struct {
		cluster Cluster
		state   fleet.State
		health  api.Health
		says    string
	}{
		"healthy":     {healthy, fleet.StateHealthy, api.HealthWell, ""},
		"degraded":    {at(50*fleet.Day, 0), fleet.StateDegraded, api.HealthBroken, "dies at its next restart"},
		"recoverable": {at(-time.Second, fleet.Day), fleet.StateRecoverable, api.HealthBroken, "certificate has expired"},
		"locked out":  {at(-time.Second, -time.Second), fleet.StateLockedOut, api.HealthBroken, "certificate and token have expired"},
		"locked out, automatic": {
			change(at(-time.Second, -time.Second), func(c *Cluster) { c.Agent.Requests = nil }),
			fleet.StateLockedOut, api.HealthBroken, "certificate and token have expired, the last one 2026-11-23 11:59 UTC; its request",
		},
		"locked out, operator": {
			change(at(-time.Second, -time.Second), func(c *Cluster) { c.Settings.Policy.Recovery = fleet.RecoveryOperator }),
			fleet.StateLockedOut, api.HealthBroken, "leaves it to an operator to let it back",
		},
		"of its program": {change(at(50*fleet.Day, 50*fleet.Day), func(c *Cluster) { c.Records.Clients[kms].Generations[0].Agent, c.Agent = "", nil }), fleet.StateHealthy, api.HealthWell, ""},
		"of its program, due": {
			change(at(50*fleet.Day, 50*fleet.Day), func(c *Cluster) { due(c); c.Records.Clients[kms].Generations[0].Agent = "" }),
			fleet.StateDue, api.HealthWell, "its program, which renews it by signing in, has not done so",
		},
		"of its program, not proven": {
			change(at(50*fleet.Day, 50*fleet.Day), func(c *Cluster) {
				c.Records.Clients[kms].Generations[0].Agent, c.Records.Clients[kms].Generations[0].Step = "", fleet.StepDelivered
			}),
			fleet.StatePending, api.HealthAttention, "given to its program",
		},
		"of its program, reinstated": {
			change(at(50*fleet.Day, 50*fleet.Day), func(c *Cluster) {
				g := &c.Records.Clients[kms].Generations[0]
				g.Agent, g.Revoked = "", &fleet.Revocation{At: now, Reason: fleet.KeyCompromise}
			}),
			fleet.StatePending, api.HealthAttention, "what its program holds was revoked 2026-11-23",
		},
		"of its program, locked out": {
			change(at(-time.Second, -time.Second), func(c *Cluster) { c.Records.Clients[kms].Generations[0].Agent = "" }),
			fleet.StateLockedOut, api.HealthBroken, "only its program holds its keys",
		},
		"due":      {change(at(50*fleet.Day, 50*fleet.Day), due), fleet.StateDue, api.HealthWell, "renewal moment has passed"},
		"due late": {change(at(6*fleet.Day, 6*fleet.Day), due), fleet.StateDue, api.HealthAttention, "renewal moment has passed"},
		"due, manual": {
			change(change(at(50*fleet.Day, 50*fleet.Day), due), func(c *Cluster) { c.Declared.Policy.Mode = fleet.ModeManual }),
			fleet.StateDue, api.HealthWell, "only an operator renews",
		},
		"no request": {
			change(healthy, func(c *Cluster) { c.Agent = &fleet.Agent{ID: "a", LastSeen: now} }),
			fleet.StateHealthy, api.HealthWell, "request for generation 2 is not on file; agent last seen 2026-11-23",
		},
		"no agent": {
			change(healthy, func(c *Cluster) { c.Agent, c.Records = nil, nil }),
			fleet.StatePending, api.HealthAttention, "no agent has enrolled for edge-01",
		},
		"failure": {
			change(healthy, func(c *Cluster) {
				c.Agent = &fleet.Agent{ID: "a", Failures: map[fleet.ClientKey]fleet.StepFailure{kms: {Generation: 2, Step: fleet.StepInstalled, Error: "disk full"}}}
			}),
			fleet.StateHealthy, api.HealthAttention, "disk full",
		},
		"bundle": {
			change(healthy, func(c *Cluster) {
				c.Agent = &fleet.Agent{ID: "a", Requests: map[fleet.ClientKey]fleet.Request{kms: {Generation: 2}}, BundleFailure: &fleet.BundleFailure{Error: "read-only"}}
			}),
			fleet.StateHealthy, api.HealthAttention, "",
		},
		"revoked": {
			change(at(50*fleet.Day, 50*fleet.Day), func(c *Cluster) {
				c.Records.Clients[kms].Revoked = &fleet.Revocation{At: now, Reason: "keyCompromise"}
			}),
			fleet.StateRevoked, api.HealthWell, "keyCompromise",
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := test.cluster.Clients()[0]
			if v.State != test.state || !strings.Contains(v.Reason, test.says) || (v.Reason == "") != (test.says == "") {
				t.Errorf("%s: %q", v.State, v.Reason)
			}
			if v.Reason != "" && v.Remedy == "" {
				t.Error("no remedy")
			}
			health, reasons := test.cluster.Judge(test.cluster.View(nil, nil), nil)
			if health != test.health || (len(reasons) == 0) != (health == api.HealthWell) {
				t.Errorf("%s: %q", health, reasons)
			}
			// Whatever lets it back, the command is named where people look.
			if all := strings.Join(reasons, "\n"); v.State == fleet.StateLockedOut && !strings.Contains(all, "rotor recover edge-01 --client kms") {
				t.Errorf("no command in %q", all)
			}
		})
	}
}

func TestStatusTurnsWellAfterTheUpgrade(t *testing.T) {
	releases := []fleet.Release{{Version: "7", PublishedAt: now.Add(-105 * fleet.Day)}, {Version: "8", PublishedAt: now.Add(-75 * fleet.Day)}}
	c := at(50*fleet.Day, 50*fleet.Day)
	c.Declared.Release = "7"
	authority := fleet.Authority{CAs: []fleet.CA{{ID: "1"}}}
	s := Fleet{Clusters: []Cluster{c}, Releases: releases, Authority: authority, Now: now}.Status()
	if s.Health != api.HealthAttention || *s.Clusters[0].Window.DaysLeft != -15 {
		t.Fatalf("%+v", s)
	}
	if want := "edge-01 is past its update window since 2026-11-08: it has missed 8"; s.Reasons[0] != want {
		t.Errorf("%q, want %q", s.Reasons[0], want)
	}
	c.Declared.Release = "8"
	if s = (Fleet{Clusters: []Cluster{c}, Releases: releases, Authority: authority, Now: now}).Status(); s.Health != api.HealthWell {
		t.Errorf("%+v", s)
	}
}

// F15: a client that appears, as on a host that was added, is waited for: the
// fleet is not well before it has proven its first credentials.
func TestF15_ClientThatAppearsIsNotHealthyBeforeItsProof(t *testing.T) {
	authority := fleet.Authority{CAs: []fleet.CA{{ID: "1"}}}
	c := at(50*fleet.Day, 50*fleet.Day)
	status := func() api.Status {
		return Fleet{Clusters: []Cluster{c}, Authority: authority, Now: now}.Status()
	}
	if s := status(); s.Health != api.HealthWell {
		t.Fatalf("before: %+v", s)
	}
	added := fleet.ClientKey{Kind: fleet.NodeAgentKind, Instance: "host-7"}
	c.Declared.Clients = append(c.Declared.Clients, added)
	if s := status(); s.Health == api.HealthWell || s.States[fleet.StatePending] != 1 || s.Clients != 2 {
		t.Errorf("declared: %+v", s)
	}
	g := c.Records.Clients[kms].Generations[0]
	g.Step = fleet.StepInstalled
	c.Records.Clients[added] = &fleet.Record{Generations: []fleet.Generation{g}}
	if s := status(); s.Health == api.HealthWell || s.States[fleet.StatePending] != 1 {
		t.Errorf("installed: %+v", s)
	}
	c.Records.Clients[added].Generations[0].Step = fleet.StepProven
	if s := status(); s.Health != api.HealthWell || s.States[fleet.StateHealthy] != 2 {
		t.Errorf("proven: %+v", s)
	}
}

func TestRotatePreview(t *testing.T) {
	c := at(50*fleet.Day, 50*fleet.Day)
	if r := c.Rotate(fleet.Rotation{}); r.Clients[0].Outcome != fleet.OutcomeNotDue || !strings.Contains(r.Clients[0].Reason, "2026-11-28") {
		t.Errorf("%+v", r)
	}
	if r := c.Rotate(fleet.Rotation{Force: true}); r.Clients[0].Outcome != fleet.OutcomeWaiting || r.Clients[0].To != 2 {
		t.Errorf("%+v", r)
	}
	flying := c.Records.Clients[kms].Generations[0]
	flying.Number, flying.Step = 2, fleet.StepIssued
	c.Records.Clients[kms].Generations = append(c.Records.Clients[kms].Generations, flying)
	if r := c.Rotate(fleet.Rotation{Clients: []fleet.ClientKey{kms}, Force: true}); r.Clients[0].To != 2 || r.Clients[0].From != 1 {
		t.Errorf("more than one generation ahead: %+v", r)
	}
	if r := c.Rotate(fleet.Rotation{Clients: []fleet.ClientKey{{Kind: "csi"}}, Force: true}); len(r.Clients) != 0 {
		t.Errorf("%+v", r)
	}
}
