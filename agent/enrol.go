package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

var errNoToken = errors.New("this agent is not enrolled, and has no join token: start it with the command that `rotor join CLUSTER` prints, with --replace if it took the place of another")

// enrol makes the agent known to the server. It may be repeated with the same
// token, so that a lost answer does no harm.
func (a *agent) enrol(ctx context.Context) error {
	token := a.config.JoinToken
	if token.Empty() {
		return a.enrolAfresh(ctx, errNoToken)
	}
	err := a.enrolWith(ctx, token)
	if errors.Is(err, fleet.ErrDenied) || errors.Is(err, fleet.ErrConflict) {
		return a.enrolAfresh(ctx, err)
	}
	return err
}

// enrolAfresh asks for another token, if there is somebody to ask.
func (a *agent) enrolAfresh(ctx context.Context, cause error) error {
	if a.config.Join == nil {
		return cause
	}
	token, err := a.config.Join(ctx)
	if err != nil {
		return fmt.Errorf("ask for a join token: %w", err)
	}
	// Kept for a repeat: should the answer be lost, the same token is the one
	// that the server will take again.
	a.config.JoinToken = token
	return a.enrolWith(ctx, token)
}

func (a *agent) enrolWith(ctx context.Context, token secret.Text) error {
	request := api.EnrolRequest{
		Cluster: a.config.Cluster, Token: token.Reveal(), SealKey: a.me.Seal.SealKey(), Version: a.config.Version,
	}
	var reply api.EnrolReply
	err := a.link.Call(ctx, http.MethodPost, api.PathEnrol, request, &reply)
	if err != nil {
		return fmt.Errorf("enrol as agent of %s: %w", a.config.Cluster, a.heal(ctx, err))
	}
	if reply.Agent != a.me.ID || reply.Cluster != a.config.Cluster {
		return fmt.Errorf("enrol as agent of %s: the server has enrolled agent %s of %s, this is %s", a.config.Cluster, reply.Agent, reply.Cluster, a.me.ID)
	}
	a.env.Log.Info("agent enrolled", "agent", a.me.ID)
	a.say("enrolled as the agent of %s", a.config.Cluster)
	return a.noteEnrolled(true)
}
