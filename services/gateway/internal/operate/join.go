package operate

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// joinLife is how long a join token can be used. It is a matter of people and
// networks, so it passes on the machine's time; a fast clock only writes it down
// in its own.
const joinLife = time.Hour

// Join makes a one-time token with which an agent can enrol for a cluster. It
// takes the place of one that was made before.
func (o *Operator) Join(ctx context.Context, cluster string, request api.JoinRequest) (api.JoinReply, error) {
	o.State.Declared.Fresh(ctx)
	declared, err := o.State.Cluster(cluster)
	if err != nil {
		return api.JoinReply{}, err
	}
	if declared.Delivery.Hosted() && !request.Hosted {
		return api.JoinReply{}, fmt.Errorf("%w: cluster %s has \"delivery\" in the fleet file, so the server hosts its agent: take delivery out and apply the file, then `rotor join %s --replace`",
			fleet.ErrConflict, cluster, cluster)
	}
	authority, ok := o.State.TheAuthority()
	if !ok {
		return api.JoinReply{}, fmt.Errorf("%w: there is no authority yet that an agent could trust: check that the issuer runs", fleet.ErrConflict)
	}
	token := api.JoinToken(cluster, authority.Bundle.Version, rand.Text()+rand.Text())
	pin := authority.Bundle.FleetKey
	reply := api.JoinReply{
		Command: api.AgentCommand(o.Agents, token, pin), Token: token, Cluster: cluster, Server: o.Agents, CAHash: pin, FleetKey: pin,
		ExpiresAt: o.Clock.Now().Add(time.Duration(float64(joinLife) * o.Clock.Rate())).Truncate(time.Second),
	}
	if o.Clock.Rate() > 1 {
		reply.Command += " --rehearsal"
	}
	if known := o.State.Agent(cluster); known != nil && known.ID != "" && !request.Replace {
		return api.JoinReply{}, hasAgent(cluster, known)
	}
	if err := ledger.Record(ctx, o.Ledger, audit.Entry{
		Action: "agent.join-token", Cluster: cluster, Request: ledger.Request("join", ""),
		Details: map[string]string{"replace": strconv.FormatBool(request.Replace), "expiresAt": reply.ExpiresAt.UTC().Format(time.RFC3339)},
	}); err != nil {
		return api.JoinReply{}, err
	}
	e, err := o.State.Agents.Bucket.Edit(ctx, cluster, func(a *fleet.Agent) error {
		if a.ID != "" && !request.Replace {
			return hasAgent(cluster, a)
		}
		a.Join = &fleet.JoinToken{Hash: HashToken(token), ExpiresAt: reply.ExpiresAt, Replace: request.Replace}
		return nil
	})
	if err != nil {
		return api.JoinReply{}, fmt.Errorf("make a join token for %s: %w", cluster, err)
	}
	o.State.Agents.Await(ctx, e.Revision)
	return reply, nil
}

// hasAgent refuses a second agent for a cluster: both would install, and neither
// would know what the other has done.
func hasAgent(cluster string, a *fleet.Agent) error {
	return fmt.Errorf("%w: cluster %s has an agent already (%.12s, last seen %s): if a new one shall take its place, `rotor join %s --replace`",
		fleet.ErrConflict, cluster, a.ID, a.LastSeen.UTC().Format(time.RFC3339), cluster)
}

// HashToken returns the form in which a join token is stored.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
