package signin

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rotor-fleet/rotor/services/gateway/internal/dpop"
	"github.com/rotor-fleet/rotor/services/gateway/internal/rest"
	"github.com/rotor-fleet/rotor/shared/api"
)

// maxBody bounds a request, in bytes.
const maxBody = 32 << 10

// scheme is the name of the security scheme.
const scheme = "dpop"

// caller is what a request says beside its body.
type caller struct {
	address       string
	authorization string
	proof         string
	proofs        int // headers DPoP
}

// Resolve takes what the description does not show.
func (c *caller) Resolve(ctx huma.Context) []error {
	c.address = addressOf(ctx.RemoteAddr())
	ctx.EachHeader(func(name, _ string) {
		if http.CanonicalHeaderKey(name) == http.CanonicalHeaderKey(api.HeaderProof) {
			c.proofs++
		}
	})
	return nil
}

var _ huma.Resolver = (*caller)(nil)

// token returns the token of the header Authorization (RFC 9449, 7.1).
func (c *caller) token() (string, error) {
	name, text, ok := strings.Cut(c.authorization, " ")
	text = strings.TrimSpace(text)
	if !ok || text == "" || !strings.EqualFold(name, "DPoP") {
		return "", unauthorized("", "send the token with a proof of its key: Authorization: DPoP <token>, and the header DPoP (RFC 9449)")
	}
	return text, nil
}

// admit lets an address through so many times a second.
func (s *Service) admit(c *caller) error {
	if wait, ok := s.addresses.take(c.address); !ok {
		return slower(wait)
	}
	return nil
}

// The error codes of a challenge (RFC 9449, 7.1).
const (
	invalidToken = "invalid_token"
	invalidProof = "invalid_dpop_proof"
)

func unauthorized(code, detail string) error {
	challenge := fmt.Sprintf("DPoP algs=%q", dpop.Algorithms)
	if code != "" {
		challenge = fmt.Sprintf("DPoP error=%q, algs=%q", code, dpop.Algorithms)
	}
	return huma.ErrorWithHeaders(huma.NewError(http.StatusUnauthorized, detail), http.Header{"Www-Authenticate": {challenge}})
}

// unavailable says that the same request may have success in a moment.
func unavailable(detail string) error {
	return later(http.StatusServiceUnavailable, detail, time.Second)
}

func slower(wait time.Duration) error {
	return later(http.StatusTooManyRequests, "too many sign-ins from here: slow down", wait)
}

func later(status int, detail string, wait time.Duration) error {
	seconds := strconv.Itoa(int(math.Ceil(max(wait, time.Second).Seconds())))
	return huma.ErrorWithHeaders(huma.NewError(status, detail), http.Header{"Retry-After": {seconds}})
}

// Register adds the operations to an API.
func (s *Service) Register(h huma.API) {
	components := h.OpenAPI().Components
	if components.SecuritySchemes == nil {
		components.SecuritySchemes = map[string]*huma.SecurityScheme{}
	}
	components.SecuritySchemes[scheme] = &huma.SecurityScheme{
		Type: "http", Scheme: "DPoP", BearerFormat: "JWT", Description: "Token of a client, with a proof of its key (RFC 9449).",
	}
	login := operation(api.PathLogin, "login", "Sign in: a token, a proof of its key and a certificate request give the next generation",
		"For programs without an agent, and the way back for a client whose certificate has expired and whose token has not. "+
			"The same token with the same key in the request gives the same certificate and token again, so a call whose answer was lost is repeated, with a new proof.")
	login.Security, login.Errors = []map[string][]string{{scheme: {}}}, append(login.Errors, http.StatusUnauthorized)
	huma.Register(h, login, func(ctx context.Context, in *struct {
		caller
		Authorization string `header:"Authorization" doc:"DPoP <token>: the token of the generation in use, or of the one before while the newest is not proven"`
		DPoP          string `header:"DPoP" doc:"proof of possession (RFC 9449, 4.2): a JWT with typ dpop+jwt, signed by the key of the token, which stands in jwk; claims jti, htm, htu, iat and ath"`
		Body          api.LoginRequest
	},
	) (*reply, error) {
		in.authorization, in.proof = in.Authorization, in.DPoP
		out, err := s.login(ctx, &in.caller, in.Body)
		return s.answered(ctx, out, err)
	})
	redeem := operation(api.PathRecover, "redeemRecovery", "Redeem a recovery token: it and a certificate request give the next generation",
		"Older generations of the client count no more from then on. The same token with the same key in the request gives the same certificate and token again.")
	redeem.Security = []map[string][]string{} // none, on purpose: the token is in the body
	huma.Register(h, redeem, func(ctx context.Context, in *struct {
		caller
		Body api.RecoverRequest
	},
	) (*reply, error) {
		out, err := s.redeem(ctx, &in.caller, in.Body)
		return s.answered(ctx, out, err)
	})
}

type reply struct{ Body api.SignInReply }

func operation(path, id, summary, text string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: http.MethodPost, Path: path, Summary: summary, Description: text, Tags: []string{"programs", "public"}, MaxBodyBytes: maxBody,
		Errors: []int{http.StatusForbidden, http.StatusConflict, http.StatusUnprocessableEntity, http.StatusTooManyRequests, http.StatusServiceUnavailable},
	}
}

// answered maps errors in one place.
func (s *Service) answered(ctx context.Context, out api.SignInReply, err error) (*reply, error) {
	if err == nil {
		return &reply{out}, nil
	}
	if _, ok := err.(huma.HeadersError); ok { //nolint:errorlint // made here, and wrapped by nobody
		return nil, err
	}
	return nil, rest.Problem(ctx, s.env.Log, err)
}
