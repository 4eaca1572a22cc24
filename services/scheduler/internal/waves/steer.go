package waves

import (
	"fmt"
	"maps"
	"slices"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Steer applies what an operator asks for to a rotation and reports whether that
// changes it: a repeat does not. failing is how many clients count against the
// limit, accepted or not. The error is fleet.ErrConflict if the rotation has
// ended, fleet.ErrInvalid or fleet.ErrNotFound if the command makes no sense.
func Steer(r *fleet.Rotation, c event.SteerCommand, failing int) (changed bool, err error) {
	if r.State.Done() {
		return false, fmt.Errorf("%w: rotation %s has ended, it is %s", fleet.ErrConflict, r.ID, r.State)
	}
	switch c.Action {
	case event.SteerResume:
		return resume(r, c, failing)
	case event.SteerCancel:
		if r.Cancel != nil {
			return false, nil
		}
		r.Cancel = &fleet.Cancel{By: c.By, At: c.At, Reason: c.Reason}
		return true, nil
	case event.SteerExclude:
		return shift(r, c, &r.Inclusions, &r.Exclusions)
	case event.SteerInclude:
		if !r.Excluded(c.Cluster) {
			return false, nil
		}
		return shift(r, c, &r.Exclusions, &r.Inclusions)
	default:
		return false, fmt.Errorf("%w: rotation %s: action %q: use resume, exclude, include or cancel", fleet.ErrInvalid, r.ID, c.Action)
	}
}

// resume lets a halted rotation go on. A command that has seen an earlier halt
// does not resume a later one.
func resume(r *fleet.Rotation, c event.SteerCommand, failing int) (bool, error) {
	if r.State != fleet.RotationHalted || r.Halt != nil && c.Halt != 0 && c.Halt != r.Halt.Number {
		return false, nil
	}
	if r.Accepted = failing; c.Retry {
		r.Attempt, r.Accepted = r.Attempt+1, 0
	}
	return true, r.Move(fleet.RotationRunning)
}

// shift puts a cluster on one list and takes it off the other. One that was put
// on the other at a later moment stays there: the command has come late.
func shift(r *fleet.Rotation, c event.SteerCommand, from, to *map[string]fleet.Exclusion) (bool, error) {
	if !slices.Contains(r.Clusters, c.Cluster) {
		return false, fmt.Errorf("%w: cluster %q in rotation %s", fleet.ErrNotFound, c.Cluster, r.ID)
	}
	if other, ok := (*from)[c.Cluster]; ok && !c.At.After(other.At) {
		return false, nil
	}
	if _, ok := (*to)[c.Cluster]; ok {
		return false, nil
	}
	// The rotation shares its maps with the copy that others look at.
	*from, *to = maps.Clone(*from), maps.Clone(*to)
	if *to == nil {
		*to = map[string]fleet.Exclusion{}
	}
	delete(*from, c.Cluster)
	(*to)[c.Cluster] = fleet.Exclusion{Reason: c.Reason, By: c.By, At: c.At}
	return true, nil
}
