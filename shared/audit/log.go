package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Store keeps the bytes of one chain; replicas of a service share it.
type Store interface {
	// Last returns the last message of the chain, the zero message for none.
	Last(ctx context.Context) (Message, error)
	// At returns the message at a position.
	At(ctx context.Context, position uint64) (Message, error)
	// Append stores a message behind the one at the position given, 0 for the
	// first, and returns where it is, or fleet.ErrConflict when another has come
	// there. One whose id is known already is not stored again: known is then
	// true, and the position that of the one before.
	Append(ctx context.Context, message []byte, id string, after uint64) (at uint64, known bool, err error)
}

// Message is one message of a chain.
type Message struct {
	Position uint64 // in the store; 0 for none
	Data     []byte
}

// Log writes one chain. It is safe for concurrent use, also by several
// processes.
type Log struct {
	chain string
	store Store
	now   func() time.Time
	turn  chan struct{} // holds one while an entry of this process is written
	head  *head         // where the chain ends, as far as this process knows; nil if it does not
	wrote func(Entry)   // told of each entry that was stored; nil tells nobody
}

// New returns the log of a service, on the clock of the fleet.
func New(service string, store Store, now func() time.Time) *Log {
	return &Log{chain: service, store: store, now: now, turn: make(chan struct{}, 1)}
}

// Tell has f told of each entry that is stored from now on, but for repeats. It
// is called before the log is used.
func (l *Log) Tell(f func(Entry)) *Log {
	l.wrote = f
	return l
}

// Append writes an entry and returns when it is on disk. The caller gives actor,
// action and request, and what else there is to say; the log sets chain, place,
// time and hashes. The same request again writes nothing; with another content it
// is fleet.ErrConflict.
//
// Whoever is about to do something calls it first, and does not do it when the
// error is not nil: what has no entry does not happen.
func (l *Log) Append(ctx context.Context, e Entry) error {
	if err := e.check(); err != nil {
		return err
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return fmt.Errorf("audit %s: %w", e.Action, context.Cause(ctx))
	}
	e.Chain, e.Time = l.chain, l.now()
	if err := l.append(ctx, e); err != nil {
		l.head = nil // whether it was stored is not known
		return fmt.Errorf("audit %s: %w", e.Action, err)
	}
	return nil
}

func (l *Log) append(ctx context.Context, e Entry) error {
	for {
		if l.head == nil {
			last, err := l.last(ctx)
			if err != nil {
				return err
			}
			l.head = &last
		}
		sealed, raw, err := e.seal(*l.head)
		if err != nil {
			return err
		}
		at, known, err := l.store.Append(ctx, raw, l.chain+" "+e.Request, l.head.at)
		switch {
		case errors.Is(err, fleet.ErrConflict):
			l.head = nil // a replica was first: its entry is the one before
		case err != nil:
			return err
		case known:
			return l.repeated(ctx, sealed, at)
		default:
			l.head = &head{at, sealed}
			if l.wrote != nil {
				l.wrote(sealed)
			}
			return nil
		}
	}
}

// repeated looks at the entry that a request has made before.
func (l *Log) repeated(ctx context.Context, e Entry, at uint64) error {
	stored, err := l.store.At(ctx, at)
	if err != nil {
		return err
	}
	before, err := Parse(stored.Data)
	if err != nil {
		return fmt.Errorf("entry at %d: %w", at, err)
	}
	if !before.same(e) {
		return fmt.Errorf("%w: request %s was %s of %s/%s before, and is %s of %s/%s now: use another idempotency key",
			fleet.ErrConflict, e.Request, before.Action, before.Cluster, before.Client, e.Action, e.Cluster, e.Client)
	}
	if before.Hash != e.Hash { // else it is the one just written, whose acknowledgement was lost
		l.head = nil
	} else {
		l.head = &head{at, e}
	}
	return nil
}

// head is the end of the chain, behind which the next entry goes.
type head struct {
	at    uint64
	entry Entry
}

// last reads the end of the chain. One whose end is not what was written is not
// gone on with.
func (l *Log) last(ctx context.Context) (head, error) {
	message, err := l.store.Last(ctx)
	if err != nil || message.Position == 0 {
		return head{}, err
	}
	entry, err := Parse(message.Data)
	if err != nil {
		return head{}, fmt.Errorf("ALARM: last entry of chain %q: %w: see `rotor audit verify`; nothing was done", l.chain, err)
	}
	return head{message.Position, entry}, nil
}
