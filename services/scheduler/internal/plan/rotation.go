package plan

import (
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Whole stands for the client in the result of a cluster that is not known.
var whole = fleet.ClientKey{Kind: "all"}

// Selected returns the clients of a cluster that a rotation concerns, in the
// order of rotation, and those it names that the cluster does not have. A key
// without an instance means every instance of its kind.
func Selected(r *fleet.Rotation, c *fleet.Cluster) (keys, unknown []fleet.ClientKey) {
	all := c.ClientKeys()
	if len(r.Clients) == 0 {
		return all, nil
	}
	for _, key := range all {
		if r.Concerns(key) {
			keys = append(keys, key)
		}
	}
	for _, want := range r.Clients {
		only := fleet.Rotation{Clients: []fleet.ClientKey{want}}
		if !slices.ContainsFunc(all, only.Concerns) && !slices.Contains(unknown, want) {
			unknown = append(unknown, want)
		}
	}
	return keys, unknown
}

// Begin plans the part of a rotation that concerns one cluster. Planned again
// after a crash, it finds the generations that it has already led to.
func Begin(r *fleet.Rotation, name string, in Input) fleet.ClusterRotation {
	part := fleet.ClusterRotation{Cluster: name, State: fleet.RotationRunning, BeganAt: in.Now, Attempt: r.Attempt}
	if in.Cluster == nil {
		for _, key := range concerned(r, in) {
			part.Clients = append(part.Clients, gone(r, fleet.RotationResult{Client: key}, "the cluster is not in the fleet"))
		}
		return settle(r, part)
	}
	keys, unknown := Selected(r, in.Cluster)
	for _, key := range keys {
		result := begin(r, in, key)
		result.Client = key
		part.Clients = append(part.Clients, result)
	}
	for _, key := range unknown {
		part.Clients = append(part.Clients, failed(key, "the cluster has no such client"))
	}
	return settle(r, part)
}

// gone is the result of what is not in the fleet: a failure to who wanted it
// rotated, and nothing left of a CA that is to go.
func gone(r *fleet.Rotation, result fleet.RotationResult, why string) fleet.RotationResult {
	result.Outcome, result.Reason = fleet.OutcomeFailed, why
	if r.Reason == fleet.ReasonAuthority {
		result.Outcome = fleet.OutcomeNotDue
	}
	return result
}

func failed(key fleet.ClientKey, why string) fleet.RotationResult {
	return fleet.RotationResult{Client: key, Outcome: fleet.OutcomeFailed, Reason: why}
}

func begin(r *fleet.Rotation, in Input, key fleet.ClientKey) fleet.RotationResult {
	record := in.Credentials.Record(key)
	newest := record.Newest()
	next := fleet.RotationResult{From: record.Number(), To: record.Number() + 1, Outcome: fleet.OutcomeWaiting}
	if record != nil && record.Revoked != nil {
		return fleet.RotationResult{From: record.Number(), Outcome: fleet.OutcomeRevoked, Reason: "revoked: only a reinstatement brings it back"}
	}
	if r.Reason == fleet.ReasonAuthority {
		return beginAuthority(in, record, key, next)
	}
	if newest == nil {
		return next
	}
	for _, g := range record.Generations {
		if g.Rotation == r.ID {
			return fleet.RotationResult{From: g.Number - 1, To: g.Number, Outcome: fleet.OutcomeWaiting}
		}
	}
	// The permit of a recovery may not be here yet: it travels on another way.
	lockout, _ := fleet.LockoutOf(record, key, in.Agent, fleet.PolicyOf(in.Settings, in.Cluster), in.Now)
	if lockout.Bar != "" && r.Reason != fleet.ReasonRecovery {
		return fleet.RotationResult{
			From: record.Number(), Outcome: fleet.OutcomeNeedsRecovery,
			Reason: lockout.Why(in.Cluster.Name, key),
		}
	}
	if newest.ByProgram() && r.Reason != fleet.ReasonRecovery {
		return beginProgram(r, in, newest, next)
	}
	if r.Reason == fleet.ReasonUpgrade {
		return beginUpgrade(in, record, next)
	}
	state := fleet.StateOf(record, in.Now)
	switch {
	case !r.Force && state == fleet.StateHealthy:
		return fleet.RotationResult{
			From: newest.Number, Outcome: fleet.OutcomeNotDue,
			Reason: "not due: renewed by itself from " + newest.RenewAt.UTC().Format(time.RFC3339) + " on",
		}
	case InFlight(newest, in.Now):
		// Never more than one generation ahead of the proven one: ride along.
		return fleet.RotationResult{From: newest.Number - 1, To: newest.Number, Outcome: fleet.OutcomeWaiting}
	default:
		return next
	}
}

// beginProgram leaves a client to its program, unless an operator has named it
// and insists: then its agent takes it over. A rotation of whole clusters, or of
// the fleet, must not take the keys from under programs.
func beginProgram(r *fleet.Rotation, in Input, newest *fleet.Generation, next fleet.RotationResult) fleet.RotationResult {
	switch {
	case !r.Handover():
		next.To, next.Outcome, next.Reason = 0, fleet.OutcomeNotDue, fleet.LeftToProgram(newest)
	case in.Agent == nil || in.Agent.ID == "":
		next.To, next.Outcome, next.Reason = 0, fleet.OutcomeFailed, fleet.NobodyToTakeOver
	}
	return next
}

// beginUpgrade keeps what is valid for longer than the upgrade gives.
func beginUpgrade(in Input, record *fleet.Record, next fleet.RotationResult) fleet.RotationResult {
	if Outdated(in.Cluster, fleet.PolicyOf(in.Settings, in.Cluster), record.Newest(), in.Now) {
		return next
	}
	return kept(fleet.RotationResult{From: record.Number()}, record.Newest())
}

func kept(result fleet.RotationResult, g *fleet.Generation) fleet.RotationResult {
	result.To, result.Outcome = 0, fleet.OutcomeKept
	result.Reason = "valid until " + g.Expiry().UTC().Format(time.RFC3339) + ", longer than the upgrade gives"
	return result
}

// Follow brings the results up to date with the records. It returns a copy.
func Follow(r *fleet.Rotation, part fleet.ClusterRotation, in Input, blocked []Block) fleet.ClusterRotation {
	part.Clients = slices.Clone(part.Clients)
	for i, result := range part.Clients {
		if !result.Outcome.Final() {
			part.Clients[i] = follow(r, result, in, blocked)
		}
	}
	return settle(r, part)
}

func follow(r *fleet.Rotation, result fleet.RotationResult, in Input, blocked []Block) fleet.RotationResult {
	if in.Cluster == nil || !slices.Contains(in.Cluster.ClientKeys(), result.Client) {
		return gone(r, result, "it was taken out of the fleet meanwhile")
	}
	record := in.Credentials.Record(result.Client)
	if record != nil && record.Revoked != nil {
		result.Outcome, result.Reason = fleet.OutcomeRevoked, "revoked meanwhile"
		return result
	}
	if r.Reason == fleet.ReasonAuthority {
		if now := beginAuthority(in, record, result.Client, fleet.RotationResult{From: result.From}); now.Outcome.Final() && now.Outcome != fleet.OutcomeNotDue ||
			record.Newest().ByProgram() {
			return now
		}
		result.To = authorityGoal(in, record, result.To)
	}
	if newest := record.Newest(); newest != nil && newest.Rotation == r.ID {
		result.To = max(result.To, newest.Number) // a recovery token leads to a generation of its own
	}
	g := record.Find(result.To)
	switch {
	case g == nil && record.Newest() != nil && record.Newest().Number > result.To && result.To > record.Floor:
		// So long ago that the record has forgotten it.
		result.Step, result.Outcome, result.Reason = fleet.StepSuperseded, fleet.OutcomeRotated, ""
	case g == nil && record.Number() >= result.To: // it may have been issued, and nobody knows any more
		result.Step, result.Outcome, result.Reason = "", fleet.OutcomeFailed, "its number was left out meanwhile, by a restore from a backup or a reinstatement: rotate again"
	case g != nil && !g.Step.Before(fleet.StepProven):
		result.Step, result.Outcome, result.Reason = g.Step, fleet.OutcomeRotated, ""
	case g.ByProgram():
		result.Step, result.Reason = g.Step, "given to its program; waits for the proof: an authenticated call with it"
	case g != nil:
		result.Step, result.Reason = g.Step, hindrance(in.Agent, result, g.Step)
	case r.Reason == fleet.ReasonUpgrade && record.Newest() != nil && !InFlight(record.Newest(), in.Now) &&
		!Outdated(in.Cluster, fleet.PolicyOf(in.Settings, in.Cluster), record.Newest(), in.Now):
		result = kept(result, record.Newest())
	default:
		result.Step, result.Reason = "", hindrance(in.Agent, result, "")
		for _, b := range blocked {
			if b.Client == result.Client {
				result.Reason = b.Why
			}
		}
	}
	if token := tokenOf(r, in.Agent, result.Client); !result.Outcome.Final() && token.UsedBy == "" && in.Now.Before(token.ExpiresAt) {
		result.Reason = "waits for its recovery token to be redeemed, until " + token.ExpiresAt.UTC().Format(time.RFC3339)
	}
	return result
}

// tokenOf returns the recovery token that a recovery has made for a client, the
// zero value if it has made none.
func tokenOf(r *fleet.Rotation, agent *fleet.Agent, key fleet.ClientKey) fleet.Recovery {
	if agent != nil && agent.Recoveries[key].Operation == r.ID {
		return agent.Recoveries[key]
	}
	return fleet.Recovery{}
}

// hindrance says what a generation waits for, in words that stay the same while
// it waits for the same thing.
func hindrance(agent *fleet.Agent, result fleet.RotationResult, step fleet.Step) string {
	if agent != nil {
		if f, ok := agent.Failures[result.Client]; ok && f.Generation == result.To {
			return fmt.Sprintf("the agent did not reach %s: %s", f.Step, f.Error)
		}
	}
	switch step {
	case fleet.StepIssued:
		return "waits for the agent to fetch it"
	case fleet.StepDelivered:
		return "waits for the agent to install it"
	case fleet.StepInstalled:
		return "waits for the proof: an authenticated call with it"
	default:
		return "waits for the issuer"
	}
}

// Expire ends what still waits at the deadline as failed and names the cause.
// The generation itself goes on; only the rotation no longer waits for it.
func Expire(r *fleet.Rotation, part fleet.ClusterRotation, agent *fleet.Agent, after time.Duration) fleet.ClusterRotation {
	part.Clients = slices.Clone(part.Clients)
	for i := range part.Clients {
		result := &part.Clients[i]
		if result.Outcome.Final() {
			continue
		}
		cause := fmt.Sprintf("not proven within %s: %s", after, result.Reason)
		if agent != nil && !agent.LastSeen.IsZero() {
			cause += "; the agent was last seen at " + agent.LastSeen.UTC().Format(time.RFC3339)
		}
		result.Outcome, result.Reason = fleet.OutcomeFailed, cause
	}
	return settle(r, part)
}

// Pending returns the generations that a part of a rotation waits for.
func Pending(r *fleet.Rotation, part fleet.ClusterRotation, into map[fleet.ClientKey]Wanted) {
	if part.State != fleet.RotationRunning {
		return
	}
	for _, result := range part.Clients {
		if !result.Outcome.Final() && into[result.Client].Generation < result.To {
			into[result.Client] = Wanted{Rotation: r.ID, Reason: r.Reason, Generation: result.To, Handover: r.Handover()}
		}
	}
}

// settle computes the state of a part from its results.
func settle(r *fleet.Rotation, part fleet.ClusterRotation) fleet.ClusterRotation {
	part.State = fleet.RotationCompleted
	for _, result := range part.Clients {
		if !result.Outcome.Final() {
			part.State = fleet.RotationRunning
			return part
		}
		if r.Fails(result.Outcome) {
			part.State = fleet.RotationFailed
		}
	}
	return part
}
