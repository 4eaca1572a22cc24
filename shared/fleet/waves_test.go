package fleet

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

func clusterNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("c%05d", i)
	}
	return names
}

func TestWavesAreCutFromTheOrder(t *testing.T) {
	for n, want := range map[int][]int{
		1: {1}, 2: {1, 1}, 3: {1, 1, 1}, 10: {1, 1, 8}, 11: {1, 2, 8}, 10_000: {1, 1000, 8999},
	} {
		names := clusterNames(n)
		canary := names[n/2]
		order, w := WaveOptions{Canary: canary}.Plan(names)
		if !slices.Equal(w.Sizes, want) || order[0] != canary || len(order) != n || w.MaxParallel != 50 || w.MaxFailures != "2%" {
			t.Errorf("%d clusters: %v, first %s, %+v", n, w.Sizes, order[0], w)
		}
		if !slices.Equal(slices.Sorted(slices.Values(order)), names) || !slices.Equal(names, clusterNames(n)) {
			t.Errorf("%d clusters: one is missing, or the argument was changed", n)
		}
		for wave := range w.Sizes {
			from, to := w.Range(wave + 1)
			if w.Of(from) != wave+1 || w.Of(to-1) != wave+1 || to-from != w.Sizes[wave] {
				t.Errorf("%d clusters: wave %d is from %d to %d", n, wave+1, from, to)
			}
		}
		if w.Canary(1) != (n > 1) || w.Canary(2) {
			t.Errorf("%d clusters: which wave is the canary?", n)
		}
	}
}

func TestFailureLimit(t *testing.T) {
	for _, tt := range []struct {
		limit             FailureLimit
		failed, attempted int
		want              bool
	}{
		{"2%", 0, 0, false},
		{"2%", 1, 50, false},
		{"2%", 2, 99, true},
		{"2%", 2, 100, false},
		{"2%", 3, 100, true},
		{"0%", 1, 1000, true},
		{"0%", 0, 1000, false},
		{"0.5%", 1, 200, false},
		{"0.5%", 2, 200, true},
		{"100%", 5, 5, false},
		{"0", 1, 1000, true},
		{"3", 3, 3, false},
		{"3", 4, 1000, true},
		{"", 1, 49, true}, // the default
		{"", 1, 50, false},
	} {
		if got := tt.limit.Exceeded(tt.failed, tt.attempted); got != tt.want {
			t.Errorf("%q with %d of %d: %t", tt.limit, tt.failed, tt.attempted, got)
		}
	}
	for _, wrong := range []FailureLimit{"x", "-1", "-1%", "101%", "%", "NaN%", "2 %", "1.5", "+Inf%"} {
		if err := wrong.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if err := (WaveOptions{MaxParallel: -1}).Validate(); !errors.Is(err, ErrInvalid) {
		t.Errorf("fewer than none at once: %v", err)
	}
}

func FuzzFailureLimit(f *testing.F) {
	for _, s := range []string{"2%", "3", "", "1e2%", "NaN%", "0x1p-2%"} {
		f.Add(s, 3, 100)
	}
	f.Fuzz(func(t *testing.T, s string, failed, attempted int) {
		l := FailureLimit(s)
		if l.Validate() == nil && l.Exceeded(0, max(attempted, 0)) {
			t.Errorf("%q is exceeded by nothing", s)
		}
		if failed > 0 && attempted > failed && l.Exceeded(failed, attempted) && !l.Exceeded(failed, failed) {
			t.Errorf("%q: %d of %d is too many, and all of them is not", s, failed, attempted)
		}
	})
}

func TestRotationStates(t *testing.T) {
	done := []RotationState{RotationCompleted, RotationFailed, RotationCancelled}
	for _, s := range RotationStates() {
		if s.Done() != slices.Contains(done, s) {
			t.Errorf("%s: done is %t", s, s.Done())
		}
		for _, next := range RotationStates() {
			if s.Done() && s.May(next) || next == RotationAccepted && s.May(next) || s.May(s) {
				t.Errorf("%s after %s", next, s)
			}
		}
	}
	if RotationState("").Done() {
		t.Error("nothing has not ended")
	}
	r := Rotation{ID: "r", State: RotationHalted}
	if err := r.Move(RotationAccepted); !errors.Is(err, ErrConflict) || r.State != RotationHalted {
		t.Errorf("%v, %s", err, r.State)
	}
	if err := r.Move(RotationRunning); err != nil || r.State != RotationRunning {
		t.Errorf("%v, %s", err, r.State)
	}
}

func TestChooseCanary(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	kms, csi := ClientKey{Kind: "kms"}, ClientKey{Kind: "csi"}
	candidate := func(name string, clients ...ClientKey) Candidate {
		c := Candidate{
			Cluster: &Cluster{Name: name, Kind: Workload, Clients: clients}, Records: &Credentials{Clients: map[ClientKey]*Record{}},
			Agent: &Agent{ID: "a", LastSeen: now.Add(-time.Minute)}, Heard: AgentHeard, Now: now,
		}
		for _, key := range clients {
			at := now.Add(-10 * Day)
			c.Records.Clients[key] = &Record{Generations: []Generation{{
				Number: 1, Step: StepProven, Agent: "a", At: at, ProvenAt: at, RenewAt: now.Add(40 * Day),
				Certificate: Certificate{NotBefore: at, NotAfter: now.Add(80 * Day)}, Token: Token{NotBefore: at, ExpiresAt: now.Add(80 * Day)},
			}}}
		}
		return c
	}
	for name, tt := range map[string]struct {
		force  bool
		change func(a, b, c *Candidate)
		want   string
	}{
		"the first by name":               {true, func(_, _, _ *Candidate) {}, "a"},
		"a small one":                     {true, func(_, b, _ *Candidate) { b.Cluster.Clients = []ClientKey{kms} }, "b"},
		"no management cluster":           {true, func(a, _, _ *Candidate) { a.Cluster.Kind = Management }, "b"},
		"one whose agent is there":        {true, func(a, b, _ *Candidate) { a.Agent, b.Agent.LastSeen = nil, now.Add(-time.Hour) }, "c"},
		"an offline one where all are so": {true, func(a, b, c *Candidate) { a.Agent, b.Agent, c.Agent = nil, nil, nil }, "a"},
		"one that is well": {true, func(a, _, _ *Candidate) {
			a.Records.Clients[csi].Generations[0].Token.ExpiresAt = now.Add(-time.Hour)
		}, "b"},
		"one whose window is open": {true, func(a, _, _ *Candidate) {
			a.Cluster.Maintenance = []Maintenance{{Cron: "0 0 30 2 *", Duration: Duration(time.Hour)}}
		}, "b"},
		"one with something to do": {false, func(_, _, c *Candidate) { c.Records.Clients[kms].Generations[0].RenewAt = now }, "c"},
		"there before anything else": {false, func(_, b, c *Candidate) {
			b.Agent = nil
			b.Records.Clients[kms].Generations[0].RenewAt = now
			c.Cluster.Kind = Management
		}, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, c := candidate("a", kms, csi), candidate("b", kms, csi), candidate("c", kms, csi)
			tt.change(&a, &b, &c)
			of := map[string]Candidate{"a": a, "b": b, "c": c}
			clusters := []Cluster{*c.Cluster, *b.Cluster, *a.Cluster}
			CanaryOrder(clusters)
			got, err := ChooseCanary(&Rotation{Reason: ReasonRotation, Force: tt.force}, clusters, func(c *Cluster) (Candidate, error) { return of[c.Name], nil })
			if got != tt.want || err != nil {
				t.Errorf("%s, %v; want %s", got, err, tt.want)
			}
		})
	}
	away := errors.New("away")
	if _, err := ChooseCanary(&Rotation{}, []Cluster{{Name: "a"}}, func(*Cluster) (Candidate, error) { return Candidate{}, away }); !errors.Is(err, away) {
		t.Errorf("%v", err)
	}
	looks := 0 // a large fleet is not looked at whole
	var many []Cluster
	for _, name := range clusterNames(1000) {
		many = append(many, Cluster{Name: name, Kind: Workload, Clients: []ClientKey{kms}})
	}
	_, err := ChooseCanary(&Rotation{Force: true}, many, func(c *Cluster) (Candidate, error) {
		looks++
		one := candidate(c.Name, kms)
		one.Cluster.Maintenance = []Maintenance{{Cron: "0 0 30 2 *", Duration: Duration(time.Hour)}}
		return one, nil
	})
	if err != nil || looks > 100 {
		t.Errorf("%d looks, %v", looks, err)
	}
}
