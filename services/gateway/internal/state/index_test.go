package state

import (
	"testing"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestIndexFollowsReplacementsAndMoves(t *testing.T) {
	var x Index
	x.Set("a", &fleet.Agent{ID: "one"})
	x.Set("a", &fleet.Agent{ID: "two", Replaced: []string{"one"}})
	x.Set("b", &fleet.Agent{ID: "one"}) // the machine serves another cluster now
	for _, c := range []struct{ id, cluster, replaced string }{{"one", "b", "a"}, {"two", "a", ""}, {"", "", ""}} {
		cluster, _ := x.Cluster(c.id)
		replaced, _ := x.Replaced(c.id)
		if cluster != c.cluster || replaced != c.replaced {
			t.Errorf("%q: of %q, was of %q; want %q and %q", c.id, cluster, replaced, c.cluster, c.replaced)
		}
	}
	x.Set("a", &fleet.Agent{})
	if cluster, ok := x.Cluster("two"); ok {
		t.Errorf("forgotten, and still of %q", cluster)
	}
	if _, ok := x.Replaced("one"); ok {
		t.Error("forgotten, and still known as a former agent")
	}
	if cluster, _ := x.Cluster("one"); cluster != "b" {
		t.Errorf("of %q, want b", cluster)
	}
}
