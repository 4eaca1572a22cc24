package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/shared/api"
)

type recoverInput struct {
	ClusterPath
	Idempotent
	Body *api.RecoveryRequest `required:"false"`
}

type recoverOutput struct {
	Location string `header:"Location" doc:"where the rotation can be followed"`
	Status   int
	Body     api.RecoveryView
}

func (a *API) registerRecoveries(h huma.API) {
	op := rotateOperation(api.PathClusters+"/{cluster}/recoveries", "recover", "Let locked-out clients of a cluster come back")
	op.Description = "Rotates what is due or worse, and recovers what is locked out, whatever the policy says. Needs nothing of the " +
		"clients' own credentials. Answers 202 with the rotation, which goes on after the answer; 200 for a dry run; 409 with the type " +
		"urn:rotor:management-first while clients of the management cluster are locked out. Revoked clients stay revoked."
	huma.Register(h, op, func(ctx context.Context, in *recoverInput) (*recoverOutput, error) {
		if in.Body == nil {
			in.Body = &api.RecoveryRequest{}
		}
		v, err := a.Operate.Recover(ctx, in.Cluster, *in.Body, in.Key)
		if err != nil {
			return nil, Problem(ctx, a.Log, err)
		}
		if v.DryRun {
			return &recoverOutput{Status: http.StatusOK, Body: v}, nil
		}
		return &recoverOutput{Location: api.PathRotations + "/" + v.ID, Status: http.StatusAccepted, Body: v}, nil
	})
}
