// Package measure observes histograms with the trace as exemplar.
package measure

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// Latency are the buckets, in seconds, of what takes from less than a
// millisecond (a write to a local disk) to half a minute (the patience of a
// caller).
func Latency() []float64 {
	return []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
}

// Observe adds a value to a histogram; the trace of ctx, if it is recorded, is
// its exemplar.
func Observe(ctx context.Context, o prometheus.Observer, value float64) {
	ObserveIn(telemetry.TraceID(ctx), o, value)
}

// ObserveIn is Observe for the id of a trace, empty for none.
func ObserveIn(traceID string, o prometheus.Observer, value float64) {
	if with, ok := o.(prometheus.ExemplarObserver); ok && traceID != "" {
		with.ObserveWithExemplar(value, prometheus.Labels{"trace_id": traceID})
		return
	}
	o.Observe(value)
}
