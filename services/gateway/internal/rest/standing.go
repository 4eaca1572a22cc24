package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/shared/api"
)

type standingOutput struct {
	Status int
	Body   api.ClientView
}

// registerStandings adds what decides whether a client may have credentials.
func (a *API) registerStandings(h huma.API) {
	operation := func(path, id, summary, text string) huma.Operation {
		return huma.Operation{
			OperationID: id, Method: http.MethodPost, Path: api.PathClusters + "/{cluster}/" + path, Summary: summary, Tags: []string{"writes"},
			Description:  text + " Answers 200 with the client when that is so, and 202 when it takes longer than an answer may; it then happens all the same.",
			MaxBodyBytes: maxBody, Errors: []int{401, 404, 409, 422, 503}, Security: []map[string][]string{{bearer: {}}},
		}
	}
	huma.Register(h, operation("revocations", "revoke", "Revoke a client",
		"Its certificates are on the CRL and its tokens inactive, for good; it is issued nothing until it is reinstated, by no rotation, renewal, upgrade or recovery."),
		func(ctx context.Context, in *struct {
			ClusterPath
			Idempotent
			Body api.RevokeRequest
		},
		) (*standingOutput, error) {
			return a.standing(ctx)(a.Operate.Revoke(ctx, in.Cluster, in.Body, in.Key))
		})
	huma.Register(h, operation("reinstatements", "reinstate", "Reinstate a revoked client",
		"It gets a new generation with a key that its agent makes from now on; what it had before stays revoked."),
		func(ctx context.Context, in *struct {
			ClusterPath
			Idempotent
			Body api.ReinstateRequest
		},
		) (*standingOutput, error) {
			return a.standing(ctx)(a.Operate.Reinstate(ctx, in.Cluster, in.Body, in.Key))
		})
}

// standing makes the answer of what became of a client.
func (a *API) standing(ctx context.Context) func(api.ClientView, bool, error) (*standingOutput, error) {
	return func(v api.ClientView, done bool, err error) (*standingOutput, error) {
		if err != nil {
			return nil, Problem(ctx, a.Log, err)
		}
		if !done {
			return &standingOutput{http.StatusAccepted, v}, nil
		}
		return &standingOutput{http.StatusOK, v}, nil
	}
}
