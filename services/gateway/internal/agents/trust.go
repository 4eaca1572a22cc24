package agents

import (
	"encoding/hex"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// noteTrust keeps which trust bundle an agent has loaded, and its last handshake
// with the CA that is to come. What cannot be so is left out: a bundle that the
// authority has not signed, a CA that is not incoming, a success without the
// bundle that explains it. The agent sees in its work what was kept, and tells again.
func noteTrust(a *fleet.Agent, doc *fleet.Authority, in api.ReportSteps, now time.Time) (changed bool) {
	known := signed(doc, in)
	if known && (a.Bundle != in.Bundle || a.BundleHash != in.BundleHash) {
		// A handshake tells of the bundle with which it was made, and of no other.
		a.Bundle, a.BundleHash, a.Canary, changed = in.Bundle, in.BundleHash, nil, true
	}
	incoming := doc.IncomingCA()
	if in.Canary == nil || incoming == nil || in.Canary.CA != incoming.ID {
		return changed
	}
	if in.Canary.Error == "" && (!known || in.BundleHash == "") {
		return changed
	}
	proof := fleet.CanaryProof{CA: incoming.ID, Error: cut(in.Canary.Error, maxError), Since: now}
	have := a.Canary
	if have != nil && have.CA == proof.CA && (have.Error == "") == (proof.Error == "") {
		proof.Since = have.Since
	}
	if have != nil && *have == proof {
		return changed
	}
	a.Canary = &proof
	return true
}

// signed reports whether the authority may have signed the bundle that an agent
// tells of. Of those before the newest it knows no hash: they prove nothing that
// the newest does not.
func signed(doc *fleet.Authority, in api.ReportSteps) bool {
	switch {
	case in.Bundle < 1 || in.Bundle > doc.Bundle.Version:
		return false
	case in.BundleHash == "":
		return true // an agent from before there were hashes
	case in.Bundle == doc.Bundle.Version:
		return in.BundleHash == doc.Bundle.Hash()
	}
	raw, err := hex.DecodeString(in.BundleHash)
	return err == nil && len(raw) == 32 && hex.EncodeToString(raw) == in.BundleHash
}
