package rest

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/rotor-fleet/rotor/services/gateway/internal/apply"
	"github.com/rotor-fleet/rotor/services/gateway/internal/live"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/fleetfile"
)

// Idempotent is the key under which a write may be repeated. It is exported, as
// the router fills no field of an unexported one.
type Idempotent struct {
	Key string `header:"Idempotency-Key" maxLength:"256" doc:"a repeat with the same key has the effect and the answer of the first"`
}

func (a *API) registerWrites(h huma.API) {
	route(a, h, huma.Operation{
		OperationID: "apply", Method: http.MethodPut, Path: api.PathFleet, Tags: []string{"writes"},
		Summary:      "Bring the fleet to what a fleet file says",
		Description:  "Nothing is applied from a file that has an error; errors[].location is line:column.",
		MaxBodyBytes: maxFleetFile, BodyReadTimeout: time.Minute, Errors: []int{413, 422},
	}, a.apply)
	a.registerRotations(h)
	a.registerSteering(h)
	a.registerRecoveries(h)
	route(a, h, huma.Operation{
		OperationID: "upgrade", Method: http.MethodPost, Path: api.PathClusters + "/{cluster}/upgrades", Tags: []string{"writes"},
		Summary: "Report a completed upgrade of a cluster", Errors: []int{404, 409, 422},
	}, func(ctx context.Context, in *struct {
		ClusterPath
		Body api.UpgradeRequest
	},
	) (api.UpgradeReply, error) {
		return a.Operate.Upgrade(ctx, in.Cluster, in.Body)
	})
	route(a, h, huma.Operation{
		OperationID: "join", Method: http.MethodPost, Path: api.PathClusters + "/{cluster}/join-tokens", Tags: []string{"writes"},
		Summary: "Make a one-time token for an agent", DefaultStatus: http.StatusCreated, Errors: []int{404, 409},
	}, func(ctx context.Context, in *struct {
		ClusterPath
		Body *api.JoinRequest `required:"false"`
	},
	) (api.JoinReply, error) {
		if in.Body == nil {
			in.Body = &api.JoinRequest{}
		}
		return a.Operate.Join(ctx, in.Cluster, *in.Body)
	})
}

func (a *API) apply(ctx context.Context, in *struct {
	DryRun  bool   `query:"dryRun" doc:"say what would change and change nothing"`
	Prune   bool   `query:"prune" doc:"remove clusters and releases that are not in the file"`
	RawBody []byte `contentType:"application/yaml"`
},
) (api.Plan, error) {
	file, err := fleetfile.Parse(in.RawBody)
	if err != nil {
		return api.Plan{}, err
	}
	return a.Apply.Apply(ctx, file, apply.Options{DryRun: in.DryRun, Prune: in.Prune})
}

type rotateInput struct {
	Idempotent
	Body api.RotateRequest
}

type rotateClusterInput struct {
	ClusterPath
	Idempotent
	Body *api.RotateRequest `required:"false"`
}

type rotateOutput struct {
	Location string `header:"Location" doc:"where the rotation can be followed"`
	Status   int
	Body     api.RotationView
}

func (a *API) rotate(ctx context.Context, request api.RotateRequest, key string) (*rotateOutput, error) {
	v, err := a.Operate.Rotate(ctx, request, key)
	if err != nil {
		return nil, Problem(ctx, a.Log, err)
	}
	if v.DryRun {
		return &rotateOutput{Status: http.StatusOK, Body: v}, nil
	}
	return &rotateOutput{Location: api.PathRotations + "/" + v.ID, Status: http.StatusAccepted, Body: v}, nil
}

func rotateOperation(path, id, summary string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: http.MethodPost, Path: path, Summary: summary, Tags: []string{"writes"},
		Description:   "Answers 202 with the rotation, which goes on after the answer; 200 for a dry run.",
		DefaultStatus: http.StatusAccepted, MaxBodyBytes: maxBody, Errors: []int{401, 404, 409, 422},
		Security: []map[string][]string{{bearer: {}}},
	}
}

func (a *API) registerRotations(h huma.API) {
	huma.Register(h, rotateOperation(api.PathRotations, "rotate", "Rotate credentials of one or many clusters"),
		func(ctx context.Context, in *rotateInput) (*rotateOutput, error) {
			return a.rotate(ctx, in.Body, in.Key)
		})
	huma.Register(h, rotateOperation(api.PathClusters+"/{cluster}/rotations", "rotateCluster", "Rotate credentials of one cluster"),
		func(ctx context.Context, in *rotateClusterInput) (*rotateOutput, error) {
			request := api.RotateRequest{}
			if in.Body != nil {
				request = *in.Body
			}
			if len(request.Clusters) > 0 || request.All || len(request.Selector) > 0 {
				return nil, Problem(ctx, a.Log, fmt.Errorf("%w: the cluster is in the path: leave clusters, all and selector out", fleet.ErrInvalid))
			}
			request.Clusters = []string{in.Cluster}
			return a.rotate(ctx, request, in.Key)
		})
}

func (a *API) registerEvents(h huma.API) {
	huma.Register(h, huma.Operation{
		OperationID: "events", Method: http.MethodGet, Path: api.PathEvents, Tags: []string{"views"},
		Summary:     "Follow what happens, as server-sent events",
		Description: "Each event has the position in the stream as id, the CloudEvents type as event, and the CloudEvent in JSON as data. Send the last id as Last-Event-ID to go on behind it.",
		Security:    []map[string][]string{{bearer: {}}}, Errors: []int{401, 422},
		Responses: map[string]*huma.Response{"200": {
			Description: "the stream",
			Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}},
		}},
	}, func(ctx context.Context, in *struct {
		Cluster string `query:"cluster" maxLength:"63" doc:"only facts about this cluster; _fleet for those about more than one"`
		Type    string `query:"type" maxLength:"100" doc:"only facts of this type, e.g. rotor.credential.issued.v1, credential.issued or credential"`
		Since   string `query:"since" maxLength:"20" doc:"all for everything that is kept, or an id; from now on, if absent"`
		LastID  string `header:"Last-Event-ID" maxLength:"20" doc:"id of the last event seen"`
	},
	) (*huma.StreamResponse, error) {
		plan, err := a.Live.Prepare(ctx, live.Filter{Cluster: in.Cluster, Type: in.Type, Since: in.Since, LastID: in.LastID})
		if err != nil {
			return nil, Problem(ctx, a.Log, err)
		}
		return &huma.StreamResponse{Body: func(hctx huma.Context) {
			_, w := humago.Unwrap(hctx)
			a.Live.Serve(ctx, w, plan)
		}}, nil
	})
}
