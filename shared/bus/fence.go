package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// errUnsettled is the error of a write beside which another waits to be stored
// that expects the same: neither is known to be refused.
var errUnsettled = errors.New("another write that expects the same is not settled yet")

// fenced are the streams to which a leader publishes.
func fenced() []string { return []string{Commands, Events} }

const fencePrefix = "rotor.v1.term."

// fencesOf is the pattern of the subjects of the fences of a stream. They lie
// outside of the commands and facts: nobody consumes or hears them.
func fencesOf(stream string) string { return fencePrefix + strings.ToLower(stream) + ".*" }

// IsFence reports whether a subject is that of a fence: whoever reads all of a
// stream passes over it.
func IsFence(subject string) bool { return strings.HasPrefix(subject, fencePrefix) }

// lane is the subject of a fence with its sequence.
type lane struct {
	stream   jetstream.Stream
	subject  string
	sequence uint64
}

// fence is the body of a fence.
type fence struct {
	Term   uint64 `json:"term"`
	Leader string `json:"leader"`
	Nonce  string `json:"nonce"` // tells two apart that took the same number
}

// fences reads the fences of a stream, and the newest number on them.
func (b *Bus) fences(ctx context.Context, name string) (all []lane, newest uint64, err error) {
	var stream jetstream.Stream
	err = Persist(ctx, func(ctx context.Context) error {
		return b.guard.Do(ctx, "$JS.API.STREAM.INFO."+name, func(ctx context.Context) (err error) {
			stream, err = b.js.Stream(ctx, name)
			return err
		})
	})
	if err != nil {
		return nil, 0, fmt.Errorf("look at %s: %w", name, err)
	}
	for i := range lanes {
		at := lane{stream: stream, subject: strings.TrimSuffix(fencesOf(name), "*") + strconv.Itoa(i)}
		is, err := b.fence(ctx, &at)
		if err != nil {
			return nil, 0, err
		}
		all, newest = append(all, at), max(newest, is.Term)
	}
	return all, newest, nil
}

// fence reads a fence and notes its sequence, 0 if there is none.
func (b *Bus) fence(ctx context.Context, at *lane) (is fence, err error) {
	err = Persist(ctx, func(ctx context.Context) error {
		return b.guard.Do(ctx, "$JS.API.DIRECT.GET."+at.stream.CachedInfo().Config.Name+"."+at.subject, func(ctx context.Context) error {
			msg, err := at.stream.GetLastMsgForSubject(ctx, at.subject)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				at.sequence = 0
				return nil
			}
			if err != nil {
				return err
			}
			at.sequence = msg.Sequence
			return json.Unmarshal(msg.Data, &is)
		})
	})
	if err != nil {
		return is, fmt.Errorf("read fence %s: %w", at.subject, err)
	}
	return is, nil
}

// raise replaces a fence by one of this term, and notes its sequence.
func (t *Term) raise(ctx context.Context, at *lane) error {
	is := fence{Term: t.Number, Leader: t.leader.Name, Nonce: t.nonce}
	body, err := json.Marshal(is)
	if err != nil {
		return fmt.Errorf("write fence %s: %w", at.subject, err)
	}
	before := at.sequence
	err = Persist(ctx, func(ctx context.Context) error {
		if !t.leader.Held() {
			return ErrFenced
		}
		return t.bus.guard.Do(ctx, at.subject, func(ctx context.Context) error {
			ack, err := t.bus.js.Publish(ctx, at.subject, body, jetstream.WithExpectLastSequencePerSubject(before))
			if err == nil {
				at.sequence = ack.Sequence
			}
			return refused(err)
		})
	})
	if errors.Is(err, ErrFenced) {
		// The try before may have been stored without our hearing of it.
		if there, readErr := t.bus.fence(ctx, at); readErr == nil && there == is && at.sequence > before {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("write fence %s: %w", at.subject, err)
	}
	return nil
}

// The codes of errors about an expected sequence.
const (
	codeNotAsExpected = 10071 // it is another, for good
	codeNotSettled    = 10164 // by servers with replicas: something is on its way to the subject or expects the same of it
)

// refused tells what the refusal of an expectation means in a term.
func refused(err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	switch api.ErrorCode {
	case codeNotAsExpected:
		return fmt.Errorf("%w: %w", ErrFenced, err)
	case codeNotSettled:
		return fmt.Errorf("%w: %w", errUnsettled, err)
	default:
		return err
	}
}
