package backup

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// gap is how many numbers of generations a restore leaves out: more than were
// issued since any backup that is worth restoring. An agent that holds more
// says so, and goes on above what it holds.
const gap = 1000

// mergeRecord returns the record of a client after a restore. What happened in
// the world does not un-happen: of two records the one that came further stays,
// a revocation stays, and a number that may have been used is not used again.
func mergeRecord(stored, known *fleet.Record, waits int) *fleet.Record {
	if known.Newest() != nil && known.Number() >= stored.Number() {
		r := *known
		if r.Revoked == nil && stored != nil && !ended(known, stored.Revoked) {
			r.Revoked = stored.Revoked
		}
		return &r
	}
	r := *stored
	r.Floor = max(stored.Number()+gap, known.Number())
	if g := r.Newest(); g != nil && g.Step.Before(fleet.StepInstalled) && waits != g.Number {
		// Read between the record and its pick-up: nobody can fetch it any more.
		r.Generations = slices.Clone(r.Generations[:len(r.Generations)-1])
	}
	if known != nil && known.Revoked != nil {
		r.Revoked = known.Revoked
	}
	return &r
}

// ended reports whether a reinstatement that is known has ended a revocation.
func ended(known *fleet.Record, r *fleet.Revocation) bool {
	return r != nil && known.Reinstated != nil && known.Reinstated.Lifted != nil && known.Reinstated.Lifted.Operation == r.Operation
}

// mergeCredentials merges the records of a cluster.
func mergeCredentials(stored, known fleet.Credentials, waits map[fleet.ClientKey]int) fleet.Credentials {
	merged := fleet.Credentials{Clients: map[fleet.ClientKey]*fleet.Record{}}
	maps.Copy(merged.Clients, known.Clients)
	for client, r := range stored.Clients {
		if r != nil {
			merged.Clients[client] = mergeRecord(r, known.Clients[client], waits[client])
		}
	}
	return merged
}

// revoke marks a client as revoked.
func revoke(doc *fleet.Credentials, client fleet.ClientKey, at time.Time) {
	if doc.Clients == nil {
		doc.Clients = map[fleet.ClientKey]*fleet.Record{}
	}
	r := doc.Clients[client]
	if r == nil {
		r = &fleet.Record{Floor: gap}
		doc.Clients[client] = r
	}
	if r.Revoked == nil {
		r.Revoked = &fleet.Revocation{At: at.UTC().Truncate(time.Second), Reason: "unspecified"}
	}
}

// mergeAuthority returns the authority after a restore, marked as not yet done.
// Its epoch is new, so no serial number and no token id of before comes again.
func mergeAuthority(stored fleet.Authority, known *fleet.Authority, epoch string) (fleet.Authority, error) {
	merged := stored
	merged.BundleFloor = stored.Bundle.Version + gap
	if known != nil {
		if known.Bundle.FleetKey != stored.Bundle.FleetKey {
			return merged, fmt.Errorf("%w: the store holds another fleet (fleet key %s, in the backup %s): restore into an empty folder",
				fleet.ErrConflict, known.Bundle.FleetKey, stored.Bundle.FleetKey)
		}
		if max(known.Bundle.Version, known.BundleFloor) >= stored.Bundle.Version {
			merged = *known
		}
	}
	merged.Epoch, merged.Restoring = epoch, true
	return merged, nil
}

// admitted returns an agent as a backup has it, without a join token that is
// still open: it may have been redeemed since.
func admitted(a fleet.Agent) fleet.Agent {
	if a.Join != nil && a.Join.UsedBy == "" {
		a.Join = nil
	}
	return a
}
