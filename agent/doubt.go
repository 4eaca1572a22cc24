package agent

import (
	"crypto/x509"
	"errors"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/link"
	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// doubts count what may be a moment's disorder of the servers, until it is more
// than that.
type doubts struct {
	count int // of the same kind, one after the other
	kind  error
}

// patience is how often the server may show what a server that lags behind
// would, before it is told of.
const patience = 3

// Kinds of doubt beside those of packages trust and link.
var errForeign = errors.New("no authority of the trust bundle has signed its certificate")

// doubt keeps that the agent has met what it does not believe, for the server
// to be told once it can be reached. A wrong signature is told of at once; an
// older bundle, or a certificate that the newest bundle does not cover, when it
// comes again and again: of several gateways one may lag behind.
func (a *agent) doubt(err error) {
	kind := error(nil)
	for _, k := range []error{trust.ErrUntrusted, link.ErrStale, errForeign} {
		if errors.Is(err, k) {
			kind = k
		}
	}
	if kind == nil {
		return
	}
	if !errors.Is(a.doubts.kind, kind) {
		a.doubts = doubts{kind: kind}
	}
	a.doubts.count++
	if !errors.Is(kind, trust.ErrUntrusted) && a.doubts.count < patience {
		return
	}
	record := a.store.Record()
	refused := &fleet.Refused{At: a.env.Clock.Now().UTC().Truncate(time.Second), Server: a.link.Asked(), Reason: err.Error()}
	a.env.Log.Error("somebody may be in the middle: this server is not believed, and was told nothing", "server", refused.Server, "err", err)
	a.env.Metrics.refused()
	if known := record.Refused; known != nil && known.Reason == refused.Reason && refused.At.Sub(known.At) < time.Hour {
		return // it is noted, and not told yet
	}
	record.Refused = refused
	if err := a.store.SaveRecord(record); err != nil {
		_ = a.warn("cannot note what was not believed", err)
	}
}

// told forgets a doubt that the server was told of.
func (a *agent) told(r *fleet.Refused) error {
	a.doubts = doubts{}
	if r == nil {
		return nil
	}
	record := a.store.Record()
	if record.Refused == nil || *record.Refused != *r {
		return nil // another has come since
	}
	record.Refused = nil
	return a.store.SaveRecord(record)
}

// foreign reports whether a call has failed as no authority that is trusted has
// signed the server's certificate.
func foreign(err error) bool {
	_, ok := errors.AsType[x509.UnknownAuthorityError](err)
	return ok
}

// countStart counts one more start, or none where the count is lost: to begin
// anew would look like a copy of the state from long ago.
func countStart(me state.Identity, r state.Record) int {
	if me.Fresh || r.Starts > 0 && r.Agent == me.ID {
		return r.Starts + 1
	}
	return 0
}
