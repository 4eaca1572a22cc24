package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rotor-fleet/rotor/agent/internal/install"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Metrics are what an agent measures. A nil one measures nothing.
type Metrics struct {
	certificate, token, generation, failing *prometheus.GaugeVec
	failures                                *prometheus.CounterVec
	contact, skew, bundle, enrolled         prometheus.Gauge
	refusals, errors                        prometheus.Counter
}

// NewMetrics registers what an agent measures; one agent a registry.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	const prefix = "rotor_agent_"
	client := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + name, Help: help}, []string{"client"})
	}
	one := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: help})
	}
	count := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	m := &Metrics{
		certificate: client("certificate_expiry_timestamp_seconds", "End of the certificate that is installed for a client."),
		token:       client("token_expiry_timestamp_seconds", "End of the token that is installed for a client."),
		generation:  client("generation", "Generation that is installed for a client."),
		failing:     client("client_failing", "1 while a client is not well."),
		failures: prometheus.NewCounterVec(
			prometheus.CounterOpts{Name: prefix + "failures_total", Help: "Attempts for a client that have failed."}, []string{"client"}),
		contact:  one("last_contact_timestamp_seconds", "When the server has answered last."),
		skew:     one("clock_skew_seconds", "By how much this machine's clock is ahead of the server's."),
		bundle:   one("bundle_version", "Version of the trust bundle that is loaded."),
		enrolled: one("enrolled", "1 while the server knows this agent."),
		refusals: count("bundle_refused_total", "Trust bundles and servers that were not believed."),
		errors:   count("server_errors_total", "Calls to the server that have failed."),
	}
	registry.MustRegister(m.certificate, m.token, m.generation, m.failing, m.failures, m.contact, m.skew, m.bundle, m.enrolled, m.refusals, m.errors)
	return m
}

func (m *Metrics) installed(key fleet.ClientKey, s install.Metadata) {
	if m == nil {
		return
	}
	m.certificate.WithLabelValues(key.String()).Set(float64(s.NotAfter.Unix()))
	m.token.WithLabelValues(key.String()).Set(float64(s.ExpiresAt.Unix()))
	m.generation.WithLabelValues(key.String()).Set(float64(s.Generation))
}

// failed counts a failure of a client, and well ends it.
func (m *Metrics) failed(key fleet.ClientKey) {
	if m != nil {
		m.failures.WithLabelValues(key.String()).Inc()
		m.failing.WithLabelValues(key.String()).Set(1)
	}
}

func (m *Metrics) well(key fleet.ClientKey) {
	if m != nil {
		m.failing.WithLabelValues(key.String()).Set(0)
	}
}

// gone forgets a client that the cluster has no more.
func (m *Metrics) gone(key fleet.ClientKey) {
	if m == nil {
		return
	}
	for _, v := range []*prometheus.GaugeVec{m.certificate, m.token, m.generation, m.failing} {
		v.DeleteLabelValues(key.String())
	}
	m.failures.DeleteLabelValues(key.String())
}

// heard notes an answer of the server, and how far ahead its clock shows ours to
// be.
func (m *Metrics) heard(now time.Time, ahead time.Duration, known bool) {
	if m == nil {
		return
	}
	m.contact.Set(float64(now.Unix()))
	if known {
		m.skew.Set(ahead.Seconds())
	}
}

func (m *Metrics) unheard() {
	if m != nil {
		m.errors.Inc()
	}
}

func (m *Metrics) loaded(bundle int) {
	if m != nil {
		m.bundle.Set(float64(bundle))
	}
}

func (m *Metrics) joined(yes bool) {
	if m == nil {
		return
	}
	m.enrolled.Set(0)
	if yes {
		m.enrolled.Set(1)
	}
}

func (m *Metrics) refused() {
	if m != nil {
		m.refusals.Inc()
	}
}
