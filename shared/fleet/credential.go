package fleet

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// Step is how far one generation of a client has come.
type Step string

// The steps of a generation, in their order.
const (
	StepIssued     Step = "issued"     // signed and ready for pick-up
	StepDelivered  Step = "delivered"  // an agent has fetched and opened it
	StepInstalled  Step = "installed"  // it lies where the client reads it
	StepProven     Step = "proven"     // the gateway saw an authenticated call with exactly this certificate and token
	StepSuperseded Step = "superseded" // a later generation is proven
)

// stepOrder is the one transition table: a step may only move to a later one.
var stepOrder = []Step{StepIssued, StepDelivered, StepInstalled, StepProven, StepSuperseded}

// Before reports whether s comes before other; reports of a step that is not
// after the present one are repeats and have no effect.
func (s Step) Before(other Step) bool {
	return slices.Index(stepOrder, s) < slices.Index(stepOrder, other)
}

// Reason says why a generation was issued.
type Reason string

// The reasons of an issuance.
const (
	ReasonEnrolment Reason = "enrolment" // the first one, or the first after the agent was replaced
	ReasonRenewal   Reason = "renewal"   // its renewal moment had come
	ReasonEmergency Reason = "emergency" // renewal that ignored maintenance windows, or at the last resort the mode
	ReasonUpgrade   Reason = "upgrade"   // the cluster was upgraded
	ReasonRotation  Reason = "rotation"  // an operator asked
	ReasonLogin     Reason = "login"     // its program signed in with the token before
	ReasonRecovery  Reason = "recovery"  // the client was locked out
	ReasonAuthority Reason = "authority" // its certificate was signed by a CA that is to go
)

// Certificate is the public record of one client certificate.
type Certificate struct {
	Serial      string    `json:"serial" doc:"serial number, lower-case hexadecimal"`
	NotBefore   time.Time `json:"notBefore"`
	NotAfter    time.Time `json:"notAfter" doc:"last moment of validity, inclusive (RFC 5280, 4.1.2.5)"`
	Issuer      string    `json:"issuer" doc:"id of the CA generation that signed"`
	Fingerprint string    `json:"fingerprint,omitempty" doc:"SHA-256 of the DER form, hexadecimal"`
	TBS         string    `json:"tbs,omitempty" doc:"SHA-256 of its TBSCertificate (RFC 5280, 4.1.1.1), hexadecimal: as the audit ledger has it"`
}

// ValidAt reports whether now lies in the validity, both ends included.
func (c Certificate) ValidAt(now time.Time) bool {
	return !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

// Token is the public record of one token; the token itself is never stored in
// clear.
type Token struct {
	ID        string    `json:"id" doc:"jti (RFC 7519, 4.1.7)"`
	NotBefore time.Time `json:"notBefore"`
	ExpiresAt time.Time `json:"expiresAt" doc:"first moment at which it is no longer valid (RFC 7519, 4.1.4)"`
	KeyID     string    `json:"keyID,omitempty" doc:"kid of the key that signed"`
}

// ValidAt reports whether now lies in the validity; the end is excluded.
func (t Token) ValidAt(now time.Time) bool {
	return !now.Before(t.NotBefore) && now.Before(t.ExpiresAt)
}

// Generation is one pair of certificate and token of a client, rotated together.
type Generation struct {
	Number      int         `json:"number"`
	Step        Step        `json:"step"`
	Reason      Reason      `json:"reason"`
	Operation   string      `json:"operation" doc:"id of the command that asked for it; the same id never makes another"`
	Rotation    string      `json:"rotation,omitempty" doc:"id of the rotation it belongs to"`
	At          time.Time   `json:"at" doc:"moment from which its validity is counted"`
	Life        Life        `json:"life" doc:"validity that was asked for; what is needed to derive the same certificate again"`
	RenewAt     time.Time   `json:"renewAt" doc:"moment drawn for its renewal"`
	Agent       string      `json:"agent" doc:"id of the agent that its token is sealed to; empty for a program that signs in by itself"`
	Key         string      `json:"key" doc:"JWK thumbprint of the client's key (RFC 7638)"`
	Certificate Certificate `json:"certificate"`
	Signature   []byte      `json:"signature,omitempty" doc:"signature of the certificate (RFC 5280, 4.1.1.3): what cannot be derived again, where an HSM signs"`
	Token       Token       `json:"token"`
	Cut         bool        `json:"cut,omitempty" doc:"its validity was cut to the life of the CA"`
	ProvenAt    time.Time   `json:"provenAt,omitzero"`
	Revoked     *Revocation `json:"revoked,omitempty" doc:"it was revoked, and the client is reinstated since: it stays revoked for good"`
	Trace       string      `json:"trace,omitempty" doc:"traceparent (W3C Trace Context) of its issuance; empty if it was not traced"`
}

// Life is the validity that a generation asks for.
type Life struct {
	Certificate time.Time `json:"certificate" doc:"notAfter"`
	Token       time.Time `json:"token" doc:"exp"`
}

// Expiry returns the moment at which the first of the two credentials ends.
func (g *Generation) Expiry() time.Time {
	if g.Token.ExpiresAt.Before(g.Certificate.NotAfter) {
		return g.Token.ExpiresAt
	}
	return g.Certificate.NotAfter
}

// Left returns the share of the life that is left at now, 0 when it is over.
func (g *Generation) Left(now time.Time) Share {
	life := g.Expiry().Sub(g.At)
	if left := g.Expiry().Sub(now); left > 0 && life > 0 {
		return Share(float64(left) / float64(life))
	}
	return 0
}

// Moment returns when the given share of the life is left.
func (g *Generation) Moment(left Share) time.Time {
	return g.Expiry().Add(-left.Of(g.Expiry().Sub(g.At)))
}

// Record is the public record of one client.
type Record struct {
	Generations []Generation   `json:"generations" doc:"oldest first; bounded to MaxGenerations"`
	Revoked     *Revocation    `json:"revoked,omitempty"`
	Reinstated  *Reinstatement `json:"reinstated,omitempty" doc:"the last time that a revocation was ended"`
	Former      []Former       `json:"former,omitempty" doc:"generations that fell out and have not ended, oldest first; bounded to MaxFormer"`
	Floor       int            `json:"floor,omitempty" doc:"generations up to this number are not issued any more: they may have been before a restore, or their request was filed before a reinstatement"`
}

// MaxGenerations bounds the history in a record: the generation in use, one on
// its way, and the one before for the case of a report that comes late.
const MaxGenerations = 3

// Newest returns the generation with the highest number, or nil.
func (r *Record) Newest() *Generation {
	if r == nil || len(r.Generations) == 0 {
		return nil
	}
	return &r.Generations[len(r.Generations)-1]
}

// InUse returns the newest generation that has reached the client's disk and is
// not revoked, or nil while there is none.
func (r *Record) InUse() *Generation {
	if r == nil {
		return nil
	}
	for i := len(r.Generations) - 1; i >= 0; i-- {
		if g := &r.Generations[i]; g.Revoked == nil && !g.Step.Before(StepInstalled) {
			return g
		}
	}
	return nil
}

// Usable reports whether a generation may still be used to sign in: not once a
// later one was issued to recover the client. What the client had before may
// have been lost to somebody while it was away.
func (r *Record) Usable(number int) bool {
	if r == nil {
		return false
	}
	return !slices.ContainsFunc(r.Generations, func(g Generation) bool { return g.Number > number && g.Reason == ReasonRecovery })
}

// everProven reports whether any generation that is not revoked has been proven.
func (r *Record) everProven() bool {
	for i := range r.Generations {
		if g := &r.Generations[i]; g.Revoked == nil && !g.Step.Before(StepProven) {
			return true
		}
	}
	return false
}

// Find returns the generation with this number, or nil.
func (r *Record) Find(number int) *Generation {
	if r == nil {
		return nil
	}
	for i := range r.Generations {
		if r.Generations[i].Number == number {
			return &r.Generations[i]
		}
	}
	return nil
}

// Number returns the highest number that a generation has, or that may have been
// used before a restore; 0 when there is none. The next generation lies above.
func (r *Record) Number() int {
	number := 0
	if r != nil {
		number = r.Floor
	}
	if g := r.Newest(); g != nil {
		number = max(number, g.Number)
	}
	return number
}

// Next returns the number of the next generation. An agent that lost what is on
// record may ask for a higher one: after a restore it holds generations that the
// record does not know, and their numbers are never used again.
func (r *Record) Next(request Request) int {
	if next := r.Number() + 1; !request.Lost || request.Generation < next {
		return next
	}
	return min(request.Generation, r.Number()+MaxAhead)
}

// MaxAhead bounds how far a request may jump ahead of the record.
const MaxAhead = 1 << 20

// Credentials is the document of one cluster in the bucket of the same name.
type Credentials struct {
	Clients map[ClientKey]*Record `json:"clients"`
}

// Record returns the record of a client, or nil.
func (c *Credentials) Record(key ClientKey) *Record {
	if c == nil {
		return nil
	}
	return c.Clients[key]
}

// State is what a client can do now, computed from its two credentials.
type State string

// The states of a client.
const (
	StatePending     State = "pending"     // no generation has been proven yet
	StateHealthy     State = "healthy"     // both valid
	StateDue         State = "due"         // both valid, past the renewal moment
	StateDegraded    State = "degraded"    // token expired: dies at its next restart
	StateRecoverable State = "recoverable" // certificate expired: can sign in with the token
	StateLockedOut   State = "locked-out"  // both expired
	StateRevoked     State = "revoked"     // only an explicit reinstatement brings it back
)

// StateOf computes the state of a client at now. It is never stored.
func StateOf(r *Record, now time.Time) State {
	if r != nil && r.Revoked != nil {
		return StateRevoked
	}
	g := r.InUse()
	if g == nil {
		return StatePending
	}
	certificate, token := g.Certificate.ValidAt(now), g.Token.ValidAt(now)
	switch {
	case certificate && token && !r.everProven():
		return StatePending // installed, but nobody has seen it work
	case certificate && token && now.Before(g.RenewAt):
		return StateHealthy
	case certificate && token:
		return StateDue
	case certificate:
		return StateDegraded
	case token:
		return StateRecoverable
	default:
		return StateLockedOut
	}
}

// DrawRenewal returns the renewal moment of a generation: a point of the
// interval [RenewFrom, RenewTo] of its life that depends on nothing but the
// client and the generation. Drawn once, it is spread evenly over a fleet; a
// draw at each check would pull every renewal to the start of the interval.
func DrawRenewal(cluster string, key ClientKey, number int, p Policy, from, to time.Time) time.Time {
	sum := sha256.Sum256(fmt.Appendf(nil, "rotor renewal %s %s %d", cluster, key, number))
	u := float64(binary.BigEndian.Uint64(sum[:8])>>11) / (1 << 53)
	share := float64(p.RenewFrom) + u*float64(p.RenewTo-p.RenewFrom)
	return from.Add(time.Duration(share * float64(to.Sub(from)))).UTC().Truncate(time.Second)
}
