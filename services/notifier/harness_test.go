package notifier

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rotor-fleet/rotor/services/notifier/internal/channel"
	"github.com/rotor-fleet/rotor/services/notifier/internal/rule"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver is a webhook that remembers what it was sent.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	got     []channel.Body
	refuse  int           // status of refusals; 0 accepts
	after   string        // Retry-After of refusals
	refused int           // how often it has refused
	hold    chan struct{} // an answer waits until it is closed, if set
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		r.mu.Lock()
		hold := r.hold
		r.mu.Unlock()
		if hold != nil {
			<-hold
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.refuse != 0 {
			r.refused++
			w.Header().Set("Retry-After", r.after)
			w.WriteHeader(r.refuse)
			return
		}
		var b channel.Body
		if err := json.Unmarshal(body, &b); err != nil || b.ID != request.Header.Get(channel.HeaderKey) {
			t.Errorf("body %s with key %q: %v", body, request.Header.Get(channel.HeaderKey), err)
		}
		r.got = append(r.got, b)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) set(f func(*receiver)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

// heard returns what arrived, one line each.
func (r *receiver) heard() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := []string{}
	for _, b := range r.got {
		lines = append(lines, fmt.Sprintf("%s %s %s %d", b.Status, b.Alert.Rule, b.Alert.Cluster, b.Alert.Level))
	}
	return lines
}

func (r *receiver) expect(t *testing.T, want ...string) {
	t.Helper()
	bustest.Eventually(t, func() error {
		if got := r.heard(); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("heard %q, want %q", got, want)
		}
		return nil
	})
}

func webhooks(receivers map[string]*receiver) Config {
	c := Defaults()
	c.BackoffCap = 300 * time.Millisecond
	for name, r := range receivers {
		c.Channels = append(c.Channels, ChannelConfig{Name: name, Webhook: &WebhookConfig{URL: secret.New(r.URL)}})
	}
	return c
}

// start runs a notifier and returns a function that ends it in good order.
func start(t *testing.T, s *bustest.Server, c Config) (stop func()) {
	t.Helper()
	tell, wait := launch(t, s, c)
	return func() { tell(); wait() }
}

// launch runs a notifier and returns what tells it to end and what waits for it.
func launch(t *testing.T, s *bustest.Server, c Config) (tell, wait func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	env := s.Env(t, "notifier", clock.Real())
	channels, err := c.build(env.Log)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- run(ctx, env, c, channels) }()
	var once sync.Once
	wait = func() {
		once.Do(func() {
			if err := <-done; err != nil {
				t.Errorf("notifier ended: %v", err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wait() })
	return cancel, wait
}

var origin = time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)

// publish publishes a fact that happened some hours after the origin.
func publish[T any](t *testing.T, s *bustest.Server, kind event.Kind[T], cluster string, hour int, data T) {
	t.Helper()
	at := origin.Add(time.Duration(hour) * time.Hour)
	meta := event.Meta{Source: "test", Cluster: cluster, Key: []string{fmt.Sprint(hour)}, Time: at}
	if err := bus.Publish(t.Context(), s.Bus, kind, meta, data); err != nil {
		t.Fatal(err)
	}
}

func window(level int) event.Window {
	return event.Window{
		Release: "2026.06", State: fleet.WindowBehind, Missed: []string{"2026.07"},
		Since: origin.AddDate(0, 0, -75), Deadline: origin.AddDate(0, 0, -15), Level: level,
	}
}

func credentials(kind string, generation, level int) event.Credentials {
	return event.Credentials{Clients: []event.Client{{
		Client: fleet.ClientKey{Kind: kind}, Generation: generation, Level: level, Credential: "both",
		NotAfter: origin.AddDate(0, 0, 10), ExpiresAt: origin.AddDate(0, 0, 10),
	}}}
}

func alerts(t *testing.T, s *bustest.Server) *kv.Bucket[fleet.Alert] {
	t.Helper()
	b, err := kv.Open[fleet.Alert](t.Context(), s.NATS, bus.Alerts)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// settled waits until the notifiers have taken in every fact.
func settled(t *testing.T, s *bustest.Server) {
	t.Helper()
	publish(t, s, event.WindowMissed, "last", 9999, window(0))
	b := alerts(t, s)
	bustest.Eventually(t, func() error {
		_, err := b.Get(t.Context(), rule.Fingerprint(rule.WindowMissed, "last", nil, 0))
		return err
	})
}
