package agent

import (
	"fmt"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// local is what the disk says about one client.
type local struct {
	Installed int  // generation that readers see; 0 for none, or none that is whole
	Pending   bool // the key of the server's newest generation waits here
	GivenUp   bool // the server's newest generation was given up here
	Ask       bool // the time has come to ask for another
	Restored  bool // the server's record may be behind the disk for good: it was restored from a backup
}

// plan is what one round does for one client.
type plan struct {
	Install bool         // take what is ready
	Report  []fleet.Step // what the disk has and the server does not know
	Prove   bool         // call with what is installed
	Back    bool         // readers see, or go back to, the set of before
	Settle  bool         // what came before is not needed any more
	File    int          // generation to put a request on file for; 0 for none
	Lost    string       // why the server's newest generation can never be used here
}

// decide compares the server's view of a client with the disk. It is level-
// triggered: it depends on nothing that happened, only on what is.
//
// A request for the next generation is filed only when the newest is on the
// disk, or is lost: until then the issuer may still need the request on file to
// derive the newest again.
func decide(w api.ClientWork, l local) plan {
	number := max(w.Next, w.Generation+1)
	next := number
	if w.Request == number {
		next = 0
	}
	ready := w.Pickup != nil && w.Pickup.Generation == w.Generation
	proven := !w.Step.Before(fleet.StepProven)
	switch {
	case w.Barred:
		return plan{File: next} // what is there proves nothing; the next one does
	case l.Installed > w.Generation && l.Restored && (w.Next > 0 || w.Generation == 0):
		return ahead(w, l.Installed, number)
	case w.Program && l.Installed <= w.Generation:
		return plan{File: next} // not lost: it was never for this agent
	case w.Generation == 0:
		return plan{File: next}
	case l.GivenUp && !proven:
		return back(w, l.Ask)
	case l.Installed > w.Generation:
		return plan{} // a view that is behind; a later one will not be
	case l.Installed == w.Generation:
		return plan{Report: missing(w.Step), Prove: !proven, Settle: proven, File: next}
	case ready && l.Pending:
		return plan{Install: true, Prove: true, File: next}
	case ready:
		return lost(w, "key of generation %d is lost")
	case !proven && l.Pending:
		return plan{} // recorded, and on its way to the pick-up
	case !proven:
		return lost(w, "generation %d is not for this agent: its key and token are another's")
	default:
		return lost(w, "generation %d was installed and is gone")
	}
}

// lost is the plan for a generation that can never be used here: say so, and
// ask for the next, with a flag that says that it is urgent.
func lost(w api.ClientWork, format string) plan {
	return plan{Lost: fmt.Sprintf(format, w.Generation), File: max(w.Next, w.Generation+1)}
}

// back is the plan for a generation that was given up: the set of before is in
// use, and in time another generation is asked for.
func back(w api.ClientWork, ask bool) plan {
	p := plan{Back: true}
	if ask {
		p.File = max(w.Next, w.Generation+1)
	}
	return p
}

// ahead is the plan for a disk that is ahead of a server that was restored from
// a backup: what is installed is not on record, so it is replaced at once. The
// one after it may have been signed before the restore too, so neither number
// is used again.
func ahead(w api.ClientWork, installed, number int) plan {
	return plan{
		Lost: fmt.Sprintf("generation %d is installed and the record ends with %d: the server was restored from a backup", installed, w.Generation),
		File: max(number, installed+2),
	}
}

// missing returns the steps that lie on the disk and are not recorded.
func missing(recorded fleet.Step) []fleet.Step {
	var steps []fleet.Step
	for _, s := range []fleet.Step{fleet.StepDelivered, fleet.StepInstalled} {
		if recorded.Before(s) {
			steps = append(steps, s)
		}
	}
	return steps
}
