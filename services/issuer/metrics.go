package issuer

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// metrics are counted by one issuer.
type metrics struct {
	issued   prometheus.Counter
	failed   *prometheus.CounterVec
	seconds  prometheus.Histogram
	notAfter prometheus.Gauge
	listEnd  *prometheus.GaugeVec
	moves    *prometheus.CounterVec
	refused  *prometheus.CounterVec

	checkpoint prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		issued: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rotor_issuer_issued_total", Help: "Generations that were issued.",
		}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rotor_issuer_failed_total", Help: "Generations that could not be issued, by reason.",
		}, []string{"reason"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rotor_issuer_pass_duration_seconds", Help: "Time to issue for one cluster, in seconds of the machine's clock.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		notAfter: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rotor_issuer_ca_not_after_timestamp_seconds", Help: "End of the CA that signs, in seconds since 1970.",
		}),
		listEnd: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rotor_issuer_crl_next_update_timestamp_seconds", Help: "Moment until which the CRL of a CA is good, in seconds since 1970.",
		}, []string{"ca"}),
		checkpoint: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rotor_issuer_checkpoint_timestamp_seconds", Help: "Moment at which a checkpoint covered all of the audit ledger, in seconds since 1970 of the machine's clock.",
		}),
		moves: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rotor_issuer_phase_moves_total", Help: "Changes of phase that rotations of the authority have asked for and that were made, by kind (ca, token) and move.",
		}, []string{"kind", "move"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rotor_issuer_phase_refusals_total", Help: "Changes of phase that were out of order and refused, by kind (ca, token) and move.",
		}, []string{"kind", "move"}),
	}
	for _, kind := range []fleet.RolloutKind{fleet.RolloutCA, fleet.RolloutToken} {
		for _, move := range []fleet.Move{fleet.MovePrepare, fleet.MoveActivate, fleet.MoveRetire, fleet.MoveWithdraw, fleet.MoveRestore} {
			m.moves.WithLabelValues(string(kind), string(move)).Add(0)
			m.refused.WithLabelValues(string(kind), string(move)).Add(0)
		}
	}
	// A series that begins with its first failure would show no increase.
	for _, reason := range []string{"authority-expired", "gap", "key-used", "no-agent", "no-request", "refused", "revoked", "undeliverable"} {
		m.failed.WithLabelValues(reason).Add(0)
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.issued, m.failed, m.seconds, m.notAfter, m.listEnd, m.moves, m.refused, m.checkpoint} {
		errs = append(errs, r.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("issuer metrics: %w", err)
	}
	return m, nil
}
