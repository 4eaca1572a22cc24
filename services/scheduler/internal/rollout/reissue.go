package rollout

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// again is how long after a rotation of the clients that has left some behind, by
// a race with the issuer, the next one begins.
const again = time.Hour

// ReissueID returns the id of the rotation that takes the clients off the CA that
// is to go: the old one, or on the way back the new one.
func ReissueID(r *fleet.Rollout) string {
	what := "reissue"
	if r.Phase == fleet.RolloutRollback {
		what = "reissue-back"
	}
	if r.Attempt > 0 {
		return event.ID(what, r.ID, strconv.Itoa(r.Attempt))
	}
	return event.ID(what, r.ID)
}

// reissue has the clients reissued: it begins a rotation where there is none, and
// copies what keeps it from going on. reachable names the clusters with clients
// that a rotation reaches.
func (e *evaluation) reissue(reachable map[string]bool) {
	if !e.Complete && len(e.Unseen) == 0 { // a new leader has not looked at all of them: nothing is known to have changed
		e.r.Halted = e.Rollout.Halted
		return
	}
	id := ReissueID(&e.r)
	if e.r.Reissue != id || e.Reissue == nil {
		if e.r.Reissue != id {
			e.abandon() // what was on its way in the other direction
		}
		if len(reachable) > 0 {
			e.start(id)
		}
		return
	}
	rotation := e.Reissue
	e.exclusions(rotation)
	switch {
	case rotation.State == fleet.RotationHalted && rotation.Halt != nil:
		e.r.Halted = rotation.Halt.Reason
	case !rotation.State.Done() || len(reachable) == 0:
	case rotation.State == fleet.RotationCompleted && !leftOut(rotation, reachable):
		if e.passed(rotation.EndedAt.Add(again)) {
			e.r.Attempt++
			e.start(ReissueID(&e.r))
		}
	default:
		e.r.Halted = "the rotation of the clients has ended, it is " + string(rotation.State) + ", and " + clients(e.r.MissingCount) + " still use the CA that is to go"
	}
}

// leftOut reports whether an operator has left one of the clusters out of the
// rotation alone.
func leftOut(r *fleet.Rotation, clusters map[string]bool) bool {
	for name := range clusters {
		if r.Excluded(name) {
			return true
		}
	}
	return false
}

// start begins the rotation of the clients. After a compromise all clusters begin
// at once, whatever their maintenance windows.
func (e *evaluation) start(id string) {
	rotation := fleet.Rotation{
		ID: id, Reason: fleet.ReasonAuthority, State: fleet.RotationRunning, Force: true, By: "rotation of the authority " + e.r.ID,
		CreatedAt: e.Now, Trace: e.r.Trace, Clusters: slices.Sorted(maps.Keys(e.Standings)), Exclusions: maps.Clone(e.r.Excluded),
	}
	options := &fleet.WaveOptions{MaxParallel: e.r.MaxParallel}
	if _, excluded := e.r.Excluded[e.r.Canary]; !excluded && slices.Contains(rotation.Clusters, e.r.Canary) {
		options.Canary = e.r.Canary
	}
	if e.tainted() {
		options = nil
	}
	e.out.Reissue = &Reissue{Rotation: rotation, Waves: options}
	e.r.Reissue = id
}

// exclusions leaves the clusters out of the rotation that the rollout does not
// wait for.
func (e *evaluation) exclusions(rotation *fleet.Rotation) {
	if rotation.State.Done() {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(e.r.Excluded)) {
		x := e.r.Excluded[name]
		back, taken := rotation.Inclusions[name]
		if rotation.Excluded(name) || !slices.Contains(rotation.Clusters, name) || taken && !x.At.After(back.At) {
			continue
		}
		e.out.Steer = append(e.out.Steer, event.SteerCommand{
			Rotation: rotation.ID, Action: event.SteerExclude, Cluster: name, Reason: x.Reason, By: x.By, At: x.At,
		})
	}
}

// abandon ends the rotation of the clients that was under way: its goal has
// changed.
func (e *evaluation) abandon() {
	if e.r.Reissue != ReissueID(&e.r) {
		e.cancel()
	}
}

// cancel ends the rotation of the clients: nobody waits for it any more. What it
// has left are clients without any certificate that is valid.
func (e *evaluation) cancel() {
	if e.Reissue == nil || e.Reissue.State.Done() || e.Reissue.Cancel != nil {
		return
	}
	e.out.Steer = append(e.out.Steer, event.SteerCommand{
		Rotation: e.Reissue.ID, Action: event.SteerCancel, By: "rotation of the authority " + e.r.ID, At: e.Now,
		Reason: "the rotation of the authority goes on without it",
	})
}
