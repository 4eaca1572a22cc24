package operate

import (
	"context"
	"fmt"
	"strings"

	"github.com/rotor-fleet/rotor/services/gateway/internal/view"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// underEmergency reports whether what a taint asks for is so: the last rotation of
// the CA knows of it, and goes on or has ended with it.
func underEmergency(have *fleet.Rollout, ca *fleet.CA) bool {
	return have != nil && have.Tainted(ca.ID) && (!have.Phase.Done() || ca.Phase == fleet.PhaseRetired)
}

// mayTaint settles which CA is meant, and refuses a taint that can have no effect.
// Another rotation that is under way is no reason to: it is turned into an
// emergency, or taken over.
func (o *Operator) mayTaint(ctx context.Context, have *fleet.Rollout, c *event.RolloutCommand) (*fleet.CA, error) {
	o.State.Authority.Fresh(ctx)
	a, _ := o.State.TheAuthority()
	ca, err := meant(&a, c.CA)
	if err != nil {
		return nil, err
	}
	c.CA = ca.ID
	switch {
	case underEmergency(have, ca):
		return ca, nil
	case ca.Phase == fleet.PhaseRetired:
		return nil, fmt.Errorf("%w: CA %d, %s, is retired: nobody trusts it any more, and nothing is left to replace", fleet.ErrConflict, ca.Number, view.Short(ca.ID))
	case ca.Phase == fleet.PhaseIncoming && (have == nil || have.Phase.Done()):
		return nil, fmt.Errorf("%w: CA %d, %s, belongs to no rotation yet: have one take it over with rotor authority rotate --yes, then rotor authority taint %s",
			fleet.ErrConflict, ca.Number, view.Short(ca.ID), view.Short(ca.ID))
	}
	return ca, nil
}

// meant returns the CA that is compromised: the only one that is trusted, if none
// is named.
func meant(a *fleet.Authority, id string) (*fleet.CA, error) {
	trusted := a.TrustedCAs()
	switch {
	case id != "":
		if ca := a.FindCA(id); ca != nil {
			return ca, nil
		}
		return nil, fmt.Errorf("CA %q: %w: rotor authority status lists them", id, fleet.ErrNotFound)
	case a.ActiveCA() == nil:
		return nil, fmt.Errorf("%w: there is no authority yet: check that the issuer runs", fleet.ErrConflict)
	case len(trusted) == 1:
		return &trusted[0], nil
	}
	var commands []string
	for i := range trusted {
		commands = append(commands, fmt.Sprintf("rotor authority taint %s (CA %d, %s)", view.Short(trusted[i].ID), trusted[i].Number, trusted[i].Phase))
	}
	return nil, fmt.Errorf("%w: %d CAs are trusted now: say which one is compromised: %s", fleet.ErrConflict, len(trusted), strings.Join(commands, ", or "))
}

// willTaint returns what a rotation is about to be, for an answer that cannot wait
// for the scheduler any longer.
func (o *Operator) willTaint(have *fleet.Rollout, c *event.RolloutCommand, fresh fleet.Rollout) fleet.Rollout {
	a, _ := o.State.TheAuthority()
	switch {
	case have == nil || have.Phase.Done():
	case have.LeadsTo(&a) == c.CA:
		fresh.Replaces = have.ID
	default:
		return *have
	}
	return fresh
}
