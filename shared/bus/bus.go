// Package bus is the JetStream side of Rotor: the streams, publishing and
// consuming of events. Together with package kv it is the only way to NATS.
//
// Delivery is at least once. What makes it safe is not the de-duplication
// window of a stream, which is finite, but handlers that look at the state
// first and change it by compare-and-set.
package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// The streams.
const (
	Commands = "COMMANDS" // work queue of commands
	Events   = "EVENTS"   // facts, for everyone
	Dead     = "DEAD"     // messages given up, with the reason
	Audit    = "AUDIT"    // what was done, in a chain of hashes for each service that writes
)

// The buckets.
const (
	Clusters    = "clusters"    // written by the gateway
	Releases    = "releases"    // written by the gateway
	Agents      = "agents"      // written by the gateway
	Credentials = "credentials" // written by the issuer
	Bundles     = "bundles"     // written by the issuer
	Authority   = "authority"   // written by the issuer
	Keys        = "keys"        // written and read by the issuer only
	Rotations   = "rotations"   // written by the scheduler
	Schedule    = "schedule"    // written by the scheduler: what it has told of
	Leases      = "leases"      // written by the scheduler
	Alerts      = "alerts"      // written by the notifier
)

const (
	day = 24 * time.Hour
	// maxDocument bounds one document of a bucket: 100 clients of a cluster
	// with their chains and sealed tokens stay far below it.
	maxDocument = 1 << 20
	// maxLetter leaves room for the headers that say why the largest message was
	// given up.
	maxLetter = maxDocument + 64<<10
	// messageAge is how long commands and facts are kept.
	messageAge = 30 * day
	// LetterAge is how long a dead letter is kept, from its last change.
	LetterAge = 90 * day
	// auditRepeats is how long a request is known in the ledger: longer than a
	// command may wait in its stream and come again.
	auditRepeats = messageAge + day
)

// bucket returns the configuration of a KV-compatible stream without rollups:
// whoever may publish one key of a bucket with rollups can erase all of it by
// one header (Nats-Rollup: all).
//
// With replicas, a direct get is answered by any of them, also by one that has
// not heard of the last write: who has just written a document, or was refused
// because another has, would not find it. So there a read asks the leader.
func bucket(name string, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "KV_" + name, Subjects: []string{"$KV." + name + ".>"}, Storage: jetstream.FileStorage,
		Replicas: replicas, MaxMsgsPerSubject: 1, MaxMsgSize: maxDocument, Discard: jetstream.DiscardNew,
		DenyDelete: true, DenyPurge: true, AllowDirect: replicas == 1, Duplicates: 2 * time.Minute,
	}
}

// Layout returns the configuration of every stream and bucket.
func Layout(replicas int) []jetstream.StreamConfig {
	leases := bucket(Leases, replicas)
	leases.AllowMsgTTL = true
	layout := []jetstream.StreamConfig{
		{
			Name: Commands, Subjects: []string{"rotor.v1.command.>", fencesOf(Commands)}, Retention: jetstream.WorkQueuePolicy,
			Storage: jetstream.FileStorage, Replicas: replicas, Duplicates: 10 * time.Minute,
			MaxAge: messageAge, MaxMsgSize: maxDocument, AllowDirect: true, DenyPurge: true,
		},
		{
			Name: Events, Subjects: []string{"rotor.v1.event.>", fencesOf(Events)}, Storage: jetstream.FileStorage, Replicas: replicas,
			MaxAge: messageAge, MaxBytes: 20 << 30, Discard: jetstream.DiscardOld, Duplicates: time.Hour, MaxMsgSize: maxDocument,
			Compression: jetstream.S2Compression, AllowDirect: true, DenyDelete: true, DenyPurge: true,
		},
		{
			Name: Dead, Subjects: []string{"rotor.v1.dead.>"}, Storage: jetstream.FileStorage, Replicas: replicas,
			MaxAge: LetterAge, MaxBytes: 5 << 30, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardOld, Duplicates: time.Hour, MaxMsgSize: maxLetter,
			AllowDirect: true, DenyDelete: true, DenyPurge: true,
		},
		{
			// No end but that of the disk: what cannot be written there is not done.
			Name: Audit, Subjects: []string{auditPrefix + ">"}, Storage: jetstream.FileStorage, Replicas: replicas,
			Discard: jetstream.DiscardNew, Duplicates: auditRepeats, MaxMsgSize: 512 << 10, Compression: jetstream.S2Compression,
			AllowDirect: replicas == 1, DenyDelete: true, DenyPurge: true,
		},
		leases,
	}
	for _, name := range []string{Clusters, Releases, Agents, Credentials, Bundles, Authority, Keys, Rotations, Schedule, Alerts} {
		layout = append(layout, bucket(name, replicas))
	}
	return layout
}

// Missing returns the names of the streams of the layout that the server does
// not have.
func Missing(ctx context.Context, nc *nats.Conn) ([]string, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("look for streams: %w", err)
	}
	var missing []string
	for _, config := range Layout(1) {
		err := Retry(ctx, func(ctx context.Context) error {
			_, err := js.Stream(ctx, config.Name)
			return err
		})
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			missing = append(missing, config.Name)
		case err != nil:
			return nil, fmt.Errorf("look for stream %s: %w", config.Name, err)
		}
	}
	return missing, nil
}

// callTimeout bounds one call to JetStream: without a leader a call hangs for
// all the time it is given.
const callTimeout = 2 * time.Second

// Retry repeats a call to JetStream while the server has no leader, does not
// answer or is starting, until ctx ends. Any other error ends it at once.
func Retry(ctx context.Context, call func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		once, cancel := context.WithTimeout(ctx, callTimeout)
		err := call(once)
		cancel()
		if err == nil || !Transient(err) {
			return err
		}
		if stop := sleep(ctx, Backoff(attempt, 2*time.Second)); stop != nil {
			return errors.Join(stop, err)
		}
	}
}

// patience is how long a single read or write waits for a server to answer. A
// stream that has lost its leader has another after 4 to 10 s; a caller who is
// told of it any sooner has a failure that need not be one.
const patience = 20 * time.Second

// Persist is Retry within the time that a change of leaders takes. The call must
// be one that may be repeated: that no answer came does not say that nothing was
// done.
func Persist(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return Retry(ctx, call)
}

const (
	codeNoPeers   jetstream.ErrorCode = 10005 // no peers to place a stream on: the other servers are starting
	codeNoStorage jetstream.ErrorCode = 10047 // the bounds of streams exceed the limit of the server
)

// The codes of errors with which a server says "not now".
var notNow = []jetstream.ErrorCode{
	codeNoPeers,
	10008, // JetStream is temporarily unavailable
	10009, // the server is not the leader
	10118, // the stream is offline
	10158, // another publishes a message with the same id, and it is not known yet whether theirs will be stored
	10163, // the last sequence of the subject is temporarily unavailable
}

func hasCode(err error, codes []jetstream.ErrorCode) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && slices.Contains(codes, api.ErrorCode)
}

// Transient reports whether an error of NATS may go away by itself.
func Transient(err error) bool {
	if hasCode(err, notNow) {
		return true
	}
	return errors.Is(err, errUnsettled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrDisconnected) ||
		errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrNoStreamResponse)
}

// Bus publishes and consumes events. It is safe for concurrent use.
type Bus struct {
	js       jetstream.JetStream
	tracer   telemetry.Tracer
	measures *Measures
	guard    *Denials
	clock    clock.Clock
	patience Patience
	term     *Term // whose messages it stores; nil, if they are of none

	mu          sync.Mutex
	auditStream jetstream.Stream // nil until it was looked for
}

// New returns a Bus on a connection.
func New(nc *nats.Conn, options ...Option) (*Bus, error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("open bus: %w", err)
	}
	b := &Bus{js: js, guard: Guard(nc)}
	for _, option := range options {
		option(b)
	}
	return b, nil
}

// Publish stores an event on the subject that the catalog gives it. When it
// returns nil, the event is on disk; a repeat with the same id within the
// window of the stream has no effect.
func (b *Bus) Publish(ctx context.Context, e event.Event) error {
	subject, err := event.SubjectOf(e)
	if err != nil {
		return err
	}
	stream := streamOf(subject)
	ctx, span := b.tracer.Start(ctx, telemetry.Producer, "publish "+e.Type())
	describe(span, stream, "send", e)
	began := clock.Wall()
	err = b.store(ctx, subject, e)
	b.measures.publish(ctx, stream, clock.Wall().Sub(began), err)
	telemetry.End(span, err)
	return err
}

func (b *Bus) store(ctx context.Context, subject string, e event.Event) error {
	e, header := traced(ctx, e)
	body, err := event.Marshal(e)
	if err != nil {
		return err
	}
	msg := &nats.Msg{Subject: subject, Header: header, Data: body}
	msg.Header.Set("Content-Type", "application/cloudevents+json")
	// A repeat has the same id and so no effect.
	err = Persist(ctx, func(ctx context.Context) error { return b.send(ctx, msg, e.ID()) })
	if err != nil {
		return fmt.Errorf("publish %s %s: %w", e.Type(), e.ID(), err)
	}
	return nil
}

// streamOf returns the stream that stores a subject of the catalog.
func streamOf(subject string) string {
	if strings.HasPrefix(subject, "rotor.v1.command.") {
		return Commands
	}
	return Events
}

// send stores a message under an id.
func (b *Bus) send(ctx context.Context, msg *nats.Msg, id string) error {
	if b.term.covers(msg.Subject) {
		return b.term.send(ctx, msg, id)
	}
	return b.put(ctx, msg, jetstream.WithMsgID(id))
}

func (b *Bus) put(ctx context.Context, msg *nats.Msg, options ...jetstream.PublishOpt) error {
	return b.guard.Do(ctx, msg.Subject, func(ctx context.Context) error {
		_, err := b.js.PublishMsg(ctx, msg, options...)
		return err
	})
}

// Publish makes an event of a kind and publishes it on b.
func Publish[T any](ctx context.Context, b *Bus, kind event.Kind[T], m event.Meta, data T) error {
	e, err := kind.New(m, data)
	if err != nil {
		return err
	}
	return b.Publish(ctx, e)
}
