// Package route decides who is told of an alert.
package route

import (
	"slices"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Choice is who is told.
type Choice struct {
	Channels []string // in the order of the configuration; empty when a route says so
	Unknown  []string // channels that were asked for and do not exist
}

// Choose returns the channels that hear of an alert. What the cluster itself
// names comes first, then the first route that matches; what neither names goes
// to every channel. A channel that does not exist is left out and told in
// Unknown; if none of those asked for exists, every channel is told: a slip of
// the pen must not silence an alert.
func Choose(a *fleet.Alert, c *fleet.Cluster, routes []fleet.Route, channels []string) Choice {
	wanted, decided := c.Notify, len(c.Notify) > 0
	for i := 0; i < len(routes) && !decided; i++ {
		if matches(&routes[i], a, c) {
			wanted, decided = routes[i].Channels, true
		}
	}
	if !decided {
		return Choice{Channels: slices.Clone(channels)}
	}
	var choice Choice
	for _, name := range channels {
		if slices.Contains(wanted, name) {
			choice.Channels = append(choice.Channels, name)
		}
	}
	for _, name := range wanted {
		if !slices.Contains(channels, name) {
			choice.Unknown = append(choice.Unknown, name)
		}
	}
	if len(choice.Channels) == 0 && len(choice.Unknown) > 0 {
		choice.Channels = slices.Clone(channels)
	}
	return choice
}

func matches(r *fleet.Route, a *fleet.Alert, c *fleet.Cluster) bool {
	return (len(r.Clusters) == 0 || slices.Contains(r.Clusters, a.Cluster)) &&
		(len(r.Rules) == 0 || slices.Contains(r.Rules, a.Rule)) &&
		a.Severity.Rank() >= r.Severity.Rank() && c.Matches(r.Labels)
}
