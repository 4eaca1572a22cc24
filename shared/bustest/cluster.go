package bustest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/rotor-fleet/rotor/shared/bus"
)

// NewCluster starts servers that hold a replica of each stream each, and
// connects to the first.
func NewCluster(t testing.TB, nodes int) *Server {
	t.Helper()
	if nodes == 1 {
		return New(t)
	}
	ports, routes := freePorts(t, nodes)
	var servers []*server.Server
	for i := range nodes {
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("test-%d", i+1), Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(),
			JetStreamMaxStore: maxStore, JetStreamMaxMemory: maxMemory, NoSigs: true, NoLog: true, Routes: routes, Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[i]},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		servers = append(servers, s)
	}
	for _, s := range servers {
		if !s.ReadyForConnections(Limit) {
			t.Fatal("nats-server did not start")
		}
	}
	nc := Connect(t, servers[0])
	ctx, cancel := context.WithTimeout(t.Context(), Limit)
	defer cancel()
	if err := bus.Setup(ctx, nc, nodes); err != nil {
		t.Fatal(err)
	}
	b, err := bus.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return &Server{NATS: nc, Server: servers[0], Bus: b}
}

// freePorts returns ports for servers that must know each other's before they
// start.
func freePorts(t testing.TB, n int) (ports []int, routes []*url.URL) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback, in a test
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
	}
	return ports, routes
}
