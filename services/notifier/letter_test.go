package notifier

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/services/notifier/internal/rule"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Guards "4xx webhook retried forever": the message is given up at once, other
// channels hear of that, and a replay delivers it once and no more.
func TestReplayDeliversOnce(t *testing.T) {
	s, ops, chat := bustest.New(t), newReceiver(t), newReceiver(t)
	chat.set(func(r *receiver) { r.refuse = http.StatusBadRequest })
	start(t, s, webhooks(map[string]*receiver{"ops": ops, "chat": chat}))
	publish(t, s, event.WindowMissed, "edge-03", 0, window(0))
	letter := bustest.ExpectLetter(t, s, func(l fleet.Letter) bool { return l.Consumer == "chat" })
	ops.expect(t, "firing window-missed edge-03 0", "firing dead-letter edge-03 0")
	// Of the message that a message was given up, chat hears as little; that makes
	// no letter, or there were no end of them.
	bustest.Expect(t, s, event.AlertFailed, func(a event.Alert) bool { return a.Rule == rule.DeadLetter && a.Channel == "chat" })

	bustest.Settle(t, s, letter, event.ActionReplay)
	again := bustest.ExpectLetter(t, s, func(l fleet.Letter) bool { return l.Revision > letter.Revision })
	if again.Attempts != 2 || !again.Open() || again.ID != letter.ID || !strings.Contains(again.Reason, "400") {
		t.Errorf("after a replay in vain: %+v", again)
	}
	chat.set(func(r *receiver) { r.refuse = 0 })
	bustest.Settle(t, s, again, event.ActionReplay)
	bustest.Settle(t, s, again, event.ActionReplay) // a repeat
	bustest.Expect(t, s, event.LetterReplayed, func(l event.Letter) bool { return l.Letter == letter.ID })
	chat.expect(t, "firing window-missed edge-03 0")
	ops.expect(t, "firing window-missed edge-03 0", "firing dead-letter edge-03 0", "resolved dead-letter edge-03 0")
	bustest.Expect(t, s, event.AlertSent, func(a event.Alert) bool { return a.Channel == "chat" && a.Rule == rule.WindowMissed })

	// Who was told after all hears the end as well.
	publish(t, s, event.WindowRestored, "edge-03", 1, event.Window{})
	chat.expect(t, "firing window-missed edge-03 0", "resolved window-missed edge-03 0")
	if got := open(t, s); len(got) != 0 {
		t.Errorf("letters are left: %+v", got)
	}
}

func open(t *testing.T, s *bustest.Server) []fleet.Letter {
	t.Helper()
	return slices.DeleteFunc(bustest.Letters(t, s), func(l fleet.Letter) bool { return !l.Open() })
}

// A letter outlives its alert, its channel and the notifier that gave it up.
func TestReplayWithoutAlertOrChannel(t *testing.T) {
	s, ops := bustest.New(t), newReceiver(t)
	ops.set(func(r *receiver) { r.refuse = http.StatusGone })
	stop := start(t, s, webhooks(map[string]*receiver{"ops": ops}))
	publish(t, s, event.WindowMissed, "edge-03", 0, window(0))
	letter := bustest.ExpectLetter(t, s, func(l fleet.Letter) bool { return l.Consumer == "ops" })
	publish(t, s, event.WindowRestored, "edge-03", 1, event.Window{})
	b, key := alerts(t, s), rule.Fingerprint(rule.WindowMissed, "edge-03", nil, 0)
	bustest.Eventually(t, func() error {
		e, err := b.Get(t.Context(), key)
		if err == nil && e.Value.State != fleet.AlertResolved {
			err = fmt.Errorf("alert is %s", e.Value.State)
		}
		return err
	})
	stop()
	e, err := b.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(t.Context(), key, e.Revision); err != nil {
		t.Fatal(err)
	}
	bustest.Settle(t, s, letter, event.ActionReplay)
	stop = start(t, s, webhooks(map[string]*receiver{"other": newReceiver(t)}))
	again := bustest.ExpectLetter(t, s, func(l fleet.Letter) bool { return l.ID == letter.ID && l.Attempts == 2 })
	if !again.Open() || !strings.Contains(again.Reason, "ops is not configured") {
		t.Errorf("letter %+v", again)
	}
	stop()
	ops.set(func(r *receiver) { r.refuse = 0 })
	start(t, s, webhooks(map[string]*receiver{"ops": ops}))
	bustest.Settle(t, s, again, event.ActionReplay)
	ops.expect(t, "firing window-missed edge-03 0")
	bustest.ExpectLetter(t, s, func(l fleet.Letter) bool { return l.ID == letter.ID && l.State == fleet.LetterReplayed })
}
