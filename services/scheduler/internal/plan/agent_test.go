package plan

import (
	"slices"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// What is told of an agent is told once, and taken back once.
func TestAgentFacts(t *testing.T) {
	t0 := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	silence := fleet.DefaultPolicy().AgentSilence.Std()
	agent := func(mods ...func(*fleet.Agent)) *fleet.Agent {
		a := &fleet.Agent{ID: "one", EnrolledAt: t0, LastSeen: t0}
		for _, mod := range mods {
			mod(a)
		}
		return a
	}
	skewed := func(a *fleet.Agent) { a.Life.Skewed, a.Life.Skew = t0, 600 }
	copied := func(a *fleet.Agent) { a.Life.Copied = &fleet.Copied{Since: t0, How: fleet.CopiedAlive} }
	refused := func(a *fleet.Agent) { a.Life.Refused = &fleet.Refused{At: t0.Add(-fleet.Day), Heard: t0} }
	const silent, returned, grace = "rotor.agent.silent.v1", "rotor.agent.returned.v1", time.Minute
	for name, c := range map[string]struct {
		agent *fleet.Agent
		told  ToldAgent
		now   time.Time
		want  []string
		next  time.Time // when to look again
	}{
		"no agent":              {nil, ToldAgent{}, t0, nil, time.Time{}},
		"well":                  {agent(), ToldAgent{}, t0, nil, t0.Add(silence + grace)},
		"a second before":       {agent(), ToldAgent{}, t0.Add(silence + grace - time.Second), nil, t0.Add(silence + grace)},
		"silent":                {agent(), ToldAgent{}, t0.Add(silence + grace), []string{silent}, time.Time{}},
		"silent, told":          {agent(), ToldAgent{ID: "one", Silent: t0}, t0.Add(silence + fleet.Day), nil, time.Time{}},
		"returned":              {agent(), ToldAgent{ID: "one", Silent: t0.Add(-9 * fleet.Day)}, t0, []string{returned}, t0.Add(silence + grace)},
		"another agent":         {agent(), ToldAgent{ID: "two", Silent: t0.Add(-9 * fleet.Day), Copied: t0}, t0, nil, t0.Add(silence + grace)},
		"never seen, enrolled":  {agent(func(a *fleet.Agent) { a.LastSeen = time.Time{} }), ToldAgent{}, t0.Add(silence + grace), []string{silent}, time.Time{}},
		"skewed":                {agent(skewed), ToldAgent{}, t0, []string{"rotor.agent.skewed.v1"}, t0.Add(silence + grace)},
		"skewed, told":          {agent(skewed), ToldAgent{ID: "one", Skewed: t0}, t0, nil, t0.Add(silence + grace)},
		"right again":           {agent(), ToldAgent{ID: "one", Skewed: t0}, t0, []string{"rotor.agent.synced.v1"}, t0.Add(silence + grace)},
		"copied":                {agent(copied), ToldAgent{}, t0, []string{"rotor.agent.duplicated.v1"}, t0.Add(silence + grace)},
		"copied, told":          {agent(copied), ToldAgent{ID: "one", Copied: t0}, t0, nil, t0.Add(silence + grace)},
		"met a stranger":        {agent(refused), ToldAgent{}, t0, []string{"rotor.bundle.refused.v1"}, t0.Add(calm)},
		"met a stranger, told":  {agent(refused), ToldAgent{ID: "one", Refused: t0.Add(-time.Hour)}, t0, nil, t0.Add(calm)},
		"calm for a day":        {agent(refused), ToldAgent{ID: "one", Refused: t0}, t0.Add(calm), []string{"rotor.bundle.settled.v1"}, t0.Add(silence + grace)},
		"calm, told":            {agent(refused), ToldAgent{ID: "one"}, t0.Add(calm), nil, t0.Add(silence + grace)},
		"all of it at one time": {agent(skewed, copied), ToldAgent{}, t0, []string{"rotor.agent.duplicated.v1", "rotor.agent.skewed.v1"}, t0.Add(silence + grace)},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := &fleet.Cluster{Name: "edge-01", Kind: fleet.Workload}
			in := Input{Cluster: cluster, Agent: c.agent, Told: Told{Seen: true, Agent: c.told}, Now: c.now, Grace: grace}
			d := Evaluate(in)
			var got []string
			for _, f := range d.Agent {
				got = append(got, f.Kind.Type())
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) || !d.Next.Equal(c.next) {
				t.Errorf("told %q, next %s; want %q, %s", got, d.Next, c.want, c.next)
			}
			in.Told = d.Told
			if again := Evaluate(in); len(again.Agent) > 0 || !again.Told.Equal(d.Told) {
				t.Errorf("told again: %+v", again.Agent)
			}
		})
	}
}
