package fleet

import (
	"fmt"
	"slices"
	"time"
)

// ClusterKind tells a management cluster from a workload cluster.
type ClusterKind string

// The kinds of cluster.
const (
	Management ClusterKind = "management"
	Workload   ClusterKind = "workload"
)

// NodeAgentKind is the one client kind that exists once per host.
const NodeAgentKind = "node-agent"

// Cluster is the unit of state and of work, as its operator declares it.
type Cluster struct {
	Name        string            `json:"name" doc:"unique name, a DNS label"`
	Kind        ClusterKind       `json:"kind" enum:"management,workload"`
	Parent      string            `json:"parent,omitempty" doc:"management cluster of a workload cluster"`
	Labels      map[string]string `json:"labels,omitempty" doc:"for selectors and routes"`
	Release     string            `json:"release,omitempty" doc:"release that the cluster runs"`
	UpgradedAt  time.Time         `json:"upgradedAt,omitzero" doc:"when the upgrade to it completed"`
	Hosts       []string          `json:"hosts,omitempty" doc:"hosts of a management cluster; each has a node-agent"`
	Clients     []ClientKey       `json:"clients,omitempty" doc:"clients, where they differ from the default of the kind"`
	Policy      Policy            `json:"policy,omitzero" doc:"what differs from the policy of the fleet"`
	Maintenance []Maintenance     `json:"maintenance,omitempty" doc:"when renewals may run; always, if empty"`
	Delivery    Delivery          `json:"delivery,omitzero" doc:"where a hosted agent installs"`
	Notify      []string          `json:"notify,omitempty" doc:"channels that hear of this cluster; the routes decide, if empty"`
}

// managementKinds and workloadKinds are the clients of AKS on Azure Stack HCI,
// in the order in which they are rotated: what others need comes first.
var (
	managementKinds = []string{NodeAgentKind, "kms", "kva", "cloud-operator", "caph", "cert-manager", "csi", "cloud-provider"}
	workloadKinds   = []string{"kms", "cert-manager", "csi", "cloud-provider"}
)

// ClientKeys returns the clients of the cluster in the order in which they are
// rotated: the declared ones, or the default of its kind.
func (c *Cluster) ClientKeys() []ClientKey {
	if len(c.Clients) > 0 {
		return slices.Clone(c.Clients)
	}
	if c.Kind == Workload {
		return keysOf(workloadKinds, nil)
	}
	return keysOf(managementKinds, c.Hosts)
}

func keysOf(kinds, hosts []string) []ClientKey {
	var keys []ClientKey
	for _, kind := range kinds {
		if kind != NodeAgentKind {
			keys = append(keys, ClientKey{Kind: kind})
			continue
		}
		for _, host := range hosts {
			keys = append(keys, ClientKey{Kind: kind, Instance: host})
		}
	}
	return keys
}

// Matches reports whether the cluster carries every label of the selector.
func (c *Cluster) Matches(selector map[string]string) bool {
	for k, v := range selector {
		if c.Labels[k] != v {
			return false
		}
	}
	return true
}

// Validate checks what can be checked without the rest of the fleet.
func (c *Cluster) Validate() error {
	if err := CheckName("cluster", c.Name); err != nil {
		return err
	}
	switch c.Kind {
	case Management:
		if c.Parent != "" {
			return fmt.Errorf("%w: cluster %s: a management cluster has no parent", ErrInvalid, c.Name)
		}
		if len(c.Hosts) == 0 && len(c.Clients) == 0 {
			return fmt.Errorf("%w: cluster %s: a management cluster needs hosts (each runs a node-agent) or clients", ErrInvalid, c.Name)
		}
	case Workload:
		if len(c.Hosts) > 0 {
			return fmt.Errorf("%w: cluster %s: hosts belong to the management cluster", ErrInvalid, c.Name)
		}
	default:
		return fmt.Errorf("%w: cluster %s: kind %q: use management or workload", ErrInvalid, c.Name, c.Kind)
	}
	if err := c.validateNames(); err != nil {
		return err
	}
	for _, m := range c.Maintenance {
		if err := m.Validate(); err != nil {
			return fmt.Errorf("cluster %s: %w", c.Name, err)
		}
	}
	return nil
}

func (c *Cluster) validateNames() error {
	seen := map[string]bool{}
	for _, host := range c.Hosts {
		if err := CheckName("host", host); err != nil {
			return fmt.Errorf("cluster %s: %w", c.Name, err)
		}
		if seen[host] {
			return fmt.Errorf("%w: cluster %s: host %s is named twice", ErrInvalid, c.Name, host)
		}
		seen[host] = true
	}
	clients := map[ClientKey]bool{}
	for _, key := range c.Clients {
		if _, err := ParseClientKey(key.String()); err != nil {
			return fmt.Errorf("cluster %s: %w", c.Name, err)
		}
		if clients[key] {
			return fmt.Errorf("%w: cluster %s: client %s is named twice", ErrInvalid, c.Name, key)
		}
		clients[key] = true
	}
	return nil
}

// Settings are what holds for the whole fleet.
type Settings struct {
	Policy Policy `json:"policy,omitzero" doc:"policy of the fleet"`

	Authority AuthorityPolicy `json:"authority,omitzero" doc:"what the fleet sets about its CA"`

	Routes []Route `json:"routes,omitempty" doc:"who hears of what; every channel of everything, if empty"`
}

// SettingsKey is the key of Settings in the bucket of the clusters. No cluster
// can have this name.
const SettingsKey = "_fleet"

// Route sends alerts that match to channels. The first route that matches an
// alert decides.
type Route struct {
	Clusters []string          `json:"clusters,omitempty" doc:"names; any, if empty"`
	Labels   map[string]string `json:"labels,omitempty" doc:"labels that the cluster must carry"`
	Rules    []string          `json:"rules,omitempty" doc:"rules, such as window-missed; any, if empty"`
	Severity Severity          `json:"severity,omitempty" enum:"info,warning,critical" doc:"the least severity"`
	Channels []string          `json:"channels" doc:"names of channels; none means that nobody is told"`
}

// PolicyOf returns the policy that holds for a cluster: its own over the
// fleet's over the default.
func PolicyOf(s Settings, c *Cluster) Policy {
	return c.Policy.Over(s.Policy.Over(DefaultPolicy()))
}
