package fleet

import (
	"slices"
	"time"
)

// Phase is the phase of one generation of the authority.
type Phase string

// The phases, in their order.
const (
	PhaseIncoming Phase = "incoming" // trusted, signs nothing yet
	PhaseActive   Phase = "active"   // trusted, signs
	PhaseOutgoing Phase = "outgoing" // trusted, signs no more
	PhaseRetired  Phase = "retired"  // not trusted
)

// CA is one generation of the certificate authority.
type CA struct {
	ID          string    `json:"id" doc:"hexadecimal key identifier of its certificate"`
	Number      int       `json:"number"`
	Phase       Phase     `json:"phase"`
	Certificate []byte    `json:"certificate" doc:"PEM"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter"`
	ActivatedAt time.Time `json:"activatedAt,omitzero" doc:"when it began to sign; of the first one, when it was made"`
	RetiredAt   time.Time `json:"retiredAt,omitzero" doc:"when it was taken out of the trust bundle"`
	Rollout     string    `json:"rollout,omitempty" doc:"id of the rotation of the authority that made it"`
	CreatedAt   time.Time `json:"createdAt,omitzero" doc:"when a rotation of the authority made or imported it; absent of others, which were made five minutes after notBefore"`
	Bundle      int       `json:"bundle,omitempty" doc:"version of the trust bundle from which on every version has it, until it is retired"`
	Withdrawn   bool      `json:"withdrawn,omitempty" doc:"retired as its rotation was taken back"`
	Anchor      []byte    `json:"anchor,omitempty" doc:"PEM, of a CA that an offline root has signed: that root, which is what verifiers trust"`
	Chain       []byte    `json:"chain,omitempty" doc:"PEM, of such a CA: the certificates between it and the root, in their order"`
	TaintedAt   time.Time `json:"taintedAt,omitzero" doc:"when an operator said that it is compromised"`
	Succession  bool      `json:"succession,omitempty" doc:"made as the one before came near its end and nobody had rotated it: its phases pass by time, and nobody has proven that all were ready"`
}

// PreparedAt returns when the generation was made.
func (c *CA) PreparedAt() time.Time {
	if !c.CreatedAt.IsZero() {
		return c.CreatedAt
	}
	return c.NotBefore.Add(Backdate)
}

// Trusted returns the certificate that verifiers trust for the sake of this CA,
// PEM: its own, or that of the offline root that has signed it.
func (c *CA) Trusted() []byte {
	if len(c.Anchor) > 0 {
		return c.Anchor
	}
	return c.Certificate
}

// Listed reports whether the CRL of this CA is kept and served at now: while it is
// trusted; and of one that is compromised until it has expired, for verifiers that
// have not heard yet that it is trusted no more.
func (c *CA) Listed(now time.Time) bool {
	return c.Phase != PhaseRetired || !c.TaintedAt.IsZero() && !now.After(c.NotAfter)
}

// SigningKey is one generation of the key that signs tokens.
type SigningKey struct {
	ID          string    `json:"id" doc:"kid"`
	Number      int       `json:"number"`
	Phase       Phase     `json:"phase"`
	JWK         []byte    `json:"jwk" doc:"public key (RFC 7517)"`
	Algorithm   string    `json:"algorithm,omitempty" doc:"alg of its tokens (RFC 7518): EdDSA, or ES256; empty for EdDSA"`
	CreatedAt   time.Time `json:"createdAt"`
	ActivatedAt time.Time `json:"activatedAt,omitzero" doc:"when it began to sign; of the first one, when it was made"`
	RetireAt    time.Time `json:"retireAt,omitzero" doc:"of an outgoing key: when the last token that it has signed ends"`
	RetiredAt   time.Time `json:"retiredAt,omitzero" doc:"when it was taken out of the key set"`
	Withdrawn   bool      `json:"withdrawn,omitempty" doc:"retired as its rotation was taken back"`
	Rollout     string    `json:"rollout,omitempty" doc:"id of the rotation of the authority that made it"`
}

// Authority is the public document of the authority, under AuthorityKey in the
// bucket of the same name.
type Authority struct {
	CAs         []CA            `json:"cas"`
	Keys        []SigningKey    `json:"keys"`
	TokenIssuer string          `json:"tokenIssuer" doc:"iss of the tokens"`
	Audience    []string        `json:"audience" doc:"aud of the tokens"`
	Former      TokenNames      `json:"former,omitzero" doc:"what tokens that are still valid may carry instead"`
	TrustDomain string          `json:"trustDomain" doc:"host part of the URI names in certificates"`
	Bundle      TrustBundle     `json:"bundle"`
	Bridges     []Bridge        `json:"bridges,omitempty" doc:"certificates of the one CA by the other, while two are trusted"`
	Severed     []SeveredBridge `json:"severed,omitempty" doc:"bridges to CAs that are trusted no more, until they end"`
	Epoch       string          `json:"epoch,omitempty" doc:"random, made anew by each restore: it enters the derivation of serial numbers and token ids, so that none of before comes again"`
	BundleFloor int             `json:"bundleFloor,omitempty" doc:"versions of the trust bundle below may have been handed out before a restore"`
	Pending     *PendingCA      `json:"pending,omitempty" doc:"a CA that waits for the signature of an offline root"`
	Refused     *RefusedMove    `json:"refused,omitempty" doc:"the last change of phase that the issuer refused, until one of the same half is made"`
	Checkpoint  string          `json:"checkpoint,omitempty" doc:"newest checkpoint of the audit ledger: heads of all chains as a JWS in compact form, signed by the fleet key (RFC 7515)"`
	Told        []string        `json:"told,omitempty" doc:"ids of the facts about these generations that were told"`
	Restoring   bool            `json:"restoring,omitempty" doc:"a restore has begun and has not ended: nothing is signed"`
}

// RefusedMove is a change of phase that was out of order.
type RefusedMove struct {
	Rollout string      `json:"rollout" doc:"id of the rotation of the authority that asked for it"`
	Kind    RolloutKind `json:"kind" enum:"ca,token"`
	Move    Move        `json:"move" enum:"prepare,activate,retire,withdraw,restore,taint"`
	Why     string      `json:"why"`
	At      time.Time   `json:"at" doc:"the first time that it was refused for this reason"`
}

// PendingCA is a key of a CA to come, whose certificate an offline root signs.
type PendingCA struct {
	Number    int       `json:"number"`
	CSR       []byte    `json:"csr" doc:"PKCS #10, DER (RFC 2986)"`
	CreatedAt time.Time `json:"createdAt"`
}

// TokenNames are values of iss and aud that were in use before an operator
// changed them: tokens that carry them live on until they end.
type TokenNames struct {
	Issuers  []string `json:"issuers,omitempty"`
	Audience []string `json:"audience,omitempty"`
}

// Issued reports whether a token with this iss and these aud can be one of this
// authority, now or from before a change.
func (a *Authority) Issued(issuer string, audience []string) bool {
	ours := func(aud string) bool {
		return slices.Contains(a.Audience, aud) || slices.Contains(a.Former.Audience, aud)
	}
	return (issuer == a.TokenIssuer || slices.Contains(a.Former.Issuers, issuer)) && slices.ContainsFunc(audience, ours)
}

// Rename sets iss and aud of the tokens to come, and remembers the ones before.
func (a *Authority) Rename(issuer string, audience []string) {
	remember := func(list []string, value string) []string {
		if value == "" || slices.Contains(list, value) {
			return list
		}
		return append(list, value)
	}
	if a.TokenIssuer != issuer {
		a.Former.Issuers = remember(a.Former.Issuers, a.TokenIssuer)
	}
	for _, aud := range a.Audience {
		if !slices.Contains(audience, aud) {
			a.Former.Audience = remember(a.Former.Audience, aud)
		}
	}
	a.TokenIssuer, a.Audience = issuer, audience
}

// AuthorityKey is the key of the one document in the bucket "authority".
const AuthorityKey = "authority"

// TrustBundle is the set of CA certificates trusted now.
type TrustBundle struct {
	Version      int      `json:"version"`
	Certificates []string `json:"certificates" doc:"PEM, the active one first"`
	Bridges      []string `json:"bridges,omitempty" doc:"PEM, while two CAs are trusted: certificates of the one by the other, each with those that lead to an offline root"`
	FleetKey     string   `json:"fleetKey" doc:"SHA-256 of the fleet key's SubjectPublicKeyInfo: what agents pin"`
	Signed       string   `json:"signed" doc:"the bundle as a JWS in compact form, signed by the fleet key (RFC 7515)"`
}

// NextBundle returns the trust bundle that follows from the phases of the CAs:
// the one that signs first, then what is trusted beside it, in a version that no
// agent has seen yet. It still has to be signed.
func (a *Authority) NextBundle() (version int, certificates []string) {
	for _, phase := range []Phase{PhaseActive, PhaseOutgoing, PhaseIncoming} {
		for i := range a.CAs {
			trusted := string(a.CAs[i].Trusted())
			if a.CAs[i].Phase == phase && !slices.Contains(certificates, trusted) { // one offline root may have signed several
				certificates = append(certificates, trusted)
			}
		}
	}
	return max(a.Bundle.Version+1, a.BundleFloor), certificates
}

// ActiveCA returns the generation that signs, or nil.
func (a *Authority) ActiveCA() *CA { return a.caIn(PhaseActive) }

// IncomingCA returns the generation that is trusted and signs nothing yet, or nil.
func (a *Authority) IncomingCA() *CA { return a.caIn(PhaseIncoming) }

func (a *Authority) caIn(phase Phase) *CA {
	for i := range a.CAs {
		if a.CAs[i].Phase == phase {
			return &a.CAs[i]
		}
	}
	return nil
}

// TrustedCAs returns the generations that are trusted now.
func (a *Authority) TrustedCAs() []CA {
	var all []CA
	for i := range a.CAs {
		if a.CAs[i].Phase != PhaseRetired {
			all = append(all, a.CAs[i])
		}
	}
	return all
}

// FindCA returns the generation with this id, or nil.
func (a *Authority) FindCA(id string) *CA {
	for i := range a.CAs {
		if a.CAs[i].ID == id {
			return &a.CAs[i]
		}
	}
	return nil
}

// Trusts reports whether the CA with this id is trusted now.
func (a *Authority) Trusts(id string) bool {
	c := a.FindCA(id)
	return c != nil && c.Phase != PhaseRetired
}

// ActiveKey returns the token key that signs, or nil.
func (a *Authority) ActiveKey() *SigningKey {
	for i := range a.Keys {
		if a.Keys[i].Phase == PhaseActive {
			return &a.Keys[i]
		}
	}
	return nil
}

// FindKey returns the token key with this kid, or nil.
func (a *Authority) FindKey(id string) *SigningKey {
	for i := range a.Keys {
		if a.Keys[i].ID == id {
			return &a.Keys[i]
		}
	}
	return nil
}

// NextCA returns the number of the next generation of the CA: no number comes
// again, also not that of a key which waits for an offline root.
func (a *Authority) NextCA() int {
	number := 0
	for i := range a.CAs {
		number = max(number, a.CAs[i].Number)
	}
	if a.Pending != nil {
		number = max(number, a.Pending.Number)
	}
	return number + 1
}

// NextKey returns the number of the next token key.
func (a *Authority) NextKey() int {
	number := 0
	for i := range a.Keys {
		number = max(number, a.Keys[i].Number)
	}
	return number + 1
}
