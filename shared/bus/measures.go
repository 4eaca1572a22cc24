package bus

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/measure"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// Measures are the metrics of publishing and consuming, shared by every Bus of
// a process. The names of the two durations are those of OpenTelemetry's
// semantic conventions for messaging.
type Measures struct {
	published  *prometheus.HistogramVec
	processed  *prometheus.HistogramVec
	redelivery *prometheus.CounterVec
	dead       *prometheus.CounterVec
	lag        *prometheus.GaugeVec
	entries    *prometheus.CounterVec
}

// The labels.
const (
	labelStream   = "messaging_destination_name"
	labelConsumer = "messaging_consumer_group_name"
)

// The outcomes of a handler.
const (
	outcomeDone  = "done"
	outcomeRetry = "retry"
	outcomeDead  = "dead"
)

// NewMeasures makes the metrics and registers them.
func NewMeasures(r prometheus.Registerer) (*Measures, error) {
	system := prometheus.Labels{"messaging_system": "nats"}
	m := &Measures{
		published: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "messaging_client_operation_duration_seconds", Help: "Time until a published message was stored, by stream and outcome (stored or error).",
			Buckets: measure.Latency(), ConstLabels: system,
		}, []string{labelStream, "outcome"}),
		processed: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "messaging_process_duration_seconds", Help: "Time of a handler with one message, by outcome (done, retry or dead).",
			Buckets: measure.Latency(), ConstLabels: system,
		}, []string{labelStream, labelConsumer, "outcome"}),
		redelivery: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rotor_messaging_redeliveries_total", Help: "Messages that came to a consumer again.", ConstLabels: system,
		}, []string{labelStream, labelConsumer}),
		dead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rotor_messaging_dead_letters_total", Help: "Messages that were given up and lie in the stream DEAD.", ConstLabels: system,
		}, []string{labelStream, labelConsumer}),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rotor_messaging_consumer_lag", Help: "Messages that a consumer has not handled yet; the same from each replica.", ConstLabels: system,
		}, []string{labelStream, labelConsumer}),
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rotor_ledger_entries_total", Help: "Entries that were written to the audit ledger, by chain and action.",
		}, []string{"chain", "action"}),
	}
	for _, c := range []prometheus.Collector{m.published, m.processed, m.redelivery, m.dead, m.lag, m.entries} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// publish notes how long storing a message took. Nil measures nothing.
func (m *Measures) publish(ctx context.Context, stream string, took time.Duration, err error) {
	if m == nil {
		return
	}
	outcome := "stored"
	if err != nil {
		outcome = "error"
	}
	measure.Observe(ctx, m.published.WithLabelValues(stream, outcome), took.Seconds())
}

func (m *Measures) process(ctx context.Context, c Consumer, took time.Duration, outcome string) {
	if m == nil {
		return
	}
	measure.Observe(ctx, m.processed.WithLabelValues(c.Stream, c.Name, outcome), took.Seconds())
}

func (m *Measures) delivered(c Consumer, attempt int) {
	if m != nil && attempt > 1 {
		m.redelivery.WithLabelValues(c.Stream, c.Name).Inc()
	}
}

func (m *Measures) buried(l fleet.Letter) {
	if m == nil {
		return
	}
	source := l.Source
	if source == fleet.SourceChannel {
		source = l.Service
	}
	m.dead.WithLabelValues(source, l.Consumer).Inc()
}

// Entry counts an entry of the audit ledger. Nil counts nothing.
func (m *Measures) Entry(e audit.Entry) {
	if m != nil {
		m.entries.WithLabelValues(e.Chain, e.Action).Inc()
	}
}

// lagEvery is how often a consumer's lag is asked for, on the machine's time.
const lagEvery = 10 * time.Second

// follow keeps the lag of a consumer up to date until ctx ends. A server that
// does not answer leaves the last value: the consumer itself tells of it.
func (m *Measures) follow(ctx context.Context, c Consumer, consumer jetstream.Consumer) {
	if m == nil {
		return
	}
	defer m.lag.DeleteLabelValues(c.Stream, c.Name)
	// A series that begins with its first letter would show no increase.
	m.dead.WithLabelValues(c.Stream, c.Name).Add(0)
	for info := consumer.CachedInfo(); ; {
		m.lag.WithLabelValues(c.Stream, c.Name).Set(float64(info.NumPending) + float64(info.NumAckPending))
		for {
			if clock.Sleep(ctx, lagEvery) != nil {
				return
			}
			once, cancel := context.WithTimeout(ctx, callTimeout)
			fresh, err := consumer.Info(once)
			cancel()
			if err == nil {
				info = fresh
				break
			}
		}
	}
}

// Option changes a Bus that New makes.
type Option func(*Bus)

// Traced has the spans of publishing and handling made by t.
func Traced(t telemetry.Tracer) Option { return func(b *Bus) { b.tracer = t } }

// Measured has publishing and handling measured.
func Measured(m *Measures) Option { return func(b *Bus) { b.measures = m } }

// Timed has moments told on the clock of the fleet.
func Timed(c clock.Clock) Option { return func(b *Bus) { b.clock = c } }

// Patient has messages given up as p says.
func Patient(p Patience) Option { return func(b *Bus) { b.patience = p } }
