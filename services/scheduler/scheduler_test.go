package scheduler_test

import (
	"fmt"
	"slices"
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

func TestFirstGenerationIsAskedForOnce(t *testing.T) {
	w := newWorld(t, clock.Real())
	w.issuer()
	r := w.schedule(scheduler.Config{})
	w.declare("edge-01", func(c *fleet.Cluster) { c.Policy.Mode = fleet.ModeManual })
	bustest.Eventually(t, func() error {
		if n := r.metric(t, "rotor_scheduler_blocked"); n != 2 {
			return fmt.Errorf("%v clients blocked, want 2 that wait for an agent", n)
		}
		return nil
	})
	w.enrol("edge-01")
	doc := w.expectGeneration("edge-01", 1)
	g := doc.Record(kms).Newest()
	if g.Reason != fleet.ReasonEnrolment || !g.Expiry().Equal(g.At.Add(90*fleet.Day)) || g.Operation != doc.Record(csi).Newest().Operation {
		t.Errorf("generation %+v", g)
	}
	w.declare("edge-02", nil)
	w.enrol("edge-02")
	w.expectGeneration("edge-02", 1)
	if n := r.metric(t, "rotor_scheduler_due_total"); n != 4 {
		t.Errorf("%v clients asked for, want each of 4 once", n)
	}
	if n := r.metric(t, "rotor_scheduler_clusters"); n != 2 {
		t.Errorf("%v clusters", n)
	}
}

// Documents that change while the issuer is at work lead to no second command;
// another request is another question.
func TestIssuerIsNotAskedAgainAtOnce(t *testing.T) {
	w := newWorld(t, clock.Real())
	r := w.schedule(scheduler.Config{})
	w.declare("edge-01", nil)
	w.enrol("edge-01")
	asked := func(want float64) {
		t.Helper()
		bustest.Eventually(t, func() error {
			if n := r.metric(t, "rotor_scheduler_due_total"); n != want {
				return fmt.Errorf("%v clients asked for, want %v", n, want)
			}
			return nil
		})
	}
	asked(2)
	for range 5 {
		w.enrol("edge-01") // the agent is seen again
	}
	w.declare("edge-02", nil)
	w.enrol("edge-02")
	asked(4)
	_, err := w.agents.Edit(t.Context(), "edge-01", func(a *fleet.Agent) error {
		a.Requests[kms] = fleet.Request{Generation: 1, Key: "other"}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	asked(5)
}

// F1, F23: renewal goes by schedule, whether or not anybody does anything.
func TestF1_RenewedAheadOfExpiryOnAFastClock(t *testing.T) {
	start := clock.Wall()
	w := newWorld(t, clock.Fast(start, start, 345_600))
	life := fleet.Duration(8 * fleet.Day)
	if _, err := w.settings.Create(t.Context(), fleet.SettingsKey, fleet.Settings{Policy: fleet.Policy{TokenLife: life, CertificateLife: life}}); err != nil {
		t.Fatal(err)
	}
	w.issuer()
	w.schedule(scheduler.Config{})
	w.declare("edge-01", nil)
	w.enrol("edge-01")
	doc := w.expectGeneration("edge-01", 4)
	generations := doc.Record(kms).Generations
	for i, g := range generations[1:] {
		before := generations[i]
		if g.Reason != fleet.ReasonRenewal || g.At.Before(before.RenewAt.Truncate(time.Second)) || !g.At.Before(before.Expiry()) {
			t.Errorf("generation %d of %s for %s: the one before was due at %s and ends at %s", g.Number, g.At, g.Reason, before.RenewAt, before.Expiry())
		}
	}
	due := bustest.Expect(t, w.Server, event.CredentialDue, func(c event.Credentials) bool { return c.Clients[0].Generation == 3 })
	if due.Clients[0].RenewAt.IsZero() || len(bustest.Stored(t, w.Server, event.CredentialExpired)) > 0 {
		t.Errorf("due %+v; or something has expired", due)
	}
}

// What was told is told once, also across a change of the leader.
func TestFactsAreToldOnceAcrossRestart(t *testing.T) {
	w := newWorld(t, clock.Real())
	now := w.clock.Now()
	for version, age := range map[string]time.Duration{"r1": 100 * fleet.Day, "r2": 75 * fleet.Day} {
		if _, err := w.releases.Create(t.Context(), version, fleet.Release{Version: version, PublishedAt: now.Add(-age)}); err != nil {
			t.Fatal(err)
		}
	}
	behind := func(c *fleet.Cluster) { c.Release, c.UpgradedAt = "r1", now.Add(-98*fleet.Day) }
	w.old("edge-01", 91*fleet.Day)
	w.declare("edge-01", behind)
	first := w.schedule(scheduler.Config{})
	missed := bustest.Expect(t, w.Server, event.WindowMissed, nil)
	if missed.Level != 2 || missed.State != fleet.WindowBehind || !slices.Equal(missed.Missed, []string{"r2"}) {
		t.Errorf("missed %+v", missed)
	}
	bustest.Expect(t, w.Server, event.ClientLockedOut, func(c event.Credentials) bool { return len(c.Clients) == 2 })
	schedule := opened[struct{}](w, bus.Schedule)
	var told kv.Entry[struct{}]
	bustest.Eventually(t, func() (err error) { told, err = schedule.Get(t.Context(), "edge-01"); return err })
	first.stop()

	w.schedule(scheduler.Config{})
	w.old("edge-02", 91*fleet.Day)
	w.declare("edge-02", behind)
	bustest.Eventually(t, func() error { _, err := schedule.Get(t.Context(), "edge-02"); return err })
	if n := len(bustest.Stored(t, w.Server, event.WindowMissed)); n != 2 {
		t.Errorf("missed was told %d times for 2 clusters", n)
	}
	if n := len(bustest.Stored(t, w.Server, event.CredentialExpired)); n != 2 {
		t.Errorf("expired was told %d times for 2 clusters", n)
	}
	// The stream itself drops a repeat, for an hour. What holds for ever is
	// that the second leader had nothing to write.
	if again, err := schedule.Get(t.Context(), "edge-01"); err != nil || again.Revision != told.Revision {
		t.Errorf("told again at revision %d after %d, %v", again.Revision, told.Revision, err)
	}

	w.declare("edge-01", func(c *fleet.Cluster) { c.Release, c.UpgradedAt = "r2", now })
	bustest.Expect(t, w.Server, event.WindowRestored, func(f event.Window) bool { return f.State == fleet.WindowCurrent })
}

func TestRemovedClusterIsForgotten(t *testing.T) {
	w := newWorld(t, clock.Real())
	w.old("edge-01", fleet.Day)
	w.declare("edge-01", nil)
	w.schedule(scheduler.Config{})
	schedule := opened[struct{}](w, bus.Schedule)
	bustest.Eventually(t, func() error { _, err := schedule.Get(t.Context(), "edge-01"); return err })
	e, err := w.clusters.Get(t.Context(), "edge-01")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.clusters.Delete(t.Context(), "edge-01", e.Revision); err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, func() error {
		if _, err := schedule.Get(t.Context(), "edge-01"); err == nil {
			return fmt.Errorf("still remembered")
		}
		return nil
	})
	w.declare("edge-01", nil) // and back again
	bustest.Eventually(t, func() error { _, err := schedule.Get(t.Context(), "edge-01"); return err })
}

func TestOneLeadsAndAStandbyTakesOver(t *testing.T) {
	w := newWorld(t, clock.Real())
	w.issuer()
	a, b := w.schedule(scheduler.Config{LeaseTTL: time.Second}), w.schedule(scheduler.Config{LeaseTTL: time.Second})
	w.declare("edge-01", nil)
	w.enrol("edge-01")
	w.expectGeneration("edge-01", 1)
	if sum := a.metric(t, "rotor_scheduler_leader") + b.metric(t, "rotor_scheduler_leader"); sum != 1 {
		t.Fatalf("%v leaders", sum)
	}
	if sum := a.metric(t, "rotor_scheduler_due_total") + b.metric(t, "rotor_scheduler_due_total"); sum != 2 {
		t.Errorf("%v clients asked for, want 2", sum)
	}
	leader, standby := a, b
	if b.metric(t, "rotor_scheduler_leader") == 1 {
		leader, standby = b, a
	}
	leader.stop()
	w.declare("edge-02", nil)
	w.enrol("edge-02")
	w.expectGeneration("edge-02", 1)
	if standby.metric(t, "rotor_scheduler_leader") != 1 {
		t.Error("nobody leads")
	}
}

// A scheduler whose term was ended by another gives up the lease, and leads
// again in a later term.
func TestLeadsAgainInALaterTerm(t *testing.T) {
	w := newWorld(t, clock.Real())
	w.issuer()
	r := w.schedule(scheduler.Config{LeaseTTL: time.Second})
	w.declare("edge-01", nil)
	w.enrol("edge-01")
	w.expectGeneration("edge-01", 1)
	if term := r.metric(t, "rotor_scheduler_term"); term != 1 {
		t.Errorf("term %v", term)
	}
	if _, err := w.Bus.Begin(t.Context(), bus.Leader{Name: "another", Held: func() bool { return true }}); err != nil {
		t.Fatal(err)
	}
	w.declare("edge-02", nil)
	w.enrol("edge-02")
	w.expectGeneration("edge-02", 1)
	if term, fenced := r.metric(t, "rotor_scheduler_term"), r.metric(t, "rotor_scheduler_fenced_total"); term != 3 || fenced != 1 {
		t.Errorf("term %v after %v that were refused", term, fenced)
	}
	r.stop()
	if term := r.metric(t, "rotor_scheduler_term"); term != 0 {
		t.Errorf("term %v of one that does not lead", term)
	}
}

func TestLostKeyIsReplacedAtOnce(t *testing.T) {
	w := newWorld(t, clock.Real())
	w.issuer()
	w.schedule(scheduler.Config{})
	w.declare("edge-01", nil)
	w.enrol("edge-01")
	w.expectGeneration("edge-01", 1)
	_, err := w.agents.Edit(t.Context(), "edge-01", func(a *fleet.Agent) error {
		a.Requests[kms] = fleet.Request{Generation: 2, Key: "other", Lost: true}
		a.Requests[csi] = fleet.Request{Generation: 2, Key: "other", Lost: true}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if g := w.expectGeneration("edge-01", 2).Record(kms).Newest(); g.Reason != fleet.ReasonEnrolment {
		t.Errorf("reason %s", g.Reason)
	}
}

func TestConfigThatCannotWork(t *testing.T) {
	for _, c := range []scheduler.Config{{LeaseTTL: time.Millisecond}, {RotationDeadline: -1}, {MaxPerSecond: -1}} {
		d := scheduler.Defaults()
		if c.LeaseTTL != 0 {
			d.LeaseTTL = c.LeaseTTL
		}
		if c.RotationDeadline != 0 {
			d.RotationDeadline = c.RotationDeadline
		}
		if c.MaxPerSecond != 0 {
			d.MaxPerSecond = c.MaxPerSecond
		}
		if d.Validate() == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	if err := scheduler.Defaults().Validate(); err != nil {
		t.Error(err)
	}
}
