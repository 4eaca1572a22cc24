package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// About is the rotation of the CA that standings are about. The zero value stands
// for none.
type About struct {
	Rollout string
	To      string // id of the CA that it has made; empty until then
	CAs     string // ids of all that are trusted, with a space between: a rotation that has taken over another replaces several
}

// AboutOf returns what standings are about while a rotation of the CA is under
// way.
func AboutOf(r *fleet.Rollout, a *fleet.Authority) About {
	if r == nil || r.Kind != fleet.RolloutCA || r.Phase.Done() {
		return About{}
	}
	about := About{Rollout: r.ID, To: r.To}
	var trusted []string
	for i := range a.CAs {
		c := &a.CAs[i]
		if c.Rollout == r.ID {
			about.To = c.ID
		}
		if c.Phase != fleet.PhaseRetired {
			trusted = append(trusted, c.ID)
		}
	}
	about.CAs = strings.Join(trusted, " ")
	return about
}

// Standing is how one cluster stands to the rotation of the CA.
type Standing struct {
	Enrolled bool      // it has an agent
	Seen     time.Time // last call of the agent
	Doubt    string    // why the agent has not proven that it trusts the new CA; empty if it has
	Since    time.Time // of the doubt; zero, if the phase says since when
	Holders  []Holder
}

// Holder is a client that needs one of the CAs: with a certificate of it that
// is in use, was the last one proven, or is on its way.
type Holder struct {
	CA     string
	Client fleet.ClientKey
	Until  time.Time // end of the certificate
	Left   bool      // no rotation reaches it
	Why    string    // why it has not left the CA
	Since  time.Time // zero, if the phase says since when
}

// Equal reports whether nothing is different.
func (s Standing) Equal(other Standing) bool {
	return s.Enrolled == other.Enrolled && s.Seen.Equal(other.Seen) && s.Doubt == other.Doubt && s.Since.Equal(other.Since) &&
		slices.EqualFunc(s.Holders, other.Holders, func(a, b Holder) bool {
			return a.CA == b.CA && a.Client == b.Client && a.Until.Equal(b.Until) && a.Left == b.Left && a.Why == b.Why && a.Since.Equal(b.Since)
		})
}

// Look is what a standing is computed from. Nil pointers mean that there is no
// such document.
type Look struct {
	Authority *fleet.Authority
	Cluster   *fleet.Cluster
	Agent     *fleet.Agent
	Records   *fleet.Credentials
	Part      *fleet.ClusterRotation // of the rotation of the clients
	Now       time.Time
}

// StandingOf computes how a cluster stands.
func StandingOf(about About, l Look) Standing {
	var s Standing
	if l.Agent != nil && l.Agent.ID != "" {
		s.Enrolled, s.Seen = true, l.Agent.LastSeen
		if l.Agent.EnrolledAt.After(s.Seen) {
			s.Seen = l.Agent.EnrolledAt
		}
		s.Doubt, s.Since, _ = l.Agent.Proves(l.Authority, about.To)
	}
	if l.Records == nil {
		return s
	}
	declared := l.Cluster.ClientKeys()
	for key, record := range l.Records.Clients {
		for ca := range strings.FieldsSeq(about.CAs) {
			until, live := needs(record, ca, l.Now)
			if !live {
				continue
			}
			h := Holder{CA: ca, Client: key, Until: until}
			h.explain(l, slices.Contains(declared, key))
			s.Holders = append(s.Holders, h)
		}
	}
	slices.SortFunc(s.Holders, func(a, b Holder) int {
		if c := compare(a.Client, b.Client); c != 0 {
			return c
		}
		return strings.Compare(a.CA, b.CA)
	})
	return s
}

// needs returns until when a client needs a CA. Until a later generation is proven
// it may still fall back on the one that was proven last.
func needs(r *fleet.Record, ca string, now time.Time) (until time.Time, live bool) {
	if r == nil || r.Revoked != nil || ca == "" {
		return until, false
	}
	proven := 0
	for i := range r.Generations {
		if g := &r.Generations[i]; g.Revoked == nil && !g.Step.Before(fleet.StepProven) {
			proven = g.Number
		}
	}
	for i := range r.Generations {
		g := &r.Generations[i]
		end := g.Certificate.NotAfter
		if g.Number < proven || g.Revoked != nil || g.Certificate.Issuer != ca || now.After(end) || !r.Usable(g.Number) {
			continue
		}
		if live = true; end.After(until) {
			until = end
		}
	}
	return until, live
}

// explain says why a client has not left its CA.
func (h *Holder) explain(l Look, declared bool) {
	result := fleet.RotationResult{}
	if l.Part != nil {
		for _, c := range l.Part.Clients {
			if c.Client == h.Client {
				result = c
			}
		}
	}
	switch newest := l.Records.Record(h.Client).Newest(); {
	case !declared:
		h.Left = true
		h.Why = fmt.Sprintf("is not declared any more: revoke it, or wait until its certificate ends at %s", h.Until.UTC().Format(time.RFC3339))
	case newest.ByProgram():
		h.Left, h.Why = true, "waits for its program: "+fleet.LeftToProgram(newest)
	case l.Agent == nil || l.Agent.ID == "":
		h.Why = "no agent is enrolled for the cluster"
	case l.Agent.Failures[h.Client].Error != "":
		f := l.Agent.Failures[h.Client]
		h.Why, h.Since = fmt.Sprintf("the agent did not reach %s: %s", f.Step, f.Error), f.Since
	case result.Reason != "":
		h.Why = result.Reason
	case l.Part == nil:
		h.Why = "its turn has not come"
	default:
		h.Why = "waits for the issuer"
	}
}

func compare(a, b fleet.ClientKey) int {
	if c := strings.Compare(a.Kind, b.Kind); c != 0 {
		return c
	}
	return strings.Compare(a.Instance, b.Instance)
}
