package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/event"
)

// RotationPath is the rotation in a path. It is exported, as the router fills no
// field of an unexported one.
type RotationPath struct {
	ID string `path:"id" maxLength:"64" doc:"id of the rotation"`
}

// registerSteering adds what an operator can do about a rotation that has not
// ended.
func (a *API) registerSteering(h huma.API) {
	operation := func(method, path, id, summary, text string) huma.Operation {
		return huma.Operation{
			OperationID: id, Method: method, Path: api.PathRotations + "/{id}/" + path, Summary: summary, Tags: []string{"writes"},
			Description: text + " Answers with the rotation as it stands; 409 if it has ended.", Errors: []int{404, 409, 422, 503},
		}
	}
	route(a, h, operation(http.MethodPost, "resume", "resumeRotation", "Let a halted rotation go on",
		"The failures so far are accepted and count no more against the limit, or are tried again."),
		func(ctx context.Context, in *struct {
			RotationPath
			Idempotent
			Body *api.ResumeRequest `required:"false"`
		},
		) (api.RotationView, error) {
			c := event.SteerCommand{Rotation: in.ID, Action: event.SteerResume}
			if in.Body != nil {
				c.Halt, c.Retry = in.Body.Halt, in.Body.Retry
			}
			return a.Operate.Steer(ctx, c, in.Key)
		})
	route(a, h, operation(http.MethodPost, "cancel", "cancelRotation", "End a rotation",
		"Nothing more begins. What was issued goes on to its proof; there is no way back to the credentials before."),
		func(ctx context.Context, in *struct {
			RotationPath
			Idempotent
			Body *api.CancelRequest `required:"false"`
		},
		) (api.RotationView, error) {
			c := event.SteerCommand{Rotation: in.ID, Action: event.SteerCancel}
			if in.Body != nil {
				c.Reason = in.Body.Reason
			}
			return a.Operate.Steer(ctx, c, in.Key)
		})
	route(a, h, operation(http.MethodPost, "exclusions", "excludeCluster", "Leave a cluster out of a rotation",
		"The others do not wait for it, and what has failed in it counts no more."),
		func(ctx context.Context, in *struct {
			RotationPath
			Idempotent
			Body api.ExclusionRequest
		},
		) (api.RotationView, error) {
			return a.Operate.Steer(ctx, event.SteerCommand{
				Rotation: in.ID, Action: event.SteerExclude, Cluster: in.Body.Cluster, Reason: in.Body.Reason,
			}, in.Key)
		})
	route(a, h, operation(http.MethodDelete, "exclusions/{cluster}", "includeCluster", "Take an exclusion from a rotation back",
		"The turn of the cluster comes as if it had not been left out."),
		func(ctx context.Context, in *struct {
			RotationPath
			ClusterPath
			Idempotent
		},
		) (api.RotationView, error) {
			return a.Operate.Steer(ctx, event.SteerCommand{Rotation: in.ID, Action: event.SteerInclude, Cluster: in.Cluster}, in.Key)
		})
}
