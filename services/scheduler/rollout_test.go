package scheduler_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/scheduler"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// authority is a world with an authority, whose stand-ins for issuer and agents
// also do what a rotation of it needs.
type authority struct {
	*world
	docs     *kv.Bucket[fleet.Authority]
	rollouts *kv.Bucket[fleet.Rollout]
	born     time.Time

	mu     sync.Mutex
	silent map[string]bool // clusters whose agents do nothing
	deaf   bool            // the issuer refuses to activate
}

// ruled returns a world in which the first CA was made a while ago, with proven
// clients in each cluster.
func ruled(t *testing.T, c clock.Clock, age time.Duration, clusters ...string) *authority {
	a := &authority{world: newWorld(t, c), silent: map[string]bool{}}
	a.docs, a.rollouts = opened[fleet.Authority](a.world, bus.Authority), opened[fleet.Rollout](a.world, bus.Rotations)
	a.born = c.Now().Add(-age).UTC().Truncate(time.Second)
	doc := fleet.Authority{
		CAs:    []fleet.CA{a.ca0(1, a.born, "")},
		Keys:   []fleet.SigningKey{{ID: "key-1", Number: 1, Phase: fleet.PhaseActive, CreatedAt: a.born, ActivatedAt: a.born}},
		Bundle: fleet.TrustBundle{Version: 1, Signed: "bundle 1"},
	}
	doc.CAs[0].Phase = fleet.PhaseActive
	if _, err := a.docs.Create(t.Context(), fleet.AuthorityKey, doc); err != nil {
		t.Fatal(err)
	}
	a.ca.Store("ca-1")
	log := a.Env(t, "issuer", c).Log
	bustest.Run(t, func(ctx context.Context) error {
		return a.Bus.Consume(ctx, bus.Consumer{
			Stream: bus.Commands, Name: "issuer", Subjects: []string{event.Issue.Subject("*"), event.Phase.Subject("*")}, Log: log,
		}, func(ctx context.Context, e event.Event) error {
			if event.Phase.Is(e) {
				return a.move(ctx, e)
			}
			return a.issue(ctx, e)
		})
	})
	bustest.Run(t, func(ctx context.Context) error {
		a.docs.Watch(ctx, kv.Watcher[fleet.Authority]{Changed: func(e kv.Entry[fleet.Authority]) { a.obey(ctx, e.Value, clusters) }, Current: func() {}})
		return nil
	})
	for _, name := range clusters {
		a.declare(name, nil)
		a.enrol(name)
	}
	return a
}

func (a *authority) ca0(number int, at time.Time, rollout string) fleet.CA {
	return fleet.CA{
		ID: "ca-" + strconv.Itoa(number), Number: number, Phase: fleet.PhaseIncoming, Rollout: rollout, CreatedAt: at,
		NotBefore: at.Add(-fleet.Backdate), NotAfter: at.Add(365 * fleet.Day),
	}
}

// move is the issuer: a change that is in order is made, all else is refused.
func (a *authority) move(ctx context.Context, e event.Event) error {
	c, err := event.Phase.Decode(e)
	if err != nil {
		return err
	}
	a.mu.Lock()
	deaf := a.deaf
	a.mu.Unlock()
	_, err = a.docs.Edit(ctx, fleet.AuthorityKey, func(doc *fleet.Authority) error {
		phases := map[string]*fleet.Phase{}
		made := ""
		for i := range doc.CAs {
			phases[doc.CAs[i].ID] = &doc.CAs[i].Phase
			if doc.CAs[i].Rollout == c.Rollout {
				made = doc.CAs[i].ID
			}
		}
		for i := range doc.Keys {
			phases[doc.Keys[i].ID] = &doc.Keys[i].Phase
			if doc.Keys[i].Rollout == c.Rollout {
				made = doc.Keys[i].ID
			}
		}
		is := func(phase fleet.Phase) bool { return phases[c.ID] != nil && *phases[c.ID] == phase }
		switch {
		case c.Move == fleet.MovePrepare && made == "" && c.Kind == fleet.RolloutCA:
			doc.CAs = append(doc.CAs, a.ca0(len(doc.CAs)+1, c.At, c.Rollout))
			doc.CAs[len(doc.CAs)-1].Bundle = doc.Bundle.Version + 1
		case c.Move == fleet.MovePrepare && made == "":
			n := len(doc.Keys) + 1
			doc.Keys = append(doc.Keys, fleet.SigningKey{ID: "key-" + strconv.Itoa(n), Number: n, Phase: fleet.PhaseIncoming, Rollout: c.Rollout, CreatedAt: c.At})
		case c.Move == fleet.MoveActivate && deaf:
			doc.Refused = &fleet.RefusedMove{Rollout: c.Rollout, Kind: c.Kind, Move: c.Move, Why: "it is deaf", At: c.At}
			return nil
		case c.Move == fleet.MoveActivate && is(fleet.PhaseIncoming):
			*phases[c.From], *phases[c.ID] = fleet.PhaseOutgoing, fleet.PhaseActive
		case c.Move == fleet.MoveRestore && is(fleet.PhaseOutgoing):
			*phases[doc.ActiveCA().ID], *phases[c.ID] = fleet.PhaseOutgoing, fleet.PhaseActive
		case c.Move == fleet.MoveRetire && a.uses(ctx, c, "gone-01"):
			doc.Refused = &fleet.RefusedMove{Rollout: c.Rollout, Kind: c.Kind, Move: c.Move, Why: "it is in use", At: c.At}
			return nil
		case c.Move == fleet.MoveWithdraw && is(fleet.PhaseIncoming), c.Move == fleet.MoveRetire && is(fleet.PhaseOutgoing):
			*phases[c.ID] = fleet.PhaseRetired
		case !slices.ContainsFunc(c.Compromised, func(id string) bool { return doc.FindCA(id).TaintedAt.IsZero() }):
			return kv.Keep
		}
		for _, id := range c.Compromised {
			if ca := doc.FindCA(id); ca.TaintedAt.IsZero() {
				ca.TaintedAt = c.At
			}
		}
		doc.Bundle.Version++
		doc.Bundle.Signed = fmt.Sprintf("bundle %d", doc.Bundle.Version)
		return nil
	})
	return err
}

// uses reports whether a client of a cluster that counts needs a CA.
func (a *authority) uses(ctx context.Context, c event.PhaseCommand, cluster string) bool {
	e, err := a.credentials.Get(ctx, cluster)
	return err == nil && e.Value.Record(kms).CALive(c.ID, a.clock.Now()) != nil && !slices.Contains(c.Except, cluster)
}

// obey is all agents: they load the bundle and shake hands. The CA that signs is
// told to the issuer of the world.
func (a *authority) obey(ctx context.Context, doc fleet.Authority, clusters []string) {
	if active := doc.ActiveCA(); active != nil {
		a.ca.Store(active.ID)
	}
	for _, name := range clusters {
		a.mu.Lock()
		silent := a.silent[name]
		a.mu.Unlock()
		if !silent {
			a.agree(ctx, name, doc)
		}
	}
}

func (a *authority) agree(ctx context.Context, name string, doc fleet.Authority) {
	_, _ = a.agents.Edit(ctx, name, func(agent *fleet.Agent) error {
		agent.ID, agent.LastSeen, agent.Bundle, agent.BundleHash = "agent-1", a.clock.Now(), doc.Bundle.Version, doc.Bundle.Hash()
		if ca := doc.IncomingCA(); ca != nil {
			agent.Canary = &fleet.CanaryProof{CA: ca.ID, Since: a.clock.Now()}
		}
		return nil
	})
}

// still makes the agent of a cluster do nothing from now on, and not have called
// for an hour; wake has it do what it has missed.
func (a *authority) still(name string) {
	a.mu.Lock()
	a.silent[name] = true
	a.mu.Unlock()
	if _, err := a.agents.Edit(a.t.Context(), name, func(agent *fleet.Agent) error {
		agent.LastSeen = a.clock.Now().Add(-time.Hour)
		return nil
	}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) wake(name string) {
	a.mu.Lock()
	delete(a.silent, name)
	a.mu.Unlock()
	a.agree(a.t.Context(), name, a.document())
}

func (a *authority) document() fleet.Authority {
	a.t.Helper()
	e, err := a.docs.Get(a.t.Context(), fleet.AuthorityKey)
	if err != nil {
		a.t.Fatal(err)
	}
	return e.Value
}

func (a *authority) advance(c event.RolloutCommand) {
	a.t.Helper()
	if c.Kind == "" {
		c.Kind = fleet.RolloutCA
	}
	c.By, c.At = "admin", a.clock.Now()
	m := event.Meta{Source: "gateway", Cluster: event.FleetWide, Key: []string{c.Rollout, string(c.Action), c.Cluster, c.At.String()}, Time: c.At}
	if err := bus.Publish(a.t.Context(), a.Bus, event.Advance, m, c); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) begin(kind fleet.RolloutKind, reason fleet.RolloutReason) {
	a.t.Helper()
	a.advance(event.RolloutCommand{Rollout: "r1", Kind: kind, Action: event.RolloutStart, Reason: reason})
}

// expectRollout waits until the rollout is as it should be.
func (a *authority) expectRollout(kind fleet.RolloutKind, as func(*fleet.Rollout) bool) fleet.Rollout {
	a.t.Helper()
	var r fleet.Rollout
	bustest.Eventually(a.t, func() error {
		e, err := a.rollouts.Get(a.t.Context(), kind.Key())
		if err == nil && !as(&e.Value) {
			err = fmt.Errorf("rollout %+v", e.Value)
		}
		r = e.Value
		return err
	})
	return r
}

func (a *authority) expectPhase(kind fleet.RolloutKind, phase fleet.RolloutPhase) fleet.Rollout {
	a.t.Helper()
	return a.expectRollout(kind, func(r *fleet.Rollout) bool { return r.Phase == phase })
}

// expectIssuer waits until every client of the clusters has a proven certificate
// of a CA.
func (a *authority) expectIssuer(ca string, clusters ...string) {
	a.t.Helper()
	bustest.Eventually(a.t, func() error {
		for _, name := range clusters {
			e, err := a.credentials.Get(a.t.Context(), name)
			if err != nil {
				return err
			}
			for _, key := range []fleet.ClientKey{kms, csi} {
				g := e.Value.Record(key).Newest()
				if g == nil || g.Certificate.Issuer != ca {
					return fmt.Errorf("%s/%s has %+v", name, key, g)
				}
				agent, err := a.agents.Get(a.t.Context(), name)
				if err != nil {
					return err
				}
				if r := agent.Value.Requests[key]; len(agent.Value.Requests) > 0 && r.Generation <= g.Number {
					return fmt.Errorf("%s/%s: the next request is not on file: %+v", name, key, r) // it is filed last
				}
			}
		}
		return nil
	})
}

func (a *authority) expectPhases(want ...string) {
	a.t.Helper()
	doc := a.document()
	var got []string
	for _, ca := range doc.CAs {
		got = append(got, ca.ID+" "+string(ca.Phase))
	}
	if !slices.Equal(got, want) {
		a.t.Errorf("CAs %v, want %v", got, want)
	}
}

// A rotation of the CA waits for the one agent that is silent, names it, and goes
// on by itself when it is back; the leader changes in each phase that waits.
func TestRotationOfTheCA(t *testing.T) {
	t.Parallel()
	names := edges(4)
	a := ruled(t, clock.Real(), 10*fleet.Day, names...)
	r := a.schedule(scheduler.Config{LeaseTTL: time.Second})
	a.expectIssuer("ca-1", names...)
	a.still("edge-03")
	taken, err := a.credentials.Get(t.Context(), "edge-01")
	if err == nil {
		_, err = a.credentials.Create(t.Context(), "gone-01", taken.Value) // it was taken out of the fleet
	}
	if err != nil {
		t.Fatal(err)
	}
	a.begin(fleet.RolloutCA, fleet.RolloutAsked)
	waits := func(r *fleet.Rollout) bool {
		return r.Phase == fleet.RolloutTrusted && r.MissingCount == 1 && r.Ready == 3
	}
	got := a.expectRollout(fleet.RolloutCA, waits)
	if l := got.Missing[0]; l.Cluster != "edge-03" || !strings.HasPrefix(l.Why, "agent not heard since ") || l.Since.After(a.clock.Now().Add(-50*time.Minute)) {
		t.Errorf("missing %+v", l)
	}
	if n := r.metric(t, "rotor_authority_rollout_missing"); n != 1 {
		t.Errorf("%v missing", n)
	}
	r.stop()
	r = a.schedule(scheduler.Config{LeaseTTL: time.Second})
	a.step.Store(fleet.StepIssued) // nothing is proven for now
	a.wake("edge-03")
	got = a.expectRollout(fleet.RolloutCA, func(r *fleet.Rollout) bool {
		return r.Phase == fleet.RolloutReissued && r.Reissue != "" && r.MissingCount == 8
	})
	first, err := a.rotations.Get(t.Context(), got.Reissue)
	if err != nil || first.Value.Reason != fleet.ReasonAuthority || first.Value.Waves == nil || len(first.Value.Clusters) != 4 {
		t.Fatalf("reissue %+v, %v", first.Value, err)
	}
	canary := first.Value.Clusters[0]
	a.expectGeneration(canary, 2)
	r.stop()
	a.step.Store(fleet.StepProven)
	a.reach(canary, fleet.StepProven)
	r = a.schedule(scheduler.Config{LeaseTTL: time.Second})
	got = a.expectPhase(fleet.RolloutCA, fleet.RolloutCompleted)
	a.expectIssuer("ca-2", names...)
	a.expectPhases("ca-1 retired", "ca-2 active")
	if got.From != "ca-1" || got.To != "ca-2" || got.LastReplacedAt.IsZero() || got.By != "admin" {
		t.Errorf("rollout %+v", got)
	}
	if rotation := a.expectRotation(got.Reissue); rotation.State != fleet.RotationCompleted || rotation.Rotated != 8 {
		t.Errorf("rotation %+v", rotation)
	}
	for _, kind := range []event.Kind[event.Rollout]{event.AuthorityTrusted, event.AuthorityCompleted} {
		if n := len(bustest.Stored(t, a.Server, kind)); n != 1 {
			t.Errorf("%s was told %d times", kind.Type(), n)
		}
	}
	r.stop()
	if n := r.metric(t, "rotor_authority_rollout_phase"); n != 0 {
		t.Errorf("who leads no more shows a phase")
	}
}

// An excluded cluster is not waited for, and recovers by itself: in any mode, and
// outside of its maintenance windows.
func TestExcludedClusterRecoversByItself(t *testing.T) {
	t.Parallel()
	names := edges(3)
	a := ruled(t, clock.Real(), 10*fleet.Day, names...)
	a.declare("edge-02", func(c *fleet.Cluster) {
		c.Policy.Mode = fleet.ModeManual
		c.Maintenance = []fleet.Maintenance{{Cron: "0 0 30 2 *", Duration: fleet.Duration(time.Hour)}}
	})
	a.schedule(scheduler.Config{})
	a.expectIssuer("ca-1", names...)
	a.still("edge-02")
	if _, err := a.agents.Edit(t.Context(), "edge-02", func(agent *fleet.Agent) error { agent.Requests = nil; return nil }); err != nil {
		t.Fatal(err)
	}
	a.begin(fleet.RolloutCA, fleet.RolloutAsked)
	a.expectRollout(fleet.RolloutCA, func(r *fleet.Rollout) bool { return r.MissingCount == 1 })
	a.advance(event.RolloutCommand{Rollout: "r1", Action: event.RolloutExclude, Cluster: "edge-09", Why: "nobody knows it"})
	a.advance(event.RolloutCommand{Rollout: "r1", Action: event.RolloutExclude, Cluster: "edge-02", Why: "at sea"})
	got := a.expectPhase(fleet.RolloutCA, fleet.RolloutCompleted)
	if x := got.Excluded["edge-02"]; len(got.Excluded) != 1 || x.Reason != "at sea" || x.By != "admin" {
		t.Errorf("excluded %+v", got.Excluded)
	}
	a.expectIssuer("ca-2", "edge-01", "edge-03")
	a.expectIssuer("ca-1", "edge-02")
	if err := a.file(t.Context(), "edge-02", map[fleet.ClientKey]int{kms: 2, csi: 2}); err != nil { // it is back
		t.Fatal(err)
	}
	a.expectIssuer("ca-2", "edge-02")
	if g := a.expectGeneration("edge-02", 2).Record(kms).Newest(); g.Reason != fleet.ReasonAuthority {
		t.Errorf("generation %+v", g)
	}
}

// Taken back while clients are on their way, they go back to the old CA, also if
// the leader ends on the way.
func TestRotationOfTheCAIsTakenBack(t *testing.T) {
	t.Parallel()
	names := edges(3)
	a := ruled(t, clock.Real(), 10*fleet.Day, names...)
	r := a.schedule(scheduler.Config{LeaseTTL: time.Second})
	a.expectIssuer("ca-1", names...)
	a.still("edge-03")
	a.begin(fleet.RolloutCA, fleet.RolloutAsked)
	a.expectRollout(fleet.RolloutCA, func(r *fleet.Rollout) bool { return r.MissingCount == 1 })
	if _, err := a.agents.Edit(t.Context(), "edge-03", func(agent *fleet.Agent) error { agent.Requests = nil; return nil }); err != nil {
		t.Fatal(err)
	}
	a.wake("edge-03") // it proves its trust, and has no request on file
	forward := a.expectRollout(fleet.RolloutCA, func(r *fleet.Rollout) bool {
		return r.Phase == fleet.RolloutReissued && r.MissingCount == 2 && r.Reissue != ""
	})
	if l := forward.Missing[0]; l.Cluster != "edge-03" || l.Client == nil {
		t.Errorf("missing %+v", forward.Missing)
	}
	a.advance(event.RolloutCommand{Rollout: "r2", Action: event.RolloutStart, Reason: fleet.RolloutAsked}) // one at a time
	a.advance(event.RolloutCommand{Rollout: "r1", Action: event.RolloutBack})
	a.expectPhase(fleet.RolloutCA, fleet.RolloutRollback)
	r.stop()
	r = a.schedule(scheduler.Config{LeaseTTL: time.Second})
	back := a.expectPhase(fleet.RolloutCA, fleet.RolloutRolledBack)
	a.expectIssuer("ca-1", names...)
	a.expectPhases("ca-1 active", "ca-2 retired")
	if back.ID != "r1" || back.BackFrom != fleet.RolloutReissued || back.Reissue == forward.Reissue {
		t.Errorf("rollout %+v", back)
	}
	if rotation := a.expectRotation(forward.Reissue); rotation.State != fleet.RotationCancelled {
		t.Errorf("the rotation forward %+v", rotation)
	}
	a.advance(event.RolloutCommand{Rollout: "r1", Action: event.RolloutBack}) // again, to no effect
	a.settled()
	if n := len(bustest.Stored(t, a.Server, event.AuthorityRolledBack)); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// proven waits until all clients of clusters have a generation and the rotation that
// reissues them has begun, and lets everything be proven from then on.
func (a *authority) proven(generation int, clusters ...string) {
	a.t.Helper()
	a.expectRollout(fleet.RolloutCA, func(r *fleet.Rollout) bool { return r.Phase == fleet.RolloutReissued && r.Reissue != "" })
	for _, name := range clusters {
		a.expectGeneration(name, generation)
	}
	a.step.Store(fleet.StepProven)
	for _, name := range clusters {
		a.reach(name, fleet.StepProven)
	}
}

// settled waits until every command about the authority is done with.
func (a *authority) settled() {
	a.t.Helper()
	bustest.Eventually(a.t, func() error {
		if n := len(bustest.Stored(a.t, a.Server, event.Advance)); n > 0 {
			return fmt.Errorf("%d commands are not settled", n)
		}
		return nil
	})
}

// After a compromise nothing is proven first, and the old CA goes by the word of an
// operator.
func TestCompromisedCA(t *testing.T) {
	t.Parallel()
	names := edges(3)
	a := ruled(t, clock.Real(), 10*fleet.Day, names...)
	a.schedule(scheduler.Config{})
	a.expectIssuer("ca-1", names...)
	for _, name := range names {
		a.still(name)
	}
	a.step.Store(fleet.StepIssued) // nothing is proven for now
	a.begin(fleet.RolloutCA, fleet.RolloutTainted)
	a.proven(2, names...)
	got := a.expectPhase(fleet.RolloutCA, fleet.RolloutRetire)
	a.expectIssuer("ca-2", names...)
	a.expectPhases("ca-1 outgoing", "ca-2 active")
	if rotation := a.expectRotation(got.Reissue); rotation.Waves != nil || got.LastReplacedAt.IsZero() {
		t.Errorf("rotation %+v", rotation)
	}
	a.advance(event.RolloutCommand{Rollout: "r1", Action: event.RolloutBack}) // there is no way back
	a.advance(event.RolloutCommand{Rollout: "r1", Action: event.RolloutRetireIt})
	a.expectPhase(fleet.RolloutCA, fleet.RolloutCompleted)
	a.expectPhases("ca-1 retired", "ca-2 active")
}

// What the issuer refuses is shown, and asked for again.
func TestRefusedMoveIsShown(t *testing.T) {
	t.Parallel()
	a := ruled(t, clock.Real(), 10*fleet.Day, "edge-01")
	a.deaf = true
	a.schedule(scheduler.Config{})
	a.expectIssuer("ca-1", "edge-01")
	a.begin(fleet.RolloutCA, fleet.RolloutAsked)
	a.expectRollout(fleet.RolloutCA, func(r *fleet.Rollout) bool { return r.Halted == "the issuer refuses: it is deaf" })
	a.mu.Lock()
	a.deaf = false
	a.mu.Unlock()
	a.advance(event.RolloutCommand{Rollout: "r1", Action: event.RolloutResume})
	a.expectPhase(fleet.RolloutCA, fleet.RolloutCompleted)
}

// By day 182 both begin by themselves, one after the other; what was told of the
// dates is told once, whoever leads.
func TestAuthorityIsRotatedBySchedule(t *testing.T) {
	t.Parallel()
	c := clock.Real()
	a := ruled(t, c, 231*fleet.Day, "edge-01")
	a.still("edge-01")
	r := a.schedule(scheduler.Config{LeaseTTL: time.Second})
	a.expectRollout(fleet.RolloutCA, func(r *fleet.Rollout) bool { return r.MissingCount == 1 && r.Reason == fleet.RolloutScheduled })
	due := bustest.Expect(t, a.Server, event.AuthorityDue, nil)
	if due.Level != 1 || due.From != "ca-1" || !due.By.Equal(a.born.Add(260*fleet.Day)) || !due.End.Equal(a.born.Add(365*fleet.Day)) {
		t.Errorf("due %+v", due)
	}
	schedule := opened[struct{}](a.world, bus.Schedule)
	told, err := schedule.Get(t.Context(), "_authority")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.rollouts.Get(t.Context(), fleet.RolloutToken.Key()); err == nil {
		t.Error("both at once")
	}
	r.stop()
	a.schedule(scheduler.Config{LeaseTTL: time.Second})
	a.wake("edge-01")
	a.expectPhase(fleet.RolloutCA, fleet.RolloutCompleted)
	a.expectPhase(fleet.RolloutToken, fleet.RolloutTrusted)
	if again, err := schedule.Get(t.Context(), "_authority"); err != nil || again.Revision != told.Revision {
		t.Errorf("told again at revision %d after %d, %v", again.Revision, told.Revision, err)
	}
	if doc := a.document(); doc.Keys[1].Phase != fleet.PhaseIncoming {
		t.Errorf("keys %+v", doc.Keys)
	}
}

// A token key signs once every verifier has had the time to fetch it, on the clock
// of the fleet.
func TestTokenKeyIsRotated(t *testing.T) {
	t.Parallel()
	start := clock.Wall()
	a := ruled(t, clock.Fast(start, start, 2000), 0)
	a.schedule(scheduler.Config{})
	a.begin(fleet.RolloutToken, fleet.RolloutAsked)
	r := a.expectPhase(fleet.RolloutToken, fleet.RolloutCompleted)
	var trusted, activate time.Time
	for _, s := range r.Steps {
		switch s.Phase {
		case fleet.RolloutTrusted:
			trusted = s.At
		case fleet.RolloutActivate:
			activate = s.At
		default:
		}
	}
	if activate.Sub(trusted) < 2*fleet.JWKSLifetime {
		t.Errorf("signs %s after it was published", activate.Sub(trusted))
	}
	doc := a.document()
	if doc.Keys[0].Phase != fleet.PhaseOutgoing || doc.Keys[1].Phase != fleet.PhaseActive || r.To != "key-2" {
		t.Errorf("keys %+v, rollout %+v", doc.Keys, r)
	}
}
