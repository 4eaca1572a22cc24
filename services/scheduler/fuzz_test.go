package scheduler

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler/internal/plan"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// Whatever a command holds, it is refused or leads to a rotation whose keys are
// good and whose plan names every client once.
func FuzzRotateCommand(f *testing.F) {
	f.Add([]byte(`{"rotation":"r1","clusters":["edge-01"],"clients":["kms","node-agent/host-1"],"force":true}`))
	f.Add([]byte(`{"rotation":"a.b","clusters":["*"]}`))
	f.Add([]byte(`{"clusters":null,"clients":[""]}`))
	cluster := &fleet.Cluster{Name: "edge-01", Kind: fleet.Management, Hosts: []string{"host-1"}}
	f.Fuzz(func(t *testing.T, body []byte) {
		var c event.RotateCommand
		if json.Unmarshal(body, &c) != nil {
			return
		}
		r, err := checkRotate(c, time.Unix(0, 0))
		if err != nil {
			return
		}
		if r.ID == "" || strings.ContainsAny(r.ID, ".*> ") || len(r.Clusters) == 0 {
			t.Fatalf("%q leads to %+v", body, r)
		}
		for _, in := range []plan.Input{{}, {Cluster: cluster}} {
			part := plan.Begin(&r, r.Clusters[0], in)
			if _, err := json.Marshal(part); err != nil || len(part.Clients) == 0 {
				t.Fatalf("%q leads to %+v, %v", body, part, err)
			}
			plan.Follow(&r, part, in, nil)
		}
	})
}

func TestOperationsKnowThemselvesApart(t *testing.T) {
	for _, raw := range []string{`{"id":"r1","clusters":["a"]}`, `{"cluster":"a","state":"running","clients":[{"client":"kms"}]}`} {
		var o operation
		if err := json.Unmarshal([]byte(raw), &o); err != nil || (o.rotation.ID == "") == (o.part.Cluster == "") {
			t.Errorf("%s is read as %+v, %v", raw, o, err)
		}
	}
	for _, raw := range []string{`{"name":"a","policy":{"mode":"manual"}}`, `{"policy":{"mode":"manual"},"routes":[]}`} {
		var d declared
		if err := json.Unmarshal([]byte(raw), &d); err != nil || (d.cluster.Name == "") == (d.settings.Policy.Mode == "") {
			t.Errorf("%s is read as %+v, %v", raw, d, err)
		}
	}
}

func TestIndexFollowsRotations(t *testing.T) {
	x := newIndex()
	entry := func(revision uint64, r fleet.Rotation) kv.Entry[fleet.Rotation] {
		return kv.Entry[fleet.Rotation]{Key: r.ID, Value: r, Revision: revision, Deleted: r.State == ""}
	}
	r := fleet.Rotation{ID: "r1", State: fleet.RotationRunning, Clusters: []string{"a", "b"}, CreatedAt: time.Unix(2, 0)}
	if !x.set(entry(2, r)) || x.set(entry(2, r)) {
		t.Error("news are told of once")
	}
	x.set(entry(3, fleet.Rotation{ID: "r0", State: fleet.RotationRunning, Clusters: []string{"a"}, CreatedAt: time.Unix(1, 0)}))
	if got := x.cluster("a"); len(got) != 2 || got[0].Key != "r0" {
		t.Errorf("rotations of a: %+v", got)
	}
	failed := r
	failed.State = fleet.RotationFailed
	x.set(entry(5, failed))
	if x.set(entry(4, r)) || len(x.cluster("b")) > 0 {
		t.Error("the mirror was late, and has revived what has ended")
	}
	x.set(entry(6, fleet.Rotation{ID: "r0"}))
	if len(x.cluster("a")) > 0 || len(x.of) > 0 || len(x.all()) > 0 || len(x.revisions) != 1 {
		t.Errorf("left: %+v", x.of)
	}
}
