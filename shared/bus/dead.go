package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// A dead letter lies on rotor.v1.dead.<service>.<cluster>.<id>: whoever may
// publish there is the service that gave it up. The stream keeps one message a
// subject, so that a letter is a document: it is changed by compare-and-set, and
// its end is one more version of it, without the body. Nothing is ever deleted,
// as nobody may.
const (
	deadPrefix  = "rotor.v1.dead."
	deadLetters = deadPrefix + "*.*.*"
)

// The headers of a dead letter.
const (
	HeaderState    = "Rotor-State"    // open, replayed or dropped
	HeaderSource   = "Rotor-Source"   // stream that it was taken from, or channel
	HeaderConsumer = "Rotor-Consumer" // consumer of the stream, or name of the channel
	HeaderReason   = "Rotor-Reason"   // error of the last attempt
	HeaderSubject  = "Rotor-Subject"  // where the message was published
	HeaderAttempts = "Rotor-Attempts" // how often it was tried
	HeaderFirst    = "Rotor-First"    // when the message came to be, on the clock of the fleet
	HeaderLast     = "Rotor-Last"     // when it was last given up, replayed or dropped
	HeaderBy       = "Rotor-By"       // who had it replayed or dropped
)

// maxReason bounds what is kept of an error, in bytes.
const maxReason = 2000

func letterSubject(l fleet.Letter) string {
	return deadPrefix + l.Service + "." + l.Cluster + "." + l.ID
}

func letterMessage(l fleet.Letter) *nats.Msg {
	msg := nats.NewMsg(letterSubject(l))
	msg.Data = l.Body
	for name, value := range map[string]string{
		HeaderState: string(l.State), HeaderSource: l.Source, HeaderConsumer: l.Consumer, HeaderReason: oneLine(l.Reason),
		HeaderSubject: oneLine(l.Subject), HeaderAttempts: strconv.Itoa(l.Attempts), HeaderFirst: l.First.UTC().Format(time.RFC3339Nano),
		HeaderLast: l.Last.UTC().Format(time.RFC3339Nano), HeaderBy: oneLine(l.By),
	} {
		if value != "" {
			msg.Header.Set(name, value)
		}
	}
	return msg
}

// parseLetter reads a letter; ok is false for a message that is none, such as
// one of a version before letters had a state.
func parseLetter(subject string, h nats.Header) (l fleet.Letter, ok bool) {
	parts := strings.Split(strings.TrimPrefix(subject, deadPrefix), ".")
	if len(parts) != 3 || h.Get(HeaderState) == "" {
		return l, false
	}
	l = fleet.Letter{
		Service: parts[0], Cluster: parts[1], ID: parts[2], State: fleet.LetterState(h.Get(HeaderState)),
		Source: h.Get(HeaderSource), Consumer: h.Get(HeaderConsumer), Reason: h.Get(HeaderReason), Subject: h.Get(HeaderSubject), By: h.Get(HeaderBy),
	}
	// What is not a number or a time is shown as none rather than not at all.
	l.Attempts, _ = strconv.Atoi(h.Get(HeaderAttempts))
	l.First, _ = time.Parse(time.RFC3339Nano, h.Get(HeaderFirst))
	l.Last, _ = time.Parse(time.RFC3339Nano, h.Get(HeaderLast))
	return l, true
}

// oneLine takes out of a text what could end a header line, and cuts it.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = strings.TrimSpace(s)
	if len(s) > maxReason {
		s = s[:maxReason]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
		s += "..."
	}
	return s
}

// Letter returns a letter as it is stored now, or fleet.ErrNotFound.
func (b *Bus) Letter(ctx context.Context, service, cluster, id string) (fleet.Letter, error) {
	subject := letterSubject(fleet.Letter{Service: service, Cluster: cluster, ID: id})
	var msg *jetstream.RawStreamMsg
	err := Persist(ctx, func(ctx context.Context) error {
		return b.guard.DoAny(ctx, []string{"$JS.API.STREAM.INFO." + Dead, "$JS.API.DIRECT.GET." + Dead + "." + subject}, func(ctx context.Context) error {
			stream, err := b.js.Stream(ctx, Dead)
			if err != nil {
				return err
			}
			msg, err = stream.GetLastMsgForSubject(ctx, subject)
			return err
		})
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return fleet.Letter{}, fmt.Errorf("dead letter %s: %w", id, fleet.ErrNotFound)
	}
	if err != nil {
		return fleet.Letter{}, fmt.Errorf("read dead letter %s: %w", id, err)
	}
	l, ok := parseLetter(msg.Subject, msg.Header)
	if !ok {
		return l, fmt.Errorf("dead letter %s: %w", id, fleet.ErrNotFound)
	}
	l.Body, l.Revision, l.Stored = msg.Data, msg.Sequence, msg.Time
	return l, nil
}

// Bury stores a letter among the dead letters, if it does not lie there, and
// tells of it. A repeat has no effect, also when the letter has come to its end
// meanwhile. The body is all that is needed to try it again; never a secret.
func (b *Bus) Bury(ctx context.Context, l fleet.Letter) error {
	l.State, l.Last = fleet.LetterOpen, b.clock.Now()
	stored, created, err := b.putLetter(ctx, l, 0)
	if errors.Is(err, nats.ErrMaxPayload) || hasCode(err, tooLarge) {
		// That it was given up is worth more than what it was.
		l.Reason = fmt.Sprintf("%s (its %d bytes are too many to be kept)", l.Reason, len(l.Body))
		l.Body = nil
		stored, created, err = b.putLetter(ctx, l, 0)
	}
	if err != nil {
		return fmt.Errorf("bury %s: %w", letterSubject(l), err)
	}
	if created {
		b.measures.buried(l)
	}
	return b.tellOf(ctx, stored)
}

// The codes with which a server refuses a write that expects another revision.
var wrongRevision = []jetstream.ErrorCode{jetstream.JSErrCodeStreamWrongLastSequence, 10164}

// tooLarge are the codes with which a server refuses a message for its size.
var tooLarge = []jetstream.ErrorCode{10054}

// lookAgain bounds how often a letter is sought that another has just stored: a
// replica may not have heard of it yet.
const lookAgain = 8

// putLetter stores a letter over a revision, 0 for none. When another was
// faster, it returns what that one has stored.
func (b *Bus) putLetter(ctx context.Context, l fleet.Letter, revision uint64) (stored fleet.Letter, won bool, err error) {
	msg := letterMessage(l)
	var ack *jetstream.PubAck
	err = Persist(ctx, func(ctx context.Context) error {
		return b.guard.Do(ctx, msg.Subject, func(ctx context.Context) (err error) {
			ack, err = b.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(revision))
			return err
		})
	})
	if err == nil {
		l.Revision = ack.Sequence
		return l, true, nil
	}
	if !hasCode(err, wrongRevision) {
		return l, false, err
	}
	for attempt := 1; ; attempt++ {
		stored, err := b.Letter(ctx, l.Service, l.Cluster, l.ID)
		if err == nil && stored.Revision > revision || err != nil && !errors.Is(err, fleet.ErrNotFound) || attempt == lookAgain {
			return stored, false, err
		}
		if err := sleep(ctx, Backoff(attempt, time.Second)); err != nil {
			return l, false, err
		}
	}
}

// letterFacts are the facts about letters.
const letterFacts = "rotor.v1.event.letter."

// tellOf tells of the state of a letter. All that is told follows from what is
// stored, so a repeat tells the same under the same id. Of a letter that holds a
// fact about a letter nothing is told: who could not handle that one could not
// handle the next, for ever.
func (b *Bus) tellOf(ctx context.Context, l fleet.Letter) error {
	if strings.HasPrefix(l.Subject, letterFacts) {
		return nil
	}
	kind, key := event.LetterBuried, []string{l.ID, strconv.Itoa(l.Attempts)}
	switch l.State {
	case fleet.LetterReplayed:
		kind, key = event.LetterReplayed, key[:1]
	case fleet.LetterDropped:
		kind, key = event.LetterDropped, key[:1]
	}
	return Publish(ctx, b, kind, event.Meta{Source: l.Service, Cluster: l.Cluster, Key: key, Time: l.Last}, event.Letter{
		Letter: l.ID, Service: l.Service, Source: l.Source, Consumer: l.Consumer, Subject: oneLine(l.Subject), Reason: oneLine(l.Reason),
		Attempts: l.Attempts, First: l.First.UTC(), By: oneLine(l.By),
	})
}
