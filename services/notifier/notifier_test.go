package notifier

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/rotor-fleet/rotor/services/notifier/internal/channel"
	"github.com/rotor-fleet/rotor/services/notifier/internal/record"
	"github.com/rotor-fleet/rotor/services/notifier/internal/rule"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestAlertIsToldOnceAndResolvedOnce(t *testing.T) {
	s, ops := bustest.New(t), newReceiver(t)
	start(t, s, webhooks(map[string]*receiver{"ops": ops}))
	publish(t, s, event.WindowClosing, "edge-03", 0, window(0))
	ops.expect(t, "firing window-closing edge-03 0")
	publish(t, s, event.WindowMissed, "edge-03", 1, window(0)) // takes over in silence
	publish(t, s, event.WindowMissed, "edge-03", 2, window(0)) // a repeat
	ops.expect(t, "firing window-closing edge-03 0", "firing window-missed edge-03 0")
	publish(t, s, event.WindowMissed, "edge-03", 3, window(1))
	ops.expect(t, "firing window-closing edge-03 0", "firing window-missed edge-03 0", "firing window-missed edge-03 1")
	publish(t, s, event.WindowRestored, "edge-03", 4, event.Window{State: fleet.WindowCurrent})
	publish(t, s, event.WindowRestored, "edge-03", 5, event.Window{State: fleet.WindowCurrent})
	publish(t, s, event.WindowMissed, "edge-03", -1, window(2)) // late
	settled(t, s)
	ops.expect(t, "firing window-closing edge-03 0", "firing window-missed edge-03 0", "firing window-missed edge-03 1",
		"resolved window-missed edge-03 1", "firing window-missed last 0")
	sent := bustest.Stored(t, s, event.AlertSent)
	bustest.Eventually(t, func() error {
		if sent = bustest.Stored(t, s, event.AlertSent); len(sent) != 5 {
			return fmt.Errorf("%d alert.sent, want 5", len(sent))
		}
		return nil
	})
}

// Guards "replica-count duplicate mails".
func TestSeveralNotifiersSendEachMessageOnce(t *testing.T) {
	s, ops, chat := bustest.New(t), newReceiver(t), newReceiver(t)
	c := webhooks(map[string]*receiver{"ops": ops, "chat": chat})
	for range 3 {
		start(t, s, c)
	}
	const clusters = 20
	for i := range clusters {
		publish(t, s, event.WindowMissed, fmt.Sprintf("edge-%d", i), 0, window(0))
	}
	for i := range clusters {
		publish(t, s, event.WindowRestored, fmt.Sprintf("edge-%d", i), 1, event.Window{})
	}
	settled(t, s)
	b := alerts(t, s)
	bustest.Eventually(t, func() error {
		for i := range clusters {
			e, err := b.Get(t.Context(), rule.Fingerprint(rule.WindowMissed, fmt.Sprintf("edge-%d", i), nil, 0))
			if err != nil {
				return err
			}
			if e.Value.State != fleet.AlertResolved || record.Pending(&e.Value, "ops") != nil || record.Pending(&e.Value, "chat") != nil {
				return fmt.Errorf("edge-%d is %s with deliveries %+v", i, e.Value.State, e.Value.Deliveries)
			}
		}
		return nil
	})
	for _, r := range []*receiver{ops, chat} {
		seen := map[string]int{}
		for _, line := range r.heard() {
			if seen[line]++; seen[line] > 1 {
				t.Errorf("heard %q %d times", line, seen[line])
			}
		}
	}
}

// Guards "alert state inherited by the replacement cert".
func TestReplacedCredentialAlertsAfresh(t *testing.T) {
	s, ops := bustest.New(t), newReceiver(t)
	start(t, s, webhooks(map[string]*receiver{"ops": ops}))
	publish(t, s, event.CredentialExpiring, "edge-01", 0, credentials("kms", 1, 1))
	ops.expect(t, "firing credential-expiring edge-01 1")
	publish(t, s, event.CredentialExpiring, "edge-01", 1, credentials("kms", 1, 2))
	publish(t, s, event.CredentialProven, "edge-01", 2, credentials("csi", 2, 0)) // another client
	ops.expect(t, "firing credential-expiring edge-01 1", "firing credential-expiring edge-01 2")
	publish(t, s, event.CredentialProven, "edge-01", 3, credentials("kms", 2, 0))
	ops.expect(t, "firing credential-expiring edge-01 1", "firing credential-expiring edge-01 2", "resolved credential-expiring edge-01 2")
	publish(t, s, event.CredentialExpiring, "edge-01", 4, credentials("kms", 2, 1))
	ops.expect(t, "firing credential-expiring edge-01 1", "firing credential-expiring edge-01 2", "resolved credential-expiring edge-01 2",
		"firing credential-expiring edge-01 1")
}

func TestFactThatWasOvertakenRaisesNothingForGood(t *testing.T) {
	s, ops := bustest.New(t), newReceiver(t)
	// The end is stored first: the fact that it ends comes late.
	publish(t, s, event.CredentialProven, "edge-01", 2, credentials("kms", 2, 0))
	publish(t, s, event.CredentialProven, "edge-01", 3, credentials("csi", 2, 0))
	publish(t, s, event.CredentialExpired, "edge-01", 1, credentials("kms", 1, 0))
	start(t, s, webhooks(map[string]*receiver{"ops": ops}))
	settled(t, s)
	e, err := alerts(t, s).Get(t.Context(), rule.Fingerprint(rule.CredentialExpired, "edge-01", &fleet.ClientKey{Kind: "kms"}, 1))
	if err != nil || e.Value.State != fleet.AlertResolved {
		t.Fatalf("alert is %q: %v", e.Value.State, err)
	}
}

func TestOneChannelDownHoldsUpNoOther(t *testing.T) {
	s, ops, chat := bustest.New(t), newReceiver(t), newReceiver(t)
	chat.set(func(r *receiver) { r.refuse = http.StatusServiceUnavailable })
	start(t, s, webhooks(map[string]*receiver{"ops": ops, "chat": chat}))
	publish(t, s, event.WindowMissed, "edge-03", 0, window(0))
	ops.expect(t, "firing window-missed edge-03 0")
	bustest.Eventually(t, func() error {
		chat.mu.Lock()
		defer chat.mu.Unlock()
		if chat.refused < 3 {
			return fmt.Errorf("tried %d times", chat.refused)
		}
		return nil
	})
	chat.set(func(r *receiver) { r.refuse = 0 })
	chat.expect(t, "firing window-missed edge-03 0")
	publish(t, s, event.WindowRestored, "edge-03", 1, event.Window{})
	ops.expect(t, "firing window-missed edge-03 0", "resolved window-missed edge-03 0")
	chat.expect(t, "firing window-missed edge-03 0", "resolved window-missed edge-03 0")
}

// Guards "4xx webhook retried forever".
func TestMessageGivenUpLiesInTheDeadLetters(t *testing.T) {
	for name, c := range map[string]struct{ status, attempts int }{
		"refused for good":   {http.StatusNotFound, 1},
		"refused many times": {http.StatusInternalServerError, 3},
	} {
		t.Run(name, func(t *testing.T) {
			s, ops := bustest.New(t), newReceiver(t)
			ops.set(func(r *receiver) { r.refuse = c.status })
			config := webhooks(map[string]*receiver{"ops": ops})
			config.MaxAttempts = 3
			start(t, s, config)
			publish(t, s, event.WindowMissed, "edge-03", 0, window(0))
			bustest.Expect(t, s, event.AlertFailed, func(a event.Alert) bool { return a.Channel == "ops" && a.Error != "" })
			letter := bustest.ExpectLetter(t, s, func(l fleet.Letter) bool { return l.Consumer == "ops" })
			var body channel.Body
			if err := json.Unmarshal(letter.Body, &body); err != nil || body.Alert.Cluster != "edge-03" {
				t.Errorf("dead letter %s: %v", letter.Body, err)
			}
			if letter.Attempts != c.attempts || letter.Subject != "window-missed firing/0" || letter.Cluster != "edge-03" {
				t.Errorf("letter %+v, want %d attempts", letter, c.attempts)
			}
			// Whoever was not told of the alert need not hear that it is over.
			publish(t, s, event.WindowRestored, "edge-03", 1, event.Window{})
			ops.set(func(r *receiver) { r.refuse = 0 })
			settled(t, s)
			bustest.Eventually(t, func() error {
				got := ops.heard()
				if slices.Contains(got, "resolved window-missed edge-03 0") {
					t.Fatalf("heard %q", got)
				}
				if !slices.Contains(got, "firing window-missed last 0") {
					return fmt.Errorf("heard %q", got)
				}
				return nil
			})
		})
	}
}

func TestOutageLosesNothing(t *testing.T) {
	s, ops := bustest.New(t), newReceiver(t)
	c := webhooks(map[string]*receiver{"ops": ops})
	stop := start(t, s, c)
	publish(t, s, event.WindowMissed, "edge-01", 0, window(0))
	ops.expect(t, "firing window-missed edge-01 0")
	stop()
	for day := range 3 { // for 72 hours nobody tells anybody
		publish(t, s, event.WindowMissed, fmt.Sprintf("edge-1%d", day), 24*day, window(0))
	}
	publish(t, s, event.WindowRestored, "edge-01", 71, event.Window{})
	start(t, s, c)
	bustest.Eventually(t, func() error {
		if got := ops.heard(); len(got) != 5 {
			return fmt.Errorf("heard %q", got)
		}
		return nil
	})
}

func TestRestartSendsWhatIsPending(t *testing.T) {
	s, ops := bustest.New(t), newReceiver(t)
	ops.set(func(r *receiver) { r.refuse = http.StatusBadGateway })
	c := webhooks(map[string]*receiver{"ops": ops})
	stop := start(t, s, c)
	publish(t, s, event.RotationFailed, "edge-01", 0, event.Rotation{Rotation: "r", Clusters: 1, Failed: 1})
	bustest.Eventually(t, func() error {
		ops.mu.Lock()
		defer ops.mu.Unlock()
		if ops.refused == 0 {
			return fmt.Errorf("not tried yet")
		}
		return nil
	})
	stop()
	ops.set(func(r *receiver) { r.refuse = 0 })
	start(t, s, c)
	ops.expect(t, "firing rotation-failed edge-01 0")
	publish(t, s, event.RotationCompleted, event.FleetWide, 1, event.Rotation{Rotation: "r2"})
	ops.expect(t, "firing rotation-failed edge-01 0", "resolved rotation-failed edge-01 0")
}

func TestProcessThatEndsWhileSendingGivesTheMessageBack(t *testing.T) {
	s, ops := bustest.New(t), newReceiver(t)
	hold := make(chan struct{})
	ops.set(func(r *receiver) { r.hold = hold })
	stop := start(t, s, webhooks(map[string]*receiver{"ops": ops}))
	publish(t, s, event.WindowMissed, "edge-03", 0, window(0))
	b, key := alerts(t, s), rule.Fingerprint(rule.WindowMissed, "edge-03", nil, 0)
	bustest.Eventually(t, func() error {
		e, err := b.Get(t.Context(), key)
		if err == nil && e.Value.Deliveries[0].Holder == "" {
			err = fmt.Errorf("not claimed")
		}
		return err
	})
	stop()
	e, err := b.Get(t.Context(), key)
	if err != nil || e.Value.Deliveries[0].Holder != "" || e.Value.Deliveries[0].State != fleet.DeliveryPending {
		t.Errorf("left behind: %+v, %v", e.Value.Deliveries, err)
	}
	close(hold)
}

func TestMessageUnderWayArrivesBeforeTheEnd(t *testing.T) {
	s, ops := bustest.New(t), newReceiver(t)
	hold := make(chan struct{})
	ops.set(func(r *receiver) { r.hold = hold })
	tell, wait := launch(t, s, webhooks(map[string]*receiver{"ops": ops}))
	publish(t, s, event.WindowMissed, "edge-03", 0, window(0))
	b, key := alerts(t, s), rule.Fingerprint(rule.WindowMissed, "edge-03", nil, 0)
	bustest.Eventually(t, func() error {
		e, err := b.Get(t.Context(), key)
		if err == nil && e.Value.Deliveries[0].Holder == "" {
			err = fmt.Errorf("not claimed")
		}
		return err
	})
	tell()
	close(hold)
	wait()
	e, err := b.Get(t.Context(), key)
	if err != nil || e.Value.Deliveries[0].State != fleet.DeliverySent {
		t.Errorf("left behind: %+v, %v", e.Value.Deliveries, err)
	}
	ops.expect(t, "firing window-missed edge-03 0")
}

func TestRemovedClusterLeavesNoAlert(t *testing.T) {
	s, ops := bustest.New(t), newReceiver(t)
	start(t, s, webhooks(map[string]*receiver{"ops": ops}))
	publish(t, s, event.WindowMissed, "edge-03", 0, window(0))
	publish(t, s, event.CredentialExpired, "edge-03", 1, credentials("kms", 1, 0))
	ops.expect(t, "firing window-missed edge-03 0", "firing credential-expired edge-03 0")
	publish(t, s, event.ClusterRemoved, "edge-03", 2, event.Cluster{})
	bustest.Eventually(t, func() error {
		if got := ops.heard(); len(got) != 4 {
			return fmt.Errorf("heard %q", got)
		}
		return nil
	})
}
