package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// Hash names the signed form of the bundle: its SHA-256, hexadecimal. With the
// version it tells exactly what an agent has loaded.
func (b *TrustBundle) Hash() string {
	sum := sha256.Sum256([]byte(b.Signed))
	return hex.EncodeToString(sum[:])
}

// Proves reports whether the agent has proven that it trusts a CA: it has put a
// trust bundle that holds the CA wherever its clients and verifiers read it, it
// has told which one exactly, and it has completed a handshake with a server whose
// certificate is of that CA.
//
// Why says what is missing, and is empty if nothing is. Since is when it became
// so, zero where nobody has noted it: then it is so for as long as the question is
// asked. An agent from before there were hashes proves nothing.
func (a *Agent) Proves(doc *Authority, ca string) (why string, since time.Time, ok bool) {
	c := doc.FindCA(ca)
	if c == nil || c.Phase == PhaseRetired {
		return fmt.Sprintf("CA %q is not trusted", ca), since, false
	}
	first := c.Bundle // of the bundles that hold the CA
	if first == 0 {
		first = doc.Bundle.Version
	}
	failure, proof := a.BundleFailure, a.Canary
	switch {
	case failure != nil:
		return fmt.Sprintf("cannot install trust bundle %d: %s", doc.Bundle.Version, failure.Error), failure.Since, false
	case a.Bundle == 0:
		return fmt.Sprintf("has not loaded trust bundle %d yet", first), since, false
	case a.Bundle < first:
		return fmt.Sprintf("has loaded trust bundle %d, and the new CA is in %d", a.Bundle, first), since, false
	case a.Bundle > doc.Bundle.Version:
		return fmt.Sprintf("has loaded trust bundle %d, and the newest one is %d", a.Bundle, doc.Bundle.Version), since, false
	case a.BundleHash == "":
		return fmt.Sprintf("has not told the hash of its trust bundle: update the agent, its version is %q", a.Version), since, false
	case a.Bundle == doc.Bundle.Version && a.BundleHash != doc.Bundle.Hash():
		return fmt.Sprintf("its trust bundle %d has the hash %.12s, and the one that was signed has %.12s", a.Bundle, a.BundleHash, doc.Bundle.Hash()), since, false
	case proof == nil || proof.CA != ca:
		return "has not shown a handshake with the new CA yet", since, false
	case proof.Error != "":
		return "its handshake with the new CA fails: " + proof.Error, proof.Since, false
	}
	return "", proof.Since, true
}
