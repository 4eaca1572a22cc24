package gateway

import (
	"net/http"
	"strconv"

	"go.opentelemetry.io/otel/codes"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// untraced are the paths without a span: those that probes ask all the time, and
// those whose requests wait. The trace of work is in the work.
var untraced = map[string]bool{
	"/livez": true, "/readyz": true, "/metrics": true, api.PathEvents: true, api.PathWork: true,
}

// traced serves each request in a span, below the one that the caller names. It
// stands behind the guard: strangers to the API make no spans.
func traced(tracer telemetry.Tracer, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, outer *http.Request) {
		if untraced[outer.URL.Path] {
			next.ServeHTTP(w, outer)
			return
		}
		ctx := telemetry.Follow(outer.Context(), outer.Header.Get(telemetry.Header))
		ctx, span := tracer.Start(ctx, telemetry.Server, "HTTP")
		defer span.End()
		r := outer.WithContext(ctx)
		next.ServeHTTP(w, r)
		outer.Pattern = r.Pattern // the mux has set it in the copy
		recorded, ok := w.(*recorder)
		if !ok || !span.IsRecording() {
			return
		}
		method, route := place(r)
		span.SetName(method + " " + route)
		telemetry.Set(span, "http.request.method", method, "http.route", route, "http.response.status_code", strconv.Itoa(recorded.status))
		if recorded.status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, http.StatusText(recorded.status))
		}
		recorded.trace = telemetry.TraceID(ctx)
	})
}
