package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cli"
	"github.com/rotor-fleet/rotor/cmd/rotor/internal/natsconf"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/daemon"
)

const nodePrefix = "nats-"

func nodeName(n int) string { return fmt.Sprintf("%s%d", nodePrefix, n+1) }

func isNode(name string) bool { return strings.HasPrefix(name, nodePrefix) }

// prepareNATS writes the configuration of the NATS nodes and the keys of their
// users.
func (k *Cluster) prepareNATS() error {
	o := natsconf.Options{
		Prefix: nodePrefix, Root: true, Base: k.files.nats, Store: filepath.Join(k.files.nats, "store"), MaxStore: natsconf.Unbounded,
		RouteTo: func(from, to int) (string, error) {
			return k.config.Between(nodeName(from), nodeName(to), k.routes[to])
		},
	}
	for n := range k.config.Nodes {
		listen, err := k.addresses.nth("NATS", k.config.Listen.NATS, n)
		if err != nil {
			return err
		}
		route, err := k.addresses.free()
		if err != nil {
			return err
		}
		health, err := k.addresses.free()
		if err != nil {
			return err
		}
		k.nats, k.routes, o.Monitor = append(k.nats, listen), append(k.routes, route), append(o.Monitor, health)
		k.health[nodeName(n)] = "http://" + health + "/healthz"
	}
	o.Servers, o.Routes = k.nats, k.routes
	if _, err := natsconf.Write(k.files.nats, o); err != nil {
		return fmt.Errorf("configuration of NATS: %w", err)
	}
	for n := range k.config.Nodes {
		config := filepath.Join(k.files.nats, natsconf.ServerConfig(n))
		if err := k.add(nodeName(n), filepath.Join(k.config.Bin, "nats-server"), "--config", config); err != nil {
			return err
		}
	}
	return nil
}

// seed returns the file with the key of a NATS user.
func (k *Cluster) seed(user string) string {
	return filepath.Join(k.files.nats, natsconf.SeedFile(user))
}

// setup makes the streams, as nobody but the deploy identity may.
func (k *Cluster) setup(ctx context.Context) error {
	config := daemon.NATSConfig{URL: "nats://" + strings.Join(k.nats, ",nats://"), NKeyFile: k.seed(bus.UserDeploy)}
	nc, err := daemon.Connect(slog.New(slog.DiscardHandler), config, bus.UserDeploy)
	if err != nil {
		return err
	}
	defer nc.Close()
	return bus.Setup(ctx, nc, k.config.Nodes)
}

// urlFor returns the addresses of all NATS nodes as one service reaches them.
func (k *Cluster) urlFor(service string) (string, error) {
	var urls []string
	for n, address := range k.nats {
		reached, err := k.config.Between(service, nodeName(n), address)
		if err != nil {
			return "", err
		}
		urls = append(urls, "nats://"+reached)
	}
	return strings.Join(urls, ","), nil
}

// prepareHost adds a program that hosts the agents of its share of the
// clusters.
func (k *Cluster) prepareHost(n int) error {
	name := fmt.Sprintf("agents-%d", n+1)
	health, err := k.addresses.free()
	if err != nil {
		return err
	}
	var servers []string
	for i := range k.agents {
		// Half of the hosts begin with the first gateway, half with the second.
		g := (i + n) % len(k.agents)
		reached, err := k.config.Between(name, fmt.Sprintf("gateway-%d", g+1), k.agents[g])
		if err != nil {
			return err
		}
		servers = append(servers, "https://"+reached)
	}
	k.health[name] = "http://" + health + "/readyz"
	return k.add(name, k.config.Self, "agents",
		"--api", "http://"+k.apis[n%len(k.apis)], "--server", strings.Join(servers, ","), "--token-file", k.files.admin,
		"--dir", k.config.Dir, "--health", health, "--share", fmt.Sprintf("%d/%d", n+1, k.config.Hosts))
}

// ServerFile tells the command line where everything is.
func (k *Cluster) ServerFile() cli.ServerFile {
	return cli.ServerFile{
		URL: k.API(), Agents: k.Agents(), NATS: k.NATS(),
		AdminTokenFile: k.files.admin, SubscriberKeyFile: k.seed(bus.UserSubscriber),
	}
}

// Await calls f until it returns a value or ctx ends.
func Await[T any](ctx context.Context, f func() (T, error)) (value T, err error) {
	err = eventually(ctx, func(context.Context) error {
		value, err = f()
		return err
	})
	return value, err
}

// APIs returns the URLs of the APIs of all gateways.
func (k *Cluster) APIs() []string {
	var urls []string
	for _, address := range k.apis {
		urls = append(urls, "http://"+address)
	}
	return urls
}

// Connect returns a connection to NATS, past everything that lies between the
// parts, as a user that may do everything.
func (k *Cluster) Connect() (*nats.Conn, error) {
	key, err := nats.NkeyOptionFromSeed(k.seed(natsconf.UserRoot))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	nc, err := nats.Connect("nats://"+strings.Join(k.nats, ",nats://"), key, nats.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}
