package main

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/rotor-fleet/rotor/"

// rules say what a package must not link, even indirectly, and why.
var rules = []struct {
	packages  []string
	forbidden []string
	why       string
}{
	{
		[]string{"services/scheduler/cmd/scheduler", "services/issuer/cmd/issuer", "services/notifier/cmd/notifier", "services/gateway/cmd/gateway", "agent/cmd/agent"},
		[]string{"github.com/nats-io/nats-server"},
		"only cmd/rotor embeds the server",
	},
	{[]string{"services/scheduler/..."}, []string{module + "services/issuer", module + "services/notifier", module + "services/gateway", module + "agent"}, "a service never imports another"},
	{[]string{"services/issuer/..."}, []string{module + "services/scheduler", module + "services/notifier", module + "services/gateway", module + "agent"}, "a service never imports another"},
	{[]string{"services/notifier/..."}, []string{module + "services/scheduler", module + "services/issuer", module + "services/gateway", module + "agent"}, "a service never imports another"},
	{[]string{"services/gateway/..."}, []string{module + "services/scheduler", module + "services/issuer", module + "services/notifier", module + "agent"}, "a service never imports another"},
	{[]string{"agent/..."}, []string{"github.com/nats-io", module + "services", module + "shared/bus", module + "shared/kv", module + "shared/daemon"}, "an agent speaks HTTP to the gateway and nothing else"},
	{[]string{"agent/cmd/agent"}, []string{"k8s.io/client-go/kubernetes", "k8s.io/api"}, "the typed client links every API of Kubernetes, and an agent must stay small"},
	{
		[]string{"shared/clock", "shared/fleet", "shared/event", "shared/secret", "shared/trust", "shared/identity", "shared/api", "shared/fleetfile", "shared/strictyaml", "shared/health", "shared/audit"},
		[]string{"github.com/nats-io"},
		"the nouns and the contracts know no NATS",
	},
	{
		[]string{"services/scheduler/internal/plan", "services/scheduler/internal/rollout", "services/scheduler/internal/waves", "services/issuer/internal/ca", "services/issuer/internal/token", "services/notifier/internal/rule"},
		[]string{"github.com/nats-io", module + "shared/bus", module + "shared/kv", module + "shared/daemon"},
		"packages that decide know no NATS",
	},
	{
		[]string{"cmd/rotor", "services/issuer/cmd/issuer"},
		[]string{"go.step.sm/crypto", "github.com/ThalesGroup/crypto11", "github.com/miekg/pkcs11"},
		"PKCS#11 takes C: only a build with the tag pkcs11 has it",
	},
	{[]string{"cmd/rotor/internal/cli"}, []string{"github.com/nats-io/nats-server", module + "services", module + "agent"}, "the command line talks HTTP"},
}

func TestDependencies(t *testing.T) {
	for _, rule := range rules {
		for _, name := range rule.packages {
			t.Run(name, func(t *testing.T) {
				out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", module+name).CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				linked := strings.Fields(string(out))
				if len(linked) < 3 {
					t.Fatalf("the go tool lists only %v", linked)
				}
				for _, dependency := range linked {
					for _, forbidden := range rule.forbidden {
						if dependency == forbidden || strings.HasPrefix(dependency, forbidden+"/") {
							t.Errorf("%s links %s: %s", name, dependency, rule.why)
						}
					}
				}
			})
		}
	}
}
