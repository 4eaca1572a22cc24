package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// CRLReason says why a client was revoked, by the names of RFC 5280, 5.3.1, in
// the form key-compromise.
type CRLReason string

// The reasons. removeFromCRL is none of them: it is for delta lists only.
const (
	Unspecified          CRLReason = "unspecified"
	KeyCompromise        CRLReason = "key-compromise"
	CACompromise         CRLReason = "ca-compromise"
	AffiliationChanged   CRLReason = "affiliation-changed"
	Superseded           CRLReason = "superseded"
	CessationOfOperation CRLReason = "cessation-of-operation"
	CertificateHold      CRLReason = "certificate-hold"
	PrivilegeWithdrawn   CRLReason = "privilege-withdrawn"
	AACompromise         CRLReason = "aa-compromise"
)

// crlCodes are the codes of RFC 5280, 5.3.1.
var crlCodes = []struct {
	reason CRLReason
	code   int
}{
	{Unspecified, 0},
	{KeyCompromise, 1},
	{CACompromise, 2},
	{AffiliationChanged, 3},
	{Superseded, 4},
	{CessationOfOperation, 5},
	{CertificateHold, 6},
	{PrivilegeWithdrawn, 9},
	{AACompromise, 10},
}

// CRLReasons returns all reasons, in the order of their codes.
func CRLReasons() []CRLReason {
	var all []CRLReason
	for _, row := range crlCodes {
		all = append(all, row.reason)
	}
	return all
}

// Code returns the CRLReason code of RFC 5280, 5.3.1; 0, unspecified, for a name
// that is none.
func (r CRLReason) Code() int {
	for _, row := range crlCodes {
		if row.reason == r {
			return row.code
		}
	}
	return 0
}

// ParseCRLReason returns an ErrInvalid that lists the reasons for a name that is
// none of them.
func ParseCRLReason(s string) (CRLReason, error) {
	reasons := CRLReasons()
	if slices.Contains(reasons, CRLReason(s)) {
		return CRLReason(s), nil
	}
	names := make([]string, len(reasons))
	for i, reason := range reasons {
		names[i] = string(reason)
	}
	return "", fmt.Errorf("%w: reason %q: use one of %s", ErrInvalid, s, strings.Join(names, ", "))
}

// Revocation says why a client may not be issued anything any more, and why what
// it had is not to be believed.
type Revocation struct {
	At        time.Time `json:"at"`
	Reason    CRLReason `json:"reason" doc:"reason of RFC 5280, 5.3.1, such as key-compromise"`
	By        string    `json:"by,omitempty" doc:"who asked for it"`
	Operation string    `json:"operation,omitempty" doc:"id of the command that asked for it"`
}

// Reinstatement says that a client is issued credentials again. What it had
// before stays revoked.
type Reinstatement struct {
	At        time.Time   `json:"at"`
	By        string      `json:"by,omitempty"`
	Operation string      `json:"operation" doc:"id of the command that asked for it"`
	Lifted    *Revocation `json:"lifted" doc:"the revocation that it ended"`
}

// Former is what is remembered of a generation that a record has no place for
// any more, while its certificate or token has not ended: it can still be revoked.
type Former struct {
	Number    int         `json:"number"`
	Serial    string      `json:"serial"`
	Issuer    string      `json:"issuer"`
	TokenID   string      `json:"tokenID"`
	KeyID     string      `json:"keyID,omitempty" doc:"kid of the key that signed the token; empty if that was not remembered"`
	NotAfter  time.Time   `json:"notAfter"`
	ExpiresAt time.Time   `json:"expiresAt"`
	Revoked   *Revocation `json:"revoked,omitempty"`
}

// MaxFormer bounds what a record remembers beyond MaxGenerations, so that the
// document of a cluster stays small. A client that is rotated by force more often
// than this within one life has older certificates that cannot be put on a CRL;
// the gateway refuses them all the same, as it does not know them.
const MaxFormer = 32

func (g *Generation) former() Former {
	return Former{
		Number: g.Number, Serial: g.Certificate.Serial, Issuer: g.Certificate.Issuer, TokenID: g.Token.ID, KeyID: g.Token.KeyID,
		NotAfter: g.Certificate.NotAfter, ExpiresAt: g.Token.ExpiresAt, Revoked: g.Revoked,
	}
}

// ended reports whether neither certificate nor token can be used any more.
func (f Former) ended(now time.Time) bool { return now.After(f.NotAfter) && !now.Before(f.ExpiresAt) }

// Trim bounds the history to MaxGenerations. The generation in use stays, however
// many that never reached a disk have come after it. What falls out is remembered
// until it has ended.
func (r *Record) Trim(now time.Time) {
	for len(r.Generations) > MaxGenerations {
		oldest := 0
		if used := r.InUse(); used != nil && used.Number == r.Generations[0].Number {
			oldest = 1
		}
		// What a recovery has revoked stays so when the recovery falls out itself.
		for i := range r.Generations {
			if g := &r.Generations[i]; g.Revoked == nil {
				g.Revoked = r.recovered(g.Number)
			}
		}
		r.Former = append(r.Former, r.Generations[oldest].former())
		r.Generations = slices.Delete(r.Generations, oldest, oldest+1)
	}
	r.Former = slices.DeleteFunc(r.Former, func(f Former) bool { return f.ended(now) })
	if more := len(r.Former) - MaxFormer; more > 0 {
		slices.SortFunc(r.Former, func(a, b Former) int { return a.Number - b.Number })
		r.Former = slices.Delete(r.Former, 0, more)
	}
	if len(r.Former) == 0 {
		r.Former = nil
	}
}

// Reinstate ends a revocation. What the client had stays revoked for good. The
// number after it is left out: its request may have been put on file while the
// client was not to be trusted, so its next key is one that is made from now on.
func (r *Record) Reinstate(by Reinstatement) {
	if r.Revoked == nil {
		return
	}
	by.Lifted = r.Revoked
	for i := range r.Generations {
		if r.Generations[i].Revoked == nil {
			r.Generations[i].Revoked = r.Revoked
		}
	}
	for i := range r.Former {
		if r.Former[i].Revoked == nil {
			r.Former[i].Revoked = r.Revoked
		}
	}
	r.Floor = max(r.Floor, r.Number()+1)
	r.Revoked, r.Reinstated = nil, &by
}

// recovered returns why a generation counts no more that is not Usable: the
// recovery after it has revoked it. It returns nil if there was none.
func (r *Record) recovered(number int) *Revocation {
	for i := range r.Generations {
		if g := &r.Generations[i]; g.Number > number && g.Reason == ReasonRecovery {
			return &Revocation{At: g.At, Reason: Superseded, Operation: g.Operation}
		}
	}
	return nil
}

// Barred returns all that was revoked of a client, by a command or by a recovery,
// and has not ended at now, each with its revocation, oldest first.
func (r *Record) Barred(now time.Time) []Former {
	if r == nil {
		return nil
	}
	all := slices.Clone(r.Former)
	for i := range r.Generations {
		all = append(all, r.Generations[i].former())
	}
	for i := range all {
		if all[i].Revoked == nil {
			all[i].Revoked = r.recovered(all[i].Number)
		}
	}
	all = slices.DeleteFunc(all, func(f Former) bool { return f.ended(now) || f.Revoked == nil && r.Revoked == nil })
	for i := range all {
		if all[i].Revoked == nil {
			all[i].Revoked = r.Revoked
		}
	}
	slices.SortStableFunc(all, func(a, b Former) int { return a.Number - b.Number })
	return all
}

// Revocation returns the revocation that a command has made, nil if it has made
// none that is remembered.
func (r *Record) Revocation(operation string) *Revocation {
	if r == nil {
		return nil
	}
	candidates := []*Revocation{r.Revoked}
	if r.Reinstated != nil {
		candidates = append(candidates, r.Reinstated.Lifted)
	}
	for i := range r.Generations {
		candidates = append(candidates, r.Generations[i].Revoked)
	}
	for i := range r.Former {
		candidates = append(candidates, r.Former[i].Revoked)
	}
	for _, c := range candidates {
		if c != nil && c.Operation == operation {
			return c
		}
	}
	return nil
}

// Token returns the generation that a token belongs to, or nil if none on record
// has it.
func (r *Record) Token(id string) *Generation {
	if r == nil {
		return nil
	}
	for i := range r.Generations {
		if r.Generations[i].Token.ID == id {
			return &r.Generations[i]
		}
	}
	return nil
}

// Believed reports whether a generation may be believed as far as the record
// goes: it is usable, not revoked, and of those that were superseded it is the
// last that was proven. That one is left to clients that have not loaded the next
// yet; what is older than that has had all the time of a whole generation.
func (r *Record) Believed(g *Generation) bool {
	if r == nil || g == nil || r.Revoked != nil || g.Revoked != nil || !r.Usable(g.Number) {
		return false
	}
	if g.Step != StepSuperseded {
		return true
	}
	if g.ProvenAt.IsZero() {
		return false
	}
	for i := range r.Generations {
		if o := &r.Generations[i]; o.Number > g.Number && o.Step == StepSuperseded && !o.ProvenAt.IsZero() {
			return false
		}
	}
	return true
}

// RevocationList is the document of the CRL of one CA, under ListKey in the
// bucket "authority". All of it is public.
type RevocationList struct {
	CA         string    `json:"ca" doc:"id of the CA that signed it"`
	Number     int64     `json:"number" doc:"CRL number (RFC 5280, 5.2.3): never goes back"`
	ThisUpdate time.Time `json:"thisUpdate"`
	NextUpdate time.Time `json:"nextUpdate"`
	Ends       []int64   `json:"ends,omitempty" doc:"of each entry in its order, the end of its certificate in seconds since 1970"`
	DER        []byte    `json:"der" doc:"the CRL"`
}

// ListKey is the key of the CRL of a CA.
func ListKey(ca string) string { return listPrefix + ca }

const listPrefix = "crl-"

// ListOf is the inverse of ListKey; ok is false for another key.
func ListOf(key string) (ca string, ok bool) { return strings.CutPrefix(key, listPrefix) }

// The life of a CRL, on the clock of the fleet: signed anew each day, it is good
// for a week, so that six days without an issuer stop no verifier.
const (
	ListLife    = 7 * Day
	ListRefresh = Day
)
