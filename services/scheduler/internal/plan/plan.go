// Package plan decides what is to be done and told about one cluster at one
// moment. It is a function of what it is given: no clock, no network, no
// memory. What was told before comes in and goes out as a value, so a decision
// made twice is the same decision.
package plan

import (
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// source names the publisher of everything that is decided here.
const source = "scheduler"

// Input is everything that a decision depends on. Nil pointers and maps mean
// that there is no such document.
type Input struct {
	Cluster     *fleet.Cluster
	Settings    fleet.Settings
	Credentials *fleet.Credentials
	Agent       *fleet.Agent
	Releases    []fleet.Release
	Active      string              // id of the CA that signs; empty while it is not known
	Trusted     map[string]struct{} // ids of the CAs whose certificates are worth something, that one among them
	Told        Told
	Wanted      map[fleet.ClientKey]Wanted // by running rotations
	Asked       map[fleet.ClientKey]int    // generations asked of the issuer a moment ago; not asked for again
	Now         time.Time
	Grace       time.Duration // by which the last call of an agent may be behind, on the clock of the fleet
}

// Wanted is a generation that a rotation waits for.
type Wanted struct {
	Rotation   string
	Reason     fleet.Reason // of the rotation
	Generation int
	Handover   bool // from the program that signs in for the client to the agent
}

// Decision is what follows from an Input. Facts are published before commands,
// and Told is stored last: a crash in between repeats the same ids.
type Decision struct {
	Issue   []Issue
	Facts   []Fact[event.Credentials]
	Window  []Fact[event.Window]
	Agent   []Fact[event.Agent]
	Blocked []Block
	Upgrade *fleet.Rotation // a rotation to begin, as the cluster was upgraded
	Next    time.Time       // when to look again though nothing changes; zero if never
	Told    Told
}

// Issue is a command to the issuer.
type Issue struct {
	Meta    event.Meta
	Command event.IssueCommand
	Since   time.Time // the earliest moment at which one of its renewals could have run; zero if it is no renewal
}

// Fact is an event to publish.
type Fact[T any] struct {
	Kind event.Kind[T]
	Meta event.Meta
	Data T
}

// Block is a client that is due and cannot be issued for, and why.
type Block struct {
	Client     fleet.ClientKey
	Generation int
	Why        string // a stable text: it names no moment that moves
}

// Evaluate decides. It does not change its input.
func Evaluate(in Input) Decision {
	e := &evaluation{Input: in, policy: fleet.PolicyOf(in.Settings, in.Cluster)}
	e.out.Told = Told{Seen: true, Upgraded: in.Told.Upgraded, Clients: map[fleet.ClientKey]ToldClient{}}
	e.upgrade()
	for _, key := range in.Cluster.ClientKeys() {
		e.client(key)
	}
	e.window()
	e.agent()
	e.nameFacts()
	e.nameCommands()
	return e.out
}

type evaluation struct {
	Input
	policy fleet.Policy
	out    Decision
}

// wake makes sure that the cluster is looked at again at moments to come.
func (e *evaluation) wake(moments ...time.Time) {
	for _, moment := range moments {
		if moment.After(e.Now) && (e.out.Next.IsZero() || moment.Before(e.out.Next)) {
			e.out.Next = moment
		}
	}
}

// passed reports whether a moment has come; the moment itself counts. If it has
// not, the cluster is looked at again when it does.
func (e *evaluation) passed(moment time.Time) bool {
	e.wake(moment)
	return !e.Now.Before(moment)
}

func (e *evaluation) client(key fleet.ClientKey) {
	record := e.Credentials.Record(key)
	if record != nil && record.Revoked != nil {
		return // only a reinstatement brings it back; nothing is told of it either
	}
	e.tell(key, record)
	w, ok := e.want(key, record)
	if ok && e.admitted(key, record, &w) {
		e.issue(key, record, w)
	}
}

// upgrade notices that an upgrade was completed since the cluster was last
// looked at. A cluster that is new and has no credentials was not upgraded under
// Rotor's eyes: its first generation is an enrolment and there is no rotation.
func (e *evaluation) upgrade() {
	completed := e.Cluster.UpgradedAt
	if !completed.After(e.Told.Upgraded) || !upgradeHolds(e.Cluster, e.policy, e.Now) {
		e.wake(completed.Add(-e.policy.ClockSkew.Std()))
		return
	}
	e.out.Told.Upgraded = completed
	older := e.Told.Seen
	for _, key := range e.Cluster.ClientKeys() {
		if g := e.Credentials.Record(key).Newest(); g != nil && g.At.Before(completed) {
			older = true
		}
	}
	if !older {
		return
	}
	e.out.Upgrade = &fleet.Rotation{
		ID:     event.UpgradeRotationID(e.Cluster.Name, e.Cluster.Release, completed),
		Reason: fleet.ReasonUpgrade, State: fleet.RotationRunning, Clusters: []string{e.Cluster.Name},
		CompletedAt: completed, By: "upgrade to " + e.Cluster.Release, CreatedAt: e.Now, Total: len(e.Cluster.ClientKeys()),
	}
}
