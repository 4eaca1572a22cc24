package fleetfile

import (
	"slices"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/strictyaml"
)

var clusterKeys = []string{
	"name", "kind", "parent", "labels", "release", "upgradedAt", "hosts", "clients",
	"policy", "maintenance", "delivery", "notify",
}

// cluster reads one cluster and checks what can be checked without the others.
func (r *reader) cluster(n node) {
	f := r.Mapping(n, "a cluster", clusterKeys...)
	if f == nil {
		return
	}
	before := len(r.Errs)
	var c fleet.Cluster
	var d declared
	name, ok := r.Required(n, f, "name", "a name such as edge-01")
	if ok {
		c.Name, d.at = name.Text, name.Place
		if err := fleet.CheckName("cluster", name.Text); err != nil {
			r.Reject(name.Place, err)
		}
	}
	if kind, ok := r.Required(n, f, "kind", "management or workload"); ok {
		c.Kind = fleet.ClusterKind(kind.Text)
		if c.Kind != fleet.Management && c.Kind != fleet.Workload {
			r.Fail(kind.Place, "kind %q: use management or workload", strictyaml.Clip(kind.Text))
		}
	}
	c.Parent, d.parentAt = r.optional(f, "parent")
	c.Release, d.releaseAt = r.optional(f, "release")
	c.Labels = r.labels(f["labels"])
	if at, ok := f["upgradedAt"]; ok {
		c.UpgradedAt = r.date(at)
	}
	c.Hosts = r.names(f["hosts"], "hosts", "host")
	c.Clients = r.clients(f["clients"])
	if policy, ok := f["policy"]; ok {
		r.clusterPolicy(policy, &c)
	}
	for _, m := range r.List(f["maintenance"], "maintenance", "entries such as {cron: \"0 2 * * 6\", duration: 4h}") {
		r.maintenance(m, &c)
	}
	if delivery, ok := f["delivery"]; ok {
		c.Delivery = r.delivery(delivery, &d)
	}
	c.Notify = r.names(f["notify"], "notify", "channel")
	if len(r.Errs) == before {
		if err := c.Validate(); err != nil {
			r.Fail(name.Place, "%s", strings.TrimPrefix(err.Error(), fleet.ErrInvalid.Error()+": "))
		}
	}
	d.kind, d.parent, d.release, d.directory = c.Kind, c.Parent, c.Release, c.Delivery.Directory
	r.declare(c, d)
}

func (r *reader) declare(c fleet.Cluster, d declared) {
	if c.Name == "" {
		return
	}
	if first, twice := r.clusters[c.Name]; twice {
		r.Fail(d.at, "cluster %s is declared twice: the first time on line %d", c.Name, first.at.Line)
		return
	}
	r.clusters[c.Name] = d
	r.order = append(r.order, c.Name)
	r.out.Clusters = append(r.out.Clusters, c)
}

func (r *reader) optional(fields map[string]node, key string) (string, place) {
	n, ok := fields[key]
	if !ok {
		return "", place{}
	}
	text, _ := r.Text(n, key)
	return text, n.Place
}

// clients reads the clients of a cluster. The folder of a client is its name,
// so one client may not be the folder of another.
func (r *reader) clients(n node) []fleet.ClientKey {
	var keys []fleet.ClientKey
	bare, instances := map[string]bool{}, map[string]bool{}
	for _, item := range r.Texts(n, "clients", "names such as kms or node-agent/host-1") {
		key, err := fleet.ParseClientKey(item.Text)
		switch {
		case err != nil:
			r.Reject(item.Place, err)
			continue
		case slices.Contains(keys, key):
			r.Fail(item.Place, "client %s is named twice", key)
			continue
		case key.Instance != "" && bare[key.Kind], key.Instance == "" && instances[key.Kind]:
			r.Fail(item.Place, "client %s stands beside another %s: give each of them an instance, such as %s/a", key, key.Kind, key.Kind)
		}
		bare[key.Kind] = bare[key.Kind] || key.Instance == ""
		instances[key.Kind] = instances[key.Kind] || key.Instance != ""
		keys = append(keys, key)
	}
	return keys
}

func (r *reader) clusterPolicy(n node, c *fleet.Cluster) {
	before := len(r.Errs)
	c.Policy = r.policy(n)
	base := r.out.Settings.Policy.Over(fleet.DefaultPolicy())
	// Over a broken policy of the fleet only the cluster's own words count.
	if len(r.Errs) == before {
		if base.Validate() != nil {
			base = fleet.DefaultPolicy()
		}
		r.checkPolicy(n, c.Policy, base)
	}
}

// maintenance checks cron, zone and duration each on its own, so that each
// error stands where its value does.
func (r *reader) maintenance(n node, c *fleet.Cluster) {
	f := r.Mapping(n, "maintenance", "cron", "duration", "zone")
	if f == nil {
		return
	}
	var m fleet.Maintenance
	if cron, ok := r.Required(n, f, "cron", "minute hour day month weekday, such as \"0 2 * * 6\""); ok {
		m.Cron = cron.Text
		probe := fleet.Maintenance{Cron: cron.Text, Duration: fleet.Duration(time.Hour)}
		// The parser also takes "@daily" and "TZ=..."; the first is no interval
		// that a reader sees, the second would contradict the zone.
		if len(strings.Fields(cron.Text)) != 5 || strings.Contains(cron.Text, "=") {
			r.Fail(cron.Place, "cron %q: write five fields, minute hour day month weekday, such as \"0 2 * * 6\"", strictyaml.Clip(cron.Text))
		} else if err := probe.Validate(); err != nil {
			r.Reject(cron.Place, err)
		} else if probe.Next(anyDay).IsZero() {
			r.Fail(cron.Place, "cron %q: this day never comes", strictyaml.Clip(cron.Text))
		}
	}
	if duration, ok := f["duration"]; !ok {
		r.Fail(n.Place, "duration is missing: write how long it stays open, such as 4h")
	} else if m.Duration = r.Duration(duration, "duration"); m.Duration != 0 && m.Duration.Std() < time.Minute {
		r.Fail(duration.Place, "duration %s: use at least 1m", m.Duration)
	}
	if zone, ok := f["zone"]; ok {
		if text, ok := r.Text(zone, "zone"); ok {
			m.Zone = text
			if _, err := time.LoadLocation(text); err != nil || text == "Local" {
				r.Fail(zone.Place, "zone %q: use an IANA name such as Europe/Berlin", strictyaml.Clip(text))
			}
		}
	}
	c.Maintenance = append(c.Maintenance, m)
}
