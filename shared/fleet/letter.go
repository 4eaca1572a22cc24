package fleet

import "time"

// LetterState says what has become of a dead letter.
type LetterState string

// The states of a dead letter. Only an open one changes.
const (
	LetterOpen     LetterState = "open"     // given up; it can be tried again
	LetterReplayed LetterState = "replayed" // tried again, with success
	LetterDropped  LetterState = "dropped"  // an operator wants it no more
)

// SourceChannel is the source of a letter that is a message to people which no
// channel has taken. Any other source is the stream that the message came from.
const SourceChannel = "channel"

// Letter is something that was given up: a message that its service could not
// handle, or an alert that a channel did not take. It lies in the stream DEAD
// under one subject, where a change of its state takes the place of what was
// there.
type Letter struct {
	ID       string      `json:"id"`
	State    LetterState `json:"state" enum:"open,replayed,dropped"`
	Service  string      `json:"service" doc:"who gave it up, and tries it again"`
	Source   string      `json:"source" doc:"COMMANDS or EVENTS; channel for a message to people"`
	Consumer string      `json:"consumer" doc:"consumer of the stream, or name of the channel"`
	Cluster  string      `json:"cluster" doc:"cluster concerned; _fleet for more than one"`
	Subject  string      `json:"subject" doc:"where the message was published; of a channel: rule of the alert and what the message says"`
	Reason   string      `json:"reason" doc:"error of the last attempt"`
	Attempts int         `json:"attempts"`
	First    time.Time   `json:"first" doc:"when the message came to be, on the clock of the fleet"`
	Last     time.Time   `json:"last" doc:"when it was last given up, replayed or dropped, on the clock of the fleet"`
	By       string      `json:"by,omitempty" doc:"who had it tried again or dropped"`

	Body     []byte    `json:"-"` // as it was published; none, once it is replayed or dropped; never a secret in clear
	Revision uint64    `json:"-"` // sequence in the stream
	Stored   time.Time `json:"-"` // when this revision was stored, by the server's time
}

// Open reports whether the letter still waits for somebody.
func (l *Letter) Open() bool { return l.State == LetterOpen }
