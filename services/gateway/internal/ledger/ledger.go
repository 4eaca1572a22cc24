// Package ledger is how the gateway writes down what operators do, before it is
// done, and who signs in, before the answer is out.
package ledger

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/rotor-fleet/rotor/shared/audit"
)

// Admin is whoever has the admin token: the one operator there is.
const Admin = "admin"

// Log is what is needed of an audit.Log.
type Log interface {
	Append(ctx context.Context, e audit.Entry) error
}

// Record writes down what an operator is about to do. What has no entry is not
// done: the caller ends with the error.
func Record(ctx context.Context, log Log, e audit.Entry) error {
	e.Actor = Admin
	if err := log.Append(ctx, e); err != nil {
		return fmt.Errorf("nothing was done, as it cannot be written down: %w", err)
	}
	return nil
}

// Seen writes down that a client or an agent was let in. What has no entry is not
// answered: whoever called calls again.
func Seen(ctx context.Context, log Log, e audit.Entry) error {
	if err := log.Append(ctx, e); err != nil {
		return fmt.Errorf("nobody is let in, as it cannot be written down: %w", err)
	}
	return nil
}

// Request names a request: by the key of the caller, so that a repeat is the same
// request, or by a name of its own.
func Request(what, key string) string {
	if key == "" {
		key = uuid.NewString()
	}
	return what + " " + key
}

// most bounds how many names an entry lists.
const most = 200

// Names lists names in an entry, the first ones of many.
func Names(names []string) string {
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], " "), len(names)-most)
	}
	return strings.Join(names, " ")
}
