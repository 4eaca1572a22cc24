package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/rotor-fleet/rotor/agent"
	"github.com/rotor-fleet/rotor/services/gateway"
	"github.com/rotor-fleet/rotor/services/issuer"
	"github.com/rotor-fleet/rotor/services/notifier"
	"github.com/rotor-fleet/rotor/services/scheduler"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/daemon"
)

// described remembers the metrics that are registered, also those without a
// value yet.
type described struct {
	prometheus.Registerer
	mu   sync.Mutex
	help map[string]string
}

var descRule = regexp.MustCompile(`fqName: "([^"]*)", help: "([^"]*)"`)

func (d *described) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc, 100)
	c.Describe(descs)
	close(descs)
	d.mu.Lock()
	for desc := range descs {
		found := descRule.FindStringSubmatch(desc.String())
		d.help[found[1]] = found[2]
	}
	d.mu.Unlock()
	return d.Registerer.Register(c)
}

func (d *described) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		if err := d.Register(c); err != nil {
			panic(err)
		}
	}
}

func (d *described) names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for name := range d.help {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// TestMetricsDocument holds that docs/metrics.md lists every metric that the
// programs have, and no other, and that dashboard and rules use no other.
func TestMetricsDocument(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)").FindAllStringSubmatch(string(raw), -1) {
		listed = append(listed, row[1])
	}
	slices.Sort(listed)
	have := metricsOf(t, listed)
	if !slices.Equal(have, listed) {
		t.Errorf("docs/metrics.md lists\n%s\nand the programs have\n%s", strings.Join(listed, "\n"), strings.Join(have, "\n"))
	}
	for _, path := range []string{"grafana/rotor.json", "prometheus/rules.yaml", "prometheus/rules_test.yaml"} {
		text, err := os.ReadFile(filepath.Join("../../deploy", path))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, ".json") && !json.Valid(text) {
			t.Errorf("deploy/%s is no JSON", path)
		}
		used := regexp.MustCompile(`\b(rotor|messaging|http_server)_[a-z0-9_]+`).FindAllString(string(text), -1)
		if len(used) == 0 {
			t.Errorf("deploy/%s uses no metric", path)
		}
		for _, name := range used {
			series := name
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				series = strings.TrimSuffix(series, suffix)
			}
			label := name == "messaging_destination_name" || name == "messaging_consumer_group_name"
			if !label && !slices.Contains(have, series) {
				t.Errorf("deploy/%s uses %s, which nobody has", path, name)
			}
		}
	}
}

// metricsOf runs the four services until they and an agent have registered what
// is listed, lets `promtool check metrics` judge all of it, and returns the names.
func metricsOf(t *testing.T, listed []string) []string {
	server := bustest.New(t)
	registry := prometheus.NewRegistry()
	all := &described{Registerer: registry, help: map[string]string{}}
	all.MustRegister(daemon.NewDenied())
	messages, err := bus.NewMeasures(all)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	issuing, serving := issuer.Defaults(), gateway.Defaults()
	issuing.KeyFile = filepath.Join(dir, "issuer.key")
	serving.AdminTokenFile = filepath.Join(dir, "admin.token")
	serving.ListenAPI, serving.ListenAgents = "127.0.0.1:0", "127.0.0.1:0"
	for name, run := range map[string]func(context.Context, daemon.Env) error{
		"issuer":    func(ctx context.Context, env daemon.Env) error { return issuer.Run(ctx, env, issuing) },
		"scheduler": func(ctx context.Context, env daemon.Env) error { return scheduler.Run(ctx, env, scheduler.Defaults()) },
		"notifier":  func(ctx context.Context, env daemon.Env) error { return notifier.Run(ctx, env, notifier.Defaults()) },
		"gateway":   func(ctx context.Context, env daemon.Env) error { return gateway.Run(ctx, env, serving) },
	} {
		env := server.Env(t, name, clock.Real())
		env.Metrics, env.Messages = all, messages
		bustest.Run(t, func(ctx context.Context) error { return run(ctx, env) })
	}
	agent.NewMetrics(all)
	bustest.Eventually(t, func() error {
		have := all.names()
		for _, name := range listed {
			if !slices.Contains(have, name) {
				return fmt.Errorf("docs/metrics.md lists %s, and nobody has registered it", name)
			}
		}
		return nil
	})
	families := []*dto.MetricFamily{}
	for name, help := range all.help {
		kind := dto.MetricType_GAUGE
		if strings.HasSuffix(name, "_total") {
			kind = dto.MetricType_COUNTER
		}
		families = append(families, &dto.MetricFamily{Name: &name, Help: &help, Type: &kind, Metric: []*dto.Metric{{}}})
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	return all.names()
}
