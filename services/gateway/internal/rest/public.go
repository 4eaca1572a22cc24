package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/services/gateway/internal/state"
	"github.com/rotor-fleet/rotor/services/gateway/internal/token"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// OpenPaths are the paths that need no token: health, and what verifiers and
// agents need before they can trust anyone. One that ends in a slash stands for
// all below it.
func OpenPaths() []string {
	return []string{"/livez", "/readyz", api.PathJWKS, api.PathOpenID, api.PathTrustPEM, api.PathTrustSigned, api.PathBridges, api.PathCA + "/", api.PathCRL, api.PathCRL + "/"}
}

// Public serves the trust bundle, the CRLs and the keys of tokens. All of it is public
// and, where it matters, signed.
type Public struct {
	State *state.State
	URL   string // where callers reach the API
	Clock clock.Clock
}

// Register adds the paths to a mux.
func (p Public) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET "+api.PathTrustPEM, p.serve(pemChain, func(a fleet.Authority) []byte {
		return []byte(strings.Join(a.Bundle.Certificates, ""))
	}))
	mux.HandleFunc("GET "+api.PathTrustSigned, p.serve("application/jose", func(a fleet.Authority) []byte {
		return []byte(a.Bundle.Signed)
	}))
	mux.HandleFunc("GET "+api.PathBridges, p.serve(pemChain, func(a fleet.Authority) []byte {
		return []byte(strings.Join(a.Bundle.Bridges, ""))
	}))
	mux.HandleFunc("GET "+api.PathCA+"/{file}", p.ca)
	mux.HandleFunc("GET "+api.PathJWKS, p.serve("application/jwk-set+json", KeySet))
	mux.HandleFunc("GET "+api.PathOpenID, p.serve("application/json", p.discovery))
	mux.HandleFunc("GET "+api.PathCRL, p.activeList)
	mux.HandleFunc("GET "+api.PathCRL+"/{ca}", func(w http.ResponseWriter, r *http.Request) { p.list(w, r, r.PathValue("ca")) })
}

// pemChain is the media type of RFC 8555, 9.1.
const pemChain = "application/pem-certificate-chain"

// lifetime is how long a copy may be kept: a token key that signs was announced as
// incoming for twice as long before. Caches live on the machine's time, and on a
// fast clock all of that has passed sooner.
func (p Public) lifetime() string {
	return fmt.Sprintf("public, max-age=%d", int(p.Clock.Wait(fleet.JWKSLifetime)/time.Second))
}

func (p Public) serve(contentType string, render func(fleet.Authority) []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		a, ok := p.State.TheAuthority()
		if !ok {
			unavailable(w, "the issuer has made no authority yet")
			return
		}
		w.Header().Set("Content-Type", contentType)
		if text := p.Clock.String(); text != "" {
			w.Header().Set(api.HeaderClock, text)
		}
		w.Header().Set("Cache-Control", p.lifetime())
		_, _ = w.Write(render(a))
	}
}

// ca serves the certificate of one CA, as PEM, with those that lead to an offline
// root: of any CA that was, for whoever has to look at an old chain.
func (p Public) ca(w http.ResponseWriter, r *http.Request) {
	a, made := p.State.TheAuthority()
	id, isPEM := strings.CutSuffix(r.PathValue("file"), ".pem")
	c := a.FindCA(id)
	switch {
	case !made:
		unavailable(w, "the issuer has made no authority yet")
	case !isPEM || c == nil:
		w.Header().Set("Cache-Control", "no-store")
		WriteProblem(w, http.StatusNotFound, "no CA has this id: GET "+api.PathAuthority+" lists them; ask for "+api.PathCA+"/<id>.pem")
	default:
		p.serve(pemChain, func(fleet.Authority) []byte { return slices.Concat(c.Certificate, c.Chain) })(w, r)
	}
}

// activeList serves the CRL of the CA that signs now.
func (p Public) activeList(w http.ResponseWriter, r *http.Request) {
	if a, ok := p.State.TheAuthority(); ok && a.ActiveCA() != nil {
		p.list(w, r, a.ActiveCA().ID)
		return
	}
	unavailable(w, "the issuer has made no authority yet")
}

// list serves the CRL of one CA (RFC 5280, 5; media type of RFC 2585, 4.2). It is
// signed anew with each revocation, so a copy is good only as long as it is asked
// whether it still is.
func (p Public) list(w http.ResponseWriter, r *http.Request, ca string) {
	a, _ := p.State.TheAuthority()
	known := slices.ContainsFunc(a.CAs, func(c fleet.CA) bool { return c.ID == ca && c.Listed(p.Clock.Now()) })
	list, ok := p.State.List(ca)
	switch {
	case !known:
		w.Header().Set("Cache-Control", "no-store")
		WriteProblem(w, http.StatusNotFound, "no CA that is trusted has this id: GET "+api.PathAuthority+" lists them")
	case !ok:
		unavailable(w, "the issuer has signed no CRL yet")
	default:
		w.Header().Set("Content-Type", "application/pkix-crl")
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", fmt.Sprintf("%q", strconv.FormatInt(list.Number, 10)))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(list.DER))
	}
}

// unavailable answers what is not there yet.
func unavailable(w http.ResponseWriter, detail string) {
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Cache-Control", "no-store")
	WriteProblem(w, http.StatusServiceUnavailable, detail)
}

// KeySet returns the public token keys as a JWK Set (RFC 7517, 5); retired ones
// are not in it.
func KeySet(a fleet.Authority) []byte {
	var keys [][]byte
	for _, key := range a.Keys {
		if key.Phase != fleet.PhaseRetired {
			keys = append(keys, key.JWK)
		}
	}
	return append(append([]byte(`{"keys":[`), bytes.Join(keys, []byte(","))...), "]}\n"...)
}

// discovery returns what a verifier needs to know of the token issuer (OpenID
// Connect Discovery 1.0, 3). Rotor has no authorization endpoint.
func (p Public) discovery(a fleet.Authority) []byte {
	doc, err := json.Marshal(map[string]any{
		"issuer":                                a.TokenIssuer,
		"jwks_uri":                              strings.TrimSuffix(p.URL, "/") + api.PathJWKS,
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": token.Algorithms(a),
		"claims_supported":                      []string{"iss", "sub", "aud", "iat", "nbf", "exp", "jti", "cnf"},
	})
	if err != nil {
		return []byte("{}") // strings always marshal
	}
	return append(doc, '\n')
}
