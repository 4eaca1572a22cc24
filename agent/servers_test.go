package agent

import "testing"

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
