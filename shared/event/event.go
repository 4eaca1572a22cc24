// Package event holds the contract of what travels on NATS: CloudEvents 1.0 in
// structured JSON, one catalog of facts and commands, one Go type a payload.
//
// A fact says what has happened, in the past tense, and is published on
// rotor.v1.event.<noun>.<verb>.<cluster>. A command says what shall be done and
// is published on rotor.v1.command.<verb>.<cluster>. The id is a UUIDv5 of what
// happened, so that a repeat carries the same id and, as its data and time are
// those of the occurrence, the same content.
package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/uuid"
)

// Event is a CloudEvent.
type Event = cloudevents.Event

// FleetWide stands for the cluster in facts and commands about more than one
// cluster. No cluster can have this name.
const FleetWide = "_fleet"

// namespace is the UUIDv5 namespace of Rotor's events (RFC 9562, 5.5).
var namespace = uuid.MustParse("7d1cbd3b-2f4a-5e0e-9a54-6b0a9d6b6f52")

// ID returns the UUIDv5 that names what the parts describe.
func ID(parts ...string) string {
	return uuid.NewSHA1(namespace, []byte(strings.Join(parts, "\x00"))).String()
}

// Meta is what every event says beside its data.
type Meta struct {
	Source  string    // publishing service, "issuer"
	Cluster string    // cluster concerned, or FleetWide
	Key     []string  // what makes this occurrence the only one of its type and cluster
	Time    time.Time // when it happened, on the clock of the fleet
}

// Kind is one row of the catalog: a type of event and its payload.
type Kind[T any] struct{ row Row }

// Row describes a kind of event without its Go type.
type Row struct {
	Type    string // rotor.credential.issued.v1
	Noun    string // empty for a command
	Verb    string
	owners  string // the services that publish it, with spaces between; several, where each tells of its own work
	Doc     string // one sentence
	Payload any    // zero value of the payload
}

// Command reports whether the row is a command and not a fact.
func (r Row) Command() bool { return r.Noun == "" }

// Owners returns the services that publish events of this kind: one, but for
// facts that each service tells of its own work.
func (r Row) Owners() []string { return strings.Fields(r.owners) }

// OwnedBy reports whether a service publishes events of this kind.
func (r Row) OwnedBy(service string) bool { return slices.Contains(r.Owners(), service) }

// Subject returns the NATS subject for a cluster; "*" gives the pattern.
func (r Row) Subject(cluster string) string {
	if r.Command() {
		return "rotor.v1.command." + r.Verb + "." + cluster
	}
	return "rotor.v1.event." + r.Noun + "." + r.Verb + "." + cluster
}

func fact[T any](owner, noun, verb, doc string) Kind[T] {
	var zero T
	return Kind[T]{Row{Type: "rotor." + noun + "." + verb + ".v1", Noun: noun, Verb: verb, owners: owner, Doc: doc, Payload: zero}}
}

func command[T any](owner, verb, doc string) Kind[T] {
	var zero T
	return Kind[T]{Row{Type: "rotor.command." + verb + ".v1", Verb: verb, owners: owner, Doc: doc, Payload: zero}}
}

// Row returns the row of the kind.
func (k Kind[T]) Row() Row { return k.row }

// Type returns the CloudEvents type.
func (k Kind[T]) Type() string { return k.row.Type }

// Subject returns the NATS subject for a cluster; "*" gives the pattern.
func (k Kind[T]) Subject(cluster string) string { return k.row.Subject(cluster) }

// New makes an event of this kind. The error is one of encoding the data.
func (k Kind[T]) New(m Meta, data T) (Event, error) {
	e := cloudevents.New()
	e.SetID(ID(append([]string{k.row.Type, m.Cluster}, m.Key...)...))
	e.SetSource("/rotor/" + m.Source)
	e.SetType(k.row.Type)
	e.SetSubject(m.Cluster)
	e.SetTime(m.Time.UTC())
	if err := e.SetData("application/json", data); err != nil {
		return e, fmt.Errorf("event %s: %w", k.row.Type, err)
	}
	return e, nil
}

// Is reports whether e is of this kind.
func (k Kind[T]) Is(e Event) bool { return e.Type() == k.row.Type }

// Decode returns the data of an event of this kind. Fields it does not know are
// ignored: only optional fields are ever added to a version.
func (k Kind[T]) Decode(e Event) (T, error) {
	var data T
	if !k.Is(e) {
		return data, fmt.Errorf("event %s: want type %s, got %s", e.ID(), k.row.Type, e.Type())
	}
	if err := json.Unmarshal(e.Data(), &data); err != nil {
		return data, fmt.Errorf("event %s of type %s: %w", e.ID(), e.Type(), err)
	}
	return data, nil
}

// Marshal returns the structured JSON form.
func Marshal(e Event) ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("event %s: %w", e.ID(), err)
	}
	return json.Marshal(e)
}

// Unmarshal reads the structured JSON form and checks what CloudEvents demands.
func Unmarshal(b []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("event: %w", err)
	}
	if e.Context == nil {
		return e, errors.New("event: not a CloudEvent")
	}
	if err := e.Validate(); err != nil {
		return e, fmt.Errorf("event %s: %w", e.ID(), err)
	}
	return e, nil
}

// Find returns the row of a type; ok is false for a type that is not in the
// catalog.
func Find(eventType string) (row Row, ok bool) {
	for _, r := range Catalog() {
		if r.Type == eventType {
			return r, true
		}
	}
	return Row{}, false
}

// SubjectOf returns the NATS subject on which an event is published.
func SubjectOf(e Event) (string, error) {
	row, ok := Find(e.Type())
	if !ok {
		return "", fmt.Errorf("event %s: type %q is not in the catalog", e.ID(), e.Type())
	}
	if e.Subject() == "" || strings.ContainsAny(e.Subject(), ".*> \t\r\n") {
		return "", fmt.Errorf("event %s: subject %q is not a cluster", e.ID(), e.Subject())
	}
	return row.Subject(e.Subject()), nil
}

// UpgradeRotationID returns the id of the rotation that follows from an upgrade:
// scheduler and gateway derive it alike, so that neither need tell the other.
func UpgradeRotationID(cluster, release string, completedAt time.Time) string {
	return ID("rotation", cluster, "upgrade", release, completedAt.UTC().Format(time.RFC3339Nano))
}
