package scheduler

import (
	"slices"
	"strings"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/plan"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

func (s *state) clusterChanged(e kv.Entry[packed[declared]]) {
	s.declared.Add(1)
	s.turn()
	if e.Key == fleet.SettingsKey {
		s.changes.addAll()
		return
	}
	s.changes.add(e.Key)
}

// toldChanged notices what another leader has written, before this one or while
// it did not know yet that it leads no more: what was decided here without it is
// decided again. Without a document everything is told again, to no effect.
//
// The checkpoint, and what was told of the CA, lie in the same bucket and are no
// clusters: looked at as ones that were taken out of the fleet, they would be
// deleted.
func (s *state) toldChanged(e kv.Entry[packed[plan.Told]]) {
	if strings.HasPrefix(e.Key, "_") {
		return
	}
	if l := s.leading.Load(); l != nil && !e.Deleted && l.memory.told.foreign(e.Key, e.Revision) {
		s.changes.add(e.Key)
	}
}

// authorityChanged has every cluster looked at again when CAs or the trust bundle
// have changed: which CA signs, and which are trusted, may decide what its clients
// need. Of what was so at the start nobody is told by this: while a rotation of
// the CA is under way its leader looks at every cluster, and else nothing that the
// checkpoint does not know has followed from it.
func (s *state) authorityChanged(e kv.Entry[fleet.Authority]) {
	if e.Key != fleet.AuthorityKey {
		return
	}
	before := s.trusting
	s.trusting = trusting{bundle: e.Value.Bundle.Hash(), cas: e.Value.CAs}
	if before.cas != nil && !before.equal(s.trusting) {
		s.changes.addAll()
	}
	s.turn()
}

// trusting is what clusters are told of the authority.
type trusting struct {
	bundle string
	cas    []fleet.CA
}

func (t trusting) equal(other trusting) bool {
	return t.bundle == other.bundle && slices.EqualFunc(t.cas, other.cas, func(a, b fleet.CA) bool {
		return a.ID == b.ID && a.Phase == b.Phase && a.TaintedAt.Equal(b.TaintedAt)
	})
}

// theAuthority returns the authority; the zero value, while there is none.
func (s *state) theAuthority() fleet.Authority {
	e, _ := s.authority.Get(fleet.AuthorityKey)
	return e.Value
}

func (s *state) operationChanged(e kv.Entry[operation]) {
	if fleet.IsRollout(e.Key) {
		s.turn()
		return
	}
	if _, cluster, ok := strings.Cut(e.Key, "."); ok { // a part
		if l := s.leading.Load(); l != nil && !e.Deleted && l.memory.parts.foreign(e.Key, e.Revision) {
			s.changes.add(cluster)
		}
		return
	}
	news := s.running.set(kv.Entry[fleet.Rotation]{Key: e.Key, Value: e.Value.rotation, Revision: e.Revision, Deleted: e.Deleted})
	if e.Value.rotation.Reason == fleet.ReasonAuthority {
		s.turn()
	}
	if news && !e.Deleted && !e.Value.rotation.State.Done() {
		s.changes.add(e.Value.rotation.Clusters...)
	}
}
