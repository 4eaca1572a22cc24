package fleet

import (
	"slices"
	"time"
)

// CALive returns the first generation whose certificate keeps the CA with this id
// needed: one in use, or on its way to be; that has not expired; and that was not
// revoked. It returns nil if there is none. Only a CA that no client needs may be
// retired.
func (r *Record) CALive(ca string, now time.Time) *Generation {
	return r.live(func(g *Generation) bool { return g.Certificate.Issuer == ca && !now.After(g.Certificate.NotAfter) })
}

func (r *Record) live(match func(*Generation) bool) *Generation {
	if r == nil || r.Revoked != nil {
		return nil
	}
	used := 0
	if g := r.InUse(); g != nil {
		used = g.Number
	}
	for i := range r.Generations {
		if g := &r.Generations[i]; g.Number >= used && g.Revoked == nil && r.Usable(g.Number) && match(g) {
			return g
		}
	}
	return nil
}

// TokenEnd returns when the last token ends that this key can have signed for the
// client, zero if there is none. What was remembered without its key counts.
func (r *Record) TokenEnd(kid string) (end time.Time) {
	if r == nil {
		return end
	}
	for i := range r.Generations {
		if t := r.Generations[i].Token; t.KeyID == kid && t.ExpiresAt.After(end) {
			end = t.ExpiresAt
		}
	}
	for _, f := range r.Former {
		if (f.KeyID == kid || f.KeyID == "") && f.ExpiresAt.After(end) {
			end = f.ExpiresAt
		}
	}
	return end
}

// Replaced returns the certificates of a CA that have not ended and are not
// revoked, and that no client needs any more as a later generation is proven; with
// all, those too that are still in use. Such of a CA that is compromised go on its
// CRL.
func (r *Record) Replaced(ca string, all bool, now time.Time) []Former {
	if r == nil {
		return nil
	}
	proven := 0
	for i := range r.Generations {
		if g := &r.Generations[i]; !g.Step.Before(StepProven) {
			proven = max(proven, g.Number)
		}
	}
	certificates := slices.Clone(r.Former)
	for i := range r.Generations {
		certificates = append(certificates, r.Generations[i].former())
	}
	return slices.DeleteFunc(certificates, func(f Former) bool {
		return f.Issuer != ca || now.After(f.NotAfter) || f.Revoked != nil || !all && f.Number >= proven
	})
}
