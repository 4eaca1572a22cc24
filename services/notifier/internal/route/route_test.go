package route

import (
	"slices"
	"testing"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestChoose(t *testing.T) {
	all := []string{"chat", "mail", "ops"}
	alert := &fleet.Alert{Rule: "window-missed", Cluster: "edge-03", Severity: fleet.SeverityCritical}
	prod := map[string]string{"stage": "prod"}
	for name, c := range map[string]struct {
		notify  []string
		routes  []fleet.Route
		want    []string
		unknown []string
	}{
		"nothing configured":       {want: all},
		"cluster comes first":      {notify: []string{"mail"}, routes: []fleet.Route{{Channels: []string{"ops"}}}, want: []string{"mail"}},
		"first route decides":      {routes: []fleet.Route{{Channels: []string{"ops"}}, {Channels: []string{"mail"}}}, want: []string{"ops"}},
		"route for nobody":         {routes: []fleet.Route{{}}, want: nil},
		"no route matches":         {routes: []fleet.Route{{Clusters: []string{"hq"}, Channels: []string{"ops"}}}, want: all},
		"by cluster":               {routes: []fleet.Route{{Clusters: []string{"hq", "edge-03"}, Channels: []string{"ops"}}}, want: []string{"ops"}},
		"by label":                 {routes: []fleet.Route{{Labels: prod, Channels: []string{"ops"}}}, want: []string{"ops"}},
		"by other label":           {routes: []fleet.Route{{Labels: map[string]string{"stage": "test"}, Channels: []string{"ops"}}}, want: all},
		"by rule":                  {routes: []fleet.Route{{Rules: []string{"window-missed"}, Channels: []string{"chat"}}}, want: []string{"chat"}},
		"by other rule":            {routes: []fleet.Route{{Rules: []string{"rotation-failed"}, Channels: []string{"chat"}}}, want: all},
		"at the least severity":    {routes: []fleet.Route{{Severity: fleet.SeverityCritical, Channels: []string{"chat"}}}, want: []string{"chat"}},
		"unknown beside a known":   {notify: []string{"pager", "mail"}, want: []string{"mail"}, unknown: []string{"pager"}},
		"only unknown: tell all":   {notify: []string{"pager"}, want: all, unknown: []string{"pager"}},
		"named twice is told once": {notify: []string{"mail", "mail"}, want: []string{"mail"}},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := &fleet.Cluster{Name: "edge-03", Labels: prod, Notify: c.notify}
			got := Choose(alert, cluster, c.routes, all)
			if !slices.Equal(got.Channels, c.want) || !slices.Equal(got.Unknown, c.unknown) {
				t.Errorf("chose %q, unknown %q; want %q, %q", got.Channels, got.Unknown, c.want, c.unknown)
			}
		})
	}
	alert.Severity = fleet.SeverityWarning
	if got := Choose(alert, &fleet.Cluster{}, []fleet.Route{{Severity: fleet.SeverityCritical, Channels: []string{"chat"}}}, all); len(got.Channels) != 3 {
		t.Errorf("a warning goes to %q", got.Channels)
	}
}
