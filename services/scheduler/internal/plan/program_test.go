package plan

import (
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// program makes the newest generation one that its program has got by signing
// in, beside an agent that is enrolled and has its request on file.
func program(in *Input) { in.newest().Agent = "" }

// A client whose program signs in by itself is told of as any other and issued
// to nobody: agent and program would replace each other's keys for ever.
func TestProgramsAreLeftAlone(t *testing.T) {
	flying := func(in *Input) { in.newest().Step = fleet.StepDelivered }
	for _, tt := range []struct {
		name    string
		day     float64
		change  func(*Input)
		asks    string
		facts   string
		blocked string
	}{
		{"healthy", 10, nil, "", "", ""},
		{"due", 50, nil, "", "due kms#1", ""},
		{"due, without an agent", 50, func(in *Input) { in.Agent = nil }, "", "due kms#1", ""},
		{"last resort", 89.9, nil, "", "due kms#1, expiring 1 kms#1, expiring 2 kms#1", ""},
		{"on its way", 10, flying, "", "", ""},
		{"ended on its way", 91, flying, "", "", ""},
		{"upgraded", 10, func(in *Input) { in.Cluster.UpgradedAt = t0.Add(days(9)) }, "", "", ""},
		{"its agent says that the key is lost", 10, func(in *Input) { in.Agent.Requests[kms] = fleet.Request{Generation: 2, Lost: true} }, "", "", ""},
		{"its agent holds later ones, after a restore", 10, func(in *Input) { in.Agent.Requests[kms] = fleet.Request{Generation: 9, Lost: true} }, "enrolment kms#9", "", ""},
		{"handed over", 10, func(in *Input) {
			in.Wanted = map[fleet.ClientKey]Wanted{kms: {Rotation: "r", Generation: 2, Handover: true}}
		}, "rotation kms#2", "", ""},
		{"handed over on its way", 10, func(in *Input) {
			flying(in)
			in.Wanted = map[fleet.ClientKey]Wanted{kms: {Rotation: "r", Generation: 2, Handover: true}}
		}, "rotation kms#2", "", ""},
		{
			"recovered", 91, func(in *Input) { in.Wanted = map[fleet.ClientKey]Wanted{kms: {Rotation: "r", Generation: 2}} }, "",
			"due kms#1, expiring 1 kms#1, expiring 2 kms#1, expired both kms#1, locked-out kms#1", "kms#2: waits for its program: rotor recover edge-01 --client kms --token makes a token for it",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t0.Add(days(tt.day)))
			program(&in)
			if tt.change != nil {
				tt.change(&in)
			}
			d := Evaluate(in)
			if asks(d) != tt.asks || facts(d) != tt.facts || blocks(d) != tt.blocked {
				t.Errorf("asks %q, facts %q, blocked %q;\nwant %q, %q, %q", asks(d), facts(d), blocks(d), tt.asks, tt.facts, tt.blocked)
			}
		})
	}
}

// A rotation takes a client from its program only if an operator names it and
// insists.
func TestRotationsLeaveProgramsAlone(t *testing.T) {
	named := []fleet.ClientKey{kms}
	for _, tt := range []struct {
		name     string
		rotation fleet.Rotation
		change   func(*Input)
		outcome  fleet.Outcome
		to       int
		reason   string
	}{
		{"of the cluster", fleet.Rotation{Reason: fleet.ReasonRotation}, nil, fleet.OutcomeNotDue, 0, "by signing in"},
		{"of the cluster, with force", fleet.Rotation{Reason: fleet.ReasonRotation, Force: true}, nil, fleet.OutcomeNotDue, 0, "--client and use --force"},
		{"named", fleet.Rotation{Reason: fleet.ReasonRotation, Clients: named}, nil, fleet.OutcomeNotDue, 0, "by signing in"},
		{"named, with force", fleet.Rotation{Reason: fleet.ReasonRotation, Clients: named, Force: true}, nil, fleet.OutcomeWaiting, 2, ""},
		{"named, with force, no agent", fleet.Rotation{Reason: fleet.ReasonRotation, Clients: named, Force: true}, func(in *Input) { in.Agent = nil }, fleet.OutcomeFailed, 0, "join one"},
		{"upgrade", fleet.Rotation{Reason: fleet.ReasonUpgrade}, nil, fleet.OutcomeNotDue, 0, "by signing in"},
		{"recovery", fleet.Rotation{Reason: fleet.ReasonRecovery}, func(in *Input) { in.Now = t0.Add(days(91)) }, fleet.OutcomeWaiting, 2, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t0.Add(days(60)))
			program(&in)
			if tt.change != nil {
				tt.change(&in)
			}
			tt.rotation.ID = "r1"
			got := Begin(&tt.rotation, "edge-01", in).Clients[0]
			if got.Outcome != tt.outcome || got.To != tt.to || !strings.Contains(got.Reason, tt.reason) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A generation that was given to a program waits for its proof, and not for an
// agent.
func TestRotationWaitsForTheProgram(t *testing.T) {
	in := input(t0.Add(days(91)))
	program(&in)
	r := &fleet.Rotation{ID: "r1", Reason: fleet.ReasonRecovery}
	part := Begin(r, "edge-01", in)
	part = Follow(r, part, in, []Block{{Client: kms, Generation: 2, Why: "waits for its program"}})
	if got := part.Clients[0]; got.Outcome != fleet.OutcomeWaiting || got.Reason != "waits for its program" {
		t.Errorf("%+v", got)
	}
	g := generation(2, in.Now)
	g.Agent, g.Step = "", fleet.StepDelivered
	record := in.Credentials.Clients[kms]
	record.Generations = append(record.Generations, g)
	part = Follow(r, part, in, nil)
	if got := part.Clients[0]; got.Outcome != fleet.OutcomeWaiting || !strings.Contains(got.Reason, "its program; waits for the proof") {
		t.Errorf("%+v", got)
	}
	record.Newest().Step = fleet.StepProven
	if part = Follow(r, part, in, nil); part.Clients[0].Outcome != fleet.OutcomeRotated {
		t.Errorf("%+v", part.Clients[0])
	}
}
