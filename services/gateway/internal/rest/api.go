package rest

import (
	"context"
	"log/slog"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/rotor-fleet/rotor/services/gateway/internal/apply"
	"github.com/rotor-fleet/rotor/services/gateway/internal/live"
	"github.com/rotor-fleet/rotor/services/gateway/internal/operate"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// API serves what operators and programs call.
type API struct {
	Log     *slog.Logger
	Operate *operate.Operator
	Apply   *apply.Applier
	Live    *live.Streams
	Ledger  Audited
}

// The limits of request bodies, in bytes.
const (
	maxBody      = 1 << 20
	maxFleetFile = 16 << 20
)

// bearer is the name of the one security scheme.
const bearer = "admin"

// Version is the version of the API, not of the program.
const Version = "1.0.0"

// Register adds the API to a mux, with operations of others, and returns its
// description.
func (a *API) Register(mux *http.ServeMux, more ...func(huma.API)) *huma.OpenAPI {
	h := humago.New(mux, Describe("Rotor", "Keeps the certificates and tokens of fleets of Kubernetes clusters alive.", "http://127.0.0.1:8080"))
	h.OpenAPI().Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		bearer: {Type: "http", Scheme: "bearer", Description: "The admin token that the gateway made at its first start."},
	}
	a.registerViews(h)
	a.registerWrites(h)
	a.registerStandings(h)
	a.registerAuthority(h)
	a.registerIntrospection(h)
	a.registerAudit(h)
	a.registerRecords(h)
	a.registerSigned(h)
	a.registerLetters(h)
	a.registerEvents(h)
	for _, register := range more {
		register(h)
	}
	describePublic(h.OpenAPI())
	mendSchemas(h.OpenAPI())
	return h.OpenAPI()
}

// Describe returns the configuration of one described API.
func Describe(title, text, server string) huma.Config {
	c := huma.DefaultConfig(title, Version)
	c.Info.Description = text
	c.Servers = []*huma.Server{{URL: server, Description: "where `rotor up` listens by default"}}
	c.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	c.DocsPath, c.SchemasPath = "", ""
	c.CreateHooks = nil // no $schema in the answers
	return c
}

type reply[T any] struct{ Body T }

// route registers an operation whose answer is JSON and whose errors are mapped
// in one place.
func route[I, O any](a *API, h huma.API, op huma.Operation, f func(context.Context, *I) (O, error)) {
	op.Security = []map[string][]string{{bearer: {}}}
	op.Errors = append(op.Errors, http.StatusUnauthorized)
	op.MaxBodyBytes = max(op.MaxBodyBytes, maxBody)
	huma.Register(h, op, func(ctx context.Context, in *I) (*reply[O], error) {
		out, err := f(ctx, in)
		if err != nil {
			return nil, Problem(ctx, a.Log, err)
		}
		return &reply[O]{out}, nil
	})
}

// describePublic describes what is served without a token and not as JSON.
func describePublic(doc *huma.OpenAPI) {
	for _, p := range []struct{ path, id, text, kind string }{
		{api.PathTrustPEM, "trustBundle", "CA certificates that are trusted now, PEM", "application/pem-certificate-chain"},
		{api.PathBridges, "bridges", "Certificates of the one CA by the other (RFC 5280, 3.2) while two are trusted, PEM; empty else", "application/pem-certificate-chain"},
		{api.PathCA + "/{ca}.pem", "caCertificate", "Certificate of one CA, by its id, PEM; where an offline root has signed it, followed by those between them", "application/pem-certificate-chain"},
		{api.PathTrustSigned, "signedTrustBundle", "Trust bundle, signed by the fleet key (RFC 7515)", "application/jose"},
		{api.PathJWKS, "jwks", "Public keys of the tokens (RFC 7517)", "application/jwk-set+json"},
		{api.PathOpenID, "openidConfiguration", "OpenID configuration of the token issuer", "application/json"},
		{api.PathCRL, "crl", "CRL of the CA that signs now, DER (RFC 5280, 5)", "application/pkix-crl"},
		{api.PathCRL + "/{ca}", "crlOf", "CRL of one CA, by its id", "application/pkix-crl"},
		{"/livez", "live", "Whether the process answers at all", "text/plain"},
		{"/readyz", "ready", "What each part of the process waits for", "application/json"},
	} {
		doc.AddOperation(&huma.Operation{
			OperationID: p.id, Method: http.MethodGet, Path: p.path, Summary: p.text, Tags: []string{"public"},
			Security:  []map[string][]string{}, // none, on purpose
			Responses: map[string]*huma.Response{"200": {Description: p.text, Content: map[string]*huma.MediaType{p.kind: {}}}},
		})
	}
	doc.AddOperation(&huma.Operation{
		OperationID: "metrics", Method: http.MethodGet, Path: "/metrics", Summary: "Metrics for Prometheus", Tags: []string{"operation"},
		Security:  []map[string][]string{{bearer: {}}},
		Responses: map[string]*huma.Response{"200": {Description: "metrics", Content: map[string]*huma.MediaType{"text/plain": {}}}},
	})
}

// mendSchemas puts right what the generator cannot know: fields of an embedded
// struct that have the Go name of one outside and another name in JSON, and
// objects that may be null.
func mendSchemas(doc *huma.OpenAPI) {
	registry := doc.Components.Schemas
	schemas := registry.Map()
	cluster := schemas["ClusterView"]
	plain := registry.SchemaFromRef(registry.Schema(reflect.TypeFor[fleet.Cluster](), true, "").Ref)
	for _, name := range []string{"policy", "clients"} {
		cluster.Properties[name] = plain.Properties[name]
	}
	client := schemas["ClientView"]
	for _, name := range []string{"certificate", "token"} {
		client.Properties[name] = &huma.Schema{
			Description: client.Properties[name].Description,
			OneOf:       []*huma.Schema{client.Properties[name], {Type: "null"}},
		}
	}
}
