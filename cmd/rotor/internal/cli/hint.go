package cli

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// hintFor says what to do about the errors that every command can meet.
func hintFor(c *cobra.Command, err error) string {
	p, isProblem := errors.AsType[*api.Problem](err)
	isNet := false
	if e, ok := errors.AsType[*net.OpError](err); ok {
		isNet = e.Op != "listen" // which is a wrong address of our own
	}
	switch {
	case isProblem && p.Status == 401:
		return "the admin token is missing or wrong: set ROTOR_TOKEN, or name its file with --token-file"
	case errors.Is(err, context.DeadlineExceeded):
		return "the server did not answer in time: look at its log and at /readyz"
	case distrusted(err) != "":
		return distrusted(err)
	case isNet:
		return "is Rotor running there? start it with `rotor up`, or set ROTOR_URL"
	case errors.Is(err, fleet.ErrNotFound):
		return "see what there is with `" + listing(c, err) + "`"
	default:
		return ""
	}
}

// listed is the annotation of a command whose arguments name something else than a
// cluster: the command that lists those. It holds for what is below it too.
const listed = "listed"

// listing returns the command that lists what was not found.
func listing(c *cobra.Command, err error) string {
	clusters := "rotor get clusters"
	if strings.Contains(err.Error(), `cluster "`) {
		return clusters
	}
	for ; c != nil; c = c.Parent() {
		if by := c.Annotations[listed]; by != "" {
			return by
		}
	}
	return clusters
}
