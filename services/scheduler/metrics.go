package scheduler

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/rollout"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// metrics are what the scheduler counts.
type metrics struct {
	leader    prometheus.Gauge
	term      prometheus.Gauge
	fenced    prometheus.Counter
	blocked   prometheus.Gauge
	due       *prometheus.CounterVec
	lateness  prometheus.Histogram
	rotations *prometheus.HistogramVec
	rollouts  rolloutMetrics
}

// rolloutMetrics are about the rotations of the authority; they say something
// while this process leads.
type rolloutMetrics struct {
	phase    *prometheus.GaugeVec
	missing  *prometheus.GaugeVec
	activeBy *prometheus.GaugeVec
}

func newRolloutMetrics(r prometheus.Registerer) rolloutMetrics {
	m := rolloutMetrics{
		phase: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rotor_authority_rollout_phase", Help: "1 for the phase of the last rotation of the CA or of the token key, by kind and phase.",
		}, []string{"kind", "phase"}),
		missing: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rotor_authority_rollout_missing", Help: "Agents or clients that a rotation of the authority waits for, by kind.",
		}, []string{"kind"}),
		activeBy: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rotor_authority_active_by_seconds", Help: "Time until another CA should sign at the latest, on the clock of the fleet; negative once it is late.",
		}, nil),
	}
	r.MustRegister(m.phase, m.missing, m.activeBy)
	return m
}

func (m rolloutMetrics) reset() {
	m.phase.Reset()
	m.missing.Reset()
	m.activeBy.Reset()
}

// measure shows how one half of the authority stands.
func (l *leader) measure(kind fleet.RolloutKind, in rollout.Input, d rollout.Decision) {
	m, r := l.metrics.rollouts, in.Rollout
	if d.Rollout != nil {
		r = d.Rollout
	}
	if r != nil {
		m.phase.DeletePartialMatch(prometheus.Labels{"kind": string(kind)})
		m.phase.WithLabelValues(string(kind), string(r.Phase)).Set(1)
		m.missing.WithLabelValues(string(kind)).Set(float64(r.MissingCount))
	}
	if dates, ok := in.Dates(); ok && kind == fleet.RolloutCA {
		m.activeBy.WithLabelValues().Set(dates.ActiveBy.Sub(in.Now).Seconds())
	}
}

func newMetrics(r prometheus.Registerer, clusters func() float64) metrics {
	m := metrics{
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rotor_scheduler_leader", Help: "1 while this process leads, else 0.",
		}),
		term: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rotor_scheduler_term", Help: "Number of the term in which this process leads; 0 while it does not.",
		}),
		fenced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rotor_scheduler_fenced_total", Help: "Terms of this process that ended with a write that was refused, as another led by then.",
		}),
		blocked: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rotor_scheduler_blocked", Help: "Clients that are due and cannot be issued for now.",
		}),
		due: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rotor_scheduler_due_total", Help: "Clients for which the issuer was asked, by reason.",
		}, []string{"reason"}),
		lateness: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rotor_scheduler_lateness_seconds",
			Help:    "How long after the renewal moment the issuer was asked, on the clock of the fleet.",
			Buckets: []float64{1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400},
		}),
		rotations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "rotor_rotation_duration_seconds",
			Help:    "Time from the start of a rotation to its end, on the machine's clock, by reason and outcome.",
			Buckets: []float64{.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600},
		}, []string{"reason", "state"}),
		rollouts: newRolloutMetrics(r),
	}
	r.MustRegister(m.leader, m.term, m.fenced, m.blocked, m.due, m.lateness, m.rotations, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rotor_scheduler_clusters", Help: "Clusters that are watched.",
	}, clusters))
	return m
}
