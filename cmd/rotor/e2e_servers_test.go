package main

import (
	"context"
	"crypto"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/go-jose/go-jose/v4"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/natsconf"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/secret"
)

func thumbprint(public crypto.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), err
}

// inbox holds what a receiver got.
type inbox struct {
	mu       sync.Mutex
	messages []string
	refuse   int // status with which messages are refused; 0 takes them
}

// take puts a message in and returns 0, or the status of its refusal.
func (b *inbox) take(message string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse == 0 {
		b.messages = append(b.messages, message)
	}
	return b.refuse
}

func (b *inbox) put(message string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.messages = append(b.messages, message)
}

func (b *inbox) matching(pattern *regexp.Regexp) (n int, all string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, message := range b.messages {
		if pattern.MatchString(message) {
			n++
		}
	}
	return n, strings.Join(b.messages, "\n-----\n")
}

// cmdSlack starts a receiver of incoming webhooks and sets SLACK to its URL. With
// refuse STATUS or accept, the one that runs does so from then on.
func cmdSlack(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) > 0 {
		box, status := worldOf(ts).messages["slack"], 0
		if args[0] == "refuse" {
			var err error
			status, err = strconv.Atoi(args[1])
			ts.Check(err)
		}
		box.mu.Lock()
		defer box.mu.Unlock()
		box.refuse = status
		return
	}
	box := &inbox{}
	worldOf(ts).messages["slack"] = box
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	s := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if status := box.take(string(body)); status != 0 {
			w.WriteHeader(status)
		}
	})}
	go func() { _ = s.Serve(l) }()
	ts.Defer(func() { _ = s.Close() })
	ts.Setenv("SLACK", "http://"+l.Addr().String()+"/services/T/B/hunter2")
}

// cmdSMTP reserves an address for a mail server (smtp reserve), or starts the
// server there (smtp start). SMTP is its address.
func cmdSMTP(ts *testscript.TestScript, _ bool, args []string) {
	if args[0] == "reserve" {
		ts.Setenv("SMTP", freeAddress(ts))
		return
	}
	box := &inbox{}
	worldOf(ts).messages["smtp"] = box
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{box: box}, nil }))
	s.Domain, s.AllowInsecureAuth = "localhost", true
	l, err := net.Listen("tcp", ts.Getenv("SMTP"))
	ts.Check(err)
	go func() { _ = s.Serve(l) }()
	ts.Defer(func() { _ = s.Close() })
}

type session struct{ box *inbox }

func (*session) Mail(string, *smtp.MailOptions) error { return nil }
func (*session) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (*session) Reset()                               {}
func (*session) Logout() error                        { return nil }

func (s *session) Data(r io.Reader) error {
	body, err := io.ReadAll(r)
	s.box.put(string(body))
	return err
}

// cmdReceived waits until exactly N messages match: received slack N PATTERN.
func cmdReceived(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	pattern := regexp.MustCompile("(?s)" + args[2])
	box := worldOf(ts).messages[args[0]]
	eventually(ts, func() error {
		n, all := box.matching(pattern)
		if n > want {
			ts.Fatalf("%d messages to %s match %q, want %d:\n%s", n, args[0], args[2], want, all)
		}
		if n < want {
			return fmt.Errorf("%d messages to %s match %q, want %d:\n%s", n, args[0], args[2], want, all)
		}
		return nil
	})
}

// natsKey finds the external NATS server of a script.
type natsKey struct{}

// cmdNATSServer starts an external NATS server with the configuration that
// rotor nats config makes, in the folder nats. With fresh, the one that runs
// loses all that it has stored, and starts again.
func cmdNATSServer(ts *testscript.TestScript, _ bool, args []string) {
	base, store := ts.MkAbs("nats"), ts.MkAbs("nats-store")
	if len(args) == 1 && args[0] == "fresh" {
		s, _ := worldOf(ts).env.Values[natsKey{}].(*server.Server)
		s.Shutdown()
		s.WaitForShutdown()
		ts.Check(os.RemoveAll(store))
	} else {
		o := natsconf.Options{Servers: []string{freeAddress(ts)}, Base: base, Store: store, MaxStore: natsconf.Unbounded, TLS: natsconf.TLS{SelfSigned: true}}
		_, err := natsconf.Write(base, o)
		ts.Check(err)
	}
	options, err := server.ProcessConfigFile(filepath.Join(base, natsconf.ServerConfig(0)))
	ts.Check(err)
	options.NoSigs, options.NoLog = true, true
	s, err := server.NewServer(options)
	ts.Check(err)
	s.Start()
	if !s.ReadyForConnections(patience) {
		ts.Fatalf("the external nats-server did not start")
	}
	worldOf(ts).env.Values[natsKey{}] = s
	ts.Defer(func() { s.Shutdown(); s.WaitForShutdown() })
}

func freeAddress(ts *testscript.TestScript) string {
	address, err := worldOf(ts).ports.Free()
	ts.Check(err)
	return address
}

// cmdService starts one of our other programs in the background and leaves it
// running to the end of the script: service NAME args...
func cmdService(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	p := w.start(ts, args[0], args[1:]...)
	w.programs[args[0]] = p
	ts.Defer(func() {
		select {
		case <-p.done:
			ts.Logf("%s has ended: %v\n%s", args[0], p.err, p.output)
		default:
		}
	})
}

// cmdEnd ends programs of cmdService as a service manager does: end NAME...
func cmdEnd(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		p := worldOf(ts).programs[name]
		ts.Check(p.command.Process.Signal(os.Interrupt))
		select {
		case <-p.done:
		case <-time.After(patience):
			ts.Fatalf("%s did not end:\n%s", name, p.output)
		}
		if p.err != nil {
			ts.Fatalf("%s ended with %v:\n%s", name, p.err, p.output)
		}
	}
}

// cmdConfig writes rotor.yaml with the receivers of the script as channels.
func cmdConfig(ts *testscript.TestScript, _ bool, args []string) {
	text := fmt.Sprintf(`
notifier:
  backoffCap: 1s
  channels:
    - name: ops-slack
      slack: {webhookURL: %q}
`, ts.Getenv("SLACK"))
	if len(args) == 0 || args[0] != "slack" {
		text += fmt.Sprintf(`    - name: ops-mail
      email: {host: %q, from: rotor@example.com, to: [ops@example.com], tls: none}
`, ts.Getenv("SMTP"))
	}
	writeFile(ts, "rotor.yaml", text)
}

// cmdFourConfig writes <service>.yaml for four programs, on free ports, each
// with its own user of NATS.
func cmdFourConfig(ts *testscript.TestScript, _ bool, _ []string) {
	listenAPI, listenAgents, health := freeAddress(ts), freeAddress(ts), freeAddress(ts)
	for _, service := range bus.Services() {
		own := ""
		if service == bus.UserScheduler {
			own = fmt.Sprintf("health: {listen: %q}\n", health)
		}
		writeFile(ts, service+".yaml", ts.ReadFile("nats/"+service+".yaml")+own+fmt.Sprintf(`
issuer: {keyFile: issuer.key, tokenIssuer: "http://%s"}
gateway: {listenAPI: %q, listenAgents: %q, adminTokenFile: admin.token}
`, listenAPI, listenAPI, listenAgents))
	}
	ts.Setenv("API", "http://"+listenAPI)
	ts.Setenv("AGENTS", "https://"+listenAgents)
	ts.Setenv("HEALTH", "http://"+health)
}

// cmdEnvServer waits for the gateway of cmdFourConfig.
func cmdEnvServer(ts *testscript.TestScript, _ bool, _ []string) {
	eventually(ts, func() error {
		response, err := http.Get(ts.Getenv("API") + "/readyz")
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("not ready: %s", body)
		}
		return err
	})
}

// cmdWaits waits until /readyz of a URL says what the program waits for: waits
// URL TEXT.
func cmdWaits(ts *testscript.TestScript, _ bool, args []string) {
	eventually(ts, func() error {
		response, err := http.Get(args[0] + "/readyz")
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		if err == nil && (response.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), args[1])) {
			err = fmt.Errorf("status %d: %s", response.StatusCode, body)
		}
		return err
	})
}

// cmdJoin runs the agent program for a cluster, with a join token: join CLUSTER.
func cmdJoin(ts *testscript.TestScript, _ bool, args []string) {
	token, err := secret.ReadFile(ts.MkAbs("admin.token"))
	ts.Check(err)
	client := &api.Client{URL: ts.Getenv("API"), Token: token}
	var join api.JoinReply
	ts.Check(client.Call(context.Background(), http.MethodPost, api.PathClusters+"/"+args[0]+"/join-tokens", api.JoinRequest{}, &join))
	cmdService(ts, false, []string{
		"agent", "--server", ts.Getenv("AGENTS"), "--join", join.Token, "--ca-hash", join.FleetKey, "--cluster", args[0], "--dir", "agent",
	})
}

func writeFile(ts *testscript.TestScript, name, text string) {
	ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
}
