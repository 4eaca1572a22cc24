package plan

import (
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// concerned returns the clients of a cluster that a rotation is about; of a
// cluster that is not in the fleet, those that it names.
func concerned(r *fleet.Rotation, in Input) []fleet.ClientKey {
	switch {
	case in.Cluster != nil:
		keys, _ := Selected(r, in.Cluster)
		return keys
	case len(r.Clients) > 0:
		return r.Clients
	default:
		return []fleet.ClientKey{whole}
	}
}

// Start plans the part of a cluster whose turn has come: the first time, or once
// more for what has failed or was left out before. What has ended well stays.
func Start(r *fleet.Rotation, name string, before fleet.ClusterRotation, in Input) fleet.ClusterRotation {
	part := Begin(r, name, in)
	if !before.State.Done() {
		return part
	}
	for i, result := range part.Clients {
		at := slices.IndexFunc(before.Clients, func(c fleet.RotationResult) bool { return c.Client == result.Client })
		if at >= 0 && !r.Anew(before, before.Clients[at]) {
			part.Clients[i] = before.Clients[at]
		}
	}
	return settle(r, part)
}

// MayBegin reports whether a cluster whose turn has come may begin, and if not,
// why, and when to look again. A rotation in waves waits for the maintenance
// window, but never past the emergency lane of a client: what is about to expire
// is renewed then anyway.
func MayBegin(r *fleet.Rotation, in Input) (ok bool, why string, wake time.Time) {
	switch {
	case in.Cluster == nil:
		return true, "", wake
	case r.Reason == fleet.ReasonAuthority && in.Active == "":
		return false, "the CA that signs is not known yet", wake
	case r.Waves == nil, r.Waves.IgnoreMaintenance:
		return true, "", wake
	}
	open, opens := fleet.MayRenew(in.Cluster.Maintenance, in.Now)
	if open {
		return true, "", wake
	}
	wake = opens
	policy := fleet.PolicyOf(in.Settings, in.Cluster)
	for _, key := range concerned(r, in) {
		record := in.Credentials.Record(key)
		newest := record.Newest()
		if newest == nil || record.Revoked != nil || newest.ByProgram() {
			continue
		}
		emergency := newest.Moment(policy.Emergency)
		if !in.Now.Before(emergency) {
			return true, "", time.Time{}
		}
		wake = earlier(wake, emergency)
	}
	if opens.IsZero() {
		return false, "no maintenance window opens", wake
	}
	return false, "the maintenance window is closed until " + opens.UTC().Format(time.RFC3339), wake
}

// Held is a part that waits for its turn: nothing of it has begun.
func Held(part fleet.ClusterRotation, why string) fleet.ClusterRotation {
	part.State, part.BeganAt, part.Clients = fleet.RotationAccepted, time.Time{}, slices.Clone(part.Clients)
	for i := range part.Clients {
		if c := &part.Clients[i]; !c.Outcome.Final() {
			c.Step, c.Reason = "", why
		}
	}
	return part
}

// Exclude ends the part of a cluster that an operator has left out. What was
// rotated stays so; what is under way goes on, and the rotation does not wait.
func Exclude(r *fleet.Rotation, name string, part fleet.ClusterRotation, in Input) fleet.ClusterRotation {
	x := r.Exclusions[name]
	reason := fmt.Sprintf("left out by %s: %s", x.By, x.Reason)
	if part.State == "" {
		part.Cluster = name
		for _, key := range concerned(r, in) {
			part.Clients = append(part.Clients, fleet.RotationResult{Client: key, From: in.Credentials.Record(key).Number(), Outcome: fleet.OutcomeWaiting})
		}
	}
	part.Clients = slices.Clone(part.Clients)
	for i := range part.Clients {
		if c := &part.Clients[i]; !c.Outcome.Final() || c.Outcome.Failed() {
			c.Outcome, c.Reason = fleet.OutcomeExcluded, reason
		}
	}
	return settle(r, part)
}

// Cancel ends a part of a rotation that an operator has ended.
func Cancel(r *fleet.Rotation, part fleet.ClusterRotation) fleet.ClusterRotation {
	part.Clients = slices.Clone(part.Clients)
	for i := range part.Clients {
		c := &part.Clients[i]
		if c.Outcome.Final() {
			continue
		}
		c.Outcome, c.Reason = fleet.OutcomeCancelled, "ended by "+r.Cancel.By+" before its turn"
		if part.State == fleet.RotationRunning {
			c.Reason = "ended by " + r.Cancel.By + " before the proof; what was issued goes on"
		}
	}
	return settle(r, part)
}

// Quiet reports whether the agent of a cluster was not heard for so long that
// nobody knows when it comes back; until says when that will be so, if not.
func Quiet(agent *fleet.Agent, heard time.Duration, now time.Time) (quiet bool, until time.Time) {
	if agent == nil || agent.ID == "" {
		return true, until
	}
	until = later(agent.LastSeen, agent.EnrolledAt).Add(heard)
	if !now.Before(until) {
		return true, time.Time{}
	}
	return false, until
}

// beginAuthority plans what a rotation away from a CA does for a client: it is
// done when the newest generation is signed by the CA that signs now.
func beginAuthority(in Input, record *fleet.Record, key fleet.ClientKey, next fleet.RotationResult) fleet.RotationResult {
	newest := record.Newest()
	done := fleet.RotationResult{From: next.From, Outcome: fleet.OutcomeNotDue}
	lockout, _ := fleet.LockoutOf(record, key, in.Agent, fleet.PolicyOf(in.Settings, in.Cluster), in.Now)
	switch {
	case newest == nil:
		done.Reason = "it has no certificate yet"
	case newest.ByProgram():
		done.Reason = fleet.LeftToProgram(newest)
	case newest.Certificate.Issuer == in.Active && !newest.Step.Before(fleet.StepProven):
		done.Reason = "signed by the active CA already"
	case lockout.Bar != "":
		done.Outcome, done.Reason = fleet.OutcomeNeedsRecovery, lockout.Why(in.Cluster.Name, key)
	default:
		next.Outcome, next.To = fleet.OutcomeWaiting, authorityGoal(in, record, 0)
		next.From = next.To - 1
		return next
	}
	return done
}

// authorityGoal returns the generation that takes a client to the CA that signs
// now: the newest one, if that signed it, else the one after. A generation that
// another CA has signed just before the change is no goal.
func authorityGoal(in Input, record *fleet.Record, goal int) int {
	newest := record.Newest()
	switch {
	case newest == nil || in.Active == "":
		return goal
	case newest.Certificate.Issuer == in.Active:
		return newest.Number
	default:
		return max(goal, record.Number()+1)
	}
}
