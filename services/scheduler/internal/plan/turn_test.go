package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestMayBegin(t *testing.T) {
	waves := &fleet.Waves{Sizes: []int{1}}
	saturdays := []fleet.Maintenance{{Cron: "0 2 * * 6", Duration: fleet.Duration(4 * time.Hour)}}
	never := []fleet.Maintenance{{Cron: "0 0 30 2 *", Duration: fleet.Duration(time.Hour)}}
	day10 := t0.Add(days(10)) // a Sunday
	saturday := time.Date(2026, 1, 17, 2, 0, 0, 0, time.UTC)
	emergency := t0.Add(days(85.5)) // 5 % of 90 days before the end
	for _, tt := range []struct {
		name   string
		r      fleet.Rotation
		change func(*Input)
		ok     bool
		why    string
		wake   time.Time
	}{
		{"no window", fleet.Rotation{Waves: waves}, func(*Input) {}, true, "", time.Time{}},
		{"closed", fleet.Rotation{Waves: waves}, func(in *Input) { in.Cluster.Maintenance = saturdays }, false, "closed until 2026-01-17T02:00:00Z", saturday},
		{"open", fleet.Rotation{Waves: waves}, func(in *Input) { in.Cluster.Maintenance, in.Now = saturdays, saturday }, true, "", time.Time{}},
		{"ignored", fleet.Rotation{Waves: &fleet.Waves{IgnoreMaintenance: true}}, func(in *Input) { in.Cluster.Maintenance = never }, true, "", time.Time{}},
		{"not in waves", fleet.Rotation{}, func(in *Input) { in.Cluster.Maintenance = never }, true, "", time.Time{}},
		{"never opens: until the emergency lane", fleet.Rotation{Waves: waves}, func(in *Input) { in.Cluster.Maintenance = never }, false, "no maintenance window opens", emergency},
		{"in the emergency lane", fleet.Rotation{Waves: waves}, func(in *Input) { in.Cluster.Maintenance, in.Now = never, emergency }, true, "", time.Time{}},
		{"another client is in it", fleet.Rotation{Waves: waves, Clients: []fleet.ClientKey{csi}}, func(in *Input) { in.Cluster.Maintenance, in.Now = never, emergency }, false, "no maintenance", time.Time{}},
		{"nothing to expire", fleet.Rotation{Waves: waves}, func(in *Input) { in.Cluster.Maintenance, in.Credentials = never, nil }, false, "no maintenance", time.Time{}},
		{"a cluster that is gone", fleet.Rotation{Waves: waves}, func(in *Input) { in.Cluster = nil }, true, "", time.Time{}},
		{"no CA known", fleet.Rotation{Reason: fleet.ReasonAuthority}, func(*Input) {}, false, "the CA that signs is not known", time.Time{}},
		{"a CA known", fleet.Rotation{Reason: fleet.ReasonAuthority}, func(in *Input) { in.Active = "new" }, true, "", time.Time{}},
	} {
		in := input(day10)
		tt.change(&in)
		ok, why, wake := MayBegin(&tt.r, in)
		if ok != tt.ok || !strings.Contains(why, tt.why) || !wake.Equal(tt.wake) {
			t.Errorf("%s: %t, %q, %s", tt.name, ok, why, wake)
		}
	}
}

func TestHeldHasNotBegun(t *testing.T) {
	in := input(t0.Add(days(10)))
	r := &fleet.Rotation{ID: "r1", Reason: fleet.ReasonRotation, Force: true}
	part := Begin(r, "edge-01", in)
	held := Held(part, "closed")
	if held.State != fleet.RotationAccepted || !held.BeganAt.IsZero() || held.Clients[0].Reason != "closed" || part.Clients[0].Reason != "" || !part.BeganAt.Equal(in.Now) {
		t.Errorf("%+v of %+v", held, part)
	}
	wanted := map[fleet.ClientKey]Wanted{}
	if Pending(r, held, wanted); len(wanted) > 0 {
		t.Errorf("it waits for its turn, and wants %+v", wanted)
	}
}

func TestStartAgainPlansOnlyWhatFailed(t *testing.T) {
	in := input(t0.Add(days(10)))
	in.Cluster.Clients = []fleet.ClientKey{kms, csi}
	in.Credentials.Clients[csi] = &fleet.Record{Generations: []fleet.Generation{generation(1, t0)}}
	r := &fleet.Rotation{ID: "r1", Reason: fleet.ReasonRotation, Force: true, Attempt: 1}
	before := fleet.ClusterRotation{Cluster: "edge-01", State: fleet.RotationFailed, BeganAt: t0, Clients: []fleet.RotationResult{
		{Client: kms, From: 0, To: 1, Outcome: fleet.OutcomeRotated}, {Client: csi, From: 1, To: 2, Outcome: fleet.OutcomeFailed, Reason: "late"},
	}}
	if !r.Again(before) {
		t.Fatal("it is not tried again")
	}
	part := Start(r, "edge-01", before, in)
	if part.State != fleet.RotationRunning || part.Attempt != 1 || !part.BeganAt.Equal(in.Now) || r.Again(part) {
		t.Errorf("%+v", part)
	}
	if kms, csi := part.Clients[0], part.Clients[1]; kms != before.Clients[0] || csi.Outcome != fleet.OutcomeWaiting || csi.To != 2 || csi.Reason != "" {
		t.Errorf("%+v", part.Clients)
	}
}

func TestExcludeAndCancel(t *testing.T) {
	in := input(t0.Add(days(10)))
	r := &fleet.Rotation{
		ID: "r1", Reason: fleet.ReasonRotation, Force: true, Cancel: &fleet.Cancel{By: "admin"},
		Exclusions: map[string]fleet.Exclusion{"edge-01": {By: "admin", Reason: "it moves"}},
	}
	running := fleet.ClusterRotation{Cluster: "edge-01", State: fleet.RotationRunning, Clients: []fleet.RotationResult{
		{Client: kms, Outcome: fleet.OutcomeRotated}, {Client: csi, Outcome: fleet.OutcomeWaiting}, {Client: csi, Outcome: fleet.OutcomeFailed},
	}}
	got := Exclude(r, "edge-01", running, in)
	if got.State != fleet.RotationCompleted || got.Clients[0].Outcome != fleet.OutcomeRotated || got.Clients[1].Outcome != fleet.OutcomeExcluded ||
		got.Clients[2].Outcome != fleet.OutcomeExcluded || got.Clients[1].Reason != "left out by admin: it moves" {
		t.Errorf("excluded: %+v", got)
	}
	if running.Clients[1].Outcome != fleet.OutcomeWaiting {
		t.Error("Exclude changed its argument")
	}
	if got := Exclude(r, "edge-01", fleet.ClusterRotation{}, in); got.State != fleet.RotationCompleted || len(got.Clients) != 1 || got.Clients[0].From != 1 {
		t.Errorf("excluded before its turn: %+v", got)
	}
	got = Cancel(r, running)
	if got.State != fleet.RotationFailed || got.Clients[1].Outcome != fleet.OutcomeCancelled || got.Clients[2].Outcome != fleet.OutcomeFailed {
		t.Errorf("cancelled: %+v", got)
	}
	if got := Cancel(r, Held(running, "closed")).Clients[1].Reason; got != "ended by admin before its turn" {
		t.Errorf("cancelled before its turn: %s", got)
	}
}

func TestQuiet(t *testing.T) {
	for _, tt := range []struct {
		name  string
		agent *fleet.Agent
		quiet bool
		until time.Time
	}{
		{"none", nil, true, time.Time{}},
		{"not enrolled", &fleet.Agent{LastSeen: t0}, true, time.Time{}},
		{"heard just now", &fleet.Agent{ID: "a", LastSeen: t0.Add(-time.Minute)}, false, t0.Add(9 * time.Minute)},
		{"heard ten minutes ago", &fleet.Agent{ID: "a", LastSeen: t0.Add(-10 * time.Minute)}, true, time.Time{}},
		{"enrolled just now", &fleet.Agent{ID: "a", EnrolledAt: t0}, false, t0.Add(10 * time.Minute)},
	} {
		if quiet, until := Quiet(tt.agent, 10*time.Minute, t0); quiet != tt.quiet || !until.Equal(tt.until) {
			t.Errorf("%s: %t until %s", tt.name, quiet, until)
		}
	}
}

// signed has the newest generation of kms signed by a CA.
func (in *Input) signed(by string) { in.newest().Certificate.Issuer = by }

func TestBeginAuthority(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Input)
		want   string
		reason string
	}{
		{"of the old CA", func(in *Input) { in.signed("old") }, "waiting to 2", ""},
		{"of the new CA", func(in *Input) { in.signed("new") }, "not-due", "signed by the active CA already"},
		{"of the new CA, on its way", func(in *Input) { in.signed("new"); in.newest().Step = fleet.StepIssued }, "waiting to 1", ""},
		{"of the old CA, on its way: no riding along", func(in *Input) { in.signed("old"); in.newest().Step = fleet.StepIssued }, "waiting to 2", ""},
		{"of its program", func(in *Input) { in.signed("old"); in.newest().Agent = "" }, "not-due", "its program renews it"},
		{"revoked", func(in *Input) { in.signed("old"); in.Credentials.Clients[kms].Revoked = &fleet.Revocation{} }, "revoked", "reinstatement"},
		{"nothing yet", func(in *Input) { in.Credentials = nil }, "not-due", "no certificate yet"},
		{"locked out, and to come back by itself", func(in *Input) { in.signed("old"); in.Now = t0.Add(days(95)) }, "waiting to 2", ""},
		{"locked out, and left to an operator", func(in *Input) {
			in.signed("old")
			in.Now, in.Cluster.Policy.Recovery = t0.Add(days(95)), fleet.RecoveryOperator
		}, "needs-recovery", "rotor recover"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t0.Add(days(10)))
			in.Active = "new"
			tt.change(&in)
			r := &fleet.Rotation{ID: "r1", Reason: fleet.ReasonAuthority, Force: true}
			part := Begin(r, "edge-01", in)
			if got := outcome(part.Clients[0]); got != tt.want || !strings.Contains(part.Clients[0].Reason, tt.reason) {
				t.Errorf("%s (%s), want %s", got, part.Clients[0].Reason, tt.want)
			}
			if part.State == fleet.RotationFailed {
				t.Error("it counts as a failure")
			}
		})
	}
}

// A client is off the old CA when the new one has signed what is proven, whatever
// was on its way when the change came.
func TestFollowAuthorityToTheNewCA(t *testing.T) {
	r := &fleet.Rotation{ID: "r1", Reason: fleet.ReasonAuthority, Force: true}
	in := input(t0.Add(days(10)))
	in.Active = "new"
	in.signed("old")
	part := Begin(r, "edge-01", in)
	in.Wanted = map[fleet.ClientKey]Wanted{}
	Pending(r, part, in.Wanted)
	if got := asks(Evaluate(in)); got != "authority kms#2" {
		t.Fatalf("asks %q", got)
	}
	add := func(number int, by string) {
		g := generation(number, in.Now)
		g.Certificate.Issuer = by
		record := in.Credentials.Clients[kms]
		record.Generations = append(record.Generations, g)
		in.Agent.Requests[kms] = fleet.Request{Generation: number + 1}
	}
	add(2, "old") // signed just before the change
	part = Follow(r, part, in, nil)
	if got := outcome(part.Clients[0]); got != "waiting to 3" {
		t.Fatalf("proven, and signed by the old CA: %s", got)
	}
	Pending(r, part, in.Wanted)
	if got := asks(Evaluate(in)); got != "authority kms#3" {
		t.Fatalf("asks %q", got)
	}
	add(3, "new")
	in.newest().Step = fleet.StepInstalled
	if part = Follow(r, part, in, nil); part.Clients[0].Outcome != fleet.OutcomeWaiting {
		t.Fatalf("installed: %+v", part)
	}
	in.newest().Step = fleet.StepProven
	if part = Follow(r, part, in, nil); outcome(part.Clients[0]) != "rotated to 3" || part.State != fleet.RotationCompleted {
		t.Fatalf("proven: %+v", part)
	}
	// What was taken out of the fleet is no hindrance.
	if got := Begin(r, "edge-01", Input{Now: t0, Active: "new"}); got.State != fleet.RotationCompleted || got.Clients[0].Outcome != fleet.OutcomeNotDue {
		t.Errorf("%+v", got)
	}
	if got := Follow(r, Begin(r, "edge-01", input(t0).with(func(in *Input) { in.Active = "new" })), Input{Now: t0, Active: "new"}, nil); got.State != fleet.RotationCompleted {
		t.Errorf("%+v", got)
	}
	// One that its program takes over, or that is locked out meanwhile, is let be.
	waiting := Begin(r, "edge-01", input(t0).with(func(in *Input) { in.Active = "new" }))
	program := input(t0).with(func(in *Input) { in.Active = "new"; in.newest().Agent = "" })
	if got := Follow(r, waiting, program, nil); got.Clients[0].Outcome != fleet.OutcomeNotDue || got.State != fleet.RotationCompleted {
		t.Errorf("%+v", got)
	}
	locked := input(t0.Add(days(95))).with(func(in *Input) { in.Active, in.Cluster.Policy.Recovery = "new", fleet.RecoveryOperator })
	if got := Follow(r, waiting, locked, nil); got.Clients[0].Outcome != fleet.OutcomeNeedsRecovery || got.State != fleet.RotationCompleted {
		t.Errorf("%+v", got)
	}
}
