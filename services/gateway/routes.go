package gateway

import (
	"net/http"

	"github.com/rotor-fleet/rotor/services/gateway/internal/agents"
	"github.com/rotor-fleet/rotor/services/gateway/internal/rest"
	"github.com/rotor-fleet/rotor/services/gateway/internal/servercert"
	"github.com/rotor-fleet/rotor/services/gateway/internal/signin"
	"github.com/rotor-fleet/rotor/services/gateway/internal/state"
)

// apiRoutes serves operators and programs. Who may pass is settled before.
func apiRoutes(a *rest.API, programs *signin.Service, public rest.Public, ops http.Handler) http.Handler {
	mux := http.NewServeMux()
	a.Register(mux, programs.Register)
	public.Register(mux)
	for _, path := range []string{"/livez", "/readyz", "/metrics"} {
		mux.Handle("GET "+path, ops)
	}
	return mux
}

// agentRoutes serves agents, and whatever they need before they are known; and
// programs in clusters, which reach no other listener.
func agentRoutes(s *agents.Service, programs *signin.Service, public rest.Public, ops http.Handler) http.Handler {
	mux := http.NewServeMux()
	s.Register(mux, programs.Register)
	public.Register(mux)
	mux.Handle("GET /livez", ops)
	return mux
}

// notCanary answers no request on a connection to a canary: there is nothing there
// but the handshake, and who has trusted a CA that signs nothing yet is not to say
// or hear anything by it (421, RFC 9110, 15.5.20).
func notCanary(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil {
			if _, ok := servercert.CanaryAsked(r.TLS.ServerName); ok {
				rest.WriteProblem(w, http.StatusMisdirectedRequest, "this is the canary of a CA: it serves a handshake and nothing else; call the server by its own name")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// inTouch answers 503 while the copies of the gateway may be out of date, but to what
// is free: what it would say may be wrong, and another gateway may be well. An agent
// that stayed here would not hear of its next credentials.
func inTouch(s *state.State, free func(*http.Request) bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if free(r) {
			next.ServeHTTP(w, r)
			return
		}
		if why := s.InTouch(r.Context()); why != "" {
			w.Header().Set("Retry-After", "2")
			rest.WriteProblem(w, http.StatusServiceUnavailable, "this gateway does not know the present state of the fleet: "+why+"; ask another, or try again")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter, _ *http.Request, detail string) {
	rest.WriteProblem(w, http.StatusUnauthorized, detail)
}
