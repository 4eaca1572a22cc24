package rest

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/services/gateway/internal/operate"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// LetterPath is the part of a request that names one dead letter. It is
// exported, as the router fills no field of an unexported one.
type LetterPath struct {
	ID string `path:"id" maxLength:"64" doc:"id of the dead letter"`
}

type letterOutput struct {
	Status int
	Body   api.LetterView
}

func (a *API) registerLetters(h huma.API) {
	get := func(path, id, summary string, errors ...int) huma.Operation {
		return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Summary: summary, Tags: []string{"dead letters"}, Errors: errors}
	}
	route(a, h, get(api.PathDeadLetters, "listDeadLetters", "What was given up, newest first, without bodies", 422), a.letters)
	route(a, h, get(api.PathDeadLetters+"/{id}", "getDeadLetter", "One dead letter with its body", 404),
		func(ctx context.Context, in *LetterPath) (api.LetterView, error) { return a.Operate.Letter(ctx, in.ID) })
	route(a, h, huma.Operation{
		OperationID: "replayDeadLetters", Method: http.MethodPost, Path: api.PathDeadLetters + "/replay", Tags: []string{"dead letters"},
		Summary: "Have every open dead letter tried again", Errors: []int{422},
		Description: "Answers when each was tried, or after 20 s: then the outcome of those that wait is " + api.OutcomeWaiting + ".",
	}, func(ctx context.Context, in *struct {
		Body *api.ReplayRequest `required:"false"`
	},
	) (api.Page[api.LetterView], error) {
		if in.Body == nil {
			in.Body = &api.ReplayRequest{}
		}
		views, err := a.Operate.SettleAll(ctx, operate.LetterFilter{Cluster: in.Body.Cluster, Consumer: in.Body.Consumer}, event.ActionReplay)
		return api.Page[api.LetterView]{Items: views}, err
	})
	settle := func(method, path, id, summary string, action event.Action, errors ...int) {
		huma.Register(h, huma.Operation{
			OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"dead letters"}, DefaultStatus: http.StatusOK,
			Description: "A repeat has no effect. Answers 200 when the service has done it, 202 when it has not within 20 s: it does as soon as it can.",
			Errors:      append([]int{401, 404}, errors...), Security: []map[string][]string{{bearer: {}}},
		}, func(ctx context.Context, in *LetterPath) (*letterOutput, error) {
			v, err := a.Operate.Settle(ctx, in.ID, action)
			if err != nil {
				return nil, Problem(ctx, a.Log, err)
			}
			out := &letterOutput{Status: http.StatusOK, Body: v}
			if v.Outcome == api.OutcomeWaiting {
				out.Status = http.StatusAccepted
			}
			return out, nil
		})
	}
	settle(http.MethodPost, api.PathDeadLetters+"/{id}/replay", "replayDeadLetter", "Have a dead letter tried again", event.ActionReplay, 409)
	settle(http.MethodDelete, api.PathDeadLetters+"/{id}", "dropDeadLetter", "Drop a dead letter", event.ActionDrop)
}

func (a *API) letters(ctx context.Context, in *struct {
	Cluster  string `query:"cluster" maxLength:"63" doc:"only letters about this cluster; _fleet for those about more than one"`
	Consumer string `query:"consumer" maxLength:"63" doc:"only letters of this service, consumer or channel"`
	State    string `query:"state" enum:"open,replayed,dropped,all" default:"open" doc:"only letters in this state"`
	Paging
},
) (api.Page[fleet.Letter], error) {
	f := operate.LetterFilter{Cluster: in.Cluster, Consumer: in.Consumer}
	if in.State != "all" {
		f.State = fleet.LetterState(in.State)
	}
	key := func(l fleet.Letter) string { return l.Last.UTC().Format(order) + " " + l.ID }
	return pageOf(a.Operate.Letters(ctx, f), in.Paging, key, newestFirst)
}

// newestFirst orders keys of a moment and an id.
func newestFirst(x, y string) bool {
	timeX, idX, _ := strings.Cut(x, " ")
	timeY, idY, _ := strings.Cut(y, " ")
	return timeX > timeY || timeX == timeY && idX < idY
}
