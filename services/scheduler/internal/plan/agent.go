package plan

import (
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// ToldAgent is what has been told of the agent of a cluster, and not been taken
// back. Another agent starts with nothing.
type ToldAgent struct {
	ID      string    `json:"id,omitempty"`
	Silent  time.Time `json:"silent,omitzero" doc:"last call, of an agent that was told to be silent"`
	Skewed  time.Time `json:"skewed,omitzero" doc:"since when its clock is wrong"`
	Copied  time.Time `json:"copied,omitzero" doc:"when two with its key were noticed"`
	Refused time.Time `json:"refused,omitzero" doc:"when it was last offered a bundle that it did not believe"`
}

func (t ToldAgent) equal(other ToldAgent) bool {
	return t.ID == other.ID && t.Silent.Equal(other.Silent) && t.Skewed.Equal(other.Skewed) &&
		t.Copied.Equal(other.Copied) && t.Refused.Equal(other.Refused)
}

// calm is how long after the last refused bundle the matter counts as over.
const calm = fleet.Day

// agent adds the facts about the agent itself.
func (e *evaluation) agent() {
	if e.Agent == nil || e.Agent.ID == "" {
		return
	}
	told := &e.out.Told.Agent
	if *told = e.Told.Agent; told.ID != e.Agent.ID {
		*told = ToldAgent{ID: e.Agent.ID}
	}
	e.silence(told)
	life := e.Agent.Life
	switch {
	case !life.Skewed.IsZero() && !told.Skewed.Equal(life.Skewed):
		e.agentFact(event.AgentSkewed, life.Skewed, life.Skewed, event.Agent{Since: life.Skewed, Skew: life.Skew})
		told.Skewed = life.Skewed
	case life.Skewed.IsZero() && !told.Skewed.IsZero():
		e.agentFact(event.AgentSynced, told.Skewed, e.Now, event.Agent{Since: told.Skewed, Skew: life.Skew})
		told.Skewed = time.Time{}
	}
	if c := life.Copied; c != nil && !told.Copied.Equal(c.Since) {
		e.agentFact(event.AgentDuplicated, c.Since, c.Since, event.Agent{Since: c.Since, How: c.How})
		told.Copied = c.Since
	}
	e.refused(told, life.Refused)
}

func (e *evaluation) silence(told *ToldAgent) {
	seen := e.Agent.LastSeen
	if seen.IsZero() {
		seen = e.Agent.EnrolledAt
	}
	at := seen.Add(e.policy.AgentSilence.Std())
	if seen.IsZero() {
		return // of a version that did not write it down
	}
	switch silent := e.passed(at.Add(e.Grace)); {
	case silent && !told.Silent.Equal(seen):
		e.agentFact(event.AgentSilent, seen, at, event.Agent{LastSeen: seen})
		told.Silent = seen
	case !silent && !told.Silent.IsZero():
		e.agentFact(event.AgentReturned, told.Silent, seen, event.Agent{LastSeen: seen, Since: told.Silent})
		told.Silent = time.Time{}
	}
}

// refused tells of bundles that the agent was offered and did not believe. It is
// told when the agent can tell it, which may be long after.
func (e *evaluation) refused(told *ToldAgent, r *fleet.Refused) {
	switch {
	case r == nil:
	case !e.passed(r.Heard.Add(calm)):
		if told.Refused.IsZero() {
			e.agentFact(event.BundleRefused, r.Heard, r.Heard, event.Agent{Since: r.At, Server: r.Server, Reason: r.Reason})
		}
		told.Refused = r.Heard
	case !told.Refused.IsZero():
		e.agentFact(event.BundleSettled, told.Refused, r.Heard.Add(calm), event.Agent{Since: told.Refused})
		told.Refused = time.Time{}
	}
}

func (e *evaluation) agentFact(kind event.Kind[event.Agent], key, at time.Time, data event.Agent) {
	data.Agent, data.Version = e.Agent.ID, e.Agent.Version
	e.out.Agent = append(e.out.Agent, Fact[event.Agent]{Kind: kind, Data: data, Meta: event.Meta{
		Source: source, Cluster: e.Cluster.Name, Key: []string{data.Agent, key.UTC().Format(time.RFC3339Nano)}, Time: at.UTC(),
	}})
}
