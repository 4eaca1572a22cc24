// Package bustest gives tests a real NATS server with JetStream, in process,
// with the streams and buckets of Rotor. There is no mock of JetStream.
package bustest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Limit is how long a test waits for what must happen.
const Limit = time.Minute

// Limits of servers that do not bind. Without them a server takes three quarters
// of the free space of the disk, and a disk with less than 33 GB free has tests
// fail at their streams, whose bounds exceed it.
const maxStore, maxMemory = 1 << 50, 1 << 30

// Server is a running server and a connection to it.
type Server struct {
	NATS   *nats.Conn
	Server *server.Server
	Bus    *bus.Bus
}

// New starts a server whose files live as long as the test.
func New(t testing.TB) *Server {
	t.Helper()
	return start(t, server.Options{DontListen: true, StoreDir: t.TempDir()})
}

// NewDurable starts a server that syncs each write to the disk, as Rotor runs
// them, and listens on a free port of loopback: for benchmarks.
func NewDurable(t testing.TB) *Server {
	t.Helper()
	return NewAt(t, t.TempDir(), true)
}

// NewAt is NewDurable on a folder, which may hold a store already; without sync
// it is quick to fill. It may be stopped before the test ends.
func NewAt(t testing.TB, dir string, sync bool) *Server {
	t.Helper()
	return start(t, server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, SyncAlways: sync, StoreDir: dir})
}

// Restart stops a server of NewAt and starts it again on its files and its port.
// Connections to its address come back by themselves.
func (s *Server) Restart(t testing.TB, dir string) {
	t.Helper()
	port := s.Server.Addr().(*net.TCPAddr).Port
	s.Stop()
	s.Server = run(t, server.Options{Host: "127.0.0.1", Port: port, SyncAlways: true, MaxPayload: 4 << 20, StoreDir: dir})
	s.NATS = Connect(t, s.Server)
	b, err := bus.New(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	s.Bus = b
}

// Stop stops the server and waits until its files are closed.
func (s *Server) Stop() {
	s.NATS.Close()
	s.Server.Shutdown()
	s.Server.WaitForShutdown()
}

// NewEmpty starts a server that has no streams.
func NewEmpty(t testing.TB) *Server {
	t.Helper()
	s := run(t, server.Options{DontListen: true, StoreDir: t.TempDir()})
	return &Server{NATS: Connect(t, s), Server: s}
}

// NewDenying starts a server whose connection NATS is denied to publish on the
// subjects given.
func NewDenying(t testing.TB, subjects ...string) *Server {
	t.Helper()
	permissions := &server.Permissions{Publish: &server.SubjectPermission{Deny: subjects}}
	s := start(t, server.Options{
		DontListen: true, StoreDir: t.TempDir(), NoAuthUser: "all",
		Users: []*server.User{{Username: "all"}, {Username: "some", Permissions: permissions}},
	})
	s.NATS = Connect(t, s.Server, nats.UserInfo("some", ""))
	return s
}

func run(t testing.TB, options server.Options) *server.Server {
	t.Helper()
	options.ServerName, options.JetStream, options.MaxPayload = "test", true, 4<<20
	options.NoSigs, options.NoLog = true, true
	options.JetStreamMaxStore, options.JetStreamMaxMemory = maxStore, maxMemory
	s, err := server.NewServer(&options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(Limit) {
		t.Fatal("nats-server did not start")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

func start(t testing.TB, options server.Options) *Server {
	t.Helper()
	s := run(t, options)
	nc := Connect(t, s)
	if err := bus.Setup(t.Context(), nc, 1); err != nil {
		t.Fatal(err)
	}
	b, err := bus.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &Server{NATS: nc, Server: s, Bus: b}
}

// Connect opens one more connection to a server.
func Connect(t testing.TB, s *server.Server, more ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("", append([]nats.Option{nats.InProcessServer(s), nats.MaxReconnects(-1)}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Env returns an environment for a part under test, on the given clock, that
// logs to the test.
func (s *Server) Env(t testing.TB, part string, c clock.Clock) daemon.Env {
	t.Helper()
	process, err := daemon.NewProcess(t.Output(), daemon.Config{Log: daemon.LogConfig{Level: "debug"}})
	if err != nil {
		t.Fatal(err)
	}
	env := process.Env(part, "test", s.NATS, 1)
	env.Clock = c
	return env
}

// Run runs a part until the test ends, and fails the test if it stops before.
func Run(t testing.TB, run func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("part ended: %v", err)
			}
		case <-time.After(Limit):
			t.Error("part did not end")
		}
	})
}

// Eventually waits until ok returns nil, and fails the test with its last error
// after Limit.
func Eventually(t testing.TB, ok func() error) {
	t.Helper()
	deadline := time.After(Limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("not within %s: %v", Limit, err)
		case <-tick.C:
		}
	}
}

// Stored returns every event of a kind that a stream holds, oldest first.
func Stored[T any](t testing.TB, s *Server, kind event.Kind[T]) []T {
	t.Helper()
	js, err := jetstream.New(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	name := bus.Events
	if kind.Row().Command() {
		name = bus.Commands
	}
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	info := stream.CachedInfo()
	var all []T
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		msg, err := stream.GetMsg(t.Context(), seq)
		if err != nil || bus.IsFence(msg.Subject) {
			continue // taken from the work queue, or the fence of a leader
		}
		e, err := event.Unmarshal(msg.Data)
		if err != nil {
			t.Fatalf("message %d of %s: %v", seq, name, err)
		}
		if !kind.Is(e) {
			continue
		}
		data, err := kind.Decode(e)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data)
	}
	return all
}

// Expect waits for an event of a kind for which match returns true, also one
// stored before the call, and returns it.
func Expect[T any](t testing.TB, s *Server, kind event.Kind[T], match func(T) bool) T {
	t.Helper()
	var found T
	Eventually(t, func() error {
		all := Stored(t, s, kind)
		for _, data := range all {
			if match == nil || match(data) {
				found = data
				return nil
			}
		}
		return fmt.Errorf("no %s that matches among %d", kind.Type(), len(all))
	})
	return found
}

// Letters returns the dead letters with their bodies, oldest change first.
func Letters(t testing.TB, s *Server) []fleet.Letter {
	t.Helper()
	ctx, done := context.WithCancel(t.Context())
	defer done()
	var all []fleet.Letter
	s.Bus.WatchLetters(ctx, bus.LetterWatcher{
		Changed: func(l fleet.Letter) { all = append(all, l) },
		Current: func(uint64) { done() },
		Broken:  func(err error) { t.Fatal(err) },
	})
	for i, l := range all {
		var err error
		if all[i], err = s.Bus.Letter(t.Context(), l.Service, l.Cluster, l.ID); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// ExpectLetter waits for a dead letter for which match returns true, and returns
// it.
func ExpectLetter(t testing.TB, s *Server, match func(fleet.Letter) bool) fleet.Letter {
	t.Helper()
	var found fleet.Letter
	Eventually(t, func() error {
		all := Letters(t, s)
		for _, l := range all {
			if match(l) {
				found = l
				return nil
			}
		}
		return fmt.Errorf("no letter that matches among %d", len(all))
	})
	return found
}

// Settle asks the service that gave a letter up to settle it, as the gateway
// does.
func Settle(t testing.TB, s *Server, l fleet.Letter, action event.Action) {
	t.Helper()
	kind, ok := event.Settle(l.Service)
	if !ok {
		t.Fatalf("%s settles no letters", l.Service)
	}
	meta := event.Meta{Source: "gateway", Cluster: l.Cluster, Key: []string{l.ID, fmt.Sprint(l.Revision), string(action)}, Time: clock.Wall()}
	command := event.SettleCommand{Letter: l.ID, Revision: l.Revision, Action: action, By: "admin"}
	if err := bus.Publish(t.Context(), s.Bus, kind, meta, command); err != nil {
		t.Fatal(err)
	}
}

// Quiet returns a logger that keeps silent, for benchmarks.
func Quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
