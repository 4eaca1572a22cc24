package agent

import (
	"cmp"
	"time"

	"github.com/rotor-fleet/rotor/agent/internal/config"
)

// File is what a configuration file (agent.yaml) says.
type File = config.File

// Settings are the part of a configuration file that an agent takes over while
// it runs: see Config.Changes.
type Settings = config.Settings

// ReadFile reads a configuration file strictly. An error tells everything that
// is wrong with it, with file, line and column.
func ReadFile(path string) (File, error) { return config.ReadFile(path) }

// With returns c with what it leaves out taken from a configuration file. Join
// token, log level and the address for health are for the program to take.
func (c Config) With(f File) Config {
	c.Server = cmp.Or(c.Server, f.Server)
	c.Pin = cmp.Or(c.Pin, f.CAHash)
	c.Cluster = cmp.Or(c.Cluster, f.Cluster)
	c.Directory = cmp.Or(c.Directory, f.Directory)
	c.StateDir = cmp.Or(c.StateDir, f.StateDirectory)
	c.PollWait = cmp.Or(c.PollWait, f.PollWait)
	c.Settings = f.Settings
	return c
}

// adopt takes new settings over. What failed under the old ones is tried again
// at once, what was given up as well: whoever changes them has repaired
// something.
func (a *agent) adopt(s Settings) {
	if s.Kubernetes != a.config.Settings.Kubernetes {
		a.kube.Close()
		a.kube = connectKubernetes(s.Kubernetes)
	}
	a.config.Settings = s
	a.spreading.next = time.Time{}
	for _, n := range a.notes {
		n.pause.reset()
		n.blocked, n.loading, n.next, n.loads = false, false, time.Time{}, 0
		n.trial.How = again
	}
	a.round.work.Tag = ""
	a.env.Log.Info("new settings", "maxFailures", s.Allowed())
}

// again is the name of no configuration.
const again = "again"
