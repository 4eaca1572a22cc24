package notifier

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rotor-fleet/rotor/services/notifier/internal/channel/smtptest"
	"github.com/rotor-fleet/rotor/services/notifier/internal/record"
	"github.com/rotor-fleet/rotor/services/notifier/internal/rule"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/secret"
)

func TestMailServerDownThenUpGetsEachLetterOnce(t *testing.T) {
	s := bustest.New(t)
	options := smtptest.Options{TLS: true, Username: "rotor", Password: "pw"}
	down := smtptest.New(t, options)
	down.Close()
	options.Address = down.Address
	c := webhooks(nil)
	email := &EmailConfig{
		Host: down.Address, From: "rotor@example.com", To: []string{"ops@example.com"},
		Username: "rotor", Password: secret.New("pw"),
	}
	up := smtptest.New(t, options)
	email.CAFile = up.CAFile
	up.Close()
	c.Channels = []ChannelConfig{{Name: "mail", Email: email}}
	start(t, s, c)
	start(t, s, c)
	publish(t, s, event.WindowMissed, "edge-03", 0, window(0))
	key, b := rule.Fingerprint(rule.WindowMissed, "edge-03", nil, 0), alerts(t, s)
	bustest.Eventually(t, func() error {
		e, err := b.Get(t.Context(), key)
		if err == nil && (len(e.Value.Deliveries) != 1 || e.Value.Deliveries[0].Attempts < 2) {
			err = fmt.Errorf("deliveries %+v", e.Value.Deliveries)
		}
		return err
	})
	options.Certificates = up
	server := smtptest.New(t, options)
	arrived := func(n int) func() error {
		return func() error {
			if got := len(server.Mails()); got != n {
				return fmt.Errorf("%d letters, want %d", got, n)
			}
			e, err := b.Get(t.Context(), key)
			if err == nil && record.Pending(&e.Value, "mail") != nil {
				err = fmt.Errorf("still pending")
			}
			return err
		}
	}
	bustest.Eventually(t, arrived(1))
	publish(t, s, event.WindowRestored, "edge-03", 1, event.Window{})
	bustest.Eventually(t, arrived(2))
	mails := server.Mails()
	if !strings.Contains(mails[0].Body, "Subject: [Rotor] CRITICAL edge-03: edge-03 is past its update window") ||
		!strings.Contains(mails[1].Body, "Subject: [Rotor] Resolved edge-03: ") {
		t.Errorf("letters:\n%s\n%s", mails[0].Body, mails[1].Body)
	}
}
