package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// flushLimit bounds how long the last spans may take when a process ends. It
// lies well below the 10 s in which a process has to end.
const flushLimit = 2 * time.Second

// Options say what a provider is made from.
type Options struct {
	Getenv  func(string) string
	Log     *slog.Logger
	Version string // of the program
}

// Provider makes the tracers of one process. Nil is one that makes tracers
// which do nothing.
type Provider struct {
	options   Options
	processor sdktrace.SpanProcessor
}

// Enabled reports whether the environment asks for traces
// (OpenTelemetry environment variable specification).
func Enabled(getenv func(string) string) bool {
	asked := getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
	return asked && !strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") && getenv("OTEL_TRACES_EXPORTER") != "none"
}

// Open returns a provider that sends spans by OTLP over HTTP, or nil where the
// environment does not ask for it. Endpoint, headers, certificates, sampler and
// limits are those of the standard OTEL_ variables. Nothing waits for the
// collector: spans that it does not take are dropped.
func Open(ctx context.Context, o Options) (*Provider, error) {
	if !Enabled(o.Getenv) {
		return nil, nil
	}
	if err := checkEnv(o.Getenv); err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	return NewProvider(o, sdktrace.NewBatchSpanProcessor(&teller{SpanExporter: exporter, log: o.Log})), nil
}

// NewProvider returns a provider whose spans go to a processor.
func NewProvider(o Options, p sdktrace.SpanProcessor) *Provider {
	return &Provider{options: o, processor: p}
}

// samplers are what the SDK understands; of anything else it would only complain
// in its own log and record everything.
var samplers = []string{
	"", "always_on", "always_off", "traceidratio",
	"parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
}

func checkEnv(getenv func(string) string) error {
	for _, name := range []string{"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"} {
		if protocol := getenv(name); protocol != "" && protocol != "http/protobuf" {
			return fmt.Errorf("%s %q: only http/protobuf is spoken (port 4318 of a collector)", name, protocol)
		}
	}
	if sampler := getenv("OTEL_TRACES_SAMPLER"); !slices.Contains(samplers, sampler) {
		return fmt.Errorf("OTEL_TRACES_SAMPLER %q: use one of %s", sampler, strings.Join(samplers[1:], ", "))
	}
	if text := getenv("OTEL_TRACES_SAMPLER_ARG"); text != "" {
		if share, err := strconv.ParseFloat(text, 64); err != nil || share < 0 || share > 1 {
			return fmt.Errorf("OTEL_TRACES_SAMPLER_ARG %q: write a share from 0 to 1", text)
		}
	}
	return nil
}

// Tracer returns the tracer of one service. In one process there may be
// several, each with its own name in the traces; OTEL_SERVICE_NAME and
// OTEL_RESOURCE_ATTRIBUTES win.
func (p *Provider) Tracer(service, instance string) Tracer {
	if p == nil {
		return Tracer{}
	}
	attributes := []attribute.KeyValue{
		attribute.String("service.namespace", "rotor"), attribute.String("service.name", service),
		attribute.String("service.version", p.options.Version),
	}
	if instance != "" {
		attributes = append(attributes, attribute.String("service.instance.id", instance))
	}
	described := resource.NewSchemaless(attributes...)
	if fromEnv, err := resource.New(context.Background(), resource.WithFromEnv(), resource.WithTelemetrySDK()); err == nil {
		if merged, err := resource.Merge(described, fromEnv); err == nil {
			described = merged
		}
	}
	return NewTracer(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(p.processor), sdktrace.WithResource(described)))
}

// Close sends the last spans, within a limit, and ends the provider.
func (p *Provider) Close() {
	if p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushLimit)
	defer cancel()
	if err := p.processor.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		p.options.Log.Warn("last spans not sent", "err", err)
	}
}

// teller logs the first of a row of failures to send, and the end of the row:
// a collector that is away for a day must not fill the log.
type teller struct {
	sdktrace.SpanExporter
	log  *slog.Logger
	down atomic.Bool
}

// ExportSpans is part of sdktrace.SpanExporter. Its error is told here and not
// returned, as the SDK would send it to a handler that is global.
func (t *teller) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := t.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err != nil && !t.down.Swap(true):
		t.log.Warn("spans dropped: the collector does not take them", "spans", len(spans), "err", err)
	case err == nil && t.down.Swap(false):
		t.log.Info("the collector takes spans again")
	}
	return nil
}
