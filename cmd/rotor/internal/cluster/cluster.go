// Package cluster runs Rotor as it runs in production, on one machine: NATS
// nodes, the four services, each as often as wanted, and hosts of agents, all
// as programs of their own with generated configuration. It is for development
// and for the tests; nothing of it is in the binary that people install.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/shared/secret"
)

// Config says what to run.
type Config struct {
	Dir     string    // data folder
	Bin     string    // folder of the programs
	Self    string    // program that runs "agents"; see package main of cmd/cluster
	Config  string    // configuration file to begin with; none, if empty
	Log     io.Writer // every line of every program
	Said    io.Writer // what the supervisor itself has to say
	Nodes   int       // NATS nodes: 1 or 3
	Copies  int       // of each service
	Hosts   int       // of agents
	Listen  Listen
	Between Between // what lies between the parts; nothing, if nil
}

// Listen holds addresses; those of further copies lie in the ports above.
type Listen struct {
	API    string
	Agents string
	NATS   string
}

// Between returns the address at which from reaches to, which listens at
// address. It is called once for each pair, before anything runs.
type Between func(from, to, address string) (string, error)

// services in the order of their start.
var services = []string{"issuer", "scheduler", "notifier", "gateway"}

// Cluster is a running topology.
type Cluster struct {
	config    Config
	files     files
	addresses *addresses
	log       *shared
	processes []*Process
	health    map[string]string // URLs of /readyz by the name of the process
	apis      []string
	agents    []string
	nats      []string // addresses for clients
	routes    []string // and for the other nodes
}

// files are the paths of what the programs share.
type files struct {
	nats, kek, admin, logs string
}

// Start starts everything and waits until all of it is ready. What has been
// started is ended again when it fails.
func Start(ctx context.Context, c Config) (*Cluster, error) {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	c.Dir = dir
	if c.Between == nil {
		c.Between = func(_, _, address string) (string, error) { return address, nil }
	}
	at := func(name ...string) string { return filepath.Join(append([]string{dir}, name...)...) }
	k := &Cluster{
		config: c, addresses: &addresses{taken: map[string]bool{}}, log: &shared{w: c.Log}, health: map[string]string{},
		files: files{
			nats: at("nats"), kek: at("issuer.key"), admin: at("admin.token"), logs: at("logs"),
		},
	}
	if err := os.MkdirAll(k.files.logs, 0o700); err != nil {
		return nil, fmt.Errorf("folder of logs: %w", err)
	}
	if err := k.prepare(); err != nil {
		k.addresses.ports.Close()
		return nil, err
	}
	if err := k.run(ctx); err != nil {
		return nil, errors.Join(err, k.Stop(ctx))
	}
	return k, nil
}

// prepare takes the ports and writes the configuration files.
func (k *Cluster) prepare() error {
	if err := k.prepareNATS(); err != nil {
		return err
	}
	var own []byte
	if k.config.Config != "" {
		var err error
		if own, err = os.ReadFile(k.config.Config); err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
	}
	for n := range k.config.Copies {
		api, err := k.addresses.nth("the API", k.config.Listen.API, n)
		if err != nil {
			return err
		}
		agents, err := k.addresses.nth("agents", k.config.Listen.Agents, n)
		if err != nil {
			return err
		}
		k.apis, k.agents = append(k.apis, api), append(k.agents, agents)
	}
	for n := range k.config.Copies {
		for _, service := range services {
			if err := k.prepareService(service, n, own); err != nil {
				return err
			}
		}
	}
	for n := range k.config.Hosts {
		if err := k.prepareHost(n); err != nil {
			return err
		}
	}
	return nil
}

func (k *Cluster) prepareService(service string, n int, own []byte) error {
	name := fmt.Sprintf("%s-%d", service, n+1)
	health, err := k.addresses.free()
	if err != nil {
		return err
	}
	url, err := k.urlFor(name)
	if err != nil {
		return err
	}
	section := map[string]any{}
	switch service {
	case "issuer":
		section["keyFile"], section["tokenIssuer"] = k.files.kek, k.API()
	case "gateway":
		section["listenAPI"], section["listenAgents"], section["adminTokenFile"] = k.apis[n], k.agents[n], k.files.admin
		section["publicURL"] = k.API()
		section["certFile"], section["keyFile"] = "", "" // everything here calls it on the loopback, without TLS
	}
	config, err := serviceConfig(own, map[string]map[string]any{
		"nats":   {"url": url, "nkeyFile": k.seed(service), "replicas": k.config.Nodes},
		"health": {"listen": health},
		service:  section,
	})
	if err != nil {
		return fmt.Errorf("configuration %s: %w", k.config.Config, err)
	}
	path := filepath.Join(k.config.Dir, "config", name+".yaml")
	if err := writeFile(path, config); err != nil {
		return fmt.Errorf("configuration of %s: %w", name, err)
	}
	k.health[name] = "http://" + health + "/readyz"
	return k.add(name, filepath.Join(k.config.Bin, service), "--config", path, "--instance", name)
}

// add adds a program that is not started yet.
func (k *Cluster) add(name, path string, args ...string) error {
	output, err := openLines(k.files.logs, name, k.log)
	if err != nil {
		return err
	}
	k.processes = append(k.processes, &Process{Name: name, path: path, args: args, output: output, said: k.said})
	return nil
}

func (k *Cluster) said(format string, args ...any) {
	_, _ = fmt.Fprintf(k.config.Said, format+"\n", args...)
}

// startLimit is enough for three nodes and nine services on a busy machine.
const startLimit = 2 * time.Minute

func (k *Cluster) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for _, p := range k.processes {
		if err := p.Start(); err != nil {
			return err
		}
	}
	if err := k.setup(ctx); err != nil {
		return err
	}
	if err := k.WaitReady(ctx); err != nil {
		return err
	}
	for _, p := range k.processes {
		p.settled()
	}
	return nil
}

// WaitReady waits until every program says that it is ready.
func (k *Cluster) WaitReady(ctx context.Context) error {
	for _, p := range k.processes {
		err := eventually(ctx, func(ctx context.Context) error {
			if p.Ended() {
				return fmt.Errorf("%s: %w:\n%s", p.Name, errFinal, p.output.tail())
			}
			return k.ready(ctx, p.Name)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (k *Cluster) ready(ctx context.Context, name string) error {
	url, known := k.health[name]
	if !known {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("%s is not ready: %w", name, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("%s is not ready: %w", name, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10))
		return fmt.Errorf("%s is not ready: %s %s", name, response.Status, body)
	}
	return nil
}

// stopLimit is for each of the two layers: longer than the 4 s that a gateway
// gives open requests, and both together below the 10 s that Ctrl-C may take.
const stopLimit = 4900 * time.Millisecond

// Stop ends everything, also when ctx has ended: first those who talk to NATS,
// then NATS.
func (k *Cluster) Stop(ctx context.Context) error {
	var errs []error
	for _, layer := range []bool{false, true} {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		errs = append(errs, k.stopLayer(limit, layer))
		cancel()
	}
	k.addresses.ports.Close()
	return errors.Join(errs...)
}

func (k *Cluster) stopLayer(ctx context.Context, nats bool) error {
	var all sync.WaitGroup
	errs := make([]error, len(k.processes))
	for i, p := range k.processes {
		if isNode(p.Name) == nats {
			all.Go(func() { errs[i] = p.Stop(ctx) })
		}
	}
	all.Wait()
	return errors.Join(errs...)
}

// Process returns a program by its name, such as scheduler-1 or nats-3.
func (k *Cluster) Process(name string) *Process {
	for _, p := range k.processes {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Processes returns all programs, in the order of their start.
func (k *Cluster) Processes() []*Process { return k.processes }

// API returns the URL of the API of the first gateway.
func (k *Cluster) API() string { return "http://" + k.apis[0] }

// Agents returns the URL for agents of the first gateway.
func (k *Cluster) Agents() string { return "https://" + k.agents[0] }

// NATS returns the URL of the first NATS node.
func (k *Cluster) NATS() string { return "nats://" + k.nats[0] }

// Token returns the admin token.
func (k *Cluster) Token() (secret.Text, error) { return secret.ReadFile(k.files.admin) }

// Metrics returns the URL of /metrics of a service; empty for others.
func (k *Cluster) Metrics(name string) string {
	url, known := k.health[name]
	if !known || isNode(name) {
		return ""
	}
	return url[:len(url)-len("readyz")] + "metrics"
}
