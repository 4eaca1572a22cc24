package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrFenced is the error of a write of a term that is over: another has begun
// the next one, or what makes it the leader has run out. It ends a leadership; no
// repetition mends it.
var ErrFenced = errors.New("the term of this leader is over")

// lanes is how many messages of a term are on their way to one stream at a time.
// Each lane has a fence of its own, as a server with replicas refuses a message
// while another that expects the same of the same subject is on its way to them.
const lanes = 16

// keepEvery is how often the fences are written anew: they age with the streams
// that hold them, of which the commands are kept for the shortest time, 7 days.
const keepEvery = 12 * time.Hour

// Leader is who begins a term.
type Leader struct {
	Name string // shown to people
	// Held reports whether what makes it the leader, a lease, has not run out by
	// its own reckoning.
	Held func() bool
}

// Term is the time of one leader. The server refuses whatever an earlier leader
// still publishes to the streams of commands and facts: a term begins with a
// message on a subject of each stream, the fence, and each message of the term
// is stored only while that is the newest of its subject. So a leader that slept
// between its decision and its publishing cannot be heard any more when it
// wakes, whatever it believes. It is safe for concurrent use.
type Term struct {
	Number uint64 // 1, 2, 3 ... for people; what the server compares are sequences

	bus    *Bus
	leader Leader
	nonce  string
	free   map[string]chan lane // by stream: those on which nothing is on its way

	mu   sync.Mutex
	over chan struct{} // closed once the term is known to be over
}

// Begin begins a term. It returns ErrFenced if another began one meanwhile, or
// if l is not the leader any more.
//
// A leader that was held up on its way here must not end the term of the one
// that has taken its place. So the fences are read first, then l is asked
// whether it still leads, and then they are replaced by compare-and-set: who
// leads later has either written them before l was asked, and then l says no,
// or writes them afterwards, and then they are not as they were read.
func (b *Bus) Begin(ctx context.Context, l Leader) (*Term, error) {
	t := &Term{bus: b, leader: l, nonce: uuid.NewString(), free: map[string]chan lane{}, over: make(chan struct{})}
	found := map[string][]lane{}
	for _, stream := range fenced() {
		all, newest, err := b.fences(ctx, stream)
		if err != nil {
			return nil, fmt.Errorf("begin a term: %w", err)
		}
		found[stream], t.Number = all, max(t.Number, newest)
	}
	t.Number++
	for _, stream := range fenced() {
		t.free[stream] = make(chan lane, lanes)
		for _, at := range found[stream] {
			if err := t.raise(ctx, &at); err != nil {
				return nil, fmt.Errorf("begin term %d: %w", t.Number, err)
			}
			t.free[stream] <- at
		}
	}
	return t, nil
}

// Keep keeps the fences from growing too old, until ctx ends or the term is
// over, with ErrFenced.
func (t *Term) Keep(ctx context.Context) error {
	renew := time.NewTicker(keepEvery)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.over:
			return ErrFenced
		case <-renew.C:
			if err := t.renew(ctx); err != nil && !Transient(err) {
				return err
			}
		}
	}
}

// renew writes every fence anew, each while nothing is on its lane.
func (t *Term) renew(ctx context.Context) error {
	for _, stream := range fenced() {
		for range lanes {
			at, err := takeLane(ctx, t.free[stream])
			if err != nil {
				return err
			}
			err = t.raise(ctx, &at)
			t.free[stream] <- at
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// In returns the bus for what is published in a term.
func (b *Bus) In(t *Term) *Bus {
	return &Bus{js: b.js, tracer: b.tracer, measures: b.measures, guard: b.guard, clock: b.clock, patience: b.patience, term: t}
}

// covers reports whether a message on a subject is stored in a term only.
func (t *Term) covers(subject string) bool {
	return t != nil && (strings.HasPrefix(subject, "rotor.v1.command.") || strings.HasPrefix(subject, "rotor.v1.event."))
}

// send stores a message under an id, or returns ErrFenced.
func (t *Term) send(ctx context.Context, msg *nats.Msg, id string) error {
	for try := 1; ; try++ {
		err := t.sendOn(ctx, t.free[streamOf(msg.Subject)], msg, id)
		if errors.Is(err, ErrFenced) {
			t.end()
		}
		// A server may answer before it has cleared the way: another lane is free.
		if !errors.Is(err, errUnsettled) || try == lanes {
			return err
		}
	}
}

// sendOn stores a message on the next lane that is free.
func (t *Term) sendOn(ctx context.Context, free chan lane, msg *nats.Msg, id string) error {
	at, err := takeLane(ctx, free)
	if err != nil {
		return err
	}
	defer func() { free <- at }()
	if !t.leader.Held() {
		return ErrFenced
	}
	return refused(t.bus.put(ctx, msg, jetstream.WithMsgID(id), jetstream.WithExpectLastSequenceForSubject(at.sequence, at.subject)))
}

func (t *Term) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.over:
	default:
		close(t.over)
	}
}

func takeLane(ctx context.Context, free chan lane) (lane, error) {
	select {
	case at := <-free:
		return at, nil
	case <-ctx.Done():
		return lane{}, ctx.Err()
	}
}
