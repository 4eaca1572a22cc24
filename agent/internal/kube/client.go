// Package kube keeps credentials and trust bundles in a Kubernetes cluster, and
// restarts the workloads that read them. It asks for as little as it can be
// allowed: to read and update objects by name, and to make those that are
// missing. It never lists and never deletes.
package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// callTimeout bounds one call of the API server, in real time. One that does
// not answer must not keep an agent from its other work for long.
const callTimeout = 10 * time.Second

// Options say how the API server is reached.
type Options struct {
	Kubeconfig string // file; the service account of the pod, if empty
	Context    string // of the kubeconfig; its current one, if empty
	Namespace  string // that of the pod or of the context, if empty
}

// Client talks to one API server. The connection is made at the first call: an
// API server that is away, or a kubeconfig that is not there yet, must not end
// the agent. It is safe for concurrent use.
type Client struct {
	options Options
	connect func(Options) (connection, error)

	mu     sync.Mutex
	ready  bool
	now    connection
	loaded stamp // of the kubeconfig that the connection was made from
}

type connection struct {
	api       dynamic.Interface
	http      *http.Client
	namespace string // what applies if an object names none
}

func (c connection) close() {
	if c.http != nil {
		utilnet.CloseIdleConnectionsFor(c.http.Transport)
	}
}

// Close ends the connections that nobody uses now. The client may be used again.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.close()
}

// New returns a client that has not connected yet.
func New(o Options) *Client { return &Client{options: o, connect: connect} }

// objects is one kind of object in one namespace.
type objects = dynamic.ResourceInterface

// in returns the objects of a kind in a namespace, and the namespace's name.
func (c *Client) in(kind schema.GroupVersionResource, namespace string) (objects, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A kubeconfig is itself a credential that somebody renews.
	if at := stampOf(c.options.Kubeconfig); !c.ready || at != c.loaded {
		now, err := c.connect(c.options)
		if err != nil {
			return nil, "", fmt.Errorf("connect to Kubernetes: %w", err)
		}
		c.now.close()
		c.now, c.ready, c.loaded = now, true, at
	}
	if namespace == "" {
		namespace = c.options.Namespace
	}
	if namespace == "" {
		namespace = c.now.namespace
	}
	if namespace == "" {
		return nil, "", fmt.Errorf("%w: no namespace is named, and neither pod nor context has one", fleet.ErrInvalid)
	}
	return c.now.api.Resource(kind).Namespace(namespace), namespace, nil
}

// stamp tells two versions of a file apart.
type stamp struct {
	at   time.Time
	size int64
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if path == "" || err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size()}
}

// connect reads the configuration. Nothing is sent yet.
func connect(o Options) (connection, error) {
	config, namespace, err := load(o)
	if err != nil {
		return connection{}, err
	}
	config.Timeout = callTimeout
	config.UserAgent = "rotor-agent"
	config.QPS = -1 // the API server itself holds back those who ask too much
	config.WarningHandlerWithContext = rest.NoWarnings{}
	client, err := rest.HTTPClientFor(config)
	if err == nil {
		var api dynamic.Interface
		if api, err = dynamic.NewForConfigAndClient(config, client); err == nil {
			return connection{api, client, namespace}, nil
		}
	}
	return connection{}, errors.New("the configuration holds a certificate, key or address that cannot be used")
}

// namespaceFile holds the namespace of a pod.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func load(o Options) (*rest.Config, string, error) {
	if o.Kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, "", fmt.Errorf("%w: this is no pod with a service account: name a kubeconfig", fleet.ErrInvalid)
		}
		if err != nil {
			return nil, "", fmt.Errorf("read the service account: %w", err)
		}
		namespace, _ := os.ReadFile(namespaceFile)
		return config, strings.TrimSpace(string(namespace)), nil
	}
	// What does not parse may be any file, and hold any secret: its error is not
	// passed on.
	if _, err := os.ReadFile(o.Kubeconfig); err != nil {
		return nil, "", fmt.Errorf("read the kubeconfig: %w", err)
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig, WarnIfAllMissing: false}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: o.Context}
	chosen := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	raw, err := chosen.RawConfig()
	if err != nil {
		return nil, "", fmt.Errorf("%w: %s is not a kubeconfig", fleet.ErrInvalid, o.Kubeconfig)
	}
	if err := checkContext(raw, o); err != nil {
		return nil, "", err
	}
	config, err := chosen.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("%w: the kubeconfig %s is not complete: it names a cluster, user or file that is not there", fleet.ErrInvalid, o.Kubeconfig)
	}
	namespace, _, err := chosen.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("%w: the kubeconfig %s has no namespace", fleet.ErrInvalid, o.Kubeconfig)
	}
	return config, namespace, nil
}

func checkContext(raw clientcmdapi.Config, o Options) error {
	name := o.Context
	if name == "" {
		name = raw.CurrentContext
	}
	switch {
	case name == "":
		return fmt.Errorf("%w: the kubeconfig %s has no current context: name one", fleet.ErrInvalid, o.Kubeconfig)
	case raw.Contexts[name] == nil:
		return fmt.Errorf("%w: the kubeconfig %s has no context %q", fleet.ErrInvalid, o.Kubeconfig, name)
	}
	return nil
}

// within bounds a call.
func within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callTimeout)
}

// forget makes the next call connect anew, if an error says that the API server
// does not know us: a token or certificate may have been renewed.
func (c *Client) forget(err error) {
	if statusOf(err) != http.StatusUnauthorized {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready = false
}
