package natsconf_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/natsconf"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
)

// world is a server with the users of a generated configuration.
type world struct {
	options natsconf.Options
	dir     string
	root    jetstream.JetStream
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{options: natsconf.Options{Servers: free(t, 1), Root: true}}
	w.dir = start(t, w.options)
	if err := bus.Setup(t.Context(), w.connect(t, bus.UserDeploy), 1); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.root, err = jetstream.New(w.connect(t, natsconf.UserRoot)); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) connect(t *testing.T, user string, more ...nats.Option) *nats.Conn {
	t.Helper()
	return connect(t, w.dir, w.options, user, more...)
}

// stored returns how many messages each stream ever took.
func (w *world) stored(t *testing.T) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	for _, config := range bus.Layout(1) {
		s, err := w.root.Stream(t.Context(), config.Name)
		if err != nil {
			t.Fatal(err)
		}
		all[config.Name] = s.CachedInfo().State.LastSeq
	}
	return all
}

// subjects returns whatever one could wish to publish to: each fact and command,
// each bucket, each call of JetStream on each stream and consumer.
func subjects() []string {
	all := []string{
		"anything", "rotor.v1.event.made.up.edge-01", "rotor.v1.command.made-up.edge-01", "$SYS.REQ.SERVER.PING", "$JS.API.INFO",
		"$JS.API.STREAM.CREATE.MINE", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.META.LEADER.STEPDOWN",
	}
	for _, row := range event.Catalog() {
		all = append(all, row.Subject("edge-01"))
	}
	for _, user := range bus.Users() {
		all = append(all, bus.InboxPrefix(user)+".x", "rotor.v1.dead."+user+".ops.edge-01")
	}
	for _, config := range bus.Layout(1) {
		name, inside := config.Name, strings.TrimSuffix(config.Subjects[0], ">")+"edge-01"
		for _, pattern := range config.Subjects[1:] { // fences
			fence := strings.TrimSuffix(pattern, "*") + "0"
			all = append(all, fence, "$JS.API.DIRECT.GET."+name+"."+fence)
		}
		if strings.HasPrefix(name, "KV_") {
			all = append(all, inside)
		}
		for _, verb := range []string{"CREATE", "UPDATE", "DELETE", "PURGE", "INFO", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN"} {
			all = append(all, "$JS.API.STREAM."+verb+"."+name)
		}
		all = append(all, "$JS.API.DIRECT.GET."+name, "$JS.API.DIRECT.GET."+name+"."+inside, "$JS.FC."+name+".x.y",
			"$JS.API.CONSUMER.LIST."+name, "$JS.API.CONSUMER.CREATE."+name)
		consumers := []string{"x"}
		for _, d := range bus.Durables() {
			if d.Stream == name {
				consumers = append(consumers, d.Name)
				all = append(all, "$JS.ACK."+name+"."+d.Name+".1.1.1.1.0", "rotor.v1.dead."+name+"."+d.Name+".edge-01")
			}
		}
		for _, c := range consumers {
			for _, verb := range []string{"CREATE", "DURABLE.CREATE", "INFO", "MSG.NEXT", "DELETE", "PAUSE", "RESET"} {
				all = append(all, "$JS.API.CONSUMER."+verb+"."+name+"."+c)
			}
			all = append(all, "$JS.API.CONSUMER.CREATE."+name+"."+c+"."+inside)
		}
	}
	return all
}

func allowed(s bus.Subjects, subject string) bool {
	hit := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, subject) })
	}
	return hit(s.Allow) && !hit(s.Deny)
}

func matches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		if token == ">" {
			return len(s) > i
		}
		if i >= len(s) || token != "*" && token != s[i] {
			return false
		}
	}
	return len(p) == len(s)
}

// violations collects the subjects that NATS has refused.
type violations struct {
	mu  sync.Mutex
	all map[string]bool
}

var refusedSubject = regexp.MustCompile(`for (?:Publish|Subscription) to "(\S+)"`)

func (v *violations) handler() nats.Option {
	v.all = map[string]bool{}
	return nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if found := refusedSubject.FindStringSubmatch(err.Error()); errors.Is(err, nats.ErrPermissionViolation) && found != nil {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.all[found[1]] = true
		}
	})
}

func (v *violations) seen() map[string]bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.all)
}

// Each user tries every subject there is, and NATS refuses exactly those that
// the table does not name. That the table is right, TestWhoMay of package bus
// holds.
func TestEveryUserIsRefusedAllElse(t *testing.T) {
	w := newWorld(t)
	for _, p := range bus.Permissions() {
		t.Run(p.User, func(t *testing.T) {
			var refused violations
			nc := w.connect(t, p.User, refused.handler())
			want := map[string]bool{}
			for _, subject := range subjects() {
				if !allowed(p.Publish, subject) {
					want[subject] = true
				}
				if err := nc.Publish(subject, nil); err != nil {
					t.Fatal(err)
				}
			}
			for _, subject := range []string{">", "$KV.>", "$KV.keys.>", "rotor.v1.command.>", "rotor.v1.dead.>", "_INBOX.>", "_INBOX_somebody.>", "$JS.>", "$SYS.>"} {
				want[subject] = true
				if _, err := nc.SubscribeSync(subject); err != nil {
					t.Fatal(err)
				}
			}
			if err := nc.FlushTimeout(bustest.Limit); err != nil {
				t.Fatal(err)
			}
			bustest.Eventually(t, func() error {
				if got := refused.seen(); len(got) < len(want) {
					return fmt.Errorf("%d of %d refused", len(got), len(want))
				}
				return nil
			})
			for subject := range refused.seen() {
				if !want[subject] {
					t.Errorf("%s was refused", subject)
				}
			}
		})
	}
}

// Whoever asks names where the answer goes, and the server stores it there by
// its own right. In one account the gateway could have a document of its own
// stored as the authority, by reading it.
func TestAnswersCannotBeSentAstray(t *testing.T) {
	w := newWorld(t)
	targets := []string{
		"rotor.v1.command.issue.edge-01", "rotor.v1.event.credential.issued.edge-01", "rotor.v1.dead.a.b.c",
		"$JS.API.STREAM.PURGE.DEAD", "$JS.API.STREAM.DELETE.KV_keys",
	}
	for _, config := range bus.Layout(1) {
		if strings.HasPrefix(config.Name, "KV_") {
			targets = append(targets, strings.TrimSuffix(config.Subjects[0], ">")+"forged")
		}
	}
	for _, p := range bus.Permissions() {
		if p.User == bus.UserDeploy { // may change the streams themselves
			continue
		}
		t.Run(p.User, func(t *testing.T) {
			nc := w.connect(t, p.User, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
			ask := slices.DeleteFunc(subjects(), func(s string) bool {
				return !allowed(p.Publish, s) || strings.HasPrefix(s, "$JS.API.STREAM.DELETE.") || strings.HasPrefix(s, "$JS.API.CONSUMER.DELETE.")
			})
			for _, subject := range ask { // so that there is something to read
				if !strings.HasPrefix(subject, "$JS.") {
					w.publish(t, nc, subject, "", []byte("forged"))
				}
			}
			own := map[string]bool{}
			for _, subject := range ask {
				own[subject] = true
			}
			before := w.stored(t)
			for _, target := range targets {
				if own[strings.Replace(target, ".forged", ".edge-01", 1)] {
					continue
				}
				for _, subject := range ask {
					if strings.HasPrefix(subject, "$JS.") {
						w.publish(t, nc, subject, target, nil)
					}
					if strings.HasPrefix(subject, "$JS.API.CONSUMER.CREATE.") && strings.Contains(subject, ".x.") {
						w.publish(t, nc, subject, "", pushTo(t, subject, target))
					}
				}
			}
			if err := nc.FlushTimeout(bustest.Limit); err != nil {
				t.Fatal(err)
			}
			if after := w.stored(t); !maps.Equal(before, after) {
				t.Errorf("something was stored by an answer:\nbefore %v\nafter  %v", before, after)
			}
		})
	}
}

// publish sends a message; one to a stream is waited for.
func (w *world) publish(t *testing.T, nc *nats.Conn, subject, reply string, body []byte) {
	t.Helper()
	if reply == "" && body != nil {
		if _, err := nc.Request(subject, body, 5*time.Second); err != nil && !errors.Is(err, nats.ErrNoResponders) {
			t.Fatalf("%s: %v", subject, err)
		}
		return
	}
	if err := nc.PublishRequest(subject, reply, body); err != nil {
		t.Fatal(err)
	}
}

// pushTo asks for a consumer that pushes all it has to a subject.
func pushTo(t *testing.T, api, target string) []byte {
	t.Helper()
	parts := strings.SplitN(strings.TrimPrefix(api, "$JS.API.CONSUMER.CREATE."), ".", 3)
	raw, err := json.Marshal(map[string]any{"stream_name": parts[0], "config": map[string]any{
		"name": parts[1], "deliver_subject": target, "filter_subject": parts[2], "ack_policy": "none", "deliver_policy": "all",
	}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// With one header on one document that is its own, a service must not erase or
// outdate others.
func TestHeadersEraseNothing(t *testing.T) {
	w := newWorld(t)
	for _, p := range bus.Permissions() {
		nc := w.connect(t, p.User)
		for _, subject := range subjects() {
			if strings.HasPrefix(subject, "$JS.") || strings.HasPrefix(subject, "_INBOX") || !allowed(p.Publish, subject) {
				continue
			}
			for _, header := range [][2]string{{"Nats-Rollup", "all"}, {"Nats-Rollup", "sub"}, {"Nats-Schedule", "@every 1s"}} {
				msg := nats.NewMsg(subject)
				msg.Header.Set(header[0], header[1])
				answer, err := nc.RequestMsg(msg, 5*time.Second)
				if err != nil {
					t.Fatalf("%s: %s: %v", p.User, subject, err)
				}
				if !strings.Contains(string(answer.Data), `"error"`) {
					t.Errorf("%s: %s with %s: %s is taken: %s", p.User, subject, header[0], header[1], answer.Data)
				}
			}
		}
	}
}
