package agent

import (
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// A revoked client keeps its files, and its agent leaves it alone: also one whose
// newest generation is not proven, and the others go on. Reinstated, it gets a
// generation with a key that is made from then on.
func TestRevokedClientIsLeftAlone(t *testing.T) {
	g := newGateway(t, "kms", "csi")
	r := newRig(t, g)
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	eventually(t, "requests on file", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.clients[kmsKey].request.Generation == 2 && g.clients[csiKey].request.Generation == 2
	})
	before := r.wantSet("kms", 1)
	g.mu.Lock()
	oldKey := publicOf(g.clients[kmsKey].request.CSR)
	g.mu.Unlock()
	g.change(func() {
		g.issueLocked(kmsKey)
		c := g.clients[kmsKey]
		c.pickup, c.revoked = nil, &fleet.Revocation{At: clock.Wall(), Reason: fleet.KeyCompromise}
	})
	eventually(t, "it is said", func() bool { return strings.Contains(r.log.String(), "a client is revoked") })
	g.issue("csi")
	eventually(t, "the other client goes on", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.clients[csiKey].number == 2 && g.clients[csiKey].step == fleet.StepProven
	})
	eventually(t, "nothing is waited for", func() bool { return r.board.Status().Ready })
	if after := r.wantSet("kms", 1); after.Metadata.Serial != before.Metadata.Serial {
		t.Error("the set was touched")
	}
	if n := strings.Count(r.log.String(), "a client is revoked"); n != 1 {
		t.Errorf("said %d times", n)
	}
	g.change(func() {
		c := g.clients[kmsKey]
		c.revoked, c.barred, c.skip = nil, true, 1
	})
	eventually(t, "a request with a new key", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.clients[kmsKey].request.Generation == 4
	})
	g.mu.Lock()
	if string(publicOf(g.clients[kmsKey].request.CSR)) == string(oldKey) {
		t.Error("the request is for the key of before the revocation")
	}
	for _, report := range g.reports {
		if report.Error != "" {
			t.Errorf("reported: %+v", report)
		}
	}
	g.mu.Unlock()
	g.issue("kms")
	eventually(t, "the next generation proven", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.clients[kmsKey].number == 4 && g.clients[kmsKey].step == fleet.StepProven
	})
	r.wantSet("kms", 4)
}

var (
	kmsKey = fleet.ClientKey{Kind: "kms"}
	csiKey = fleet.ClientKey{Kind: "csi"}
)
