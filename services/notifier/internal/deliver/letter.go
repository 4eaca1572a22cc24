package deliver

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/rotor-fleet/rotor/services/notifier/internal/channel"
	"github.com/rotor-fleet/rotor/services/notifier/internal/record"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// bury keeps a message that was given up, with all that is needed to send it.
func (s *Sender) bury(ctx context.Context, m channel.Message, o record.Outcome, attempts int) error {
	body, err := json.Marshal(channel.NewBody(m))
	if err != nil {
		return fmt.Errorf("bury message %s: %w", m.ID, err)
	}
	s.Log.Error("message given up; it lies in the dead letters", "channel", o.Channel, "cluster", m.Alert.Cluster,
		"rule", m.Alert.Rule, "attempts", attempts, "err", o.Error)
	return s.Bus.Bury(ctx, fleet.Letter{
		ID: m.ID, Service: bus.UserNotifier, Source: fleet.SourceChannel, Consumer: o.Channel, Cluster: m.Alert.Cluster, Body: body,
		Reason: o.Error, Subject: m.Alert.Rule + " " + o.About, Attempts: attempts, First: m.Alert.Since,
	})
}

// Replay sends a message that was given up once more, under the id that it always
// had, and writes down that people know. It makes one attempt: whoever has asked
// for it hears how it has ended.
func (s *Sender) Replay(ctx context.Context, l fleet.Letter) error {
	var body channel.Body
	if err := json.Unmarshal(l.Body, &body); err != nil {
		return fmt.Errorf("read the message: %w", err)
	}
	m := body.Message(s.Link)
	named := record.Message{Since: m.Alert.Since, Channel: s.Channel.Name(), About: m.About}
	told := false
	// Killed after it was noted that they know, and called again, all that is left
	// is to say so.
	if _, err := s.Book.Edit(ctx, m.Alert.Fingerprint, func(a *fleet.Alert) bool {
		told = record.WasTold(a, named)
		return false
	}); err != nil {
		return err
	}
	if !told {
		send, cancel := context.WithTimeout(ctx, s.Limits.Timeout)
		defer cancel()
		if err := s.Channel.Send(send, m); err != nil {
			return err
		}
	}
	sentAt := s.Clock.Now()
	now := sentAt
	changed, err := s.Book.Edit(ctx, m.Alert.Fingerprint, func(a *fleet.Alert) (changed bool) {
		sentAt, changed = record.Told(a, named, now)
		return changed
	})
	if err != nil {
		return err
	}
	if changed {
		s.Count(fleet.DeliverySent)
	}
	if sentAt.IsZero() { // an alert that is forgotten has no moment at which it was told of
		return nil
	}
	return bus.Publish(ctx, s.Bus, event.AlertSent, event.Meta{Source: "notifier", Cluster: m.Alert.Cluster, Key: []string{m.ID}, Time: sentAt}, event.Alert{
		Fingerprint: m.Alert.Fingerprint, Rule: m.Alert.Rule, Severity: m.Alert.Severity, Channel: s.Channel.Name(), About: m.About,
	})
}
