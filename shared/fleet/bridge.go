package fleet

import (
	"bytes"
	"slices"
	"time"
)

// Bridge is a certificate of one CA that another one of the same authority has
// signed, while both are trusted: a verifier that has only the other still builds
// a path to the leaves of the one.
type Bridge struct {
	Of          string `json:"of" doc:"id of the CA whose name and key it has"`
	By          string `json:"by" doc:"id of the CA that has signed it"`
	Certificate []byte `json:"certificate" doc:"PEM"`
}

// SeveredBridge is a bridge that nobody may use any more, as its CA is trusted no
// longer: with the key of that CA, stolen later, it would still lead somewhere.
type SeveredBridge struct {
	By       string    `json:"by" doc:"id of the CA that has signed it, on whose CRL it stands"`
	Serial   string    `json:"serial" doc:"serial number, lower-case hexadecimal"`
	NotAfter time.Time `json:"notAfter"`
	At       time.Time `json:"at" doc:"when it was severed"`
	Reason   CRLReason `json:"reason"`
}

// Bridge returns the bridge between two CAs, or nil.
func (a *Authority) Bridge(of, by string) *Bridge {
	i := slices.IndexFunc(a.Bridges, func(b Bridge) bool { return b.Of == of && b.By == by })
	if i < 0 {
		return nil
	}
	return &a.Bridges[i]
}

// BridgesWanted returns the bridges between the CAs that are trusted now, in both
// directions, without their certificates. CAs of one offline root need none, those
// that are never valid together have none, and none leads to a CA that is
// compromised: it would outlive the trust in that one.
func (a *Authority) BridgesWanted() []Bridge {
	var all []Bridge
	for i := range a.CAs {
		for j := range a.CAs {
			of, by := &a.CAs[i], &a.CAs[j]
			trusted := i != j && of.Phase != PhaseRetired && by.Phase != PhaseRetired && of.TaintedAt.IsZero()
			together := of.NotBefore.Before(by.NotAfter) && by.NotBefore.Before(of.NotAfter)
			if trusted && together && !bytes.Equal(of.Trusted(), by.Trusted()) {
				all = append(all, Bridge{Of: of.ID, By: by.ID})
			}
		}
	}
	return all
}

// BridgesPEM returns the bridges as a trust bundle carries them: one text for
// each, in which the certificates follow that lead from its issuer to the offline
// root, where there is one.
func (a *Authority) BridgesPEM() []string {
	var all []string
	for _, b := range a.Bridges {
		text := slices.Clone(b.Certificate)
		if by := a.FindCA(b.By); by != nil && len(by.Anchor) > 0 {
			text = slices.Concat(text, by.Certificate, by.Chain)
		}
		all = append(all, string(text))
	}
	return all
}
