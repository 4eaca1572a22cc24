package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// auditPrefix begins the subjects of the chains of the stream AUDIT.
const auditPrefix = "rotor.v1.audit."

// Ledger keeps the chain of one service in the stream AUDIT. It is an
// audit.Store, safe for concurrent use.
type Ledger struct {
	bus     *Bus
	subject string
}

// Ledger returns the chain of a service, which alone may write it.
func (b *Bus) Ledger(service string) *Ledger { return &Ledger{b, auditPrefix + service} }

// The requests by which the stream is read, with and without replicas.
var auditReads = []string{"$JS.API.DIRECT.GET." + Audit + ".", "$JS.API.DIRECT.GET." + Audit, "$JS.API.STREAM.MSG.GET." + Audit}

// Last returns the last message of the chain, the zero message for none.
func (l *Ledger) Last(ctx context.Context) (audit.Message, error) {
	message, err := l.bus.fromAudit(ctx, func(ctx context.Context, s jetstream.Stream) (*jetstream.RawStreamMsg, error) {
		return s.GetLastMsgForSubject(ctx, l.subject)
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return audit.Message{}, nil
	}
	return message, err
}

// At returns the message at a position of the stream.
func (l *Ledger) At(ctx context.Context, position uint64) (audit.Message, error) {
	return l.bus.fromAudit(ctx, func(ctx context.Context, s jetstream.Stream) (*jetstream.RawStreamMsg, error) {
		return s.GetMsg(ctx, position)
	})
}

// Append stores a message behind the one at a position, by compare-and-set.
func (l *Ledger) Append(ctx context.Context, message []byte, id string, after uint64) (at uint64, known bool, err error) {
	var ack *jetstream.PubAck
	// A repeat has the same id and so no effect.
	err = Persist(ctx, func(ctx context.Context) error {
		return l.bus.guard.Do(ctx, l.subject, func(ctx context.Context) (err error) {
			msg := &nats.Msg{Subject: l.subject, Data: message}
			ack, err = l.bus.js.PublishMsg(ctx, msg, jetstream.WithMsgID(id), jetstream.WithExpectLastSequencePerSubject(after))
			return err
		})
	})
	if wrongLast(err) {
		return 0, false, fmt.Errorf("write %s: %w", l.subject, fleet.ErrConflict)
	}
	if err != nil {
		return 0, false, fmt.Errorf("write %s: %w", l.subject, err)
	}
	return ack.Sequence, ack.Duplicate, nil
}

// Chains returns the names of the chains: of the services that have one.
func Chains() []string {
	var names []string
	for _, row := range table() {
		if row.audits {
			names = append(names, row.user)
		}
	}
	return names
}

// Heads returns the last message of each chain that has one.
func (b *Bus) Heads(ctx context.Context) (map[string]audit.Message, error) {
	heads := map[string]audit.Message{}
	for _, chain := range Chains() {
		last, err := b.Ledger(chain).Last(ctx)
		if err != nil {
			return nil, err
		}
		if last.Position > 0 {
			heads[chain] = last
		}
	}
	return heads, nil
}

// wrongLast reports whether another was first; a server in a cluster says it
// with another code.
func wrongLast(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// Audited returns up to limit messages of the stream AUDIT behind a position, of
// one service or, with an empty name, of all, in their order.
func (b *Bus) Audited(ctx context.Context, service string, after uint64, limit int) ([]audit.Message, error) {
	pattern := auditPrefix + ">"
	if service != "" {
		pattern = auditPrefix + service
	}
	messages := []audit.Message{}
	for len(messages) < limit {
		message, err := b.fromAudit(ctx, func(ctx context.Context, s jetstream.Stream) (*jetstream.RawStreamMsg, error) {
			return s.GetMsg(ctx, after+1, jetstream.WithGetMsgSubject(pattern))
		})
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		messages, after = append(messages, message), message.Position
	}
	return messages, nil
}

// AuditEnd returns the position of the last message that was ever stored in the
// stream AUDIT, 0 for none.
func (b *Bus) AuditEnd(ctx context.Context) (uint64, error) {
	var last uint64
	err := Persist(ctx, func(ctx context.Context) error {
		stream, err := b.audit(ctx)
		if err != nil {
			return err
		}
		return b.guard.Do(ctx, "$JS.API.STREAM.INFO."+Audit, func(ctx context.Context) error {
			info, err := stream.Info(ctx)
			if err == nil {
				last = info.State.LastSeq
			}
			return err
		})
	})
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", Audit, err)
	}
	return last, nil
}

// fromAudit reads one message of the stream AUDIT.
func (b *Bus) fromAudit(
	ctx context.Context, read func(context.Context, jetstream.Stream) (*jetstream.RawStreamMsg, error),
) (audit.Message, error) {
	var raw *jetstream.RawStreamMsg
	err := Persist(ctx, func(ctx context.Context) error {
		stream, err := b.audit(ctx)
		if err != nil {
			return err
		}
		return b.guard.DoAny(ctx, auditReads, func(ctx context.Context) (err error) {
			raw, err = read(ctx, stream)
			return err
		})
	})
	if err != nil {
		return audit.Message{}, fmt.Errorf("read %s: %w", Audit, err)
	}
	return audit.Message{Position: raw.Sequence, Data: raw.Data}, nil
}

// audit returns the stream, which is looked for once.
func (b *Bus) audit(ctx context.Context) (jetstream.Stream, error) {
	b.mu.Lock()
	stream := b.auditStream
	b.mu.Unlock()
	if stream != nil {
		return stream, nil
	}
	err := b.guard.Do(ctx, "$JS.API.STREAM.INFO."+Audit, func(ctx context.Context) (err error) {
		stream, err = b.js.Stream(ctx, Audit)
		return err
	})
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.auditStream = stream
	return stream, nil
}
