// Package rest serves the HTTP API: routes, OpenAPI from the Go types, problem
// details. It decides nothing: packages view, apply, operate and live do.
package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/fleetfile"
)

// Problem turns an error into a problem detail (RFC 9457). The kinds of package
// fleet have a status; an error of any other kind is ours: the answer names an
// id, and the log has the cause under it.
func Problem(ctx context.Context, log *slog.Logger, err error) error {
	if err == nil {
		return nil
	}
	if known, ok := errors.AsType[huma.StatusError](err); ok {
		return known
	}
	if p, ok := errors.AsType[*api.Problem](err); ok { // one that has a type of its own
		return &huma.ErrorModel{Type: p.Type, Title: p.Title, Status: p.Status, Detail: p.Detail}
	}
	if wrong, ok := errors.AsType[fleetfile.Errors](err); ok {
		details := make([]error, len(wrong))
		for i, one := range wrong {
			details[i] = &huma.ErrorDetail{Message: one.Message, Location: fmt.Sprintf("%d:%d", one.Line, one.Column)}
		}
		return huma.NewError(http.StatusUnprocessableEntity, "the fleet file is wrong; nothing was applied", details...)
	}
	status := api.StatusOf(err)
	if status != http.StatusInternalServerError {
		return huma.NewError(status, err.Error())
	}
	if errors.Is(err, context.Canceled) { // the caller has left; nobody reads this
		return huma.NewError(http.StatusServiceUnavailable, "the call was ended")
	}
	id := uuid.NewString()
	log.ErrorContext(ctx, "request failed", "id", id, "err", err)
	if bus.Transient(err) {
		return huma.NewError(http.StatusServiceUnavailable, "NATS does not take it: it cannot be reached, or its disk is full; /readyz says which. Try again. The log has the cause under id "+id)
	}
	return huma.NewError(http.StatusInternalServerError, "an error of the gateway; its log has the cause under id "+id)
}

// WriteProblem writes a problem detail outside of an operation.
func WriteProblem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.Problem{Title: http.StatusText(status), Status: status, Detail: detail})
}
