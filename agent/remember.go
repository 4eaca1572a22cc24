package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/rotor-fleet/rotor/agent/internal/state"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// stateFolder is where an agent keeps its own, in the folder that it installs
// in, if nobody says otherwise.
const stateFolder = ".rotor-agent"

// remember completes the configuration. What a state that exists should tell and
// cannot be read now is waited for: a file that cannot be read is no reason to
// end. What nobody has ever said is an error.
func (a *agent) remember(ctx context.Context) error {
	if a.config.StateDir == "" && a.config.Directory != "" {
		a.config.StateDir = filepath.Join(a.config.Directory, stateFolder)
	}
	given, wrong := a.config, error(nil)
	complete := func(context.Context) error {
		record, err := state.At(given.StateDir, a.env.Log).LoadRecord()
		if a.config, wrong = given.complete(record); wrong == nil {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w; it may stand in the agent's state, but: %w", wrong, err)
		}
		return nil
	}
	if complete(ctx) != nil {
		a.retry(ctx, conditionEnrolment, complete)
		if ctx.Err() != nil {
			return nil
		}
	}
	if wrong != nil {
		return wrong
	}
	if a.config.PollWait <= 0 {
		a.config.PollWait = DefaultPollWait
	}
	a.config.PollWait = min(a.config.PollWait, maxPollWait)
	a.env.Log = a.env.Log.With("cluster", a.config.Cluster)
	return nil
}

// complete returns the configuration with what it leaves out taken from the join
// token and from what the agent remembers, or what is wrong with it.
func (c Config) complete(r state.Record) (Config, error) {
	joins, _ := api.ReadJoinToken(c.JoinToken.Reveal())
	if c.Cluster != "" && joins != "" && joins != c.Cluster {
		return c, fmt.Errorf("%w: the join token is for cluster %s, not for %s", fleet.ErrInvalid, joins, c.Cluster)
	}
	c.Cluster = cmp.Or(c.Cluster, joins, r.Cluster)
	if r.Cluster != "" && r.Cluster != c.Cluster {
		return c, fmt.Errorf("%w: %s holds the keys of the agent of cluster %s: choose another folder for %s, or delete that one",
			fleet.ErrInvalid, c.StateDir, r.Cluster, c.Cluster)
	}
	c.Server, c.Pin = cmp.Or(c.Server, r.Server), cmp.Or(c.Pin, r.Pin)
	c.Rehearsal = c.Rehearsal || r.Rehearsal
	if err := c.Validate(); err != nil {
		return c, err
	}
	if c.Pin == "" {
		return c, fmt.Errorf("%w: pin of the fleet key: missing; it is shown with the join token", fleet.ErrInvalid)
	}
	return c, nil
}

// newest returns the newest version of the trust bundle that this agent, or
// whoever made its join token, is known to have seen. An older one is a replay.
func (a *agent) newest() int {
	_, bundle := api.ReadJoinToken(a.config.JoinToken.Reveal())
	return max(bundle, a.store.Record().Bundle)
}
