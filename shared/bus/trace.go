package bus

import (
	"context"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// traced returns an event that carries the trace of ctx as its extension
// traceparent (CloudEvents, Distributed Tracing), and the headers to go with it.
// The trace is that of the sending: it is no part of what the event says, and a
// repeat that has the same id may carry another.
func traced(ctx context.Context, e event.Event) (event.Event, nats.Header) {
	header := nats.Header{}
	if parent := telemetry.Traceparent(ctx); parent != "" {
		e = e.Clone() // the context of an event is shared by its copies
		e.SetExtension(telemetry.Header, parent)
		header.Set(telemetry.Header, parent)
	}
	return e, header
}

// follow returns a context below the span that has sent a message.
func follow(ctx context.Context, header nats.Header, e event.Event) context.Context {
	parent := header.Get(telemetry.Header)
	if parent == "" && e.Context != nil {
		parent, _ = e.Extensions()[telemetry.Header].(string)
	}
	return telemetry.Follow(ctx, parent)
}

// describe says what a span of publishing or handling is about (OpenTelemetry
// semantic conventions for messaging).
func describe(span trace.Span, stream, operation string, e event.Event) {
	if !span.IsRecording() || e.Context == nil {
		return
	}
	telemetry.Set(span, "messaging.system", "nats", "messaging.destination.name", stream, "messaging.operation.type", operation,
		"messaging.message.id", e.ID(), "cloudevents.event_type", e.Type(), "rotor.cluster", e.Subject())
}
