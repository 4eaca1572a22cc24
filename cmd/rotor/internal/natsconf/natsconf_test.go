package natsconf_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/natsconf"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func free(t *testing.T, n int) []string {
	t.Helper()
	var all []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		all = append(all, l.Addr().String())
	}
	return all
}

// start writes a configuration and runs its servers with the parser of
// nats-server.
func start(t *testing.T, o natsconf.Options) (dir string) {
	t.Helper()
	dir = t.TempDir()
	o.Base, o.Store = dir, filepath.Join(t.TempDir(), "store")
	if o.MaxStore == "" {
		o.MaxStore = natsconf.Unbounded
	}
	if _, err := natsconf.Write(dir, o); err != nil {
		t.Fatal(err)
	}
	for i := range o.Servers {
		options, err := server.ProcessConfigFile(filepath.Join(dir, natsconf.ServerConfig(i)))
		if err != nil {
			t.Fatal(err)
		}
		if !options.SyncAlways {
			t.Error("acknowledged writes are not synced")
		}
		options.NoLog, options.NoSigs = true, true
		s, err := server.NewServer(options)
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	}
	return dir
}

func connect(t *testing.T, dir string, o natsconf.Options, user string, more ...nats.Option) *nats.Conn {
	t.Helper()
	key, err := nats.NkeyOptionFromSeed(filepath.Join(dir, natsconf.SeedFile(user)))
	if err != nil {
		t.Fatal(err)
	}
	options := append([]nats.Option{
		key, nats.CustomInboxPrefix(bus.InboxPrefix(user)), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond), nats.Timeout(10 * time.Second),
	}, more...)
	nc, err := nats.Connect(o.URL(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func TestServersRun(t *testing.T) {
	for name, tls := range map[string]natsconf.TLS{"plain": {}, "tls": {SelfSigned: true}} {
		for _, n := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
				o := natsconf.Options{Servers: free(t, n), Routes: free(t, n), TLS: tls}
				dir := start(t, o)
				var more []nats.Option
				if tls.SelfSigned {
					more = append(more, nats.RootCAs(filepath.Join(dir, "ca.crt")))
				}
				nc := connect(t, dir, o, bus.UserDeploy, more...)
				if err := bus.Setup(t.Context(), nc, o.Replicas()); err != nil {
					t.Fatal(err)
				}
				if missing, err := bus.Missing(t.Context(), nc); err != nil || len(missing) > 0 {
					t.Errorf("%v, %v", missing, err)
				}
				if nc.TLSRequired() != tls.SelfSigned {
					t.Errorf("TLS is required: %t", nc.TLSRequired())
				}
				if _, err := nats.Connect(o.URL(), more...); !errors.Is(err, nats.ErrAuthorization) {
					t.Errorf("a client without a key: %v", err)
				}
			})
		}
	}
}

// A disk with less space than the streams may take is named at once, also by a
// cluster, which has the same answer for servers that are still starting.
func TestDiskIsTooSmall(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			o := natsconf.Options{Servers: free(t, n), Routes: free(t, n), MaxStore: "1GB"}
			nc := connect(t, start(t, o), o, bus.UserDeploy)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := bus.Setup(ctx, nc, o.Replicas()); !errors.Is(err, bus.ErrNoStorage) || !strings.Contains(err.Error(), "--max-store") {
				t.Error(err)
			}
		})
	}
}

func TestKeysAreKept(t *testing.T) {
	dir := t.TempDir()
	o := natsconf.Options{Servers: []string{"a.example.com:4222", "b.example.com:4222", "c.example.com:4222"}, TLS: natsconf.TLS{SelfSigned: true}}
	first, err := natsconf.Write(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	second, err := natsconf.Write(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	same := func(a, b natsconf.File) bool { return bytes.Equal(a.Data, b.Data) && a.Mode == b.Mode }
	if !maps.EqualFunc(first, second, same) {
		t.Error("the second run made other files")
	}
	for name, file := range first {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if open := strings.HasSuffix(name, ".crt"); info.Mode().Perm() != file.Mode || !open && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	// A server that is called otherwise needs another certificate, of the same CA.
	o.Servers[0] = "d.example.com:4222"
	third, err := natsconf.Write(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if !same(third["ca.crt"], first["ca.crt"]) || !same(third["n2/server.crt"], first["n2/server.crt"]) || same(third["n1/server.crt"], first["n1/server.crt"]) {
		t.Error("want a new certificate of the first server and nothing else")
	}
}

func TestWrongOptions(t *testing.T) {
	for name, o := range map[string]natsconf.Options{
		"no server":           {},
		"no port":             {Servers: []string{"127.0.0.1"}},
		"two servers":         {Servers: []string{"127.0.0.1:1", "127.0.0.1:2"}},
		"outside without TLS": {Servers: []string{"192.0.2.1:4222"}},
		"routes outside":      {Servers: []string{"127.0.0.1:4222"}, Routes: []string{"0.0.0.0:6222"}},
		"half of TLS":         {Servers: []string{"127.0.0.1:4222"}, TLS: natsconf.TLS{Cert: "a"}},
		"both of TLS":         {Servers: []string{"127.0.0.1:4222"}, TLS: natsconf.TLS{Cert: "a", Key: "b", CA: "c", SelfSigned: true}},
	} {
		if _, err := natsconf.Generate(o); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
