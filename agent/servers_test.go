package agent

import (
	"net/http"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// An agent that knows several gateways works as long as one of them answers.
func TestOneOfSeveralServersWillDo(t *testing.T) {
	g := newGateway(t, "kms")
	r := newRig(t, g)
	r.config.Server = "https://127.0.0.1:1," + g.URL + ",https://127.0.0.1:2"
	r.start()
	eventually(t, "generation 1 proven", func() bool { return g.proven(1) })
	r.wantSet("kms", 1)
}

func TestEachServerIsChecked(t *testing.T) {
	c := newRig(t, newGateway(t)).config
	c.Server += ",http://127.0.0.1:8443"
	if err := c.Validate(); err == nil {
		t.Error("a server without TLS was taken")
	}
}

// A gateway that was stopped while its CA was retired shows a certificate that nobody
// trusts, until it has heard. That costs no client anything, it is told nothing, and
// nobody is said to be in the middle.
func TestServerThatSleptThroughARotationIsPassedBy(t *testing.T) {
	g := newGateway(t, "kms")
	m := newMiddle(t, g)
	m.change(func() {
		m.bundle = func() string { return must(trust.Sign(g.fleetKey, g.bundle)) }
	})
	r := newRig(t, g)
	r.config.Server = m.URL + "," + g.URL
	r.start()
	for number := 1; number <= 2; number++ {
		if number > 1 {
			g.issue("kms")
		}
		eventually(t, "generation proven", func() bool { return g.proven(number) })
		// Asked by the next call again, as after an answer that was lost.
		g.CloseClientConnections()
	}
	said, asked := m.said()
	if asked == 0 || strings.Contains(said, "Bearer") || strings.Contains(said, g.join) {
		t.Errorf("asked %d times, it heard: %s", asked, said)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refused != nil || strings.Contains(r.log.String(), "somebody may be in the middle") {
		t.Errorf("a gateway that lags behind is taken for a man in the middle: %+v", g.refused)
	}
}

// A gateway that is out of touch says so, and the agent works with the next.
func TestServerThatIsOutOfTouchIsPassedBy(t *testing.T) {
	g, lost := newGateway(t, "kms"), newGateway(t, "kms")
	lost.change(func() {
		lost.fleetKey, lost.cert, lost.bundle = g.fleetKey, g.cert, g.bundle
		lost.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == api.PathTrustSigned {
				return false
			}
			refuse(w, http.StatusServiceUnavailable, "this gateway does not know the present state of the fleet")
			return true
		}
	})
	r := newRig(t, g)
	r.config.Server = lost.URL + "," + g.URL
	r.start()
	eventually(t, "generation proven", func() bool { return g.proven(1) })
	if lost.count(api.PathTrustSigned) == 0 {
		t.Error("it was not asked")
	}
}
