package agent

import (
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/install"
)

// say tells people what was done, a line for each thing. What went wrong is
// logged.
func (a *agent) say(format string, args ...any) {
	if a.env.Out != nil {
		_, _ = fmt.Fprintf(a.env.Out, format+"\n", args...)
	}
}

// sayAll says once that all clients of the cluster are proven.
func (a *agent) sayAll(clients int) {
	if a.round.complete == clients {
		return
	}
	a.round.complete = clients
	a.say("all %d clients of %s are proven; the agent keeps them new until it is stopped", clients, a.config.Cluster)
}

// ending says until when a set is good.
func ending(m install.Metadata) string {
	end := m.NotAfter
	if m.ExpiresAt.Before(end) {
		end = m.ExpiresAt
	}
	return end.UTC().Format(time.RFC3339)
}
