package bus_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/kv"
)

func may(p bus.Permission, subject string) bool {
	hit := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(pattern string) bool { return covers(pattern, subject) })
	}
	return hit(p.Publish.Allow) && !hit(p.Publish.Deny)
}

func covers(pattern, subject string) bool {
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

// who returns the users that may publish to a subject. Backup and restore are
// left out: they see or write all of the state, by what they are.
func who(subject string) string {
	var users []string
	for _, p := range bus.Permissions() {
		if p.User != bus.UserBackup && p.User != bus.UserRestore && may(p, subject) {
			users = append(users, p.User)
		}
	}
	return strings.Join(users, " ")
}

// owners returns the owners of a row in the order of the users.
func owners(row event.Row) []string {
	return slices.DeleteFunc(bus.Users(), func(user string) bool { return !row.OwnedBy(user) })
}

func TestWhoMay(t *testing.T) {
	want := map[string]string{
		"$KV.clusters.x": "gateway", "$KV.releases.x": "gateway", "$KV.agents.x": "gateway",
		"$KV.credentials.x": "issuer", "$KV.bundles.x": "issuer", "$KV.authority.x": "issuer", "$KV.keys.x": "issuer",
		"$KV.rotations.x": "scheduler", "$KV.schedule.x": "scheduler", "$KV.leases.x": "scheduler", "$KV.alerts.x": "notifier",

		"$JS.API.DIRECT.GET.KV_keys.$KV.keys.ca-1": "issuer", "$JS.API.DIRECT.GET.KV_keys": "", "$JS.API.STREAM.INFO.KV_keys": "deploy issuer",
		"$JS.API.STREAM.MSG.GET.KV_keys": "issuer", "$JS.API.CONSUMER.CREATE.KV_keys.x.$KV.keys.>": "issuer",
		"$JS.API.DIRECT.GET.KV_bundles.$KV.bundles.edge-01": "issuer gateway",

		"$JS.API.CONSUMER.MSG.NEXT.COMMANDS.issuer": "issuer", "$JS.API.CONSUMER.MSG.NEXT.COMMANDS.scheduler": "scheduler",
		"$JS.API.CONSUMER.MSG.NEXT.EVENTS.issuer": "issuer", "$JS.API.CONSUMER.MSG.NEXT.EVENTS.notifier": "notifier",
		"$JS.ACK.COMMANDS.issuer.1.1.1.1.0": "issuer", "$JS.ACK.EVENTS.notifier.1.1.1.1.0": "notifier",
		"$JS.API.CONSUMER.CREATE.COMMANDS.x": "", "$JS.API.CONSUMER.CREATE.EVENTS.x": "gateway",
		"$JS.API.CONSUMER.CREATE.EVENTS.notifier": "deploy", "$JS.API.CONSUMER.DELETE.EVENTS.notifier": "", "$JS.API.CONSUMER.DELETE.EVENTS.issuer": "",
		"$JS.API.CONSUMER.DELETE.COMMANDS.issuer": "",

		"rotor.v1.audit.issuer": "issuer", "rotor.v1.audit.gateway": "gateway", "rotor.v1.audit.other": "",
		"$JS.API.DIRECT.GET.AUDIT": "issuer gateway", "$JS.API.CONSUMER.CREATE.AUDIT.x": "",
		"rotor.v1.term.commands.0": "scheduler", "rotor.v1.term.events.15": "scheduler", "rotor.v1.term.dead.0": "",
		"$JS.API.DIRECT.GET.COMMANDS.rotor.v1.term.commands.0": "scheduler", "$JS.API.DIRECT.GET.EVENTS.rotor.v1.term.events.0": "scheduler",
		"$JS.API.DIRECT.GET.COMMANDS.rotor.v1.command.issue.edge-01": "", "$JS.API.DIRECT.GET.COMMANDS": "",
		"$JS.API.CONSUMER.MSG.NEXT.COMMANDS.notifier": "notifier",
		"rotor.v1.dead.issuer.edge-01.x":              "issuer", "rotor.v1.dead.scheduler.edge-01.x": "scheduler", "rotor.v1.dead.notifier.edge-01.x": "notifier",
		"rotor.v1.dead.gateway.edge-01.x": "", "$JS.API.DIRECT.GET.DEAD": "", "$JS.API.STREAM.MSG.GET.DEAD": "",
		"$JS.API.DIRECT.GET.DEAD.rotor.v1.dead.issuer.edge-01.x":   "issuer gateway",
		"$JS.API.DIRECT.GET.DEAD.rotor.v1.dead.notifier.edge-01.x": "notifier gateway",
		"$JS.API.CONSUMER.CREATE.DEAD.x.rotor.v1.dead.*.*.*":       "gateway",

		"anything": "", "$JS.API.STREAM.CREATE.MINE": "",
	}
	for subject, users := range want {
		if got := who(subject); got != users {
			t.Errorf("%s: %q may, want %q", subject, got, users)
		}
	}
	for _, row := range event.Catalog() {
		if got := who(row.Subject("edge-01")); got != strings.Join(owners(row), " ") {
			t.Errorf("%s: %q may publish it, want %q", row.Type, got, owners(row))
		}
	}
	for _, stream := range bus.Layout(1) {
		for verb, users := range map[string]string{
			"CREATE": "deploy", "UPDATE": "deploy", "DELETE": "", "PURGE": "", "MSG.DELETE": "", "SNAPSHOT": "", "RESTORE": "",
		} {
			if got := who("$JS.API.STREAM." + verb + "." + stream.Name); got != users {
				t.Errorf("%s of %s: %q may, want %q", verb, stream.Name, got, users)
			}
		}
	}
	for _, p := range bus.Permissions() {
		for _, subject := range p.Subscribe.Allow {
			if own := bus.InboxPrefix(p.User) + ".>"; subject != own && (p.User != bus.UserSubscriber || subject != "rotor.v1.event.>") {
				t.Errorf("%s may listen to %s", p.User, subject)
			}
		}
	}
}

// What NATS denies fails at once and says so. Without that a caller waits for
// all of its time-out, and does not know why.
func TestDeniedFailsAtOnce(t *testing.T) {
	s := bustest.NewDenying(t, "rotor.v1.command.>", "$KV.keys.>", "$JS.API.DIRECT.GET.KV_keys.>", "$JS.API.STREAM.INFO.KV_authority")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := bus.New(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	denied := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, bus.ErrDenied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	denied("publish", b.Publish(ctx, issue(t, "edge-01", "1")))
	keys, err := kv.Open[int](ctx, s.NATS, bus.Keys)
	if err != nil {
		t.Fatal(err)
	}
	_, err = keys.Create(ctx, "ca-1", 1)
	denied("create", err)
	_, err = keys.Update(ctx, "ca-1", 1, 1)
	denied("update", err)
	_, err = keys.Get(ctx, "ca-1")
	denied("get", err)
	denied("delete", keys.Delete(ctx, "ca-1", 1))
	_, err = kv.Open[int](ctx, s.NATS, bus.Authority)
	denied("open", err)
	_, err = bus.Apply(ctx, s.NATS, bus.Options{})
	denied("set up", err)
	if ctx.Err() != nil {
		t.Error("only a time-out has ended the calls")
	}
	// Others of the same connection go on.
	if err := b.Publish(t.Context(), proven(t)); err != nil {
		t.Error(err)
	}
}

func proven(t *testing.T) event.Event {
	t.Helper()
	e, err := event.CredentialProven.New(event.Meta{Source: "gateway", Cluster: "edge-01", Time: time.Unix(0, 0)}, event.Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// A service waits for what setup makes, and says for what.
func TestAwaitSaysWhatIsMissing(t *testing.T) {
	s := bustest.NewEmpty(t)
	ctx, cancel := context.WithCancel(t.Context())
	var said []string
	err := bus.Await(ctx, s.NATS, bus.UserIssuer, func(why string) {
		switch said = append(said, why); len(said) {
		case 1:
			if err := bus.Setup(t.Context(), s.NATS, 1); err != nil {
				t.Error(err)
			}
			deleteConsumer(t, s.NATS)
		case 2:
			if err := bus.Setup(t.Context(), s.NATS, 1); err != nil {
				t.Error(err)
			}
		default:
			cancel()
		}
	})
	want := []string{"stream COMMANDS is missing: run `rotor nats setup`", "consumer issuer of stream EVENTS is missing: run `rotor nats setup`"}
	if err != nil || !slices.Equal(said, want) {
		t.Errorf("%v, said %q", err, said)
	}
	cancel()
}

func deleteConsumer(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if _, err := nc.Request("$JS.API.CONSUMER.DELETE.EVENTS.issuer", nil, bustest.Limit); err != nil {
		t.Error(err)
	}
}

// Setup changes what differs and nothing else, and a dry run nothing at all.
func TestApplyTellsWhatItDoes(t *testing.T) {
	s := bustest.NewEmpty(t)
	what := func(dry bool) map[string]int {
		changes, err := bus.Apply(t.Context(), s.NATS, bus.Options{Dry: dry})
		if err != nil {
			t.Fatal(err)
		}
		counts := map[string]int{}
		for _, c := range changes {
			counts[c.What]++
		}
		return counts
	}
	all := len(bus.Layout(1)) + len(bus.Durables())
	for i, want := range []map[string]int{{bus.Made: all}, {bus.Made: all}, {bus.Unchanged: all}} {
		if got := what(i == 0); got[bus.Made] != want[bus.Made] || got[bus.Unchanged] != want[bus.Unchanged] {
			t.Fatalf("run %d: %v, want %v", i+1, got, want)
		}
	}
	body := `{"stream_name":"EVENTS","config":{"durable_name":"notifier","name":"notifier","ack_policy":"explicit","filter_subject":"rotor.v1.event.window.*.*"},"action":"update"}`
	if _, err := s.NATS.Request("$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.notifier", []byte(body), bustest.Limit); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		if got := what(dry); got[bus.Changed] != 1 || got[bus.Unchanged] != all-1 {
			t.Errorf("dry %t: %v, want one change", dry, got)
		}
	}
	if got := what(false); got[bus.Unchanged] != all {
		t.Errorf("after the change: %v", got)
	}
}
