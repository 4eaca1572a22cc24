package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// binaries is where TestMain has built the real programs.
var binaries string

func TestMain(m *testing.M) { os.Exit(run(m)) } //nolint:forbidigo // the main of a test

func run(m *testing.M) int {
	flag.Parse()
	dir, err := os.MkdirTemp("", "rotor-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binaries = dir
	arguments := []string{"build", "-o", dir + string(filepath.Separator)}
	for _, name := range []string{"cmd/rotor", "cmd/rotor/cmd/cluster", "services/scheduler/cmd/scheduler", "services/issuer/cmd/issuer", "services/notifier/cmd/notifier", "services/gateway/cmd/gateway", "agent/cmd/agent"} {
		arguments = append(arguments, module+name)
	}
	arguments = append(arguments, "github.com/nats-io/nats-server/v2")
	if out, err := exec.Command("go", arguments...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs under test: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// topologies are the ways to run Rotor: the program of the command up, and its
// arguments beside those that all have.
var topologies = map[string][]string{
	"one":     {"rotor", "up"},
	"four":    {"cluster", "up", "--nodes", "1", "--copies", "1"},
	"cluster": {"cluster", "up", "--nodes", "3", "--copies", "2", "--hosts", "2"},
}

// chosen are the topologies to run; all three take some minutes.
var chosen = flag.String("topologies", "one,four", "run the scripts on these `topologies`: one, four, cluster")

// TestScripts runs every script in testdata/script against the real programs on
// each topology, and those in testdata/<topology> on that one only.
// testdata/README.md lists the commands that scripts have.
func TestScripts(t *testing.T) {
	for name := range strings.SplitSeq(*chosen, ",") {
		program, known := topologies[name]
		if !known {
			t.Fatalf("no topology is called %q", name)
		}
		t.Run(name, func(t *testing.T) {
			files, err := filepath.Glob("testdata/script/*.txtar")
			if err != nil {
				t.Fatal(err)
			}
			own, err := filepath.Glob("testdata/" + name + "/*.txtar")
			if err != nil {
				t.Fatal(err)
			}
			runScripts(t, program, append(files, own...))
		})
	}
}

func runScripts(t *testing.T, program, files []string) {
	testscript.Run(t, testscript.Params{
		Files:               files,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", binaries+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("NO_COLOR", "1")
			env.Values[worldKey{}] = newWorld(env, program)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"up": cmdUp, "down": cmdDown, "crash": cmdCrash, "until": cmdUntil, "code": cmdCode,
			"checkset": cmdCheckSet, "credential": cmdCredential, "jsoneq": cmdJSON, "http": cmdHTTP,
			"slack": cmdSlack, "smtp": cmdSMTP, "received": cmdReceived, "days": cmdDays,
			"issued": cmdIssued, "ready": cmdReady, "filelimit": cmdFileLimit,
			"subscriber": cmdSubscriber, "newest": cmdNewest, "killrotation": cmdKillRotation, "config": cmdConfig, "four-config": cmdFourConfig, "env-server": cmdEnvServer,
			"waits": cmdWaits, "join": cmdJoin, "upgraded": cmdUpgraded, "nats-server": cmdNATSServer, "service": cmdService, "end": cmdEnd, "listen": cmdListen,
			"program": cmdProgram, "run": cmdRun, "paste": cmdPaste, "kill9": cmdKill9, "hup": cmdHangUp, "said": cmdSaid, "secrets": cmdSecrets,
			"letter": cmdLetter, "probe": cmdProbe, "offline-root": cmdOfflineRoot, "openssl-verify": cmdOpenSSLVerify, "killrollout": cmdKillRollout, "certificate": cmdCertificate,
		},
	})
}
