package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func compare(a, b string) int { return cmp.Compare(a, b) }

// at returns a path function for a list without filters of the server.
func at(path string) func(query) (string, url.Values) {
	return func(query) (string, url.Values) { return path, nil }
}

// resources is the table of everything that can be got: a new kind is a row.
func (a *app) resources() []resource {
	return []resource{a.clusters(), a.clients(), a.releases(), a.rotations(), a.alerts(), a.agents()}
}

func (a *app) clusters() resource {
	return kindOf[api.ClusterView]{
		name:    "clusters",
		path:    at(api.PathClusters),
		cluster: func(c api.ClusterView) string { return c.Name },
		one: func(ctx context.Context, q query) (api.ClusterView, error) {
			var c api.ClusterView
			err := q.client.Call(ctx, "GET", api.PathClusters+"/"+url.PathEscape(q.name), nil, &c)
			return c, err
		},
		table: func(w io.Writer, q query, items []api.ClusterView) error {
			head := []string{"CLUSTER", "KIND", "RELEASE", "WINDOW", "DEADLINE", "EXPIRES", "CLIENTS"}
			if q.wide {
				head = append(head, "PARENT", "MODE", "NEXT RENEWAL", "UPGRADED", "LABELS", "AGENT")
			}
			t := a.table(head...)
			for i := range items {
				c := &items[i]
				row := []string{
					c.Name, string(c.Kind), c.Release, string(c.Window.State), date(c.Window.Deadline),
					date(c.EarliestExpiry), statesText(c.States),
				}
				if q.wide {
					row = append(row, c.Parent, string(c.Policy.Mode), date(c.NextRenewal), date(&c.UpgradedAt), labelsText(c.Labels), short(c.Agent))
				}
				t.add(row...)
			}
			return t.print(w)
		},
	}.resource()
}

func (a *app) clients() resource {
	k := kindOf[api.ClientView]{
		name: "clients",
		path: func(q query) (string, url.Values) {
			cluster := q.cluster
			if q.name != "" {
				cluster, _, _ = strings.Cut(q.name, "/")
			}
			values := url.Values{}
			if q.state != "" {
				values.Set("state", q.state)
			}
			if cluster == "" {
				return api.PathClients, values
			}
			return api.PathClusters + "/" + url.PathEscape(cluster) + "/clients", values
		},
		cluster: func(c api.ClientView) string { return c.Cluster },
		state:   func(c api.ClientView) string { return string(c.State) },
		named:   func(c api.ClientView, name string) bool { return clientName(c) == name },
		table:   a.clientTable,
	}
	for _, s := range stateOrder() {
		k.states = append(k.states, string(s))
	}
	r := k.resource()
	one := r.pick
	r.pick = func(ctx context.Context, q query, list any) (any, error) {
		if !strings.Contains(q.name, "/") {
			return list, nil // the clients of a cluster
		}
		return one(ctx, q, list)
	}
	return r
}

func clientName(c api.ClientView) string {
	return c.Cluster + "/" + fleet.ClientKey{Kind: c.Kind, Instance: c.Instance}.String()
}

func (a *app) clientTable(w io.Writer, q query, items []api.ClientView) error {
	head := []string{"CLUSTER", "CLIENT", "STATE", "GENERATION", "STEP", "RENEWAL", "CERTIFICATE UNTIL", "TOKEN UNTIL"}
	if q.wide {
		head = append(head, "SERIAL", "ISSUER", "TOKEN ID")
	}
	t := a.table(head...)
	var notes strings.Builder
	for _, c := range items {
		certificate, token := fleet.Certificate{}, fleet.Token{}
		if c.Certificate != nil {
			certificate = *c.Certificate
		}
		if c.Token != nil {
			token = *c.Token
		}
		row := []string{
			c.Cluster, fleet.ClientKey{Kind: c.Kind, Instance: c.Instance}.String(), string(c.State), strconv.Itoa(c.Generation),
			string(c.Step), date(c.RenewAt), moment(certificate.NotAfter), moment(token.ExpiresAt),
		}
		if q.wide {
			row = append(row, certificate.Serial, short(certificate.Issuer), token.ID)
		}
		t.add(row...)
		if c.Reason != "" {
			fmt.Fprintf(&notes, "%s: %s\n", clientName(c), c.Reason)
			if c.Remedy != "" {
				fmt.Fprintf(&notes, "  -> %s\n", c.Remedy)
			}
		}
	}
	if err := t.print(w); err != nil || notes.Len() == 0 {
		return err
	}
	_, err := io.WriteString(w, "\n"+printableLines(notes.String()))
	return err
}

func (a *app) releases() resource {
	return kindOf[fleet.Release]{
		name:  "releases",
		path:  at(api.PathReleases),
		named: func(r fleet.Release, name string) bool { return r.Version == name },
		table: func(w io.Writer, _ query, items []fleet.Release) error {
			t := a.table("RELEASE", "PUBLISHED")
			for _, r := range items {
				t.add(r.Version, date(&r.PublishedAt))
			}
			return t.print(w)
		},
	}.resource()
}

func (a *app) alerts() resource {
	return kindOf[fleet.Alert]{
		name:    "alerts",
		path:    at(api.PathAlerts),
		states:  []string{string(fleet.AlertFiring), string(fleet.AlertResolved)},
		cluster: func(x fleet.Alert) string { return x.Cluster },
		state:   func(x fleet.Alert) string { return string(x.State) },
		named:   func(x fleet.Alert, name string) bool { return len(name) >= 6 && strings.HasPrefix(x.Fingerprint, name) },
		table: func(w io.Writer, q query, items []fleet.Alert) error {
			head := []string{"ALERT", "SEVERITY", "STATE", "RULE", "CLUSTER", "SINCE", "SUMMARY"}
			if q.wide {
				head = append(head, "REMEDY", "SENT")
			}
			t := a.table(head...)
			for _, x := range items {
				row := []string{short(x.Fingerprint), string(x.Severity), string(x.State), x.Rule, x.Cluster, moment(x.Beginning()), x.Summary}
				if q.wide {
					row = append(row, x.Remedy, sentText(x.Deliveries))
				}
				t.add(row...)
			}
			return t.print(w)
		},
	}.resource()
}

func sentText(deliveries []fleet.Delivered) string {
	var parts []string
	for _, d := range deliveries {
		parts = append(parts, d.Channel+" "+d.About+" "+string(d.State))
	}
	return strings.Join(parts, ", ")
}

func (a *app) agents() resource {
	return kindOf[api.AgentView]{
		name:    "agents",
		path:    at(api.PathAgents),
		cluster: func(x api.AgentView) string { return x.Cluster },
		named:   func(x api.AgentView, name string) bool { return x.Cluster == name },
		table: func(w io.Writer, q query, items []api.AgentView) error {
			t := a.table("CLUSTER", "AGENT", "VERSION", "BUNDLE", "NEXT CA", "ENROLLED", "LAST SEEN", "CLOCK", "WAITING", "FAILURES")
			var notes strings.Builder
			for _, x := range items {
				id := x.ID
				if !q.wide {
					id = short(id)
				}
				t.add(x.Cluster, id, x.Version, strconv.Itoa(x.Bundle), nextCAText(x), moment(x.EnrolledAt), moment(x.LastSeen), clockText(x.Life),
					strconv.Itoa(x.Waiting), strconv.Itoa(len(x.Failures)))
				for _, line := range slices.Concat(lifeLines(x), failureLines(x), nextCALines(x)) {
					fmt.Fprintln(&notes, line)
				}
			}
			if err := t.print(w); err != nil || notes.Len() == 0 {
				return err
			}
			_, err := io.WriteString(w, "\n"+printableLines(notes.String()))
			return err
		},
	}.resource()
}

// nextCAText says whether an agent has proven that it trusts the CA to come.
func nextCAText(x api.AgentView) string {
	switch {
	case x.NextCA == nil:
		return "-"
	case x.NextCA.Ready:
		return "proven"
	}
	return "waits"
}

// nextCALines say what an agent lacks to trust the CA to come.
func nextCALines(x api.AgentView) []string {
	if x.NextCA == nil || x.NextCA.Ready {
		return nil
	}
	since := ""
	if at := x.NextCA.Since; !at.IsZero() {
		since = ", since " + moment(at)
	}
	return []string{fmt.Sprintf("%s: not ready for the CA to come: its agent %s%s", x.Cluster, x.NextCA.Why, since)}
}

// clockText says by how much the clock of an agent is off.
func clockText(l fleet.AgentLife) string {
	if l.Skew == 0 {
		return "right"
	}
	return fmt.Sprintf("%+ds", l.Skew)
}

// lifeLines say what is wrong with an agent itself.
func lifeLines(x api.AgentView) []string {
	var lines []string
	if c := x.Life.Copied; c != nil {
		lines = append(lines, fmt.Sprintf("%s: two have the key of its agent, noticed %s (%s); give it a new one: rotor join %s --replace", x.Cluster, moment(c.Since), c.How, x.Cluster))
	}
	if !x.Life.Skewed.IsZero() {
		lines = append(lines, fmt.Sprintf("%s: the clock of its agent is wrong since %s; set it", x.Cluster, moment(x.Life.Skewed)))
	}
	if r := x.Life.Refused; r != nil {
		lines = append(lines, fmt.Sprintf("%s: its agent did not believe %s at %s: %s", x.Cluster, first(r.Server, "a server"), moment(r.At), r.Reason))
	}
	return lines
}

func failureLines(x api.AgentView) []string {
	var lines []string
	for key, f := range x.Failures {
		lines = append(lines, fmt.Sprintf("%s/%s: generation %d not %s since %s: %s", x.Cluster, key, f.Generation, f.Step, moment(f.Since), f.Error))
	}
	if f := x.BundleFailure; f != nil {
		lines = append(lines, fmt.Sprintf("%s: trust bundle not everywhere since %s: %s", x.Cluster, moment(f.Since), f.Error))
	}
	slices.Sort(lines)
	return lines
}

// short cuts an id to what people compare by eye.
func short(id string) string { return id[:min(len(id), 12)] }

func labelsText(labels map[string]string) string {
	var parts []string
	for k, v := range labels {
		parts = append(parts, k+"="+v)
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// earliest returns the first of two moments, of which either may be absent.
func earliest(a, b *time.Time) *time.Time {
	if a == nil || (b != nil && b.Before(*a)) {
		return b
	}
	return a
}
