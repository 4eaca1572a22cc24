package rollout

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func begun(t *testing.T, phase fleet.RolloutPhase, clusters ...string) *world {
	t.Helper()
	w := newWorld(t, clusters...)
	w.must(event.RolloutCommand{Rollout: "r1", Kind: fleet.RolloutCA, Action: event.RolloutStart, Reason: fleet.RolloutAsked})
	w.run(fleet.RolloutCA, phase)
	return w
}

// Nothing but proof opens the gate of trust, however long it takes.
func TestTrustIsProven(t *testing.T) {
	for why, spoil := range map[string]func(*fleet.Agent){
		"has not loaded trust bundle 2 yet":                               func(a *fleet.Agent) { a.Bundle, a.BundleHash = 0, "" },
		"has loaded trust bundle 1, and the new CA is in 2":               func(a *fleet.Agent) { a.Bundle = 1 },
		"cannot install trust bundle 2: the disk is full":                 func(a *fleet.Agent) { a.Bundle, a.BundleFailure = 1, &fleet.BundleFailure{Error: "the disk is full"} },
		`has not told the hash of its trust bundle: update the agent`:     func(a *fleet.Agent) { a.BundleHash = "" },
		"its trust bundle 2 has the hash abc":                             func(a *fleet.Agent) { a.BundleHash = "abc" },
		"has not shown a handshake with the new CA yet":                   func(a *fleet.Agent) { a.Canary = nil },
		"its handshake with the new CA fails: x509: signed by unknown CA": func(a *fleet.Agent) { a.Canary.Error = "x509: signed by unknown CA" },
		"agent not heard since 2026-01-10T00:00:00Z":                      func(a *fleet.Agent) { a.Canary, a.LastSeen = nil, start0.Add(9*fleet.Day) },
	} {
		t.Run(why, func(t *testing.T) {
			w := begun(t, fleet.RolloutTrusted, "edge-01", "edge-02", "edge-03")
			began := w.rollouts[fleet.RolloutCA].Since()
			w.agree()
			w.now = w.now.Add(time.Minute)
			w.agents["edge-02"].LastSeen = w.now
			spoil(w.agents["edge-02"])
			w.decide(fleet.RolloutCA)
			r := w.rollouts[fleet.RolloutCA]
			if r.Phase != fleet.RolloutTrusted || r.Ready != 2 || r.Total != 3 || r.MissingCount != 1 || len(r.Missing) != 1 {
				t.Fatalf("rollout %+v", r)
			}
			l := r.Missing[0]
			if !strings.HasPrefix(l.Why, why) || l.Cluster != "edge-02" || l.Client != nil || l.Since.IsZero() || l.Since.After(w.now) {
				t.Errorf("missing %+v", l)
			}
			if strings.Contains(why, "not heard") && !l.Since.Equal(start0.Add(9*fleet.Day)) || strings.Contains(why, "not shown") && !l.Since.Equal(began) {
				t.Errorf("since %s", l.Since)
			}
			w.now = w.now.Add(300 * fleet.Day)
			w.decide(fleet.RolloutCA)
			if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutTrusted {
				t.Errorf("opened by time: %+v", r)
			}
			w.agents["edge-02"].BundleFailure = nil
			w.agree()
			w.decide(fleet.RolloutCA)
			if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutActivate || r.MissingCount != 0 {
				t.Errorf("not opened by proof: %+v", r)
			}
		})
	}
}

func TestWhoIsNotWaitedForByTheGateOfTrust(t *testing.T) {
	w := begun(t, fleet.RolloutTrusted, "edge-01", "edge-02")
	w.agents["edge-02"].Canary = nil
	w.records["none"], w.agents["none"] = &fleet.Credentials{}, nil
	w.records["invited"], w.agents["invited"] = &fleet.Credentials{}, &fleet.Agent{Join: &fleet.JoinToken{}}
	in := w.input(fleet.RolloutCA)
	if d := Decide(in); d.Rollout == nil || d.Rollout.Total != 2 || d.Rollout.MissingCount != 1 || !d.Minor {
		t.Errorf("decision %+v", d.Rollout)
	}
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutExclude, Cluster: "edge-02", Why: "at sea"})
	in = w.input(fleet.RolloutCA)
	in.Complete = false // a cluster was not looked at yet
	if d := Decide(in); d.Rollout != nil && d.Rollout.Phase != fleet.RolloutTrusted {
		t.Errorf("decided without all clusters: %+v", d.Rollout)
	}
	if d := Decide(w.input(fleet.RolloutCA)); d.Rollout == nil || d.Rollout.Phase != fleet.RolloutActivate || d.Minor || len(d.Facts) != 1 {
		t.Errorf("decision %+v", d)
	}
}

// The longest waited for comes first, and of many only the first are named.
func TestLaggardsAreBoundedAndOrdered(t *testing.T) {
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprintf("edge-%04d", i))
	}
	w := begun(t, fleet.RolloutTrusted, names...)
	for i, name := range names {
		w.agents[name].Canary = nil
		w.agents[name].LastSeen = w.now.Add(-time.Duration(i) * time.Hour)
	}
	first := Decide(w.input(fleet.RolloutCA))
	second := Decide(w.input(fleet.RolloutCA))
	r := first.Rollout
	if r == nil || r.MissingCount != 1000 || len(r.Missing) != fleet.MaxLaggards || r.Ready != 0 || r.Total != 1000 {
		t.Fatalf("rollout %+v", r)
	}
	if r.Missing[0].Cluster != "edge-0999" || r.Missing[49].Cluster != "edge-0950" || !equal(r, second.Rollout) {
		t.Errorf("missing %+v", r.Missing)
	}
	again := w.input(fleet.RolloutCA)
	again.Rollout = r
	if d := Decide(again); d.Rollout != nil {
		t.Errorf("stored again although nothing has changed: %+v", d.Rollout)
	}
}

// What is needed of the old CA holds its gate, and nothing else does.
func TestWhoNeedsTheOldCA(t *testing.T) {
	now := start0
	g := func(n int, step fleet.Step, ca string, change ...func(*fleet.Generation)) fleet.Generation {
		g := fleet.Generation{Number: n, Step: step, Agent: "a", Certificate: fleet.Certificate{Issuer: ca, NotAfter: now.Add(time.Hour)}}
		for _, f := range change {
			f(&g)
		}
		return g
	}
	expired := func(g *fleet.Generation) { g.Certificate.NotAfter = now.Add(-time.Second) }
	last := func(g *fleet.Generation) { g.Certificate.NotAfter = now }
	revoked := func(g *fleet.Generation) { g.Revoked = &fleet.Revocation{} }
	recovery := func(g *fleet.Generation) { g.Reason = fleet.ReasonRecovery }
	for name, test := range map[string]struct {
		record *fleet.Record
		live   bool
	}{
		"none":                          {nil, false},
		"in use":                        {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepProven, "old")}}, true},
		"the last moment":               {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepProven, "old", last)}}, true},
		"expired":                       {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepProven, "old", expired)}}, false},
		"revoked":                       {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepProven, "old", revoked)}}, false},
		"the client is revoked":         {&fleet.Record{Revoked: &fleet.Revocation{}, Generations: []fleet.Generation{g(1, fleet.StepProven, "old")}}, false},
		"on its way":                    {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepProven, "new"), g(2, fleet.StepIssued, "old")}}, true},
		"the next one is on its way":    {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepProven, "old"), g(2, fleet.StepDelivered, "new")}}, true},
		"the next one is installed":     {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepProven, "old"), g(2, fleet.StepInstalled, "new")}}, true},
		"the next one is proven":        {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepSuperseded, "old"), g(2, fleet.StepProven, "new")}}, false},
		"proven, not superseded yet":    {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepProven, "old"), g(2, fleet.StepProven, "new")}}, false},
		"the next one was revoked":      {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepProven, "old"), g(2, fleet.StepProven, "new", revoked)}}, true},
		"recovered since":               {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepProven, "old"), g(2, fleet.StepIssued, "new", recovery)}}, false},
		"never proven":                  {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepInstalled, "old")}}, true},
		"of another CA":                 {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepProven, "new")}}, false},
		"in use, and one of another CA": {&fleet.Record{Generations: []fleet.Generation{g(1, fleet.StepProven, "other"), g(2, fleet.StepIssued, "old")}}, true},
	} {
		if _, live := needs(test.record, "old", now); live != test.live {
			t.Errorf("%s: %v", name, live)
		}
		if live := test.record.CALive("old", now) != nil; live && !test.live { // the second line, of the issuer, is no stricter
			t.Errorf("%s: the issuer says %v", name, live)
		}
	}
}

func TestWhyAClientHasNotLeft(t *testing.T) {
	about := About{Rollout: "r1", To: "ca-2", CAs: "ca-1 ca-2"}
	for why, set := range map[string]func(*Look){
		"its turn has not come":                        func(*Look) {},
		"waits for the issuer":                         func(l *Look) { l.Part = &fleet.ClusterRotation{} },
		"no agent is enrolled for the cluster":         func(l *Look) { l.Agent = nil },
		"waits for its program: its program renews it": func(l *Look) { l.Records.Clients[kms].Generations[0].Agent = "" },
		"is not declared any more: revoke it, or wait": func(l *Look) { l.Cluster.Clients = []fleet.ClientKey{csi} },
		"the agent did not reach installed: disk is full": func(l *Look) {
			l.Agent.Failures = map[fleet.ClientKey]fleet.StepFailure{kms: {Step: fleet.StepInstalled, Error: "disk is full"}}
		},
		"the maintenance window is closed": func(l *Look) {
			l.Part = &fleet.ClusterRotation{Clients: []fleet.RotationResult{{Client: kms, Reason: "the maintenance window is closed until noon"}}}
		},
	} {
		w := newWorld(t, "edge-01")
		delete(w.records["edge-01"].Clients, csi)
		l := Look{Authority: &w.authority, Cluster: &fleet.Cluster{Clients: []fleet.ClientKey{kms, csi}}, Agent: w.agents["edge-01"], Records: w.records["edge-01"], Now: w.now}
		set(&l)
		s := StandingOf(about, l)
		if len(s.Holders) != 1 || !strings.HasPrefix(s.Holders[0].Why, why) || s.Holders[0].Client != kms || s.Holders[0].CA != "ca-1" {
			t.Errorf("%s: %+v", why, s.Holders)
		}
	}
}

// A client of a program holds the gate by name until it renews or is excluded; one
// whose certificate ends does not; a silent agent is named as such.
func TestGateOfTheOldCA(t *testing.T) {
	w := begun(t, fleet.RolloutReissued, "edge-01", "edge-02", "edge-03")
	for i := range w.records["edge-02"].Clients[kms].Generations {
		w.records["edge-02"].Clients[kms].Generations[i].Agent = ""
	}
	w.agents["edge-03"].LastSeen = w.now.Add(-time.Hour)
	w.issue("edge-01")
	w.decide(fleet.RolloutCA)
	r := w.rollouts[fleet.RolloutCA]
	var got []string
	for _, l := range r.Missing {
		got = append(got, l.Cluster+" "+l.Client.String()+" "+l.Why)
	}
	if len(got) != 4 || !strings.HasPrefix(got[0], "edge-03 csi agent not heard since 20") || !strings.HasPrefix(got[1], "edge-03 kms agent not heard") ||
		got[2] != "edge-02 csi its turn has not come" || !strings.HasPrefix(got[3], "edge-02 kms waits for its program: ") {
		t.Errorf("missing %q", got)
	}
	if r.Ready != 1 || r.Total != 3 || r.MissingCount != 4 {
		t.Errorf("rollout %+v", r)
	}
	w.now = w.now.Add(60 * fleet.Day)
	end := w.records["edge-02"].Clients[kms].Newest().Certificate.NotAfter
	if d := Decide(w.input(fleet.RolloutCA)); d.Next.After(end.Add(time.Nanosecond)) {
		t.Errorf("looks again at %s, after the end of the certificates", d.Next)
	}
	in := w.input(fleet.RolloutCA)
	in.Rollout = &fleet.Rollout{}
	*in.Rollout = *w.rollouts[fleet.RolloutCA]
	in.Rollout.Held, in.Now = 1000, end // nothing else wakes
	if d := Decide(in); !d.Next.Equal(end.Add(time.Nanosecond)) || d.Rollout.Phase != fleet.RolloutReissued {
		t.Errorf("looks again at %s", d.Next)
	}
	w.now = w.now.Add(30 * fleet.Day) // all have ended
	last := w.now
	w.decide(fleet.RolloutCA)
	if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutReissued || !r.LastReplacedAt.Equal(last) {
		t.Errorf("at once: %+v", r)
	}
	w.now = last.Add(5*time.Second - 1)
	w.decide(fleet.RolloutCA)
	if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutReissued {
		t.Errorf("calls may be under way: %+v", r)
	}
	w.now = last.Add(5 * time.Second)
	w.decide(fleet.RolloutCA)
	if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutRetire || !r.LastReplacedAt.Equal(last) {
		t.Errorf("rollout %+v", r)
	}
}

// Nobody has used the old CA for as long as the fleet says, without a break; while
// that passes there is the way back.
func TestTheOldCASoaks(t *testing.T) {
	w := at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutReissued)
	w.settings.Authority.Soak = fleet.Duration(time.Hour)
	w.issue("edge-01")
	w.decide(fleet.RolloutCA)
	first := w.now
	if d := Decide(w.input(fleet.RolloutCA)); !d.Next.Equal(first.Add(time.Hour)) {
		t.Errorf("looks again at %s, want at %s", d.Next, first.Add(time.Hour))
	}
	if r := w.rollouts[fleet.RolloutCA]; !r.OpensAt.Equal(first.Add(time.Hour)) {
		t.Errorf("it is said to end at %s", r.OpensAt)
	}
	w.now = first.Add(59 * time.Minute)
	record := w.records["edge-01"].Clients[kms]
	record.Newest().Certificate.Issuer = "ca-1" // somebody has come back to it
	w.decide(fleet.RolloutCA)
	if r := w.rollouts[fleet.RolloutCA]; !r.LastReplacedAt.IsZero() || !r.OpensAt.IsZero() || r.MissingCount == 0 {
		t.Errorf("somebody uses it: %+v", r)
	}
	record.Newest().Certificate.Issuer = "ca-2"
	w.now = first.Add(2 * time.Hour)
	w.decide(fleet.RolloutCA)
	if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutReissued || !r.LastReplacedAt.Equal(w.now) {
		t.Errorf("it counts anew: %+v", r)
	}
	w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutBack})
	if r := w.rollouts[fleet.RolloutCA]; r.Phase != fleet.RolloutRollback || !r.LastReplacedAt.IsZero() {
		t.Errorf("there is no way back: %+v", r)
	}
}

// An excluded cluster is named to the issuer when the old CA goes.
func TestRetirementNamesTheExcluded(t *testing.T) {
	w := begun(t, fleet.RolloutReissued, "edge-01", "edge-02")
	for _, name := range []string{"edge-02", "edge-01"} {
		w.must(event.RolloutCommand{Kind: fleet.RolloutCA, Action: event.RolloutExclude, Cluster: name, Why: "w"})
	}
	w.run(fleet.RolloutCA, fleet.RolloutRetire)
	d := Decide(w.input(fleet.RolloutCA))
	if d.Command == nil || d.Command.Data.Move != fleet.MoveRetire || d.Command.Data.ID != "ca-1" || !slices.Equal(d.Command.Data.Except, []string{"edge-01", "edge-02"}) {
		t.Errorf("command %+v", d.Command)
	}
}

// Who has come back to the old CA while it was about to go is taken off it first.
func TestNobodyIsCutOffByARace(t *testing.T) {
	w := begun(t, fleet.RolloutRetire, "edge-01")
	r := w.records["edge-01"].Clients[kms]
	late := r.Generations[len(r.Generations)-1]
	late.Number, late.Step, late.Certificate.Issuer = late.Number+1, fleet.StepIssued, "ca-1"
	r.Generations = append(r.Generations, late)
	w.decide(fleet.RolloutCA)
	if len(w.commands) > 0 || w.rollouts[fleet.RolloutCA].MissingCount != 1 {
		t.Fatalf("commands %+v, rollout %+v", w.commands, w.rollouts[fleet.RolloutCA])
	}
	before := w.rollouts[fleet.RolloutCA].Reissue
	w.now = w.now.Add(2 * time.Hour)
	w.decide(fleet.RolloutCA)
	if now := w.rollouts[fleet.RolloutCA]; now.Reissue == before || now.Attempt != 1 || w.rotations[now.Reissue] == nil {
		t.Errorf("no other attempt: %+v", now)
	}
	w.run(fleet.RolloutCA, fleet.RolloutCompleted)
}

// A new leader has not looked at every cluster yet. That nobody is known to use the
// old CA opens no gate; and it closes none: what was measured, the soak that has
// begun and a halt stay.
func TestANewLeaderForgetsNothing(t *testing.T) {
	begins := func(w *world) *fleet.Rollout {
		in := w.input(fleet.RolloutCA)
		in.Standings, in.Complete = map[string]Standing{}, false
		if d := Decide(in); d.Rollout != nil {
			return d.Rollout
		}
		return w.rollouts[fleet.RolloutCA]
	}
	w := at(t, fleet.RolloutCA, fleet.RolloutTainted, fleet.RolloutRetire)
	w.step(fleet.RolloutCA)
	measured := w.rollouts[fleet.RolloutCA].LastReplacedAt
	w.now = w.now.Add(time.Hour)
	if r := begins(w); measured.IsZero() || !r.LastReplacedAt.Equal(measured) {
		t.Errorf("after a taint: measured at %s, now %s", measured, r.LastReplacedAt)
	}
	w = at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutReissued)
	w.settings.Authority.Soak = fleet.Duration(5 * fleet.Day)
	for range 3 {
		w.step(fleet.RolloutCA)
	}
	since := w.rollouts[fleet.RolloutCA].LastReplacedAt
	w.now = w.now.Add(fleet.Day)
	if r := begins(w); since.IsZero() || !r.LastReplacedAt.Equal(since) || r.Phase != fleet.RolloutReissued {
		t.Errorf("soaks since %s, now %s in phase %s", since, r.LastReplacedAt, r.Phase)
	}
	w.now = since.Add(6 * fleet.Day)
	if r := begins(w); r.Phase != fleet.RolloutReissued {
		t.Errorf("opened without a look at the clusters: %+v", r)
	}
	w = at(t, fleet.RolloutCA, fleet.RolloutAsked, fleet.RolloutReissued)
	w.decide(fleet.RolloutCA)
	rotation := w.rotations[w.rollouts[fleet.RolloutCA].Reissue]
	rotation.State, rotation.Halt = fleet.RotationHalted, &fleet.Halt{Number: 1, Reason: "1 of 2 clients failed"}
	w.decide(fleet.RolloutCA)
	if r := begins(w); r.Halted != "1 of 2 clients failed" {
		t.Errorf("halted: %q", r.Halted)
	}
}

// A cluster that cannot be looked at, as its documents cannot be read, keeps the
// last gate closed and is named; the others are reissued all the same, and it can be
// left out.
func TestAClusterThatCannotBeLookedAt(t *testing.T) {
	w := begun(t, fleet.RolloutReissued, "edge-01")
	unseen := func() Input {
		in := w.input(fleet.RolloutCA)
		in.Complete, in.Unseen = false, []string{"edge-09"}
		return in
	}
	d := Decide(unseen())
	if d.Reissue == nil || d.Rollout == nil || d.Rollout.MissingCount != 3 || d.Rollout.Total != 2 {
		t.Fatalf("decision %+v, rollout %+v", d, d.Rollout)
	}
	if !slices.ContainsFunc(d.Rollout.Missing, func(l fleet.Laggard) bool { return l.Cluster == "edge-09" && l.Client == nil }) {
		t.Errorf("missing %+v", d.Rollout.Missing)
	}
	w.step(fleet.RolloutCA)
	if d := Decide(unseen()); d.Rollout == nil || d.Rollout.Phase != fleet.RolloutReissued || d.Rollout.MissingCount != 1 {
		t.Errorf("the gate: %+v", d.Rollout)
	}
	r := *w.rollouts[fleet.RolloutCA]
	r.Excluded = map[string]fleet.Exclusion{"edge-09": {Reason: "cannot be read"}}
	w.rollouts[fleet.RolloutCA] = &r
	in := w.input(fleet.RolloutCA)
	in.Unseen = []string{"edge-09"}
	if d := Decide(in); d.Rollout != nil && d.Rollout.MissingCount > 0 {
		t.Errorf("excluded: %+v", d.Rollout)
	}
}
