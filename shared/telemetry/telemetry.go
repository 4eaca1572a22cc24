// Package telemetry makes the spans of traces and sends them by OTLP, where the
// environment asks for it. It knows no NATS, so that the agent can use it too.
//
// A trace passes from part to part as a W3C traceparent: in a header of HTTP or
// NATS, or in a field of a document where the link goes through state. Nothing
// is global: each part is given a Tracer.
package telemetry

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Header is the name under which a trace passes: in headers, and as an
// extension of a CloudEvent (W3C Trace Context, 3.2).
const Header = "traceparent"

// Tracer makes the spans of one part. The zero value makes none and costs next
// to nothing; a trace that others began still passes through it.
type Tracer struct {
	tracer trace.Tracer
}

// NewTracer returns a Tracer of any OpenTelemetry provider.
func NewTracer(p trace.TracerProvider) Tracer {
	return Tracer{p.Tracer("github.com/rotor-fleet/rotor")}
}

// The kinds of spans.
const (
	Internal = trace.SpanKindInternal
	Server   = trace.SpanKindServer
	Client   = trace.SpanKindClient
	Producer = trace.SpanKindProducer
	Consumer = trace.SpanKindConsumer
)

// Start begins a span below the one that ctx carries, or a new trace.
func (t Tracer) Start(ctx context.Context, kind trace.SpanKind, name string) (context.Context, trace.Span) {
	if t.tracer == nil {
		return ctx, trace.SpanFromContext(context.Background()) // that of nobody: records nothing
	}
	return t.tracer.Start(ctx, name, trace.WithSpanKind(kind))
}

// End ends a span with the outcome of what it was about.
func End(span trace.Span, err error) {
	if err != nil && span.IsRecording() {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// Set adds attributes, given as name and value by turns, to a span that is
// recorded.
func Set(span trace.Span, pairs ...string) {
	if !span.IsRecording() {
		return
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			span.SetAttributes(attribute.String(pairs[i], pairs[i+1]))
		}
	}
}

// Count adds a number to a span that is recorded.
func Count(span trace.Span, name string, n int) {
	if span.IsRecording() {
		span.SetAttributes(attribute.Int(name, n))
	}
}

// Traceparent returns the traceparent of the span that ctx carries, empty if
// there is none.
func Traceparent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[Header]
}

// Follow returns a context below the span that a traceparent names. One that is
// empty or malformed changes nothing.
func Follow(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{Header: traceparent})
}

// Inject puts the trace of ctx into the headers of a request.
func Inject(ctx context.Context, h http.Header) {
	if text := Traceparent(ctx); text != "" {
		h.Set(Header, text)
	}
}

// TraceID returns the id of a trace that is recorded, empty if none is.
func TraceID(ctx context.Context) string {
	if s := trace.SpanContextFromContext(ctx); s.IsValid() && s.IsSampled() {
		return s.TraceID().String()
	}
	return ""
}
