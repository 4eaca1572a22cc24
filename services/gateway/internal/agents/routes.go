package agents

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/rotor-fleet/rotor/services/gateway/internal/rest"
	"github.com/rotor-fleet/rotor/shared/api"
)

const (
	maxBody = 1 << 20
	mutual  = "agent" // the security scheme: TLS client certificate
	proof   = "token" // the token of a client, beside its certificate
)

type reply[T any] struct{ Body T }

// Register adds the paths of the agents to a mux, with operations of others, and
// returns their description.
func (s *Service) Register(mux *http.ServeMux, more ...func(huma.API)) *huma.OpenAPI {
	c := rest.Describe("Rotor for agents", "What the agents of clusters call, over TLS 1.3 with a client certificate.", "https://127.0.0.1:8443")
	c.OpenAPIPath = ""
	// An agent that is newer than the gateway may say more.
	c.AllowAdditionalPropertiesByDefault = true
	h := humago.New(mux, c)
	h.OpenAPI().Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		mutual: {Type: "mutualTLS", Description: "Self-signed certificate of the enrolment key; to prove a generation, its certificate."},
		proof:  {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "Token of the generation that is proven (RFC 9068)."},
	}
	post := func(method, path, id, summary string, errors ...int) huma.Operation {
		return huma.Operation{
			OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"agents"},
			MaxBodyBytes: maxBody, Errors: append([]int{401}, errors...), Security: []map[string][]string{{mutual: {}}},
		}
	}
	route(s, h, post(http.MethodPost, api.PathEnrol, "enrol", "Join, with a one-time token", 403, 409, 422),
		func(ctx context.Context, in *struct {
			caller
			Body api.EnrolRequest
		},
		) (*reply[api.EnrolReply], error) {
			out, err := s.enrol(ctx, &in.caller, in.Body)
			return &reply[api.EnrolReply]{out}, err
		})
	route(s, h, post(http.MethodGet, api.PathWork, "work", "Wait for work", 422), s.poll)
	route(s, h, post(http.MethodPut, api.PathRequests, "fileRequests", "Put certificate requests on file", 409, 422),
		func(ctx context.Context, in *struct {
			caller
			Body api.FileRequests
		},
		) (*struct{}, error) {
			return nil, s.file(ctx, &in.caller, in.Body)
		})
	route(s, h, post(http.MethodPost, api.PathSteps, "reportSteps", "Report how far generations have come", 422),
		func(ctx context.Context, in *struct {
			caller
			Body api.ReportSteps
		},
		) (*struct{}, error) {
			return nil, s.steps(ctx, &in.caller, in.Body)
		})
	prove := post(http.MethodPost, api.PathProve, "prove", "Prove a generation by its certificate and its token", 403)
	prove.Security = []map[string][]string{{mutual: {}, proof: {}}}
	route(s, h, prove, func(ctx context.Context, in *struct {
		caller
		Authorization string `header:"Authorization"`
	},
	) (*reply[api.ProveReply], error) {
		out, err := s.prove(ctx, &in.caller, in.Authorization)
		return &reply[api.ProveReply]{out}, err
	})
	for _, register := range more {
		register(h)
	}
	return h.OpenAPI()
}

// route registers an operation whose errors are mapped in one place.
func route[I, O any](s *Service, h huma.API, op huma.Operation, f func(context.Context, *I) (*O, error)) {
	huma.Register(h, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, rest.Problem(ctx, s.Log, err)
		}
		return out, nil
	})
}
