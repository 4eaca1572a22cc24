package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/ports"
)

// patience is how long scripts wait for what must happen.
const patience = 90 * time.Second

// worldKey finds the world of a script.
type worldKey struct{}

// world is what one script has started.
type world struct {
	env      *testscript.Env
	topology []string // program of the command up, and its arguments
	programs map[string]*program
	messages map[string]*inbox
	ports    ports.Ports
	probe    *probe

	environment []string      // of the programs, beside that of the test
	spans       func() []span // that were received, in scripts about traces
}

func newWorld(env *testscript.Env, topology []string) *world {
	w := &world{env: env, topology: topology, programs: map[string]*program{}, messages: map[string]*inbox{}}
	env.Defer(func() {
		for _, p := range w.programs {
			p.end(syscall.SIGKILL)
		}
		w.ports.Close()
	})
	return w
}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// program is a running program of ours.
type program struct {
	command *exec.Cmd
	output  *output
	done    chan struct{}
	err     error
}

// output is what a program has printed so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func (w *world) start(ts *testscript.TestScript, name string, args ...string) *program {
	p := &program{output: &output{}, done: make(chan struct{})}
	p.command = exec.Command(filepath.Join(binaries, name), args...)
	p.command.Dir = ts.MkAbs(".")
	p.command.Env = append(os.Environ(), w.environment...)
	p.command.Stdout, p.command.Stderr = p.output, p.output
	ts.Check(p.command.Start())
	go func() {
		p.err = p.command.Wait()
		close(p.done)
	}()
	return p
}

func (p *program) end(signal os.Signal) {
	_ = p.command.Process.Signal(signal)
	<-p.done
}

// eventually calls f until it returns nil, or patience is over.
func eventually(ts *testscript.TestScript, f func() error) {
	deadline := time.After(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			ts.Fatalf("not within %s: %v", patience, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// cmdUp runs the topology on free ports and waits until it says that it runs:
// up [args...]. With neg, it must end with an error, which goes to stdout.
func cmdUp(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	all := append(slices.Clone(w.topology[1:]), "--data", "var")
	for _, flag := range []string{"--listen-api", "--listen-agents", "--listen-nats"} {
		if !strings.Contains(strings.Join(args, " "), flag) {
			all = append(all, flag, "127.0.0.1:0")
		}
	}
	_ = os.Remove(ts.MkAbs("var/rotor.json"))
	p := w.start(ts, w.topology[0], append(all, args...)...)
	if neg {
		<-p.done
		if p.err == nil {
			ts.Fatalf("rotor up ended without an error:\n%s", p.output)
		}
		_, _ = ts.Stdout().Write([]byte(p.output.String()))
		return
	}
	w.programs["up"] = p
	ts.Defer(func() { logTail(ts, p) })
	eventually(ts, func() error {
		select {
		case <-p.done:
			ts.Fatalf("rotor up ended: %v\n%s", p.err, p.output)
		default:
		}
		if !strings.Contains(p.output.String(), "Ctrl-C ends it") {
			return fmt.Errorf("rotor up is not ready:\n%s", p.output)
		}
		return nil
	})
	file, err := cli.ReadServerFile(ts.MkAbs("var"))
	ts.Check(err)
	ts.Setenv("API", file.URL)
	ts.Setenv("AGENTS", file.Agents)
	ts.Setenv("NATS", file.NATS)
	token, err := os.ReadFile(ts.MkAbs("var/admin.token"))
	ts.Check(err)
	ts.Setenv("TOKEN", strings.TrimSpace(string(token)))
}

func logTail(ts *testscript.TestScript, p *program) {
	lines := strings.Split(p.output.String(), "\n")
	ts.Logf("last lines of rotor up:\n%s", strings.Join(lines[max(0, len(lines)-25):], "\n"))
}

// cmdDown ends `rotor up` as Ctrl-C does, and wants exit code 0.
func cmdDown(ts *testscript.TestScript, _ bool, _ []string) {
	p := worldOf(ts).programs["up"]
	ts.Check(p.command.Process.Signal(os.Interrupt))
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		ts.Fatalf("rotor up did not end within 10s:\n%s", p.output)
	}
	if p.err != nil {
		ts.Fatalf("rotor up ended with %v:\n%s", p.err, p.output)
	}
}

// cmdCrash kills `rotor up` without warning.
func cmdCrash(ts *testscript.TestScript, _ bool, _ []string) {
	worldOf(ts).programs["up"].end(syscall.SIGKILL)
}

// run runs a program to its end and returns what it printed and its exit code.
func (w *world) run(ts *testscript.TestScript, name string, args ...string) (stdout, stderr string, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out, errOut bytes.Buffer
	c := exec.CommandContext(ctx, filepath.Join(binaries, name), args...)
	c.Dir, c.Stdout, c.Stderr = ts.MkAbs("."), &out, &errOut
	c.Env = append(os.Environ(), "NO_COLOR=1")
	err := c.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errOut.String(), exit.ExitCode()
	}
	ts.Check(err)
	return out.String(), errOut.String(), 0
}

// cmdUntil repeats a command until its output matches: until PATTERN rotor args...
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: until PATTERN program args...")
	}
	pattern := regexp.MustCompile("(?s)" + args[0])
	eventually(ts, func() error {
		stdout, stderr, code := worldOf(ts).run(ts, args[1], args[2:]...)
		if pattern.MatchString(stdout+stderr) == neg {
			return fmt.Errorf("%v (exit %d) does not fit %q:\n%s%s", args[1:], code, args[0], stdout, stderr)
		}
		return nil
	})
}

// cmdCode runs a command and wants its exit code; its output goes to stdout:
// code N rotor args...
func cmdCode(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	stdout, stderr, code := worldOf(ts).run(ts, args[1], args[2:]...)
	_, _ = ts.Stdout().Write([]byte(stdout))
	_, _ = ts.Stderr().Write([]byte(stderr))
	if code != want {
		ts.Fatalf("%v ended with %d, want %d:\n%s%s", args[1:], code, want, stdout, stderr)
	}
}

// cmdHTTP asks for a URL and wants a status: http STATUS URL [token]. The body
// goes to stdout.
func cmdHTTP(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	request, err := http.NewRequest(http.MethodGet, args[1], nil)
	ts.Check(err)
	if len(args) > 2 {
		request.Header.Set("Authorization", "Bearer "+args[2])
	}
	response, err := http.DefaultClient.Do(request)
	ts.Check(err)
	defer func() { _ = response.Body.Close() }()
	var body bytes.Buffer
	if !strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
		_, err = body.ReadFrom(response.Body)
		ts.Check(err)
	}
	_, _ = ts.Stdout().Write(body.Bytes())
	if response.StatusCode != want {
		ts.Fatalf("GET %s: %s, want %d\n%s", args[1], response.Status, want, body.String())
	}
}

// cmdListen takes a port and sets a variable to its address: listen NAME.
func cmdListen(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}
