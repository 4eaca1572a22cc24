package view

import (
	"fmt"
	"slices"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Rotate says what a rotation of the cluster would do, by the rule of the
// scheduler: without force only what is due or worse, never what is revoked, and
// never more than one generation ahead of the one that is proven.
func (c Cluster) Rotate(r fleet.Rotation) fleet.ClusterRotation {
	part := fleet.ClusterRotation{Cluster: c.Declared.Name, State: fleet.RotationCompleted, Clients: []fleet.RotationResult{}}
	for _, key := range c.Selected(r.Clients) {
		result := c.rotateClient(key, r)
		if result.Outcome == fleet.OutcomeWaiting {
			part.State = fleet.RotationAccepted
		}
		part.Clients = append(part.Clients, result)
	}
	return part
}

// Waves says how far each wave of a rotation has come; nil of one without.
func Waves(r fleet.Rotation, results []fleet.ClusterRotation) []api.WaveProgress {
	if r.Waves == nil {
		return nil
	}
	parts := make(map[string]*fleet.ClusterRotation, len(results))
	for i := range results {
		parts[results[i].Cluster] = &results[i]
	}
	all := make([]api.WaveProgress, len(r.Waves.Sizes))
	for i := range all {
		w := &all[i]
		from, to := r.Waves.Range(i + 1)
		w.Wave, w.Clusters = i+1, to-from
		for _, name := range r.Clusters[min(from, len(r.Clusters)):min(to, len(r.Clusters))] {
			part := parts[name]
			switch {
			case part == nil:
				continue
			case part.State == fleet.RotationAccepted:
				w.Held++
				continue
			case part.State.Done() && !r.Again(*part):
				w.Ended++
			}
			w.Begun++
			for _, c := range part.Clients {
				if r.Fails(c.Outcome) {
					w.Failed++
				}
			}
		}
	}
	return all
}

// Selected returns the clients of the cluster that an operator has named, all if
// none, in the order of their rotation.
func (c Cluster) Selected(named []fleet.ClientKey) []fleet.ClientKey {
	all := c.Declared.ClientKeys()
	if len(named) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(key fleet.ClientKey) bool {
		return !slices.ContainsFunc(named, func(k fleet.ClientKey) bool { return Selects(k, key) })
	})
}

func (c Cluster) rotateClient(key fleet.ClientKey, r fleet.Rotation) fleet.RotationResult {
	record := c.Records.Record(key)
	newest := record.Newest()
	result := fleet.RotationResult{Client: key, From: record.Number(), Outcome: fleet.OutcomeWaiting}
	state := fleet.StateOf(record, c.Now)
	flying := newest != nil && newest.Revoked == nil && newest.Step.Before(fleet.StepProven) && c.Now.Before(newest.Expiry())
	lockout, _ := c.Lockout(key)
	switch {
	case state == fleet.StateRevoked:
		result.Outcome, result.Reason = fleet.OutcomeRevoked, "revoked: "+string(record.Revoked.Reason)
		return result
	case lockout.Bar != "" && r.Reason != fleet.ReasonRecovery:
		result.Outcome, result.Reason = fleet.OutcomeNeedsRecovery, lockout.Why(c.Declared.Name, key)
		return result
	case newest.ByProgram() && r.Reason != fleet.ReasonRecovery && !r.Handover():
		result.Outcome, result.Reason = fleet.OutcomeNotDue, fleet.LeftToProgram(newest)
		return result
	case newest.ByProgram() && r.Handover() && (c.Agent == nil || c.Agent.ID == ""):
		result.Outcome, result.Reason = fleet.OutcomeFailed, fleet.NobodyToTakeOver
		return result
	case newest.ByProgram() && r.Handover():
		result.To = record.Number() + 1
		return result
	case !r.Force && (state == fleet.StateHealthy || state == fleet.StatePending && flying):
		result.Outcome, result.Reason = fleet.OutcomeNotDue, "its next renewal is "+moment(newest.RenewAt)
		return result
	case flying:
		result.From, result.To, result.Step = newest.Number-1, newest.Number, newest.Step
		result.Reason = fmt.Sprintf("generation %d is on its way", newest.Number)
	default:
		result.To = record.Number() + 1
	}
	if reason, _ := c.waits(key, record); reason != "" {
		result.Reason = reason
	}
	return result
}

// Selects reports whether a key named by an operator means this client: a kind
// alone means all of its instances.
func Selects(named, key fleet.ClientKey) bool {
	return named == key || named.Instance == "" && named.Kind == key.Kind
}
