package rest

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/services/gateway/internal/token"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

// maxForm bounds the body of an introspection, in bytes.
const maxForm = 16 << 10

// registerIntrospection adds RFC 7662. The caller needs the admin token: the RFC
// demands that it is authorised (2.1), lest somebody tries tokens out.
func (a *API) registerIntrospection(h huma.API) {
	huma.Register(h, huma.Operation{
		OperationID: "introspect", Method: http.MethodPost, Path: api.PathIntrospect, Tags: []string{"views"},
		Summary:     "Say whether a token is active (RFC 7662)",
		Description: "A token that is not of this Rotor, has expired, is revoked, is not on record, or whose generation was replaced twice since, is answered with active false and nothing else.",
		Security:    []map[string][]string{{bearer: {}}}, Errors: []int{400, 401, 413}, MaxBodyBytes: maxForm,
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/x-www-form-urlencoded": {Schema: &huma.Schema{
			Type: huma.TypeObject, Required: []string{"token"},
			Properties: map[string]*huma.Schema{
				"token":           {Type: huma.TypeString, Description: "the token"},
				"token_type_hint": {Type: huma.TypeString, Description: "ignored: there is one type"},
			},
		}}}},
	}, func(ctx context.Context, in *struct {
		RawBody []byte `contentType:"application/x-www-form-urlencoded"`
	},
	) (*reply[api.Introspection], error) {
		raw, err := formToken(in.RawBody)
		if err != nil {
			return nil, huma.NewError(http.StatusBadRequest, err.Error())
		}
		answer, err := a.introspect(ctx, raw)
		if err != nil {
			return nil, Problem(ctx, a.Log, err)
		}
		return &reply[api.Introspection]{answer}, nil
	})
}

// formToken reads the one parameter that matters. No error of it shows the body.
func formToken(body []byte) (string, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return "", errors.New("the body is not application/x-www-form-urlencoded: send token=<token>")
	}
	switch tokens := form["token"]; {
	case len(tokens) > 1: // RFC 6749, 3.2
		return "", errors.New("the parameter token is there more than once")
	case len(tokens) == 0 || tokens[0] == "":
		return "", errors.New("the parameter token is missing: send token=<token>")
	default:
		return tokens[0], nil
	}
}

// introspect asks the record itself: a mirror may not have heard of a revocation
// yet. Why a token is not active is not told (RFC 7662, 2.2).
func (a *API) introspect(ctx context.Context, raw string) (api.Introspection, error) {
	s := a.Operate.State
	authority, ok := s.TheAuthority()
	if !ok {
		return api.Introspection{}, nil
	}
	claims, err := token.Verify(raw, authority, a.Operate.Clock.Now())
	if err != nil {
		return api.Introspection{}, nil //nolint:nilerr // what is wrong with a token is no error
	}
	cluster, client, err := identity.ParseSubject(claims.Subject)
	if err != nil {
		return api.Introspection{}, nil //nolint:nilerr // as above
	}
	e, err := s.Credentials.Bucket.Get(ctx, cluster)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		return api.Introspection{}, err
	}
	record := e.Value.Record(client)
	g := record.Token(claims.ID)
	if !record.Believed(g) {
		return api.Introspection{}, nil
	}
	answer := api.Introspection{
		Active: true, Issuer: claims.Issuer, Subject: claims.Subject, Audience: claims.Audience, ID: claims.ID,
		Confirm: &api.Confirmation{Thumbprint: claims.Confirmation.Thumbprint}, TokenType: "DPoP", ClientID: claims.Subject,
		Cluster: cluster, Client: &client, Generation: g.Number,
	}
	answer.ExpiresAt, answer.NotBefore = claims.Expiry.Time().Unix(), claims.NotBefore.Time().Unix()
	if claims.IssuedAt != nil {
		answer.IssuedAt = claims.IssuedAt.Time().Unix()
	}
	return answer, nil
}
