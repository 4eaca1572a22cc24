package channel_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/notifier/internal/channel"
	"github.com/rotor-fleet/rotor/services/notifier/internal/channel/channeltest"
)

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), d)
}

func FuzzRender(f *testing.F) {
	f.Add("plain", "rotor status", "https://rotor.example.com")
	f.Add("<script>alert(1)</script>\r\nBcc: eve@example.com", "`<!channel>`", "javascript:alert(1)")
	f.Add("{{.ID}} \x00 \xff", "</pre><img src=x>", "\"><b>")
	f.Fuzz(func(t *testing.T, summary, remedy, link string) {
		m := channeltest.Message()
		m.Alert.Summary, m.Alert.Remedy, m.Link = summary, remedy, link
		subject, _, html, slack, err := channel.RenderForTest(m)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(subject, "\r\n") {
			t.Errorf("subject of more than one line: %q", subject)
		}
		for _, tag := range []string{"<script", "<img", "<b>", "href=\"javascript:"} {
			if strings.Contains(strings.ToLower(html), tag) {
				t.Errorf("%s in %s", tag, html)
			}
		}
		var v struct{ Text string }
		if err := json.Unmarshal(slack, &v); err != nil || strings.Contains(v.Text, "<!") {
			t.Errorf("text %q: %v", v.Text, err)
		}
	})
}
