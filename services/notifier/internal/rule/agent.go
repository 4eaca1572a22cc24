package rule

import (
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// signinRefused raises one alert for each client, or for the cluster's agent.
// Somebody else may hold a secret: only what takes its place ends it.
func signinRefused(e event.Event, r event.Refusal) Effect {
	a := fleet.Alert{
		Rule: SigninRefused, Severity: fleet.SeverityCritical, Cluster: e.Subject(), Client: r.Client, Generation: r.Generation,
		Summary: refusedSummary(e, r), Remedy: refusedRemedy(e.Subject(), r),
	}
	if r.What == event.RefusedAgent { // most often a machine that was left running
		a.Severity = fleet.SeverityWarning
	}
	return Effect{Raise: []fleet.Alert{raise(e, a)}}
}

// agentEnrolled ends what was wrong with the agent before.
func agentEnrolled(e event.Event, _ event.Agent) Effect {
	rules := []string{SigninRefused, AgentSilent, AgentSkewed, AgentDuplicated}
	return Effect{End: []Ending{{Rules: rules, Cluster: e.Subject(), Whole: true, At: e.Time()}}}
}

func ofAgent(rule string) func(event.Event, event.Agent) Effect {
	return func(e event.Event, _ event.Agent) Effect {
		return Effect{End: []Ending{{Rules: []string{rule}, Cluster: e.Subject(), At: e.Time()}}}
	}
}

func agentSilent(e event.Event, a event.Agent) Effect {
	return oneOf(e, fleet.Alert{
		Rule: AgentSilent, Severity: fleet.SeverityWarning, Began: a.LastSeen.UTC(),
		Summary: fmt.Sprintf("the agent of %s is silent since %s: nothing of the cluster can be renewed", e.Subject(), moment(a.LastSeen)),
		Remedy:  fmt.Sprintf("look where it runs; if its machine is lost: rotor join %s --replace", e.Subject()),
	})
}

func agentSkewed(e event.Event, a event.Agent) Effect {
	off, way := time.Duration(a.Skew)*time.Second, "ahead of"
	if off < 0 {
		off, way = -off, "behind"
	}
	return oneOf(e, fleet.Alert{
		Rule: AgentSkewed, Severity: fleet.SeverityWarning,
		Summary: fmt.Sprintf("the clock of the agent of %s is %s %s the fleet's: it will take new credentials for not yet valid, or good ones for expired", e.Subject(), off, way),
		Remedy:  "set the clock of its machine (NTP)",
	})
}

func agentDuplicated(e event.Event, a event.Agent) Effect {
	how := "two processes call in turn"
	if a.How == fleet.CopiedOlder {
		how = "it was started from a copy of its state that is older than what was heard before"
	}
	return oneOf(e, fleet.Alert{
		Rule: AgentDuplicated, Severity: fleet.SeverityCritical,
		Summary: fmt.Sprintf("two have the key of the agent of %s: %s", e.Subject(), how),
		Remedy:  fmt.Sprintf("give it a new key: rotor join %s --replace", e.Subject()),
	})
}

func bundleRefused(e event.Event, a event.Agent) Effect {
	where := ""
	if a.Server != "" {
		where = " at " + a.Server
	}
	return oneOf(e, fleet.Alert{
		Rule: BundleRefused, Severity: fleet.SeverityCritical,
		Summary: fmt.Sprintf("the agent of %s has met a server%s that it does not believe, and told it nothing: %s", e.Subject(), where, a.Reason),
		Remedy:  "find out who answers there: a proxy that opens TLS, another Rotor, or an attacker",
	})
}

// oneOf raises one alert about the cluster itself.
func oneOf(e event.Event, a fleet.Alert) Effect {
	a.Cluster = e.Subject()
	return Effect{Raise: []fleet.Alert{raise(e, a)}}
}

func refusedSummary(e event.Event, r event.Refusal) string {
	who := e.Subject()
	if r.Client != nil {
		who += "/" + r.Client.String()
	}
	what := map[string]string{
		event.RefusedJoin:     "the join token of %s was tried with another key than the one that redeemed it",
		event.RefusedRecovery: "the recovery token of %s was tried with another key than the one that redeemed it",
		event.RefusedLogin:    "somebody with a token of %s was refused",
		event.RefusedAgent:    "an agent of %s that was replaced still calls",
	}[r.What]
	if what == "" {
		what = "somebody was refused as %s"
	}
	text := fmt.Sprintf(what, who)
	if r.Agent != "" {
		text += ", with key " + r.Agent
	}
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	return text
}

func refusedRemedy(cluster string, r event.Refusal) string {
	switch {
	case r.What == event.RefusedJoin:
		return "if that was not you: rotor join " + cluster + " --replace"
	case r.What == event.RefusedAgent:
		return "stop the old agent; if there is none that you know of, its key was stolen: rotor get agents " + cluster
	case r.Client == nil:
		return "rotor get clients " + cluster
	case r.What == event.RefusedRecovery:
		return fmt.Sprintf("if that was not you: rotor recover %s --client %s --token", cluster, r.Client)
	default: // its token and its key are in other hands as well; a rotation would give the client to an agent
		return fmt.Sprintf("if that was not its program: rotor revoke %s/%s --reason key-compromise; then rotor reinstate, and rotor recover %s --client %s --token",
			cluster, r.Client, cluster, r.Client)
	}
}
