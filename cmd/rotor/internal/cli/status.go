package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func (a *app) statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the fleet at a glance",
		Long: `Show the fleet at a glance: per cluster its release, update window, earliest
expiry, the states of its clients, its agent and its last alert; below that, what
is wrong and what to do about it.

The exit code is 0 when all is well, 1 when something wants attention, 2 when
something is broken.`,
		Example: "  rotor status\n  rotor status -o json | jq '.clusters[].window'",
		Args:    ExactArgs(),
	}
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, _ []string) error {
		status, err := show(a, c, output, sheet[api.Status]{api.PathStatus, a.printStatus})
		if err != nil {
			return err
		}
		switch status.Health {
		case api.HealthWell:
			return nil
		case api.HealthBroken:
			return &ExitError{Code: exitUsage}
		default:
			return &ExitError{Code: exitFailure}
		}
	}
	return c
}

func (a *app) printStatus(w io.Writer, s *api.Status) error {
	t := a.table("CLUSTER", "KIND", "RELEASE", "WINDOW", "EXPIRES", "CLIENTS", "AGENT", "LAST ALERT")
	for i := range s.Clusters {
		c := &s.Clusters[i]
		t.add(c.Name, string(c.Kind), c.Release, windowText(c.Window, s.Now), relative(c.EarliestExpiry, s.Now),
			statesText(c.States), agentText(c, s.Now), alertText(c.LastAlert))
	}
	if len(s.Clusters) > 0 {
		if err := t.print(w); err != nil {
			return err
		}
	}
	var out strings.Builder
	if len(s.Clusters) == 0 {
		out.WriteString("no clusters yet: rotor sample > fleet.yaml, then rotor apply -f fleet.yaml\n")
	}
	rate := ""
	if s.ClockRate > 1 {
		rate = fmt.Sprintf(", the clock runs %g times as fast", s.ClockRate)
	}
	health := string(s.Health)
	if a.Styled {
		health = paint(health, false)
	}
	fmt.Fprintf(&out, "\n%s: %s, %s at %s UTC%s\n", health, plural(len(s.Clusters), "cluster"), plural(s.Clients, "client"), moment(s.Now), rate)
	for _, reason := range s.Reasons {
		fmt.Fprintf(&out, "  %s\n", printable(reason))
	}
	for _, line := range s.UnderWay {
		fmt.Fprintf(&out, "  %s\n", printable(line))
	}
	for _, revoked := range s.Revoked {
		fmt.Fprintf(&out, "  %s\n", printable(revoked))
	}
	for _, remedy := range remedies(*s) {
		fmt.Fprintf(&out, "  -> %s\n", printable(remedy))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// remedies are what to do about the alerts that are firing.
func remedies(s api.Status) []string {
	var out []string
	for i := range s.Clusters {
		alert := s.Clusters[i].LastAlert
		if alert != nil && alert.State == fleet.AlertFiring && alert.Remedy != "" && !slices.Contains(out, alert.Remedy) &&
			!slices.ContainsFunc(slices.Concat(s.Reasons, s.Revoked), func(r string) bool { return strings.Contains(r, alert.Remedy) }) {
			out = append(out, alert.Remedy)
		}
	}
	return out
}

// stateOrder is the order in which states are told: what is well comes first.
func stateOrder() []fleet.State {
	return []fleet.State{
		fleet.StateHealthy, fleet.StateDue, fleet.StatePending, fleet.StateDegraded,
		fleet.StateRecoverable, fleet.StateLockedOut, fleet.StateRevoked,
	}
}

func statesText(states map[fleet.State]int) string {
	var parts []string
	for _, state := range stateOrder() {
		if n := states[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	return strings.Join(parts, ", ")
}

func agentText(c *api.ClusterView, now time.Time) string {
	switch {
	case c.Agent == "":
		return "none"
	case c.AgentSeen == nil || c.AgentSeen.IsZero():
		return "enrolled"
	case now.Sub(*c.AgentSeen) < time.Minute:
		return "seen now"
	default:
		return "seen " + span(now.Sub(*c.AgentSeen)) + " ago"
	}
}

func alertText(a *fleet.Alert) string {
	if a == nil {
		return ""
	}
	return a.Rule + " " + string(a.State)
}
