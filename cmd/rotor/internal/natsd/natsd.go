// Package natsd embeds a NATS server with JetStream: the store of one machine.
// Of all packages only this one and bustest link nats-server.
package natsd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/natsconf"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/daemon"
)

// Config says where the server keeps its files and where it listens.
type Config struct {
	Dir    string // holds store/, subscriber.nk and layout.json
	Listen string // host:port for subscribers; port 0 takes any
	Log    *slog.Logger
}

// Server is a running server.
type Server struct {
	server *server.Server
	users  map[string]nkeys.KeyPair // of the services and for setup; they live in memory only
	config Config

	options *server.Options

	mu          sync.Mutex
	connections []*nats.Conn // of this process, closed ones too
}

const startLimit = 30 * time.Second

// Start starts the server and waits until it accepts connections.
func Start(c Config) (*Server, error) {
	host, port, err := splitAddress(c.Listen)
	if err != nil {
		return nil, err
	}
	subscriber, err := seedFile(filepath.Join(c.Dir, SubscriberFile))
	if err != nil {
		return nil, err
	}
	backup, err := seedFile(filepath.Join(c.Dir, BackupFile))
	if err != nil {
		return nil, err
	}
	users, public, err := makeUsers()
	if err != nil {
		return nil, err
	}
	public[bus.UserSubscriber], public[bus.UserBackup] = subscriber, backup
	options := &server.Options{}
	if err := options.ProcessConfigString(natsconf.Accounts(public)); err != nil {
		return nil, fmt.Errorf("embedded NATS: users: %w", err)
	}
	options.ServerName, options.Host, options.Port = "rotor", host, port
	options.NoSigs, options.NoLog = true, true
	options.JetStream, options.StoreDir, options.DisableJetStreamBanner = true, filepath.Join(c.Dir, "store"), true
	// Without it a power cut loses what was acknowledged since the last sync,
	// two minutes by default.
	options.SyncAlways = true
	// Without a limit of its own the server takes three quarters of what is
	// free, and refuses to make streams whose bounds together exceed that.
	options.JetStreamMaxStore, options.JetStreamMaxMemory = 1<<50, 1<<30
	options.MaxPayload = 4 << 20
	s, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS: %w", err)
	}
	s.SetLoggerV2(natsLog{c.Log}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(startLimit) {
		s.Shutdown()
		return nil, fmt.Errorf("embedded NATS: did not start within %s; see the log, and check that %s is writable and has space", startLimit, options.StoreDir)
	}
	return &Server{server: s, users: users, config: c, options: options}, nil
}

// SubscriberFile is the seed of the user for outside subscribers, in Dir.
const SubscriberFile = "subscriber.nk"

// makeUsers makes the keys of all users who are inside the process.
func makeUsers() (pairs map[string]nkeys.KeyPair, public map[string]string, err error) {
	pairs, public = map[string]nkeys.KeyPair{}, map[string]string{}
	for _, user := range append(bus.Services(), bus.UserDeploy, bus.UserRestore) {
		pair, err := nkeys.CreateUser()
		if err == nil {
			pairs[user] = pair
			public[user], err = pair.PublicKey()
		}
		if err != nil {
			return nil, nil, fmt.Errorf("embedded NATS: make user %s: %w", user, err)
		}
	}
	return pairs, public, nil
}

// BackupFile is the seed of the user that writes backups, in Dir.
const BackupFile = "backup.nk"

// seedFile returns the public key of an outside user, making its seed at the
// first start.
func seedFile(path string) (string, error) {
	seed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		pair, createErr := nkeys.CreateUser()
		if createErr != nil {
			return "", fmt.Errorf("make key of a user: %w", createErr)
		}
		if seed, err = pair.Seed(); err != nil {
			return "", fmt.Errorf("make key of a user: %w", err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", fmt.Errorf("make key of a user: %w", err)
		}
		err = os.WriteFile(path, append(seed, '\n'), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("key of a user: %w", err)
	}
	pair, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
	if err != nil {
		return "", fmt.Errorf("key %s: %w: remove the file to have a new one made", path, err)
	}
	return pair.PublicKey()
}

func splitAddress(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("NATS address %q: write host:port, such as 127.0.0.1:4222", address)
	}
	// A listener opened for a moment tells a taken port in plain words; the
	// server itself would only not start.
	l, err := daemon.Listen("NATS", address)
	if err != nil {
		return "", 0, err
	}
	if err := l.Close(); err != nil {
		return "", 0, fmt.Errorf("listen for NATS on %s: %w", address, err)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// URL returns the address for subscribers.
func (s *Server) URL() string { return "nats://" + s.server.Addr().String() }

// Connect returns a connection inside the process, as one of the users.
func (s *Server) Connect(log *slog.Logger, user string) (*nats.Conn, error) {
	pair, ok := s.users[user]
	if !ok {
		return nil, fmt.Errorf("connect to embedded NATS: there is no user %q inside", user)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("connect to embedded NATS as %s: %w", user, err)
	}
	options := append(daemon.ConnOptions(log, user), nats.InProcessServer(s.server), nats.Nkey(public, pair.Sign))
	nc, err := nats.Connect("", options...)
	if err != nil {
		return nil, fmt.Errorf("connect to embedded NATS as %s: %w", user, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connections = append(s.connections, nc)
	return nc, nil
}

// layoutFile names the streams that the store has had, in Dir.
const layoutFile = "layout.json"

// Setup makes the streams, as the deploy identity. A store that has lost streams it once had, because
// the disk or the encryption key is another one, is an error and no new start.
func (s *Server) Setup(ctx context.Context) error {
	nc, err := s.Connect(s.config.Log, bus.UserDeploy)
	if err != nil {
		return err
	}
	defer nc.Close()
	marker := filepath.Join(s.config.Dir, layoutFile)
	raw, err := os.ReadFile(marker)
	switch {
	case err == nil:
		if err := s.compare(ctx, nc, marker, raw); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read layout of streams: %w", err)
	}
	return s.make(ctx, nc)
}

// Make makes the streams, also where they were lost: only a restore does that.
func (s *Server) Make(ctx context.Context) error {
	nc, err := s.Connect(s.config.Log, bus.UserDeploy)
	if err != nil {
		return err
	}
	defer nc.Close()
	return s.make(ctx, nc)
}

func (s *Server) make(ctx context.Context, nc *nats.Conn) error {
	marker := filepath.Join(s.config.Dir, layoutFile)
	if err := bus.Setup(ctx, nc, 1); err != nil {
		return err
	}
	var names []string
	for _, config := range bus.Layout(1) {
		names = append(names, config.Name)
	}
	raw, err := json.Marshal(names)
	if err == nil {
		err = os.WriteFile(marker, raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write layout of streams: %w", err)
	}
	return nil
}

func (s *Server) compare(ctx context.Context, nc *nats.Conn, marker string, raw []byte) error {
	var known []string
	if err := json.Unmarshal(raw, &known); err != nil {
		return fmt.Errorf("read layout of streams %s: %w", marker, err)
	}
	missing, err := bus.Missing(ctx, nc)
	if err != nil {
		return err
	}
	var lost []string
	for _, name := range missing {
		for _, k := range known {
			if k == name {
				lost = append(lost, name)
			}
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return fmt.Errorf("the store %s has lost the streams %s: is the right disk mounted? Bring it back with rotor restore; to begin with an empty fleet, remove the whole data folder",
		filepath.Join(s.config.Dir, "store"), strings.Join(lost, ", "))
}

// Stop stops the server and waits until its files are closed.
func (s *Server) Stop() {
	s.server.Shutdown()
	s.server.WaitForShutdown()
}
