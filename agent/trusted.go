package agent

import (
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// trusted is the newest trust bundle that everyone has who reads what this agent
// installs: the next CA begins to sign on that word. Losing it costs a repeat and
// nothing else.
type trusted struct {
	version int
	hash    string // of its signed form
	why     string // why it is not the one that is loaded
}

// acknowledge notes who has the trust bundle that is loaded by now: the verifiers
// that the agent serves, and each client that has a set, with its reload. A client
// that had it once does not lose it by a failure of later.
func (a *agent) acknowledge(w api.Work, jobs []*job) {
	bundle, signed := a.link.Bundle()
	for _, j := range jobs {
		switch {
		case j.set == nil && j.absent:
			j.note.bundle = bundle.Version
		case j.set != nil && j.loaded:
			j.note.bundle = max(j.note.bundle, j.set.Metadata.Bundle)
		}
	}
	failed := map[fleet.ClientKey]error{}
	for _, j := range jobs {
		failed[j.work.Client] = j.err
	}
	missing, why := 0, a.spreading.why
	for _, c := range w.Clients {
		n := a.note(c.Client)
		if c.Revoked != nil || n.bundle >= bundle.Version {
			continue
		}
		missing++
		text := n.why
		if err := failed[c.Client]; err != nil {
			text = err.Error()
		}
		if why == "" && text != "" {
			why = fmt.Sprintf("ca.crt of %s: %s", c.Client, text)
		}
	}
	a.trusted.why = clip(why)
	if missing == 0 && why == "" && a.spreading.version == bundle.Version {
		a.trusted = trusted{version: bundle.Version, hash: trust.Hash(signed)}
	}
}

// word is what the server is told of the agent's trust.
type word struct {
	trusted
	canary api.CanaryReport
}

// word returns what there is to tell now.
func (a *agent) word() word {
	w := word{trusted: a.trusted}
	// A handshake tells of the bundle with which it was made, and of no other.
	if c := a.canary; c.tried && c.hash == a.trusted.hash {
		w.canary = api.CanaryReport{CA: c.ca, Error: c.why}
	}
	return w
}

// unnoted reports whether the server was told and does not show it: another gateway
// may have answered, which lagged behind.
func (a *agent) unnoted(told word) bool {
	noted := a.round.work.Trust
	if noted == nil || told.version == 0 {
		return false
	}
	proven := told.canary.CA != "" && told.canary.Error == ""
	return noted.Bundle != told.version || noted.Hash != told.hash || proven && noted.CA != told.canary.CA
}

// news reports whether the server is to be told now: of something else than before,
// or of the same as it does not show it.
func (a *agent) news(w word, now time.Time) bool {
	told := a.round.word
	if w.canary.CA == "" {
		told.canary = w.canary // that no CA is to come any more is the server's own word
	}
	return w != told || a.unnoted(told) && now.Sub(a.round.wordAt) >= resend
}
