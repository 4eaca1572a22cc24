package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/services/gateway/internal/operate"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// RolloutPath is the half of the authority in a path. It is exported, as the
// router fills no field of an unexported one.
type RolloutPath struct {
	Kind fleet.RolloutKind `path:"kind" enum:"ca,token" doc:"ca, or token for the key that signs tokens"`
}

type rolloutOutput struct {
	Location string `header:"Location" doc:"where it can be followed"`
	Status   int
	Body     fleet.Rollout
}

// registerAuthority adds the authority and its rotations.
func (a *API) registerAuthority(h huma.API) {
	view := func(path, id, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Tags: []string{"views"}}
	}
	route(a, h, view(api.PathAuthority, "getAuthority", "The authority: its generations, its rotation, and the dates ahead"),
		func(ctx context.Context, _ *struct{}) (api.AuthorityStatus, error) {
			return a.Operate.Authority(ctx), nil
		})
	route(a, h, view(api.PathRollouts, "listAuthorityRotations", "The last rotation of the CA and of the token key"),
		func(ctx context.Context, _ *struct{}) (api.Page[fleet.Rollout], error) {
			return api.Page[fleet.Rollout]{Items: a.Operate.Rollouts(ctx)}, nil
		})
	huma.Register(h, huma.Operation{
		OperationID: "rotateAuthority", Method: http.MethodPost, Path: api.PathRollouts, Tags: []string{"writes"},
		Summary: "Rotate the CA or the token key",
		Description: "Answers 202 with the rotation, which goes on after the answer; 409 while one of the same kind is under way. " +
			"A CA signs only when every agent has proven that it trusts it, and the old one is trusted until nobody uses it.",
		DefaultStatus: http.StatusAccepted, MaxBodyBytes: maxBody, Errors: []int{401, 404, 409, 422, 503}, Security: []map[string][]string{{bearer: {}}},
	}, func(ctx context.Context, in *struct {
		Idempotent
		Body *api.RolloutRequest `required:"false"`
	},
	) (*rolloutOutput, error) {
		if in.Body == nil {
			in.Body = &api.RolloutRequest{}
		}
		r, err := a.Operate.BeginRollout(ctx, *in.Body, in.Key)
		if err != nil {
			return nil, Problem(ctx, a.Log, err)
		}
		return &rolloutOutput{Location: api.PathRollouts, Status: http.StatusAccepted, Body: r}, nil
	})
	a.registerCourses(h)
	route(a, h, huma.Operation{
		OperationID: "externalAuthority", Method: http.MethodPost, Path: api.PathExternal, Tags: []string{"writes"},
		Summary:     "The request of a CA to come, for an offline root to sign",
		Description: "While one waits for its certificate, that is the answer. Its private key stays with the issuer.", Errors: []int{409, 503},
	}, func(ctx context.Context, in *struct{ Idempotent }) (api.ExternalRequest, error) {
		return a.Operate.External(ctx, in.Key)
	})
}

// registerCourses adds what an operator can do about a rotation of the authority
// that is under way.
func (a *API) registerCourses(h huma.API) {
	course := func(method, path, id, summary, text string) huma.Operation {
		return huma.Operation{
			OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"writes"},
			Description:  text + " Answers 200 with the rotation when that is so, and 202 when it takes longer than an answer may; it then happens all the same.",
			MaxBodyBytes: maxBody, Errors: []int{401, 404, 409, 422, 503}, Security: []map[string][]string{{bearer: {}}},
		}
	}
	type plain struct {
		RolloutPath
		Idempotent
	}
	for _, o := range []struct {
		action                  event.RolloutAction
		path, id, summary, text string
	}{
		{event.RolloutBack, api.PathRollback, "rollbackAuthority", "Take a rotation of the authority back", "The old generation goes on to sign. 409 once it is not trusted any more."},
		{event.RolloutResume, api.PathResume, "resumeAuthority", "Let a halted rotation of the authority go on", "What has failed is accepted."},
		{event.RolloutRetireIt, api.PathRetirement, "retireAuthority", "Trust a compromised CA no more", "Of a taint, once no client uses the CA any more."},
	} {
		huma.Register(h, course(http.MethodPost, o.path, o.id, o.summary, o.text), func(ctx context.Context, in *plain) (*rolloutOutput, error) {
			return a.steer(ctx, operate.Course{Kind: in.Kind, Action: o.action}, in.Key)
		})
	}
	huma.Register(h, course(http.MethodPost, api.PathExclusions, "excludeFromAuthority", "Wait no more for a cluster",
		"It is left out of what has to be proven, and recovers by itself when it is back."),
		func(ctx context.Context, in *struct {
			RolloutPath
			Idempotent
			Body api.Exclude
		},
		) (*rolloutOutput, error) {
			return a.steer(ctx, operate.Course{Kind: in.Kind, Action: event.RolloutExclude, Cluster: in.Body.Cluster, Reason: in.Body.Reason}, in.Key)
		})
	huma.Register(h, course(http.MethodDelete, api.PathExclusions+"/{cluster}", "includeInAuthority", "Wait for an excluded cluster again", ""),
		func(ctx context.Context, in *struct {
			RolloutPath
			ClusterPath
			Idempotent
		},
		) (*rolloutOutput, error) {
			return a.steer(ctx, operate.Course{Kind: in.Kind, Action: event.RolloutInclude, Cluster: in.Cluster}, in.Key)
		})
}

func (a *API) steer(ctx context.Context, c operate.Course, key string) (*rolloutOutput, error) {
	r, done, err := a.Operate.SteerRollout(ctx, c, key)
	if err != nil {
		return nil, Problem(ctx, a.Log, err)
	}
	status := http.StatusOK
	if !done {
		status = http.StatusAccepted
	}
	return &rolloutOutput{Location: api.PathRollouts, Status: status, Body: r}, nil
}
