package agent

import (
	"github.com/rotor-fleet/rotor/shared/api"
)

// revoked reports whether a client is revoked, and says so once. There is nothing
// to do for it then: it gets nothing, and what it has proves nothing any more.
//
// The set stays where it is. To take it away would stop a client at once that
// somebody has revoked by mistake, and would keep nobody out who has copied the
// key: that is for those who verify, by CRL or introspection.
func (a *agent) revoked(w api.ClientWork, n *note) bool {
	switch {
	case w.Revoked != nil && !n.revoked:
		*n = note{revoked: true}
		a.env.Log.Warn("a client is revoked; what it has stays where it is and is not renewed",
			"client", w.Client.String(), "reason", string(w.Revoked.Reason), "since", w.Revoked.At)
	case w.Revoked == nil && n.revoked:
		n.revoked = false
		a.env.Log.Info("a client is reinstated; it gets a new generation", "client", w.Client.String())
	}
	return n.revoked
}
