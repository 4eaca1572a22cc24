package plan

import (
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// lockedOut returns the input of a client whose generation of t0 has ended, with
// an agent that was enrolled before.
func lockedOut(now time.Time, change ...func(*Input)) Input {
	in := input(now)
	in.Agent.EnrolledAt = t0.Add(-time.Hour)
	for _, f := range change {
		f(&in)
	}
	return in
}

func byOperator(in *Input) { in.Cluster.Policy.Recovery = fleet.RecoveryOperator }
func manual(in *Input)     { in.Cluster.Policy.Mode = fleet.ModeManual }
func asksForLost(in *Input) {
	in.Agent.Requests[kms] = fleet.Request{Generation: 2, Key: "k2", Lost: true}
}

func permitted(until time.Time) func(*Input) {
	return func(in *Input) {
		in.Agent.Permits = map[fleet.ClientKey]fleet.Permit{kms: {Operation: "r1", ExpiresAt: until}}
	}
}

const (
	barred = "kms#2: locked out since 2026-04-01T00:00:00Z, and its policy (recovery: operator) leaves it to an operator to let it back: rotor recover edge-01 --client kms"
	beyond = "kms#2: locked out since 2026-04-01T00:00:00Z, and for longer than its recoveryLimit of 400d, so that an operator has to let it back: rotor recover edge-01 --client kms"
)

// Who may come back by itself, at each threshold.
func TestF27_LockedOutComesBackByItsPolicy(t *testing.T) {
	end := t0.Add(days(90)) // of certificate and token; the certificate is valid at its end
	limit := end.Add(days(400))
	for _, tt := range []struct {
		name  string
		in    Input
		want  string
		block string
	}{
		{"at the end: not locked out yet", lockedOut(end, byOperator), "emergency kms#2", ""},
		{"automatic", lockedOut(end.Add(time.Second)), "recovery kms#2", ""},
		{"automatic, manual mode", lockedOut(end.Add(time.Second), manual), "recovery kms#2", ""},
		{"automatic, at the limit", lockedOut(limit), "recovery kms#2", ""},
		{"automatic, beyond the limit", lockedOut(limit.Add(time.Second)), "", beyond},
		{"automatic, beyond the limit, key lost", lockedOut(limit.Add(time.Second), asksForLost), "", beyond},
		{"a shorter limit", lockedOut(end.Add(days(2)), func(in *Input) { in.Settings.Policy.RecoveryLimit = fleet.Duration(fleet.Day) }), "", strings.Replace(beyond, "400d", "1d", 1)},
		{"operator", lockedOut(end.Add(time.Second), byOperator), "", barred},
		{"operator, key lost", lockedOut(end.Add(time.Second), byOperator, asksForLost), "", barred},
		{"operator, a rotation asks", lockedOut(end.Add(time.Second), byOperator, func(in *Input) {
			in.Wanted = map[fleet.ClientKey]Wanted{kms: {Rotation: "r0", Generation: 2}}
		}), "", barred},
		{"operator, upgraded", lockedOut(end.Add(time.Hour), byOperator, func(in *Input) { in.Cluster.UpgradedAt = end.Add(time.Minute) }), "", barred},
		{"operator, permitted", lockedOut(end.Add(days(5)), byOperator, permitted(end.Add(days(5)).Add(time.Second))), "recovery kms#2", ""},
		{"operator, the permit is over", lockedOut(end.Add(days(5)), byOperator, permitted(end.Add(days(5)))), "", barred},
		{"beyond the limit, permitted", lockedOut(limit.Add(days(5)), permitted(limit.Add(days(6)))), "recovery kms#2", ""},
		{"operator, joined anew since", lockedOut(end.Add(days(5)), byOperator, func(in *Input) {
			in.Agent.ID, in.Agent.EnrolledAt = "agent-2", end.Add(days(4))
		}), "enrolment kms#2", ""},
		{"operator, no agent any more", lockedOut(end.Add(days(5)), byOperator, func(in *Input) { in.Agent = nil }), "", barred},
		{"revoked stays out", lockedOut(end.Add(days(5)), asksForLost, permitted(end.Add(days(6))), func(in *Input) {
			in.Credentials.Clients[kms].Revoked = &fleet.Revocation{At: t0, Reason: "keyCompromise"}
		}), "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Evaluate(tt.in)
			if got := asks(d); got != tt.want {
				t.Errorf("asks %q, want %q", got, tt.want)
			}
			if got := blocks(d); got != tt.block {
				t.Errorf("blocked %q, want %q", got, tt.block)
			}
		})
	}
}

// A barred client is looked at again when its permit or its time is over, so
// that what people read stays true.
func TestLimitIsAMoment(t *testing.T) {
	end := t0.Add(days(90))
	now := end.Add(days(399))
	in := lockedOut(now)
	in.Agent.Requests = nil // its agent is away
	if d := Evaluate(in); !d.Next.Equal(end.Add(days(400)).Add(time.Nanosecond)) {
		t.Errorf("looks again at %s", d.Next)
	}
}

// What has lost one half of its credentials still has the other to prove itself
// with: it goes on in every policy and mode.
func TestF2_F7_DegradedAndRecoverableNeedNobody(t *testing.T) {
	now := t0.Add(days(30))
	for _, mode := range []fleet.Mode{fleet.ModeAutomatic, fleet.ModeOnUpgrade, fleet.ModeManual} {
		for name, end := range map[string]func(*fleet.Generation){
			"degraded":    func(g *fleet.Generation) { g.Token.ExpiresAt = now },
			"recoverable": func(g *fleet.Generation) { g.Certificate.NotAfter = now.Add(-time.Second) },
		} {
			in := lockedOut(now, byOperator)
			in.Cluster.Policy.Mode = mode
			end(in.newest())
			if state := fleet.StateOf(in.Credentials.Clients[kms], now); string(state) != name {
				t.Fatalf("state %s, want %s", state, name)
			}
			if d := Evaluate(in); asks(d) != "emergency kms#2" {
				t.Errorf("%s, mode %s: asks %q, blocked %q", name, mode, asks(d), blocks(d))
			}
		}
	}
}

// While a recovery is on its way nothing is in use, as it has ended what was
// before: what was told is kept, so that people hear that the client is well.
func TestRecoveryIsToldThoughNothingWasInUse(t *testing.T) {
	in := lockedOut(t0.Add(days(100)))
	in.Told.Clients = map[fleet.ClientKey]ToldClient{kms: {Generation: 1, State: fleet.StateLockedOut}}
	in.newest().Revoked = &fleet.Revocation{At: in.Now, Reason: fleet.Superseded}
	next := generation(2, in.Now)
	next.Step, next.ProvenAt, next.Reason = fleet.StepIssued, time.Time{}, fleet.ReasonRecovery
	in.Credentials.Clients[kms].Generations = append(in.Credentials.Clients[kms].Generations, next)
	in.Told = Evaluate(in).Told
	if got := in.Told.Clients[kms].State; got != fleet.StateLockedOut {
		t.Fatalf("told is %q", got)
	}
	in.newest().Step, in.newest().ProvenAt = fleet.StepProven, in.Now
	if d := Evaluate(in); facts(d) != "recovered kms#2" {
		t.Errorf("facts %q", facts(d))
	}
}

// A rotation does not do what `rotor recover` is for; it says so for each client.
func TestRotationReportsWhatNeedsRecovery(t *testing.T) {
	now := t0.Add(days(100))
	rotate := &fleet.Rotation{ID: "r1", Reason: fleet.ReasonRotation, Clusters: []string{"edge-01"}, Force: true}
	upgrade := &fleet.Rotation{ID: "r2", Reason: fleet.ReasonUpgrade, Clusters: []string{"edge-01"}}
	recovery := &fleet.Rotation{ID: "r3", Reason: fleet.ReasonRecovery, Clusters: []string{"edge-01"}}
	in := lockedOut(now, byOperator)
	for _, r := range []*fleet.Rotation{rotate, upgrade} {
		part := Begin(r, "edge-01", in)
		got := part.Clients[0]
		if part.State != fleet.RotationFailed || got.Outcome != fleet.OutcomeNeedsRecovery || got.To != 0 || !strings.HasSuffix(got.Reason, ": rotor recover edge-01 --client kms") {
			t.Errorf("%s: %s, %+v", r.Reason, part.State, got)
		}
	}
	if part := Begin(recovery, "edge-01", in); part.State != fleet.RotationRunning || part.Clients[0].To != 2 {
		t.Errorf("recovery: %+v", part)
	}
	if part := Begin(rotate, "edge-01", lockedOut(now)); part.State != fleet.RotationRunning || part.Clients[0].To != 2 {
		t.Errorf("rotation where all may come back: %+v", part)
	}
}

// A recovery leaves alone what is well, and never touches what is revoked.
func TestScenario4_RecoveryLeavesHealthyAndRevokedAlone(t *testing.T) {
	now := t0.Add(days(20))
	recovery := &fleet.Rotation{ID: "r1", Reason: fleet.ReasonRecovery, Clusters: []string{"edge-01"}}
	in := lockedOut(now, byOperator)
	if got := Begin(recovery, "edge-01", in).Clients[0]; got.Outcome != fleet.OutcomeNotDue {
		t.Errorf("healthy: %+v", got)
	}
	in = lockedOut(t0.Add(days(100)), byOperator)
	in.Credentials.Clients[kms].Revoked = &fleet.Revocation{At: t0, Reason: "keyCompromise"}
	for _, force := range []bool{false, true} {
		recovery.Force = force
		if got := Begin(recovery, "edge-01", in).Clients[0]; got.Outcome != fleet.OutcomeRevoked || got.To != 0 {
			t.Errorf("revoked, force %v: %+v", force, got)
		}
	}
}

// A rotation follows the generation that was made for it, also where it was
// planned for another: a recovery token leads to one of its own.
func TestRecoveryFollowsTheTokensGeneration(t *testing.T) {
	in := lockedOut(t0.Add(days(100)), byOperator)
	waiting := generation(2, t0.Add(days(50)))
	waiting.Step, waiting.ProvenAt = fleet.StepIssued, time.Time{}
	in.Credentials.Clients[kms].Generations = append(in.Credentials.Clients[kms].Generations, waiting)
	in.Agent.Recoveries = map[fleet.ClientKey]fleet.Recovery{kms: {Generation: 3, Operation: "r1", ExpiresAt: in.Now.Add(time.Hour)}}
	recovery := &fleet.Rotation{ID: "r1", Reason: fleet.ReasonRecovery, Clusters: []string{"edge-01"}}
	part := Follow(recovery, Begin(recovery, "edge-01", in), in, nil)
	if got := part.Clients[0]; got.Outcome != fleet.OutcomeWaiting || !strings.HasPrefix(got.Reason, "waits for its recovery token to be redeemed, until 2026-04-11T01:00:00Z") {
		t.Errorf("%+v", got)
	}
	in.Agent.Recoveries[kms] = fleet.Recovery{Generation: 3, Operation: "r1", UsedBy: "key"}
	redeemed := generation(3, in.Now)
	redeemed.Step, redeemed.ProvenAt, redeemed.Rotation, redeemed.Reason = fleet.StepDelivered, time.Time{}, "r1", fleet.ReasonRecovery
	in.Credentials.Clients[kms].Generations = append(in.Credentials.Clients[kms].Generations, redeemed)
	part = Follow(recovery, part, in, nil)
	if got := part.Clients[0]; got.To != 3 || got.Step != fleet.StepDelivered || got.Outcome != fleet.OutcomeWaiting {
		t.Errorf("%+v", got)
	}
	in.newest().Step = fleet.StepProven
	if part = Follow(recovery, part, in, nil); part.State != fleet.RotationCompleted || part.Clients[0].Outcome != fleet.OutcomeRotated {
		t.Errorf("%+v", part)
	}
}

// What was issued before the client was locked out and never fetched is what a
// recovery lets it fetch: there is never more than one generation on its way.
func TestRecoveryRidesAlong(t *testing.T) {
	in := lockedOut(t0.Add(days(100)), byOperator)
	waiting := generation(2, t0.Add(days(50)))
	waiting.Step, waiting.ProvenAt = fleet.StepIssued, time.Time{}
	in.Credentials.Clients[kms].Generations = append(in.Credentials.Clients[kms].Generations, waiting)
	if d := Evaluate(in); asks(d) != "" {
		t.Errorf("asks %q", asks(d))
	}
	recovery := &fleet.Rotation{ID: "r1", Reason: fleet.ReasonRecovery, Clusters: []string{"edge-01"}}
	if got := Begin(recovery, "edge-01", in).Clients[0]; got.Outcome != fleet.OutcomeWaiting || got.To != 2 {
		t.Errorf("%+v", got)
	}
}
