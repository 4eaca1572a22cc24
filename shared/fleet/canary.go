package fleet

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Candidate is a cluster that might be the canary, and what is known of it.
type Candidate struct {
	Cluster *Cluster
	Records *Credentials  // nil if there are none
	Agent   *Agent        // nil if there is none
	Heard   time.Duration // how recent the last call of an agent must be, on the clock of the fleet
	Now     time.Time
}

// CanaryOrder sorts clusters by how fit they are by what is declared of them:
// workload clusters first, as others depend on a management cluster; then those
// with few clients; then by name, so that the same fleet has the same canary.
func CanaryOrder(clusters []Cluster) {
	slices.SortFunc(clusters, func(a, b Cluster) int {
		return cmp.Or(
			cmp.Compare(rank(a.Kind == Workload), rank(b.Kind == Workload)),
			cmp.Compare(len(a.ClientKeys()), len(b.ClientKeys())),
			strings.Compare(a.Name, b.Name))
	})
}

func rank(good bool) int {
	if good {
		return 0
	}
	return 1
}

// canaryLooks is how many clusters are looked at for a better canary, once there
// is one whose agent is there.
const canaryLooks = 64

// ChooseCanary returns the name of the cluster that shall go first: of those in
// which the rotation has something to do and whose agent is there, the first in
// their order that is well and whose maintenance window is open. One whose agent
// is not there is chosen only if there is no other. The clusters are in the
// order of CanaryOrder; look tells what is known of one, and its error is
// returned.
func ChooseCanary(r *Rotation, clusters []Cluster, look func(*Cluster) (Candidate, error)) (string, error) {
	best, name := 16, ""
	for i := range clusters {
		c, err := look(&clusters[i])
		if err != nil {
			return "", err
		}
		if score := c.score(r); score < best {
			best, name = score, clusters[i].Name
		}
		if best == 0 || best < 8 && i >= canaryLooks {
			break
		}
	}
	return name, nil
}

// score is 0 for a perfect canary. What weighs more stands in a higher bit.
func (c Candidate) score(r *Rotation) int {
	there := c.Agent != nil && c.Agent.ID != "" && c.Now.Sub(c.Agent.LastSeen) <= c.Heard
	well, concerned := true, false
	for _, key := range c.Cluster.ClientKeys() {
		record := c.Records.Record(key)
		if !r.Concerns(key) || record.Newest().ByProgram() && !r.Handover() {
			continue
		}
		switch StateOf(record, c.Now) {
		case StateHealthy:
			concerned = concerned || r.Force
		case StateDue:
			concerned = true
		case StateRevoked:
		default:
			well, concerned = false, true
		}
	}
	open, _ := MayRenew(c.Cluster.Maintenance, c.Now)
	return rank(there)<<3 | rank(concerned)<<2 | rank(well)<<1 | rank(open)
}
