package servercert

import (
	"crypto/tls"
	"errors"

	"github.com/rotor-fleet/rotor/services/gateway/internal/chain"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// errDistrusted says that the certificate is of a CA that was retired, as after a
// rotation through which this gateway was stopped or cut off. Agents would not
// believe it, and those that have a bridge of before should not.
var errDistrusted = errors.New("the CA of the server certificate is trusted no more; the issuer is asked for another")

// judgement is what was found of a certificate by one revision of the authority: it
// is asked for with each handshake and changes a few times a year.
type judgement struct {
	certificate *tls.Certificate
	revision    uint64
	trusted     bool
}

// trusted reports whether a CA that is not retired has signed a certificate. While
// the authority is unknown it is: whoever makes the handshake verifies it.
func (k *Keeper) trusted(c *tls.Certificate) bool {
	e, known := k.Env.State.Authority.Get(fleet.AuthorityKey)
	if !known {
		return true
	}
	if j := k.judged.Load(); j != nil && j.certificate == c && j.revision == e.Revision {
		return j.trusted
	}
	j := &judgement{certificate: c, revision: e.Revision, trusted: chain.Trusted(&e.Value, c.Leaf)}
	k.judged.Store(j)
	return j.trusted
}

// show says in the health whether agents can be served.
func (k *Keeper) show() {
	c := k.current.Load()
	switch {
	case k.Canary || c == nil: // ready without a canary; while there is nothing, ask says why
	case k.trusted(c):
		k.Env.Health.Met(condition)
	default:
		k.Env.Health.Wait(condition, errDistrusted.Error())
	}
}
