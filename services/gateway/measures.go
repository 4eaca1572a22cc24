package gateway

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rotor-fleet/rotor/services/gateway/internal/apicert"
	"github.com/rotor-fleet/rotor/services/gateway/internal/servercert"
	"github.com/rotor-fleet/rotor/services/gateway/internal/state"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/measure"
)

// measures are the metrics of the gateway.
type measures struct {
	requests *prometheus.HistogramVec
	waiting  prometheus.Gauge
	streams  prometheus.Gauge

	registry   prometheus.Registerer
	registered []prometheus.Collector
}

func newMeasures(env daemon.Env, s *state.State, canary *servercert.Keeper, certificate *apicert.Pair) (*measures, error) {
	m := &measures{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "http_server_request_duration_seconds", Help: "Time to answer a request, by listener, method, route and status; of long polls and streams with the time that they wait.",
			Buckets: measure.Latency(),
		}, []string{"listener", "http_request_method", "http_route", "http_response_status_code"}),
		waiting:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "rotor_agents_connected", Help: "Agents that wait for work now."}),
		streams:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "rotor_event_streams", Help: "Followers of the live events now."}),
		registry: env.Metrics,
	}
	for _, c := range []prometheus.Collector{m.requests, m.waiting, m.streams, fleetCollector{s, env.Clock}, canaryCollector{canary}, certificateCollector{certificate}} {
		if err := m.registry.Register(c); err != nil {
			m.unregister()
			return nil, err
		}
		m.registered = append(m.registered, c)
	}
	return m, nil
}

func (m *measures) unregister() {
	for _, c := range m.registered {
		m.registry.Unregister(c)
	}
}

// count counts the requests of one listener. The route is the pattern, never
// the path: callers must not be able to make series.
func (m *measures) count(listener string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorded := &recorder{ResponseWriter: w, status: http.StatusOK}
		began := clock.Wall()
		next.ServeHTTP(recorded, r)
		method, route := place(r)
		histogram := m.requests.WithLabelValues(listener, method, route, strconv.Itoa(recorded.status))
		measure.ObserveIn(recorded.trace, histogram, clock.Wall().Sub(began).Seconds())
	})
}

// place returns method and route of a request that was served. Of what no route
// has taken even the method is the caller's invention.
func place(r *http.Request) (method, route string) {
	method, route, ok := strings.Cut(r.Pattern, " ")
	if !ok {
		return "_OTHER", "none"
	}
	return method, route
}

type recorder struct {
	http.ResponseWriter
	status int
	trace  string // id of the trace, if it is recorded
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// fleetCollector computes the metrics of the fleet when they are asked for.
type fleetCollector struct {
	state *state.State
	clock clock.Clock
}

var (
	clientsDesc  = prometheus.NewDesc("rotor_clients", "Clients by state.", []string{"state"}, nil)
	clustersDesc = prometheus.NewDesc("rotor_clusters", "Clusters by the state of their update window.", []string{"window"}, nil)
	lettersDesc  = prometheus.NewDesc("rotor_dead_letters_open", "Dead letters that wait for somebody, by the service that gave them up; the same from each gateway.", []string{"service"}, nil)
	expiryDesc   = prometheus.NewDesc("rotor_credential_expiry_timestamp_seconds",
		"Moment at which the first credential in use of a cluster ends, in seconds since 1970.", []string{"cluster"}, nil)
)

// Describe is part of prometheus.Collector.
func (fleetCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- clientsDesc
	ch <- lettersDesc
	ch <- clustersDesc
	ch <- expiryDesc
}

// Collect is part of prometheus.Collector.
func (f fleetCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, label string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, label)
	}
	open := f.state.Letters.Open()
	for _, service := range bus.Services() {
		if _, gives := event.Settle(service); gives {
			gauge(lettersDesc, float64(open[service]), service)
		}
	}
	now, settings, releases := f.clock.Now(), f.state.FleetSettings(), f.state.AllReleases()
	states, windows := map[fleet.State]int{}, map[fleet.WindowState]int{}
	for _, name := range f.state.ClusterNames() {
		c, err := f.state.Cluster(name)
		if err != nil {
			continue // removed just now
		}
		windows[fleet.WindowOf(&c, releases, fleet.PolicyOf(settings, &c), now).State]++
		var first time.Time
		for _, key := range c.ClientKeys() {
			record := f.state.Records(name).Record(key)
			states[fleet.StateOf(record, now)]++
			if g := record.InUse(); g != nil && (first.IsZero() || g.Expiry().Before(first)) {
				first = g.Expiry()
			}
		}
		if !first.IsZero() {
			gauge(expiryDesc, float64(first.Unix()), name)
		}
	}
	for _, state := range []fleet.State{
		fleet.StatePending, fleet.StateHealthy, fleet.StateDue, fleet.StateDegraded,
		fleet.StateRecoverable, fleet.StateLockedOut, fleet.StateRevoked,
	} {
		gauge(clientsDesc, float64(states[state]), string(state))
	}
	for _, window := range []fleet.WindowState{fleet.WindowCurrent, fleet.WindowDue, fleet.WindowBehind} {
		gauge(clustersDesc, float64(windows[window]), string(window))
	}
}

// canaryCollector shows whether agents can prove here that they trust the CA that
// is to come. There is no such metric while none is.
type canaryCollector struct{ canary *servercert.Keeper }

var canaryDesc = prometheus.NewDesc("rotor_canary_ready",
	"Whether this gateway has its certificate of the incoming CA, 1 or 0; absent while no CA is incoming.", nil, nil)

// Describe is part of prometheus.Collector.
func (canaryCollector) Describe(ch chan<- *prometheus.Desc) { ch <- canaryDesc }

// Collect is part of prometheus.Collector.
func (c canaryCollector) Collect(ch chan<- prometheus.Metric) {
	ready, wanted := c.canary.CanaryReady()
	if !wanted {
		return
	}
	value := 0.0
	if ready {
		value = 1
	}
	ch <- prometheus.MustNewConstMetric(canaryDesc, prometheus.GaugeValue, value)
}

// certificateCollector shows when the certificate of the API ends; nothing, where it
// has none.
type certificateCollector struct{ certificate *apicert.Pair }

var certificateDesc = prometheus.NewDesc("rotor_api_certificate_expiry_timestamp_seconds",
	"Moment at which the certificate of the API in use ends, in seconds since 1970; absent without gateway.certFile.", nil, nil)

// Describe is part of prometheus.Collector.
func (certificateCollector) Describe(ch chan<- *prometheus.Desc) { ch <- certificateDesc }

// Collect is part of prometheus.Collector.
func (c certificateCollector) Collect(ch chan<- prometheus.Metric) {
	if c.certificate != nil {
		ch <- prometheus.MustNewConstMetric(certificateDesc, prometheus.GaugeValue, float64(c.certificate.NotAfter().Unix()))
	}
}
