package telemetry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// recorded returns a tracer and what it records.
func recorded(t *testing.T) (Tracer, *tracetest.SpanRecorder) {
	t.Helper()
	recorder := tracetest.NewSpanRecorder()
	return NewProvider(Options{Version: "1"}, recorder).Tracer("issuer", "a"), recorder
}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestTracePassesThrough(t *testing.T) {
	var nobody Tracer
	ctx, span := nobody.Start(Follow(t.Context(), parent), Server, "x")
	Set(span, "k", "v")
	End(span, errors.New("x"))
	if got := Traceparent(ctx); got != parent {
		t.Errorf("a part without traces hands on %q, want %q", got, parent)
	}
	header := http.Header{}
	Inject(ctx, header)
	if header.Get("Traceparent") != parent {
		t.Errorf("headers %v", header)
	}
}

func TestTraceContinues(t *testing.T) {
	tracer, recorder := recorded(t)
	ctx, span := tracer.Start(Follow(t.Context(), parent), Consumer, "process")
	Set(span, "rotor.cluster", "edge-01", "empty", "")
	Count(span, "rotor.clients", 3)
	End(span, errors.New("disk full"))
	if got := Traceparent(ctx); got == parent || !strings.Contains(got, "0af7651916cd43dd8448eb211c80319c") {
		t.Errorf("traceparent %q: want the same trace and another span", got)
	}
	ended := recorder.Ended()
	if len(ended) != 1 || ended[0].Parent().SpanID().String() != "b7ad6b7169203331" || ended[0].Status().Description != "disk full" || len(ended[0].Attributes()) != 2 {
		t.Fatalf("recorded %+v", ended)
	}
	if service := ended[0].Resource().String(); !strings.Contains(service, "service.name=issuer") || !strings.Contains(service, "service.instance.id=a") {
		t.Errorf("resource %s", service)
	}
}

func TestMalformedTraceparentIsLeftOut(t *testing.T) {
	for _, text := range []string{"", "x", "00-0-0-01", parent + "\r\nX: y", "00-00000000000000000000000000000000-b7ad6b7169203331-01"} {
		if got := Traceparent(Follow(t.Context(), text)); got != "" {
			t.Errorf("%q is followed as %q", text, got)
		}
	}
	if id := TraceID(Follow(t.Context(), strings.TrimSuffix(parent, "1")+"0")); id != "" {
		t.Errorf("a trace that nobody records is an exemplar: %s", id)
	}
	if id := TraceID(Follow(t.Context(), parent)); id != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("trace id %q", id)
	}
}

func TestOpenAsksTheEnvironment(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"
	for name, test := range map[string]struct {
		env   []string
		on    bool
		wrong string
	}{
		"nothing":        {},
		"endpoint":       {env: []string{endpoint, "http://127.0.0.1:1"}, on: true},
		"traces only":    {env: []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/x"}, on: true},
		"disabled":       {env: []string{endpoint, "http://127.0.0.1:1", "OTEL_SDK_DISABLED", "true"}},
		"no exporter":    {env: []string{endpoint, "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER", "none"}},
		"gRPC":           {env: []string{endpoint, "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"}, wrong: "http/protobuf"},
		"wrong sampler":  {env: []string{endpoint, "http://127.0.0.1:1", "OTEL_TRACES_SAMPLER", "some"}, wrong: "parentbased_traceidratio"},
		"wrong argument": {env: []string{endpoint, "http://127.0.0.1:1", "OTEL_TRACES_SAMPLER_ARG", "7"}, wrong: "share"},
	} {
		p, err := Open(t.Context(), Options{Getenv: env(test.env...), Log: slog.New(slog.DiscardHandler)})
		if (p != nil) != test.on || (err == nil) != (test.wrong == "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
			t.Errorf("%s: provider %v, error %v", name, p != nil, err)
		}
		p.Close()
	}
}

func TestSamplerOfTheEnvironment(t *testing.T) {
	t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
	tracer, recorder := recorded(t)
	_, own := tracer.Start(t.Context(), Internal, "own")
	own.End()
	_, asked := tracer.Start(Follow(t.Context(), parent), Internal, "asked")
	asked.End()
	if ended := recorder.Ended(); len(ended) != 1 || ended[0].Name() != "asked" {
		t.Errorf("recorded %d spans, want the one that the caller records", len(ended))
	}
}

func TestLogNamesTheTrace(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(LogHandler(slog.NewTextHandler(&out, nil))).With("part", "issuer")
	log.InfoContext(Follow(t.Context(), parent), "issued")
	log.InfoContext(t.Context(), "started")
	lines := strings.Split(out.String(), "\n")
	if !strings.Contains(lines[0], "part=issuer trace_id=0af7651916cd43dd8448eb211c80319c span_id=b7ad6b7169203331") || strings.Contains(lines[1], "trace_id") {
		t.Errorf("logged\n%s", out.String())
	}
}

// A collector that is away is told of once, not with each batch, and never fails
// anybody else.
func TestCollectorAway(t *testing.T) {
	var out bytes.Buffer
	away := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if away {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	p, err := Open(t.Context(), Options{Getenv: env("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL), Log: slog.New(slog.NewTextHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	tracer := p.Tracer("issuer", "")
	for _, away = range []bool{true, true, false, false} {
		_, span := tracer.Start(t.Context(), Internal, "x")
		span.End()
		if err := p.processor.ForceFlush(t.Context()); err != nil {
			t.Errorf("flush: %v", err)
		}
	}
	p.Close()
	if text := out.String(); strings.Count(text, "spans dropped") != 1 || strings.Count(text, "again") != 1 {
		t.Errorf("logged\n%s", text)
	}
}

// What a span costs where nobody asks for traces, where one is not recorded, and
// where it is.
func BenchmarkSpan(b *testing.B) {
	never := NewTracer(sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())))
	always := NewTracer(sdktrace.NewTracerProvider())
	for _, test := range []struct {
		name   string
		tracer Tracer
	}{{"off", Tracer{}}, {"unsampled", never}, {"recorded", always}} {
		b.Run(test.name, func(b *testing.B) {
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				_, span := test.tracer.Start(ctx, Producer, "publish")
				Set(span, "messaging.system", "nats", "rotor.cluster", "edge-01")
				End(span, nil)
			}
		})
	}
}
