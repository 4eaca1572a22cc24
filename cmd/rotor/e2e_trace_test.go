package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// TestTrace runs the scripts in testdata/trace with a receiver of OTLP in this
// process. `make e2e-trace` runs them with a real collector.
func TestTrace(t *testing.T) { traceScripts(t, cmdOTLP) }

func traceScripts(t *testing.T, receiver func(*testscript.TestScript, bool, []string)) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/trace", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", binaries+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Values[worldKey{}] = newWorld(env, topologies["one"])
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"otlp": receiver, "onetrace": cmdOneTrace, "up": cmdUp, "until": cmdUntil, "nats-server": cmdNATSServer,
			"four-config": cmdFourConfig, "env-server": cmdEnvServer, "service": cmdService, "join": cmdJoin,
		},
	})
}

// span is what is looked at of a span, however it was received.
type span struct{ trace, id, parent, service, name string }

// spans collects what a receiver of OTLP was sent.
type spans struct {
	mu  sync.Mutex
	all []span
}

func (s *spans) list() []span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]span(nil), s.all...)
}

// ServeHTTP takes spans in binary form (OTLP 1.0, OTLP/HTTP request).
func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var request collector.ExportTraceServiceRequest
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = proto.Unmarshal(body, &request)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(r.URL.Path, err), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, resource := range request.ResourceSpans {
		service := ""
		for _, attribute := range resource.Resource.Attributes {
			if attribute.Key == "service.name" {
				service = attribute.Value.GetStringValue()
			}
		}
		for _, scope := range resource.ScopeSpans {
			for _, one := range scope.Spans {
				s.all = append(s.all, span{
					hex.EncodeToString(one.TraceId), hex.EncodeToString(one.SpanId), hex.EncodeToString(one.ParentSpanId), service, one.Name,
				})
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// cmdOTLP starts a receiver; the programs of the script send their spans to it.
func cmdOTLP(ts *testscript.TestScript, _ bool, _ []string) {
	received := &spans{}
	server := httptest.NewServer(received)
	ts.Defer(server.Close)
	sendTo(ts, server.URL, received.list)
}

// sendTo has every program of the script send its spans, soon.
func sendTo(ts *testscript.TestScript, endpoint string, received func() []span) {
	w := worldOf(ts)
	w.spans = received
	for _, variable := range [][2]string{{"OTEL_EXPORTER_OTLP_ENDPOINT", endpoint}, {"OTEL_BSP_SCHEDULE_DELAY", "100"}} {
		ts.Setenv(variable[0], variable[1])
		w.environment = append(w.environment, variable[0]+"="+variable[1])
	}
}

// way is what a trace of a rotation passes, by service and name of the span.
var way = []string{
	"rotor: rotor rotate",
	"rotor: HTTP POST",
	"gateway: POST /v1/rotations",
	"gateway: publish rotor.command.rotate.v1",
	"scheduler: process rotor.command.rotate.v1",
	"scheduler: publish rotor.rotation.started.v1",
	"scheduler: publish rotor.command.issue.v1",
	"issuer: process rotor.command.issue.v1",
	"issuer: issue",
	"issuer: publish rotor.credential.issued.v1",
	"agent: install",
	"agent: HTTP POST",
	"gateway: POST /v1/agent/steps",
	"gateway: publish rotor.credential.installed.v1",
	"issuer: process rotor.credential.installed.v1",
	"agent: prove",
	"gateway: POST /v1/agent/prove",
	"gateway: publish rotor.credential.proven.v1",
	"issuer: process rotor.credential.proven.v1",
	"issuer: publish rotor.credential.superseded.v1",
	"scheduler: publish rotor.rotation.completed.v1",
	"notifier: process rotor.rotation.completed.v1",
}

// cmdOneTrace waits until the trace that `rotor rotate` began has passed the
// whole way, and wants every span of it below another one of it.
func cmdOneTrace(ts *testscript.TestScript, _ bool, _ []string) {
	eventually(ts, func() error { return oneTrace(worldOf(ts).spans()) })
}

func oneTrace(all []span) error {
	id := ""
	for _, s := range all {
		if s.name == "rotor rotate" {
			if id != "" && id != s.trace {
				return fmt.Errorf("two traces begin with %s", s.name)
			}
			id = s.trace
		}
	}
	passed, ids, roots := map[string]bool{}, map[string]bool{}, 0
	for _, s := range all {
		if s.trace == id {
			passed[s.service+": "+s.name], ids[s.id] = true, true
		}
	}
	var missing []string
	for _, step := range way {
		if !passed[step] {
			missing = append(missing, step)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("trace %q has not passed %s; it has %v", id, strings.Join(missing, ", "), passed)
	}
	for _, s := range all {
		switch {
		case s.trace != id:
		case s.parent == "":
			roots++
		case !ids[s.parent]:
			return fmt.Errorf("%s: %s hangs below a span that nobody has sent", s.service, s.name)
		}
		if s.trace == id && strings.Contains(s.name, "/v1/agent/work") {
			return fmt.Errorf("the long poll is a part of the trace: %s: %s", s.service, s.name)
		}
	}
	if roots != 1 {
		return fmt.Errorf("the trace has %d roots, want 1", roots)
	}
	return nil
}
