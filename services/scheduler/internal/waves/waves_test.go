package waves

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// model plays a rotation: it keeps what would be stored, does what is decided,
// and lets clusters end as they are told. Whatever is not stored is lost when it
// is killed.
type model struct {
	t      testing.TB
	r      fleet.Rotation
	parts  map[string]fleet.ClusterRotation
	fails  map[string]bool // clusters of which one client fails
	closed map[string]bool // clusters whose window is closed
	look   map[string]Look // clusters that wait for ever, and how they look
	p      *Progress

	began  []string // in order
	most   int      // at once
	writes int
	killAt int // after so many writes
}

func play(t testing.TB, n int, o fleet.WaveOptions) *model {
	m := &model{t: t, parts: map[string]fleet.ClusterRotation{}, fails: map[string]bool{}, closed: map[string]bool{}, look: map[string]Look{}, killAt: -1}
	m.r = fleet.Rotation{ID: "r1", Reason: fleet.ReasonRotation, State: fleet.RotationRunning, Wave: 1}
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("c%05d", i)
	}
	m.r.Clusters, m.r.Waves = o.Plan(names)
	m.start()
	return m
}

func (m *model) start() {
	m.p = New(&m.r, func(cluster string) fleet.ClusterRotation { return m.parts[cluster] })
}

// wrote counts a write, and is killed after it if its time has come: what was in
// memory is gone.
func (m *model) wrote() {
	if m.writes++; m.writes == m.killAt {
		m.start()
	}
}

func (m *model) store(part fleet.ClusterRotation) {
	m.parts[part.Cluster] = part
	m.wrote()
	m.p.Note(&m.r, part, m.look[part.Cluster])
}

func (m *model) part(cluster string, state fleet.RotationState, outcomes ...fleet.Outcome) {
	part := fleet.ClusterRotation{Cluster: cluster, State: state, Attempt: m.r.Attempt}
	for _, o := range outcomes {
		part.Clients = append(part.Clients, fleet.RotationResult{Client: fleet.ClientKey{Kind: "kms"}, Outcome: o})
	}
	m.store(part)
}

// visit is a look of the scheduler at a cluster.
func (m *model) visit(cluster string) {
	part := m.parts[cluster]
	begun := part.State != "" && part.State != fleet.RotationAccepted
	switch {
	case m.r.Cancel != nil:
		if part.State != "" && !part.State.Done() {
			m.part(cluster, fleet.RotationCompleted, fleet.OutcomeCancelled)
		}
	case m.r.Excluded(cluster):
		if !part.State.Done() || part.State == fleet.RotationFailed {
			m.part(cluster, fleet.RotationCompleted, fleet.OutcomeExcluded)
		}
	case begun && !m.r.Again(part):
		m.p.Note(&m.r, part, m.look[cluster])
	case m.closed[cluster]:
		if m.p.Turn(&m.r, cluster) {
			m.p.Hold(&m.r, cluster)
			m.part(cluster, fleet.RotationAccepted, fleet.OutcomeWaiting, fleet.OutcomeWaiting)
		}
	case m.p.Turn(&m.r, cluster):
		m.began = append(m.began, cluster)
		m.part(cluster, fleet.RotationRunning, fleet.OutcomeWaiting, fleet.OutcomeWaiting)
		running := 0
		for _, p := range m.parts {
			if p.State == fleet.RotationRunning && m.look[p.Cluster] == (Look{}) {
				running++
			}
		}
		m.most = max(m.most, running)
	default:
		m.p.Release(&m.r, cluster)
	}
}

// end lets a cluster that has begun come to its end.
func (m *model) end(cluster string) {
	if _, waits := m.look[cluster]; waits || m.parts[cluster].State != fleet.RotationRunning {
		return
	}
	if m.fails[cluster] {
		m.part(cluster, fleet.RotationFailed, fleet.OutcomeRotated, fleet.OutcomeFailed)
		return
	}
	m.part(cluster, fleet.RotationCompleted, fleet.OutcomeRotated, fleet.OutcomeRotated)
}

// decide does what follows, and reports whether anything did.
func (m *model) decide() bool {
	d := m.p.Decide(&m.r, now)
	switch {
	case d.Ended:
		state := fleet.RotationCompleted
		for _, part := range m.parts {
			if part.State == fleet.RotationFailed {
				state = fleet.RotationFailed
			}
		}
		if m.r.Cancel != nil {
			state = fleet.RotationCancelled
		}
		if err := m.r.Move(state); err != nil {
			m.t.Fatal(err)
		}
		m.wrote()
		return false
	case d.Halt != nil:
		if err := m.r.Move(fleet.RotationHalted); err != nil {
			m.t.Fatal(err)
		}
		m.r.Halt = d.Halt
		m.wrote()
		return true
	case d.Wave != 0:
		m.r.Wave = d.Wave
		m.wrote()
	}
	for _, cluster := range d.Begin {
		m.visit(cluster)
	}
	return d.Wave != 0 || len(d.Begin) > 0
}

// run plays until nothing happens any more.
func (m *model) run() *model {
	for range 100_000 {
		for m.decide() {
		}
		if m.r.State.Done() {
			return m
		}
		writes := m.writes
		for _, cluster := range m.p.Begun() {
			m.end(cluster)
			m.visit(cluster)
		}
		if m.writes == writes && !m.decide() {
			return m
		}
	}
	m.t.Fatal("it comes to no end")
	return m
}

func (m *model) steer(c event.SteerCommand) bool {
	m.t.Helper()
	c.By, c.At = "admin", now
	changed, err := Steer(&m.r, c, m.p.Failing())
	if err != nil {
		m.t.Fatal(err)
	}
	m.wrote()
	looks := append(m.p.Begun(), c.Cluster)
	m.start()
	for _, cluster := range append(looks, m.p.Begun()...) {
		if cluster != "" {
			m.visit(cluster)
		}
	}
	return changed
}

func (m *model) want(state fleet.RotationState, wave int, began string) {
	m.t.Helper()
	if got := strings.Join(m.began, " "); m.r.State != state || m.r.Wave != wave || got != began {
		m.t.Fatalf("%s in wave %d, began %s; want %s in wave %d, %s; halt %+v", m.r.State, m.r.Wave, got, state, wave, began, m.r.Halt)
	}
}

func TestWavesOfEverySize(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 11, 10_000} {
		m := play(t, n, fleet.WaveOptions{}).run()
		if m.r.State != fleet.RotationCompleted || m.r.Wave != len(m.r.Waves.Sizes) || m.most > 50 {
			t.Errorf("%d clusters: %s in wave %d, %d at once", n, m.r.State, m.r.Wave, m.most)
		}
		if !slices.Equal(m.began, m.r.Clusters) {
			t.Errorf("%d clusters: not in their order, or not once each", n)
		}
		if rotated, failed := m.p.Counts(); rotated != 2*n || failed != 0 {
			t.Errorf("%d clusters: %d rotated, %d failed", n, rotated, failed)
		}
		if most := 2*n + len(m.r.Waves.Sizes); m.writes > most {
			t.Errorf("%d clusters: %d writes, want at most %d", n, m.writes, most)
		}
	}
}

func TestAWaveBeginsWhenTheOneBeforeIsProven(t *testing.T) {
	m := play(t, 12, fleet.WaveOptions{Canary: "c00005"})
	m.decide()
	m.decide()
	m.want(fleet.RotationRunning, 1, "c00005")
	m.end("c00005")
	m.decide()
	m.want(fleet.RotationRunning, 2, "c00005 c00000 c00001")
	m.end("c00001")
	if m.decide() {
		t.Error("one of two is proven, and something began")
	}
	m.end("c00000")
	m.decide()
	if m.r.Wave != 3 || len(m.began) != 12 {
		t.Errorf("wave %d, %v", m.r.Wave, m.began)
	}
}

func TestMaxParallelHolds(t *testing.T) {
	m := play(t, 40, fleet.WaveOptions{MaxParallel: 3}).run()
	if m.most != 3 || m.r.State != fleet.RotationCompleted || !slices.Equal(m.began, m.r.Clusters) {
		t.Errorf("%d at once, %s", m.most, m.r.State)
	}
}

func TestFailedCanaryHalts(t *testing.T) {
	m := play(t, 10, fleet.WaveOptions{MaxFailures: "100%"})
	m.fails["c00000"] = true
	m.run().want(fleet.RotationHalted, 1, "c00000")
	if h := m.r.Halt; h.Number != 1 || h.Failed != 1 || h.Attempted != 2 || h.Reason != "1 of 2 clients failed in the canary c00000, where one is enough" {
		t.Errorf("%+v", h)
	}
	if m.steer(event.SteerCommand{Action: event.SteerResume, Halt: 2}) || m.r.State != fleet.RotationHalted {
		t.Error("resumed by a command about another halt")
	}
	if !m.steer(event.SteerCommand{Action: event.SteerResume, Halt: 1}) {
		t.Error("not resumed")
	}
	if m.steer(event.SteerCommand{Action: event.SteerResume, Halt: 1}) {
		t.Error("resumed twice")
	}
	if m.run(); m.r.State != fleet.RotationFailed || len(m.began) != 10 || m.r.Accepted != 1 {
		t.Errorf("%s, began %v, accepted %d", m.r.State, m.began, m.r.Accepted)
	}
}

// The only cluster there is has nobody behind it that could be held back.
func TestNothingIsLeftToHalt(t *testing.T) {
	one := play(t, 1, fleet.WaveOptions{})
	one.fails["c00000"] = true
	one.run().want(fleet.RotationFailed, 1, "c00000")
	last := play(t, 3, fleet.WaveOptions{MaxFailures: "0"})
	last.fails["c00002"] = true
	last.run().want(fleet.RotationFailed, 3, "c00000 c00001 c00002")
	both := play(t, 4, fleet.WaveOptions{MaxFailures: "0"})
	both.fails["c00002"] = true
	for len(both.began) < 4 {
		both.decide()
		both.end(both.began[len(both.began)-1])
	}
	both.look["c00003"] = Look{} // the last but one fails, and the last is on its way
	both.part("c00003", fleet.RotationRunning, fleet.OutcomeWaiting)
	both.end("c00002")
	both.run().want(fleet.RotationRunning, 3, "c00000 c00001 c00002 c00003")
}

// A halt that is decided and not stored yet lets nothing begin either, and one
// that was ended waits for what has begun.
func TestDecidedIsDecided(t *testing.T) {
	m := play(t, 30, fleet.WaveOptions{MaxFailures: "0", MaxParallel: 2})
	for len(m.began) < 2 {
		m.decide()
		m.end("c00000")
	}
	m.part("c00001", fleet.RotationFailed, fleet.OutcomeFailed)
	m.p.move(&m.r, "c00009", idle, granted)
	if d := m.p.Decide(&m.r, now); d.Halt == nil || m.p.Turn(&m.r, "c00009") {
		t.Errorf("%+v; it may begin: %t", d.Halt, m.p.Turn(&m.r, "c00009"))
	}
	m = play(t, 3, fleet.WaveOptions{})
	m.decide()
	m.r.Cancel = &fleet.Cancel{}
	if d := m.p.Decide(&m.r, now); d.Ended {
		t.Error("it has ended, and the canary says that it is on its way")
	}
}

func TestLimitOfLaterWaves(t *testing.T) {
	// 200 clients have begun after the canary and the first 99 of the second wave.
	for limit, want := range map[fleet.FailureLimit]fleet.RotationState{"2%": fleet.RotationFailed, "1%": fleet.RotationHalted, "3": fleet.RotationHalted, "4": fleet.RotationFailed} {
		m := play(t, 1000, fleet.WaveOptions{MaxFailures: limit, MaxParallel: 200})
		for _, cluster := range []string{"c00003", "c00004", "c00005", "c00006"} { // of 101 clusters with 202 clients
			m.fails[cluster] = true
		}
		if m.run(); m.r.State != want {
			t.Errorf("limit %s: %s, want %s; %+v", limit, m.r.State, want, m.r.Halt)
			continue
		}
		if want == fleet.RotationHalted && (m.r.Wave != 2 || len(m.began) != 101 || m.r.Halt.Attempted != 202) {
			t.Errorf("limit %s: halted in wave %d after %d clusters; %+v", limit, m.r.Wave, len(m.began), m.r.Halt)
		}
	}
}

// What was accepted counts no more; what fails afterwards does.
func TestHaltedAgainAfterResume(t *testing.T) {
	m := play(t, 20, fleet.WaveOptions{MaxParallel: 1})
	m.fails["c00000"], m.fails["c00007"] = true, true
	m.run().want(fleet.RotationHalted, 1, "c00000")
	m.steer(event.SteerCommand{Action: event.SteerResume, Halt: 1})
	m.run()
	if m.r.State != fleet.RotationHalted || m.r.Halt.Number != 2 || m.r.Halt.Failed != 1 || len(m.began) != 8 {
		t.Errorf("%s, %+v, began %v", m.r.State, m.r.Halt, m.began)
	}
	m.steer(event.SteerCommand{Action: event.SteerResume, Halt: 2})
	if m.run(); m.r.State != fleet.RotationFailed || m.r.Accepted != 2 {
		t.Errorf("%s, accepted %d", m.r.State, m.r.Accepted)
	}
}

func TestRetryTriesOnlyWhatFailed(t *testing.T) {
	m := play(t, 3, fleet.WaveOptions{})
	m.fails["c00000"] = true
	m.run().want(fleet.RotationHalted, 1, "c00000")
	m.fails["c00000"] = false
	m.steer(event.SteerCommand{Action: event.SteerResume, Retry: true})
	m.run().want(fleet.RotationCompleted, 3, "c00000 c00000 c00001 c00002")
}

func TestExclude(t *testing.T) {
	// The last that is open is left out: the wave is proven without it.
	m := play(t, 3, fleet.WaveOptions{})
	m.decide()
	m.steer(event.SteerCommand{Action: event.SteerExclude, Cluster: "c00000", Reason: "r"})
	m.run().want(fleet.RotationCompleted, 3, "c00000 c00001 c00002")
	// One whose turn has not come: it never begins.
	m = play(t, 3, fleet.WaveOptions{})
	m.steer(event.SteerCommand{Action: event.SteerExclude, Cluster: "c00001", Reason: "r"})
	m.run().want(fleet.RotationCompleted, 3, "c00000 c00002")
	// One that has failed counts no more, and an operator still has to resume.
	m = play(t, 3, fleet.WaveOptions{})
	m.fails["c00000"] = true
	m.run()
	m.steer(event.SteerCommand{Action: event.SteerExclude, Cluster: "c00000", Reason: "r"})
	m.run().want(fleet.RotationHalted, 1, "c00000")
	m.steer(event.SteerCommand{Action: event.SteerResume})
	m.run().want(fleet.RotationCompleted, 3, "c00000 c00001 c00002")
	// All that has not ended: nothing is left, halted or not.
	m = play(t, 2, fleet.WaveOptions{})
	m.fails["c00000"] = true
	m.run()
	m.steer(event.SteerCommand{Action: event.SteerExclude, Cluster: "c00001", Reason: "r"})
	m.run().want(fleet.RotationFailed, 1, "c00000")
}

func TestIncludeTakesItBack(t *testing.T) {
	m := play(t, 4, fleet.WaveOptions{MaxParallel: 1})
	m.steer(event.SteerCommand{Action: event.SteerExclude, Cluster: "c00001", Reason: "r"})
	for m.r.Wave < 3 {
		m.decide()
		m.end(m.began[len(m.began)-1])
	}
	later := event.SteerCommand{Rotation: "r1", Action: event.SteerInclude, Cluster: "c00001", By: "admin", At: now.Add(time.Minute)}
	if changed, err := Steer(&m.r, later, 0); !changed || err != nil {
		t.Fatal(changed, err)
	}
	m.start()
	repeat := event.SteerCommand{Action: event.SteerExclude, Cluster: "c00001", Reason: "r"}
	if m.steer(repeat) || m.r.Excluded("c00001") {
		t.Error("a repeat of the exclusion has come late, and was heard")
	}
	m.run()
	if m.r.State != fleet.RotationCompleted || !slices.Contains(m.began, "c00001") || len(m.began) != 4 {
		t.Errorf("%s, began %v", m.r.State, m.began)
	}
}

func TestCancel(t *testing.T) {
	m := play(t, 5, fleet.WaveOptions{})
	m.decide()
	m.steer(event.SteerCommand{Action: event.SteerCancel})
	m.run().want(fleet.RotationCancelled, 1, "c00000")
	if m.steered(event.SteerResume) == nil {
		t.Error("resumed after its end")
	}
	halted := play(t, 5, fleet.WaveOptions{})
	halted.fails["c00000"] = true
	halted.run()
	halted.steer(event.SteerCommand{Action: event.SteerCancel})
	halted.run().want(fleet.RotationCancelled, 1, "c00000")
	held := play(t, 2, fleet.WaveOptions{})
	held.closed["c00000"] = true
	held.run()
	held.steer(event.SteerCommand{Action: event.SteerCancel})
	held.run().want(fleet.RotationCancelled, 1, "")
	if c := held.parts["c00000"].Clients[0]; c.Outcome != fleet.OutcomeCancelled {
		t.Errorf("what waited for its window is still %s", c.Outcome)
	}
}

func (m *model) steered(a event.SteerAction) error {
	_, err := Steer(&m.r, event.SteerCommand{Action: a, Cluster: "c00001", At: now}, 0)
	return err
}

func TestSteerRefusesWhatMakesNoSense(t *testing.T) {
	m := play(t, 2, fleet.WaveOptions{})
	if m.steered("stop") == nil {
		t.Error("an action that there is not")
	}
	if _, err := Steer(&m.r, event.SteerCommand{Action: event.SteerExclude, Cluster: "x"}, 0); err == nil {
		t.Error("a cluster that is not in it")
	}
	if changed, err := Steer(&m.r, event.SteerCommand{Action: event.SteerInclude, Cluster: "c00001"}, 0); changed || err != nil {
		t.Errorf("nothing to take back: %t, %v", changed, err)
	}
	if changed, err := Steer(&m.r, event.SteerCommand{Action: event.SteerResume}, 0); changed || err != nil {
		t.Errorf("nothing to resume: %t, %v", changed, err)
	}
}

func TestWindowsHoldOnlyTheirOwn(t *testing.T) {
	m := play(t, 6, fleet.WaveOptions{MaxParallel: 2})
	m.closed["c00002"], m.closed["c00004"] = true, true
	m.run().want(fleet.RotationRunning, 3, "c00000 c00001 c00003 c00005")
	m.closed = map[string]bool{}
	m.visit("c00004") // its window opens, and it is looked at
	m.visit("c00002")
	m.run().want(fleet.RotationCompleted, 3, "c00000 c00001 c00003 c00005 c00002 c00004")
	// The canary's own window is waited for as well.
	m = play(t, 6, fleet.WaveOptions{})
	m.closed["c00000"] = true
	m.run().want(fleet.RotationRunning, 1, "")
}

// A rotation for the authority has no deadline: one that is silent holds nobody
// up, but the canary has to be proven; one that is there and late is a failure
// to the limit, and may heal.
func TestAuthorityWaits(t *testing.T) {
	reissue := func(n int, look map[string]Look) *model {
		m := play(t, n, fleet.WaveOptions{MaxParallel: 1})
		m.r.Reason, m.look = fleet.ReasonAuthority, look
		m.start()
		return m.run()
	}
	quiet, late := Look{Quiet: true}, Look{Overdue: true}
	m := reissue(4, map[string]Look{"c00001": quiet})
	m.want(fleet.RotationRunning, 3, "c00000 c00001 c00002 c00003")
	delete(m.look, "c00001") // it returns
	m.visit("c00001")
	m.run().want(fleet.RotationCompleted, 3, "c00000 c00001 c00002 c00003")

	reissue(4, map[string]Look{"c00000": quiet}).want(fleet.RotationRunning, 1, "c00000")
	reissue(4, map[string]Look{"c00000": {}}).want(fleet.RotationRunning, 1, "c00000")
	reissue(4, map[string]Look{"c00001": {}}).want(fleet.RotationRunning, 2, "c00000 c00001")

	m = reissue(4, map[string]Look{"c00000": late})
	m.want(fleet.RotationHalted, 1, "c00000")
	m.steer(event.SteerCommand{Action: event.SteerResume, Halt: 1})
	m.run().want(fleet.RotationRunning, 3, "c00000 c00001 c00002 c00003")
	delete(m.look, "c00000") // it heals
	m.visit("c00000")
	m.run().want(fleet.RotationCompleted, 3, "c00000 c00001 c00002 c00003")

	if m := reissue(1000, map[string]Look{"c00200": late}); m.r.State != fleet.RotationRunning || len(m.began) != 1000 {
		t.Errorf("one of a thousand is late: %s after %d clusters", m.r.State, len(m.began))
	}
	m = play(t, 2, fleet.WaveOptions{})
	m.r.Reason = fleet.ReasonAuthority
	m.decide()
	m.part("c00000", fleet.RotationCompleted, fleet.OutcomeNeedsRecovery, fleet.OutcomeRotated)
	m.run().want(fleet.RotationCompleted, 2, "c00000 c00001") // who is locked out is no hindrance
}

// Killed after any write, a rotation comes to the same end: the same state, the
// same results, each cluster begun once.
func TestTheSameEndAfterAnyKill(t *testing.T) {
	for name, setup := range map[string]func(*model){
		"completed": func(*model) {},
		"halted":    func(m *model) { m.fails["c00005"], m.fails["c00006"] = true, true },
		"windows":   func(m *model) { m.closed["c00004"] = true },
		"resumed": func(m *model) {
			m.fails["c00000"] = true
			m.run()
			m.steer(event.SteerCommand{Action: event.SteerExclude, Cluster: "c00003", Reason: "r"})
			m.steer(event.SteerCommand{Action: event.SteerResume, Halt: 1})
		},
		"tried again": func(m *model) {
			m.fails["c00000"] = true
			m.run()
			m.fails["c00000"] = false
			m.steer(event.SteerCommand{Action: event.SteerResume, Halt: 1, Retry: true})
		},
		"cancelled": func(m *model) {
			m.decide()
			m.steer(event.SteerCommand{Action: event.SteerCancel})
		},
	} {
		t.Run(name, func(t *testing.T) {
			end := func(killAt int) *model {
				m := play(t, 15, fleet.WaveOptions{MaxParallel: 2, MaxFailures: "1"})
				m.killAt = killAt
				setup(m)
				return m.run()
			}
			want := end(-1)
			for killAt := range want.writes {
				got := end(killAt + 1)
				if !reflect.DeepEqual(got.r, want.r) || !reflect.DeepEqual(got.parts, want.parts) {
					t.Errorf("killed after write %d of %d: %+v, want %+v", killAt+1, want.writes, got.r, want.r)
				}
				if !slices.Equal(slices.Sorted(slices.Values(got.began)), slices.Sorted(slices.Values(want.began))) {
					t.Errorf("killed after write %d: began %v, want %v", killAt+1, got.began, want.began)
				}
			}
		})
	}
}

// To be told the same twice changes nothing.
func TestNoteTwice(t *testing.T) {
	m := play(t, 3, fleet.WaveOptions{})
	m.decide()
	before := m.p.all
	for range 3 {
		for _, part := range m.parts {
			m.p.Note(&m.r, part, Look{})
		}
		m.p.Note(&m.r, fleet.ClusterRotation{Cluster: "stranger", State: fleet.RotationFailed}, Look{})
	}
	if m.p.all != before {
		t.Errorf("%+v, want %+v", m.p.all, before)
	}
}

// A rotation without waves begins everywhere, and halts never.
func TestWithoutWaves(t *testing.T) {
	r := &fleet.Rotation{ID: "r1", State: fleet.RotationRunning, Clusters: []string{"a", "b"}}
	p := New(r, func(string) fleet.ClusterRotation { return fleet.ClusterRotation{} })
	if d := p.Decide(r, now); !reflect.DeepEqual(d, Decision{}) || !p.Turn(r, "a") || !p.Turn(r, "b") || p.Turn(r, "c") {
		t.Errorf("%+v", d)
	}
	failed := []fleet.RotationResult{{Outcome: fleet.OutcomeFailed}}
	p.Note(r, fleet.ClusterRotation{Cluster: "a", State: fleet.RotationFailed, Clients: failed}, Look{})
	if d := p.Decide(r, now); !reflect.DeepEqual(d, Decision{}) {
		t.Errorf("%+v", d)
	}
	p.Note(r, fleet.ClusterRotation{Cluster: "b", State: fleet.RotationFailed, Clients: failed}, Look{})
	if d := p.Decide(r, now); !d.Ended {
		t.Errorf("%+v", d)
	}
}

func FuzzSteer(f *testing.F) {
	f.Add("resume", "", 1, true)
	f.Add("exclude", "c00001", 0, false)
	f.Add("include", "c00001", 0, false)
	f.Add("cancel", "\x00", -1, false)
	f.Fuzz(func(t *testing.T, action, cluster string, halt int, retry bool) {
		m := play(t, 3, fleet.WaveOptions{})
		m.fails["c00000"] = true
		m.run()
		c := event.SteerCommand{Rotation: "r1", Action: event.SteerAction(action), Cluster: cluster, Halt: halt, Retry: retry, At: now}
		changed, err := Steer(&m.r, c, m.p.Failing())
		if changed && err != nil {
			t.Errorf("changed and refused: %v", err)
		}
		if again, err := Steer(&m.r, c, m.p.Failing()); changed && again {
			t.Errorf("it has an effect twice, %v", err)
		}
		m.start()
		m.run()
	})
}
