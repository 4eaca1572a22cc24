package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// statusOf returns the HTTP status of an answer of the API server, 0 if it gave
// none.
func statusOf(err error) int {
	if status, ok := errors.AsType[*apierrors.StatusError](err); ok {
		return int(status.ErrStatus.Code)
	}
	return 0
}

// explain says what an error means for the person who must act, with the kinds
// of package fleet. What quotes content is left out, for it may be a secret: an
// answer that cannot be read, and what is said about a part that is refused.
func explain(verb, object string, err error) error {
	if err == nil || errors.Is(err, fleet.ErrConflict) || errors.Is(err, fleet.ErrInvalid) || errors.Is(err, fleet.ErrDenied) {
		return err // ours, and explained
	}
	status, answered := errors.AsType[*apierrors.StatusError](err)
	if !answered {
		return fmt.Errorf("%s %s: %w", verb, object, network(err))
	}
	s := status.ErrStatus
	switch s.Code {
	case http.StatusUnauthorized:
		return fmt.Errorf("%s %s: %w: the API server does not know this agent: renew its service account or kubeconfig", verb, object, fleet.ErrDenied)
	case http.StatusForbidden:
		return fmt.Errorf("%s %s: %w: %s; see the Role in deploy/kubernetes", verb, object, fleet.ErrDenied, message(s))
	case http.StatusUnprocessableEntity:
		return fmt.Errorf("%s %s: %w: the API server refuses %s", verb, object, fleet.ErrInvalid, fields(s))
	case http.StatusNotFound:
		return fmt.Errorf("%s %s: %w: %s", verb, object, fleet.ErrNotFound, message(s))
	}
	return fmt.Errorf("%s %s: the API server answers %d: %s", verb, object, s.Code, message(s))
}

// network returns what is known to hold no content.
func network(err error) error {
	if reached, ok := errors.AsType[*url.Error](err); ok {
		return reached
	}
	for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, end) {
			return end
		}
	}
	return errors.New("the answer is not one of a kube-apiserver")
}

// message returns what the API server says. The body of an answer that was not
// its own is not passed on.
func message(s metav1.Status) string {
	if s.Details != nil {
		for _, cause := range s.Details.Causes {
			if cause.Type == metav1.CauseTypeUnexpectedServerResponse {
				return string(s.Reason)
			}
		}
	}
	return s.Message
}

// fields names what was refused, without its values.
func fields(s metav1.Status) string {
	var names []string
	if s.Details != nil {
		for _, cause := range s.Details.Causes {
			names = append(names, fmt.Sprintf("%s (%s)", cause.Field, cause.Type))
		}
	}
	if len(names) == 0 {
		return "the object"
	}
	return strings.Join(names, ", ")
}
