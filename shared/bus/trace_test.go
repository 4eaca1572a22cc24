package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// A trace goes through NATS, its messages are measured, and the durations lead
// to the trace.
func TestTraceAndMeasures(t *testing.T) {
	t.Parallel()
	server := bustest.New(t)
	recorder, registry := tracetest.NewSpanRecorder(), prometheus.NewRegistry()
	tracer := telemetry.NewTracer(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)))
	measures, err := bus.NewMeasures(registry)
	if err != nil {
		t.Fatal(err)
	}
	b, err := bus.New(server.NATS, bus.Traced(tracer), bus.Measured(measures))
	if err != nil {
		t.Fatal(err)
	}
	ctx, root := tracer.Start(t.Context(), telemetry.Internal, "root")
	m := event.Meta{Source: "issuer", Cluster: "edge-01", Key: []string{"1"}, Time: clock.Wall()}
	e, err := event.CredentialIssued.New(m, event.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(ctx, e); err != nil {
		t.Fatal(err)
	}
	if len(e.Extensions()) != 0 {
		t.Errorf("publishing has changed the caller's event: %v", e.Extensions())
	}
	root.End()
	trace := root.SpanContext().TraceID().String()

	handled := make(chan string, 10)
	attempt := 0
	bustest.Run(t, func(ctx context.Context) error {
		return b.Consume(ctx, bus.Consumer{Stream: bus.Events, Name: "test", Subjects: []string{event.CredentialIssued.Subject("*")}, Log: server.Env(t, "test", clock.Real()).Log}, func(ctx context.Context, e event.Event) error {
			handled <- fmt.Sprint(telemetry.TraceID(ctx), " ", e.Extensions()["traceparent"])
			if attempt++; attempt == 1 {
				return errors.New("try again")
			}
			return bus.Permanent(errors.New("never"))
		})
	})
	for range 2 {
		if got := <-handled; !strings.HasPrefix(got, trace+" 00-"+trace+"-") {
			t.Errorf("handled in trace and with extension %s, want trace %s", got, trace)
		}
	}
	want := map[string]float64{
		"messaging_client_operation_duration_seconds EVENTS stored": 2, // the second tells of the dead letter
		"messaging_process_duration_seconds test EVENTS retry":      1,
		"messaging_process_duration_seconds test EVENTS dead":       1,
		"rotor_messaging_redeliveries_total test EVENTS":            1,
		"rotor_messaging_dead_letters_total test EVENTS":            1,
	}
	bustest.Eventually(t, func() error { return counted(registry, want, trace) })
	names := map[string]int{}
	for _, span := range recorder.Ended() {
		if span.SpanContext().TraceID().String() != trace {
			t.Errorf("span %s is of another trace", span.Name())
		}
		names[span.Name()]++
	}
	if names["publish rotor.credential.issued.v1"] != 1 || names["process rotor.credential.issued.v1"] != 2 {
		t.Errorf("spans %v", names)
	}
}

// counted compares counters and the counts of histograms, by name and the
// values of the labels, and looks for the trace among the exemplars.
func counted(registry *prometheus.Registry, want map[string]float64, trace string) error {
	families, err := registry.Gather()
	if err != nil {
		return err
	}
	have := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.Metric {
			name := family.GetName()
			for _, label := range metric.Label {
				if label.GetName() != "messaging_system" {
					name += " " + label.GetValue()
				}
			}
			have[name] = metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			if metric.Histogram != nil && !exemplified(metric.Histogram, trace) {
				return fmt.Errorf("%s has no exemplar of trace %s", name, trace)
			}
		}
	}
	for name, n := range want {
		if have[name] != n {
			return fmt.Errorf("%s is %v, want %v; there is %v", name, have[name], n, have)
		}
	}
	return nil
}

func exemplified(h *dto.Histogram, trace string) bool {
	for _, bucket := range h.Bucket {
		for _, label := range bucket.GetExemplar().GetLabel() {
			if label.GetName() == "trace_id" && label.GetValue() == trace {
				return true
			}
		}
	}
	return false
}
