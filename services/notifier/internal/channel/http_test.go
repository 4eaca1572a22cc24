package channel_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/services/notifier/internal/channel"
	"github.com/rotor-fleet/rotor/services/notifier/internal/channel/channeltest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/secret"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with a file under testdata, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s has changed (run the test with -update if it should have):\n%s", path, got)
	}
}

const path = "/services/T000/B000/s3cr3t-in-the-path"

// answering returns the URL of a server that answers a status, and that quotes
// what it was sent, as some do.
func answering(t *testing.T, status int, header ...string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, "not by %s with %v", r.URL, r.Header)
	}))
	t.Cleanup(s.Close)
	return s.URL + path
}

func cases(t *testing.T, make func(url string) channel.Channel) []channeltest.Case {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	date := clock.Wall().Add(90 * time.Second).Format(http.TimeFormat)
	all := []channeltest.Case{
		{Name: "nobody listens", Channel: make(closed.URL + path), Fails: true},
		{Name: "no such host", Channel: make("http://rotor.invalid" + path), Fails: true},
		{Name: "429 seconds", Channel: make(answering(t, 429, "Retry-After", "120")), Fails: true, After: 2 * time.Minute},
		{Name: "429 date", Channel: make(answering(t, 429, "Retry-After", date)), Fails: true, After: 90 * time.Second},
		{Name: "503 nonsense", Channel: make(answering(t, 503, "Retry-After", "soon")), Fails: true},
		{Name: "503 for ever", Channel: make(answering(t, 503, "Retry-After", "2000000000")), Fails: true, After: 24 * time.Hour},
		{Name: "307 elsewhere", Channel: make(answering(t, 307, "Location", "http://127.0.0.1:1/"+path)), Fails: true, Permanent: true},
	}
	for _, status := range []int{200, 202, 204} {
		all = append(all, channeltest.Case{Name: fmt.Sprint(status), Channel: make(answering(t, status))})
	}
	for _, status := range []int{408, 425, 500, 502, 503, 504} {
		all = append(all, channeltest.Case{Name: fmt.Sprint(status), Channel: make(answering(t, status)), Fails: true})
	}
	for _, status := range []int{400, 401, 403, 404, 410, 413, 422} {
		all = append(all, channeltest.Case{Name: fmt.Sprint(status), Channel: make(answering(t, status)), Fails: true, Permanent: true})
	}
	return all
}

func TestSlackSuite(t *testing.T) {
	channeltest.Run(t, channeltest.Suite{
		Secrets: []string{"s3cr3t", "/services/"},
		Cases: cases(t, func(u string) channel.Channel {
			return channel.NewSlack("chat", secret.New(u))
		}),
	})
}

func TestWebhookSuite(t *testing.T) {
	channeltest.Run(t, channeltest.Suite{
		Secrets: []string{"s3cr3t", "/services/", "h3ader", "k3y"},
		Cases: cases(t, func(u string) channel.Channel {
			return channel.NewWebhook("hook", channel.WebhookConfig{
				URL: secret.New(u), Secret: secret.New("k3y"),
				Headers: map[string]secret.Text{"Authorization": secret.New("Bearer h3ader")},
			})
		}),
	})
}

func TestTerminalSuite(t *testing.T) {
	channeltest.Run(t, channeltest.Suite{Cases: []channeltest.Case{
		{Name: "log", Channel: channel.NewTerminal("terminal", slog.New(slog.DiscardHandler))},
	}})
}

func TestMalformedURLIsPermanentAndHidden(t *testing.T) {
	err := channel.NewSlack("chat", secret.New("http://["+path)).Send(t.Context(), channeltest.Message())
	if !channel.IsPermanent(err) || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("error: %v", err)
	}
}

func TestSlackNamesItsErrorCode(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "action_prohibited\n")
	}))
	defer s.Close()
	err := channel.NewSlack("chat", secret.New(s.URL)).Send(t.Context(), channeltest.Message())
	if err == nil || !strings.Contains(err.Error(), "action_prohibited") {
		t.Errorf("error: %v", err)
	}
}

// posted returns the request that a channel makes for a message.
func posted(t *testing.T, m channel.Message, make func(url string) channel.Channel) (http.Header, []byte) {
	t.Helper()
	var header http.Header
	var body []byte
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		header = r.Header
		body, _ = io.ReadAll(r.Body)
	}))
	defer s.Close()
	if err := make(s.URL).Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return header, body
}

func indent(t *testing.T, body []byte) []byte {
	t.Helper()
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return []byte(b.String())
}

func TestSlackGolden(t *testing.T) {
	for name, m := range map[string]channel.Message{"firing": channeltest.Message(), "resolved": channeltest.Resolved()} {
		_, body := posted(t, m, func(u string) channel.Channel { return channel.NewSlack("chat", secret.New(u)) })
		golden(t, "slack-"+name+".json", indent(t, body))
	}
}

func TestWebhookGolden(t *testing.T) {
	key := secret.New("k3y")
	for name, m := range map[string]channel.Message{"firing": channeltest.Message(), "resolved": channeltest.Resolved()} {
		header, body := posted(t, m, func(u string) channel.Channel {
			return channel.NewWebhook("hook", channel.WebhookConfig{
				URL: secret.New(u), Secret: key, Headers: map[string]secret.Text{"x-team": secret.New("blue")},
			})
		})
		golden(t, "webhook-"+name+".json", indent(t, body))
		if got := header.Get(channel.HeaderKey); got != m.ID {
			t.Errorf("%s is %q, want %q", channel.HeaderKey, got, m.ID)
		}
		if got := header.Get(channel.HeaderSignature); got != channel.Sign(key, body) {
			t.Errorf("signature is %q", got)
		}
		if header.Get("X-Team") != "blue" || header.Get("Content-Type") != "application/json" {
			t.Errorf("header: %v", header)
		}
	}
}

func TestTerminalIsOneReadableLine(t *testing.T) {
	var b strings.Builder
	log := slog.New(slog.NewTextHandler(&b, nil))
	for _, m := range []channel.Message{channeltest.Message(), channeltest.Resolved()} {
		if err := channel.NewTerminal("terminal", log).Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], `level=WARN msg="CRITICAL the token of`) || !strings.Contains(lines[0], "remedy=") ||
		!strings.Contains(lines[1], `level=INFO msg="Resolved the token of`) || strings.Contains(lines[1], "remedy=") {
		t.Errorf("log:\n%s", b.String())
	}
}

// What lies in the dead letters is the body, and it is sent from there.
func TestBodyGivesItsMessageBack(t *testing.T) {
	for _, about := range []string{"firing/2", "resolved"} {
		m := channel.Message{ID: "id", About: about, Link: "https://rotor.example.com", Alert: fleet.Alert{
			Fingerprint: "f", Rule: "r", Severity: fleet.SeverityCritical, Cluster: "edge-03", Client: &fleet.ClientKey{Kind: "kms"}, Generation: 3,
			Level: 2, Summary: "all is lost", Remedy: "run", Since: time.Unix(1000, 5).UTC(), ResolvedAt: time.Unix(2000, 5).UTC(),
		}}
		raw, err := json.Marshal(channel.NewBody(m))
		if err != nil {
			t.Fatal(err)
		}
		var body channel.Body
		if err := json.Unmarshal(raw, &body); err != nil {
			t.Fatal(err)
		}
		if got := body.Message(m.Link); !reflect.DeepEqual(channel.NewBody(got), channel.NewBody(m)) || got.About != about {
			t.Errorf("came back as %+v", got)
		}
	}
}
