package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// upgraded returns the input of a cluster that was upgraded on the given day.
func upgraded(day float64, now time.Time) Input {
	in := input(now)
	in.Cluster.Release, in.Cluster.UpgradedAt = "r2", t0.Add(days(day)).Add(300*time.Millisecond)
	in.Told.Upgraded = in.Cluster.UpgradedAt
	return in
}

// The rules of an upgrade: validity counts from its completion, retries do not
// move it, nothing is shortened.
func TestUpgradeSetsValidity(t *testing.T) {
	for _, tt := range []struct {
		name   string
		in     Input
		change func(*Input)
		want   string
		expiry time.Time
	}{
		{"at once", upgraded(20, t0.Add(days(20)).Add(time.Second)), nil, "upgrade kms#2", t0.Add(days(110))},
		{"ten days late", upgraded(20, t0.Add(days(30))), nil, "upgrade kms#2", t0.Add(days(110))},
		{"after the moment drawn: from now", upgraded(20, t0.Add(days(76))), nil, "upgrade kms#2", t0.Add(days(166))},
		{"windows and mode do not hold it", upgraded(20, t0.Add(days(30))), func(in *Input) {
			in.Cluster.Policy.Mode = fleet.ModeManual
			in.Cluster.Maintenance = []fleet.Maintenance{{Cron: "0 0 30 2 *", Duration: fleet.Duration(time.Hour)}}
		}, "upgrade kms#2", t0.Add(days(110))},
		{"issued since", upgraded(20, t0.Add(days(30))), func(in *Input) { *in.newest() = generation(1, t0.Add(days(20)).Add(time.Second)) }, "", time.Time{}},
		{"redelivered: issued for it", upgraded(20, t0.Add(days(30))), func(in *Input) { *in.newest() = generation(1, t0.Add(days(20))) }, "", time.Time{}},
		{"older than the newest issue", upgraded(-5, t0.Add(days(30))), nil, "", time.Time{}},
		{"never shorter", upgraded(20, t0.Add(days(30))), func(in *Input) {
			g := in.newest()
			g.Certificate.NotAfter, g.Token.ExpiresAt = t0.Add(days(110)), t0.Add(days(110))
		}, "", time.Time{}},
		{"one of both too short", upgraded(20, t0.Add(days(30))), func(in *Input) { in.newest().Certificate.NotAfter = t0.Add(days(110)) }, "upgrade kms#2", t0.Add(days(110))},
		{"cut to the life of the CA: not again", upgraded(20, t0.Add(days(30))), func(in *Input) {
			*in.newest() = generation(1, t0.Add(days(21)))
			in.newest().Certificate.NotAfter, in.newest().Cut = t0.Add(days(50)), true
		}, "", time.Time{}},
		{"waits for what is on its way", upgraded(20, t0.Add(days(30))), func(in *Input) { in.newest().Step = fleet.StepInstalled }, "", time.Time{}},
		{"within the skew of clocks", upgraded(20, t0.Add(days(20)).Add(-time.Minute)), nil, "upgrade kms#2", t0.Add(days(110))},
		{"from the future", upgraded(20, t0.Add(days(19))), nil, "", time.Time{}},
		{"revoked", upgraded(20, t0.Add(days(30))), func(in *Input) { in.Credentials.Clients[kms].Revoked = &fleet.Revocation{} }, "", time.Time{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(&tt.in)
			}
			d := Evaluate(tt.in)
			if got := asks(d); got != tt.want {
				t.Fatalf("asks %q, want %q", got, tt.want)
			}
			if tt.want == "" {
				return
			}
			c := d.Issue[0].Command
			life := c.Clients[0].Life
			if !life.Certificate.Equal(tt.expiry) || !life.Token.Equal(tt.expiry) {
				t.Errorf("life %+v, want %s", life, tt.expiry)
			}
			if c.Rotation != event.UpgradeRotationID("edge-01", "r2", tt.in.Cluster.UpgradedAt) {
				t.Errorf("rotation %q", c.Rotation)
			}
			if !c.Clients[0].RenewAt.After(tt.in.Now) {
				t.Errorf("due at once: %s", c.Clients[0].RenewAt)
			}
			// What was issued must satisfy the upgrade, or it would be issued for ever.
			g := generation(2, c.At)
			g.Certificate.NotAfter, g.Token.ExpiresAt, g.RenewAt = life.Certificate, life.Token, c.Clients[0].RenewAt
			tt.in.Credentials.Clients[kms].Generations = append(tt.in.Credentials.Clients[kms].Generations, g)
			tt.in.Agent.Requests[kms] = fleet.Request{Generation: 3}
			if got := asks(Evaluate(tt.in)); got != "" {
				t.Errorf("then asks %q", got)
			}
		})
	}
}

func TestUpgradeShortensNeitherOfTheTwo(t *testing.T) {
	in := upgraded(20, t0.Add(days(30)))
	in.newest().Certificate.NotAfter = t0.Add(days(150))
	if life := Evaluate(in).Issue[0].Command.Clients[0].Life; !life.Certificate.Equal(t0.Add(days(150))) || !life.Token.Equal(t0.Add(days(110))) {
		t.Errorf("life %+v", life)
	}
}

func TestUpgradeBeginsARotationOnce(t *testing.T) {
	in := upgraded(20, t0.Add(days(20)).Add(time.Second))
	in.Told.Upgraded = time.Time{}
	d := Evaluate(in)
	if d.Upgrade == nil || d.Upgrade.ID != event.UpgradeRotationID("edge-01", "r2", in.Cluster.UpgradedAt) {
		t.Fatalf("rotation %+v", d.Upgrade)
	}
	in.Told = d.Told
	if again := Evaluate(in); again.Upgrade != nil {
		t.Error("begun twice")
	}
	older := in
	c := *in.Cluster
	c.UpgradedAt, older.Cluster = t0.Add(days(10)), &c
	if d := Evaluate(older); d.Upgrade != nil || !d.Told.Upgraded.Equal(in.Told.Upgraded) {
		t.Error("an older upgrade began a rotation")
	}
	fresh := upgraded(-20, t0)
	fresh.Told, fresh.Credentials = Told{}, nil
	if d := Evaluate(fresh); d.Upgrade != nil || !d.Told.Upgraded.Equal(fresh.Cluster.UpgradedAt) {
		t.Error("a new cluster was taken for an upgraded one")
	}
}

func outcome(r fleet.RotationResult) string {
	s := string(r.Outcome)
	if r.To > 0 {
		s += " to " + string(rune('0'+r.To))
	}
	return s
}

func TestBeginRotation(t *testing.T) {
	day60 := t0.Add(days(60))
	for _, tt := range []struct {
		name   string
		force  bool
		change func(*Input)
		want   string
	}{
		{"not due", false, nil, "not-due"},
		{"not due, forced", true, nil, "waiting to 2"},
		{"due", false, func(in *Input) { in.Now = day60 }, "waiting to 2"},
		{"locked out", false, func(in *Input) { in.Now = t0.Add(days(91)) }, "waiting to 2"},
		{"nothing yet", false, func(in *Input) { in.Credentials = nil }, "waiting to 1"},
		{"first on its way", false, func(in *Input) { in.newest().Step = fleet.StepIssued }, "waiting to 1"},
		{"on its way, forced: rides along", true, func(in *Input) { in.newest().Step = fleet.StepInstalled }, "waiting to 1"},
		{"on its way, but expired", true, func(in *Input) { in.newest().Step, in.Now = fleet.StepIssued, t0.Add(days(91)) }, "waiting to 2"},
		{"revoked", true, func(in *Input) { in.Credentials.Clients[kms].Revoked = &fleet.Revocation{} }, "revoked"},
		{"reinstated: what was on its way is no use", true, func(in *Input) {
			in.newest().Step = fleet.StepIssued
			reinstated(in)
		}, "waiting to 3"},
		{"planned again after a crash", true, func(in *Input) {
			g := generation(2, t0)
			g.Rotation = "r1"
			in.Credentials.Clients[kms].Generations = append(in.Credentials.Clients[kms].Generations, g)
		}, "waiting to 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t0.Add(days(10)))
			if tt.change != nil {
				tt.change(&in)
			}
			part := Begin(&fleet.Rotation{ID: "r1", Reason: fleet.ReasonRotation, Force: tt.force}, "edge-01", in)
			if got := outcome(part.Clients[0]); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

func TestBeginUpgrade(t *testing.T) {
	r := &fleet.Rotation{ID: "u1", Reason: fleet.ReasonUpgrade}
	in := upgraded(20, t0.Add(days(21)))
	if got := outcome(Begin(r, "edge-01", in).Clients[0]); got != "waiting to 2" {
		t.Errorf("outdated: %s", got)
	}
	in.newest().Certificate.NotAfter, in.newest().Token.ExpiresAt = t0.Add(days(200)), t0.Add(days(200))
	part := Begin(r, "edge-01", in)
	if got := outcome(part.Clients[0]); got != "kept" || part.State != fleet.RotationCompleted {
		t.Errorf("valid for longer: %s, %s", got, part.State)
	}
}

func TestSelectedClients(t *testing.T) {
	c := &fleet.Cluster{Name: "hq", Kind: fleet.Management, Hosts: []string{"host-1", "host-2"}}
	r := &fleet.Rotation{ID: "r1", Clients: []fleet.ClientKey{{Kind: "kva"}, {Kind: fleet.NodeAgentKind}, {Kind: "kms", Instance: "x"}}}
	keys, unknown := Selected(r, c)
	if len(keys) != 3 || keys[0].String() != "node-agent/host-1" || keys[2].String() != "kva" || len(unknown) != 1 || unknown[0].String() != "kms/x" {
		t.Errorf("keys %v, unknown %v", keys, unknown)
	}
	in := input(t0)
	in.Cluster = c
	part := Begin(r, "hq", in)
	if last := part.Clients[3]; last.Outcome != fleet.OutcomeFailed || !strings.Contains(last.Reason, "no such client") {
		t.Errorf("unknown client: %+v", last)
	}
	in.Cluster = nil
	part = Begin(&fleet.Rotation{ID: "r2"}, "nowhere", in)
	if part.State != fleet.RotationFailed || !strings.Contains(part.Clients[0].Reason, "not in the fleet") {
		t.Errorf("unknown cluster: %+v", part)
	}
}

// F3, F18, F19: issued is no success, the cause of waiting has a name, and
// waiting ends.
func TestF3_RotationFollowsToTheProof(t *testing.T) {
	r := &fleet.Rotation{ID: "r1", Reason: fleet.ReasonRotation, Force: true}
	in := input(t0.Add(days(10)))
	in.Agent.Requests = nil
	part := Begin(r, "edge-01", in)
	in.Wanted = map[fleet.ClientKey]Wanted{}
	Pending(r, part, in.Wanted)
	step := func(want string, state fleet.RotationState) {
		t.Helper()
		part = Follow(r, part, in, Evaluate(in).Blocked)
		got := part.Clients[0]
		if s := strings.Join([]string{string(got.Outcome), string(got.Step), got.Reason}, "|"); s != want || part.State != state {
			t.Errorf("%s %s, want %s %s", s, part.State, want, state)
		}
	}
	step("waiting||the agent has no certificate request for generation 2 on file", fleet.RotationRunning)
	in.Agent.Requests = map[fleet.ClientKey]fleet.Request{kms: {Generation: 2}}
	step("waiting||waits for the issuer", fleet.RotationRunning)
	record := in.Credentials.Clients[kms]
	record.Generations = append(record.Generations, generation(2, in.Now))
	record.Newest().Step = fleet.StepIssued
	step("waiting|issued|waits for the agent to fetch it", fleet.RotationRunning)
	in.Agent.Failures = map[fleet.ClientKey]fleet.StepFailure{kms: {Generation: 2, Step: fleet.StepInstalled, Error: "disk full"}}
	step("waiting|issued|the agent did not reach installed: disk full", fleet.RotationRunning)

	failed := Expire(r, part, in.Agent, 15*time.Minute)
	want := "not proven within 15m0s: the agent did not reach installed: disk full; the agent was last seen at 2026-01-01T00:00:00Z"
	if got := failed.Clients[0]; got.Outcome != fleet.OutcomeFailed || got.Reason != want || failed.State != fleet.RotationFailed {
		t.Errorf("at the deadline: %+v", failed)
	}
	if part.Clients[0].Outcome != fleet.OutcomeWaiting {
		t.Error("Expire changed its argument")
	}

	record.Newest().Step = fleet.StepProven
	step("rotated|proven|", fleet.RotationCompleted)
	record.Newest().Step = fleet.StepInstalled
	step("rotated|proven|", fleet.RotationCompleted) // final is final
}

func TestFollowWhatChangedMeanwhile(t *testing.T) {
	r := &fleet.Rotation{ID: "r1", Reason: fleet.ReasonRotation, Force: true}
	for _, tt := range []struct {
		name   string
		change func(*Input)
		want   fleet.Outcome
	}{
		{"forgotten by the record", func(in *Input) {
			in.Credentials.Clients[kms].Generations = []fleet.Generation{generation(4, t0), generation(5, t0)}
		}, fleet.OutcomeRotated},
		{"revoked", func(in *Input) { in.Credentials.Clients[kms].Revoked = &fleet.Revocation{} }, fleet.OutcomeRevoked},
		{"client removed", func(in *Input) { in.Cluster.Clients = []fleet.ClientKey{csi} }, fleet.OutcomeFailed},
		{"cluster removed", func(in *Input) { in.Cluster = nil }, fleet.OutcomeFailed},
	} {
		in := input(t0.Add(days(10)))
		part := Begin(r, "edge-01", in)
		tt.change(&in)
		if got := Follow(r, part, in, nil).Clients[0].Outcome; got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
