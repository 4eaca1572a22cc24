package plan

import (
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// A certificate of a CA that is trusted no more is worth nothing: it is replaced at
// once, in any mode and at any hour, and by no other way than the ways there are.
func TestWhatIsNotTrustedIsReissuedAtOnce(t *testing.T) {
	trusted := map[string]struct{}{"ca-2": {}, "ca-3": {}}
	of := func(ca string) func(*Input) {
		return func(in *Input) { in.newest().Certificate.Issuer, in.Active, in.Trusted = ca, "ca-2", trusted }
	}
	end := t0.Add(days(90))
	for _, tt := range []struct {
		name   string
		now    time.Time
		change func(*Input)
		want   string
		block  string
	}{
		{"retired", t0.Add(days(1)), of("ca-1"), "authority kms#2", ""},
		{"outgoing", t0.Add(days(1)), of("ca-3"), "", ""},
		{"active", t0.Add(days(1)), of("ca-2"), "", ""},
		{"the issuer was not written down", t0.Add(days(1)), of(""), "", ""},
		{"the authority is not known", t0.Add(days(1)), func(in *Input) { in.newest().Certificate.Issuer = "ca-1" }, "", ""},
		{"manual, closed", t0.Add(days(1)), func(in *Input) {
			of("ca-1")(in)
			in.Cluster.Policy.Mode = fleet.ModeManual
			in.Cluster.Maintenance = []fleet.Maintenance{{Cron: "0 0 30 2 *", Duration: fleet.Duration(time.Hour)}}
		}, "authority kms#2", ""},
		{"on its way", t0.Add(days(1)), func(in *Input) { of("ca-1")(in); in.newest().Step = fleet.StepIssued }, "authority kms#2", ""},
		{"on its way, of the active one", t0.Add(days(1)), func(in *Input) { of("ca-2")(in); in.newest().Step = fleet.StepIssued }, "", ""},
		{"no request", t0.Add(days(1)), func(in *Input) { of("ca-1")(in); in.Agent.Requests = nil }, "", "kms#2: the agent has no certificate request for generation 2 on file"},
		{"of a program", t0.Add(days(1)), func(in *Input) { of("ca-1")(in); in.newest().Agent = "" }, "", ""},
		{"revoked", t0.Add(days(1)), func(in *Input) { of("ca-1")(in); in.Credentials.Clients[kms].Revoked = &fleet.Revocation{} }, "", ""},
		{"at its end", end, of("ca-1"), "authority kms#2", ""},
		{"locked out", end.Add(time.Second), of("ca-1"), "recovery kms#2", ""},
		{"locked out, and an operator decides", end.Add(time.Second), func(in *Input) { of("ca-1")(in); byOperator(in) }, "", barred},
	} {
		d := Evaluate(lockedOut(tt.now, tt.change))
		if got := asks(d); got != tt.want {
			t.Errorf("%s: asks for %q, want %q", tt.name, got, tt.want)
		}
		if got := blocks(d); got != tt.block {
			t.Errorf("%s: blocked %q, want %q", tt.name, got, tt.block)
		}
	}
}
