package notifier

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rotor-fleet/rotor/services/notifier/internal/book"
	"github.com/rotor-fleet/rotor/services/notifier/internal/record"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// counters count the messages that this process has sent or given up.
type counters struct {
	sent, failed *prometheus.CounterVec
}

func (c counters) of(channel string) func(fleet.DeliveryState) {
	sent, failed := c.sent.WithLabelValues(channel), c.failed.WithLabelValues(channel)
	return func(state fleet.DeliveryState) {
		if state == fleet.DeliverySent {
			sent.Inc()
			return
		}
		failed.Inc()
	}
}

// measure registers the metrics; stop takes them out again.
func measure(registry prometheus.Registerer, alerts *book.Book, channels []string) (c counters, stop func(), err error) {
	c = counters{
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rotor_notifier_sent_total", Help: "Messages that a channel has accepted.",
		}, []string{"channel"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rotor_notifier_failed_total", Help: "Messages that were given up and lie in the dead letters.",
		}, []string{"channel"}),
	}
	all := []prometheus.Collector{c.sent, c.failed, pendingGauge(alerts, channels)}
	for _, severity := range []fleet.Severity{fleet.SeverityInfo, fleet.SeverityWarning, fleet.SeverityCritical} {
		all = append(all, firingGauge(alerts, severity))
	}
	var errs []error
	for _, collector := range all {
		if err := registry.Register(collector); err != nil {
			errs = append(errs, fmt.Errorf("register metrics: %w", err))
		}
	}
	stop = func() {
		for _, collector := range all {
			registry.Unregister(collector)
		}
	}
	return c, stop, errors.Join(errs...)
}

func pendingGauge(alerts *book.Book, channels []string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rotor_notifier_pending", Help: "Alerts with a message that a channel of this process has not accepted yet.",
	}, func() float64 {
		n := 0
		for _, e := range alerts.All() {
			for _, channel := range channels {
				if record.Pending(&e.Value, channel) != nil {
					n++
				}
			}
		}
		return float64(n)
	})
}

func firingGauge(alerts *book.Book, severity fleet.Severity) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rotor_notifier_alerts_firing", Help: "Alerts that are firing.",
		ConstLabels: prometheus.Labels{"severity": string(severity)},
	}, func() float64 {
		n := 0
		for _, e := range alerts.All() {
			if e.Value.State == fleet.AlertFiring && e.Value.Severity == severity {
				n++
			}
		}
		return float64(n)
	})
}
