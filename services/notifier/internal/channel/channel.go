// Package channel holds the ways in which people are told: each channel renders
// a message about an alert and sends it once. To add one, add a file, a row in
// the configuration of the service, and a line in the tests of channeltest.
package channel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Channel sends messages to people. It is an extension point; the suite of
// package channeltest holds what follows.
//
// Send blocks until the message was accepted or ctx ends, and may be called
// from several goroutines. It may be called again with a message that has
// arrived already: the id is the same, and the channel passes it on in a form
// by which the receiver can tell. An error of Permanent says that no repetition
// will mend it; an *Error with After says when to come back; after any other
// error the message is sent again. No error ever shows a secret, nor a URL, as
// those of webhooks are secrets.
type Channel interface {
	// Name returns the name by which routes call the channel.
	Name() string
	// Send sends one message.
	Send(ctx context.Context, m Message) error
}

// Message is what a channel sends.
type Message struct {
	ID    string      // the same for each repeat of the message
	Alert fleet.Alert // as it stands now
	About string      // firing/<level> or resolved
	Link  string      // where to look further; may be empty
}

// Resolved reports whether the message says that the alert is over.
func (m Message) Resolved() bool { return m.About == "resolved" }

// Status returns the word that stands first: Resolved, or the severity.
func (m Message) Status() string {
	if m.Resolved() {
		return "Resolved"
	}
	return strings.ToUpper(string(m.Alert.Severity))
}

// Title returns the message in one line: "[Rotor] CRITICAL edge-03: ...".
func (m Message) Title() string {
	return fmt.Sprintf("[Rotor] %s %s: %s", m.Status(), m.Subject(), m.Alert.Summary)
}

// Subject returns the cluster, or the words for more than one.
func (m Message) Subject() string {
	if strings.HasPrefix(m.Alert.Cluster, "_") {
		return "fleet"
	}
	return m.Alert.Cluster
}

// Client returns the client concerned and its generation, or nothing.
func (m Message) Client() string {
	if m.Alert.Client == nil {
		return ""
	}
	return fmt.Sprintf("%s, generation %d", m.Alert.Client, m.Alert.Generation)
}

// Since returns when it began.
func (m Message) Since() string { return moment(m.Alert.Beginning()) }

// Ended returns when it was over, or nothing.
func (m Message) Ended() string {
	if !m.Resolved() {
		return ""
	}
	return moment(m.Alert.ResolvedAt)
}

// Remedy returns what to do, which is nothing once it is over.
func (m Message) Remedy() string {
	if m.Resolved() {
		return ""
	}
	return m.Alert.Remedy
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// Error is an attempt that has failed.
type Error struct {
	Err       error
	Permanent bool          // no repetition will mend it
	After     time.Duration // the receiver asked to wait this long; not said, if 0
}

// Error returns the text of the cause.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Permanent marks an error that no repetition will mend.
func Permanent(err error) error { return &Error{Err: err, Permanent: true} }

// IsPermanent reports whether err was marked by Permanent.
func IsPermanent(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Permanent
}

// After returns how long the receiver asked to wait, 0 if it did not say.
func After(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.After
	}
	return 0
}

// scrub returns err without the given secrets in its text. It is the last line
// of defence, as servers quote what they were sent.
func scrub(err error, secrets ...string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, s := range secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "[hidden]")
		}
	}
	if text == err.Error() {
		return err
	}
	return &Error{Err: errors.New(text), Permanent: IsPermanent(err), After: After(err)}
}
