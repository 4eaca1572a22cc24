package backup

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

var kms = fleet.ClientKey{Kind: "kms"}

// world is a server with a small fleet, and a key for backups.
type world struct {
	*bustest.Server
	t    *testing.T
	js   jetstream.JetStream
	key  Key
	file string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := empty(t)
	w.put(bus.Authority, fleet.AuthorityKey, authority(1))
	w.put(bus.Keys, "ca-1", map[string]string{"id": "ca-1", "box": "sealed"})
	w.put(bus.Clusters, "edge-01", fleet.Cluster{Name: "edge-01"})
	w.put(bus.Agents, "edge-01", fleet.Agent{ID: "a", Join: &fleet.JoinToken{Hash: "open"}})
	w.put(bus.Credentials, "edge-01", records(5, fleet.StepProven))
	return w
}

func empty(t *testing.T) *world {
	t.Helper()
	w := &world{Server: bustest.New(t), t: t, file: filepath.Join(t.TempDir(), "b.age")}
	var err error
	if w.js, err = jetstream.New(w.NATS); err != nil {
		t.Fatal(err)
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	w.key = Key{Recipients: []string{identity.Recipient().String()}, IdentityFile: filepath.Join(t.TempDir(), "key")}
	if err := os.WriteFile(w.key.IdentityFile, []byte(identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

func authority(bundle int) fleet.Authority {
	return fleet.Authority{Bundle: fleet.TrustBundle{Version: bundle, FleetKey: "sha256:ours"}}
}

func records(number int, step fleet.Step) fleet.Credentials {
	return fleet.Credentials{Clients: map[fleet.ClientKey]*fleet.Record{
		kms: {Generations: []fleet.Generation{{Number: number - 1, Step: fleet.StepProven}, {Number: number, Step: step}}},
	}}
}

func (w *world) put(bucket, key string, v any) {
	w.t.Helper()
	kv, err := w.js.KeyValue(w.t.Context(), bucket)
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := kv.Put(w.t.Context(), key, raw); err != nil {
		w.t.Fatal(err)
	}
}

func get[T any](w *world, bucket, key string) *T {
	w.t.Helper()
	var v T
	kv, err := w.js.KeyValue(w.t.Context(), bucket)
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := kv.Get(w.t.Context(), key)
	if err != nil {
		w.t.Fatalf("%s/%s: %v", bucket, key, err)
	}
	if err := json.Unmarshal(e.Value(), &v); err != nil {
		w.t.Fatal(err)
	}
	return &v
}

func (w *world) backup() {
	w.t.Helper()
	if _, _, err := Write(w.t.Context(), Options{NATS: w.NATS, File: w.file, Key: w.key}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) restore(from *world, force bool) (Result, error) {
	w.t.Helper()
	content, err := Open(from.file, from.key)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = content.Close() }()
	return Restore(w.t.Context(), Target{NATS: w.NATS, Force: force}, content)
}

func TestRoundTrip(t *testing.T) {
	from, to := newWorld(t), empty(t)
	from.backup()
	if _, err := to.restore(from, false); err != nil {
		t.Fatal(err)
	}
	a := get[fleet.Authority](to, bus.Authority, fleet.AuthorityKey)
	if a.Restoring || a.Epoch == "" || a.BundleFloor <= 1 {
		t.Errorf("authority %+v", a)
	}
	r := get[fleet.Credentials](to, bus.Credentials, "edge-01").Record(kms)
	if r.Newest().Number != 5 || r.Number() != 5+gap {
		t.Errorf("record %+v", r)
	}
	if agent := get[fleet.Agent](to, bus.Agents, "edge-01"); agent.ID != "a" || agent.Join != nil {
		t.Errorf("a join token that was open lets someone in: %+v", agent)
	}
	// Once more over itself: the same, but for the epoch.
	if _, err := to.restore(from, false); err != nil {
		t.Fatal(err)
	}
	if again := get[fleet.Authority](to, bus.Authority, fleet.AuthorityKey); again.Epoch == a.Epoch || again.BundleFloor != a.BundleFloor {
		t.Errorf("authority %+v after %+v", again, a)
	}
}

// What was declared since goes back only if it is said; what happened never.
func TestOverNewerStore(t *testing.T) {
	w := newWorld(t)
	w.backup()
	w.put(bus.Clusters, "edge-02", fleet.Cluster{Name: "edge-02"})
	newer := records(8, fleet.StepProven)
	newer.Clients[kms].Revoked = &fleet.Revocation{Reason: "keyCompromise"}
	w.put(bus.Credentials, "edge-01", newer)
	w.put(bus.Credentials, "edge-02", records(3, fleet.StepProven))

	_, err := w.restore(w, false)
	if lost, ok := errors.AsType[*LostError](err); !ok || !strings.Contains(lost.Error(), "cluster edge-02") {
		t.Fatalf("got %v", err)
	}
	if a := get[fleet.Authority](w, bus.Authority, fleet.AuthorityKey); a.Epoch != "" {
		t.Error("a refused restore has written")
	}
	if _, err := w.restore(w, true); err != nil {
		t.Fatal(err)
	}
	r := get[fleet.Credentials](w, bus.Credentials, "edge-01").Record(kms)
	if r.Newest().Number != 8 || r.Revoked == nil {
		t.Errorf("record %+v", r)
	}
	if n := get[fleet.Credentials](w, bus.Credentials, "edge-02").Record(kms).Number(); n != 3 {
		t.Errorf("record of a cluster that was declared since: %d", n)
	}
	kv, err := w.js.KeyValue(t.Context(), bus.Clusters)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(t.Context(), "edge-02"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("cluster of after the backup: %v", err)
	}
}

func TestAnotherFleetIsRefused(t *testing.T) {
	from, to := newWorld(t), newWorld(t)
	from.backup()
	other := authority(1)
	other.Bundle.FleetKey = "sha256:theirs"
	to.put(bus.Authority, fleet.AuthorityKey, other)
	if _, err := to.restore(from, true); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("got %v", err)
	}
	to.put(bus.Authority, fleet.AuthorityKey, authority(1))
	to.put(bus.Keys, "ca-1", map[string]string{"id": "ca-1", "box": "another"})
	if _, err := to.restore(from, true); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("another key: %v", err)
	}
}

// A restore that was cut short leaves a mark, and goes on when it is run again.
func TestInterruptedRestore(t *testing.T) {
	from, to := newWorld(t), empty(t)
	from.backup()
	content, err := Open(from.file, from.key)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = content.Close() }()
	content.last["KV_"+bus.Credentials+" $KV.credentials.edge-01"] = 0 // this document is never reached
	ctx, stop := context.WithCancel(t.Context())
	r := &restore{Target: Target{NATS: to.NATS}, content: content, js: to.js, buckets: map[string]jetstream.KeyValue{}}
	for _, name := range []string{bus.Authority, bus.Keys} {
		if r.buckets["KV_"+name], err = to.js.KeyValue(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{bus.Clusters, bus.Releases} {
		if r.buckets["KV_"+name], err = to.js.KeyValue(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.begin(ctx); err != nil {
		t.Fatal(err)
	}
	stop()
	if !get[fleet.Authority](to, bus.Authority, fleet.AuthorityKey).Restoring {
		t.Fatal("no mark")
	}
	if _, err := to.restore(from, false); err != nil {
		t.Fatal(err)
	}
	if a := get[fleet.Authority](to, bus.Authority, fleet.AuthorityKey); a.Restoring {
		t.Error("the mark is left")
	}
	if get[fleet.Credentials](to, bus.Credentials, "edge-01").Record(kms).Newest().Number != 5 {
		t.Error("the record is missing")
	}
}

// Every change of a single byte and every cut is seen before anything is used.
func TestDamage(t *testing.T) {
	w := newWorld(t)
	w.backup()
	whole, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(whole, []byte("edge-01")) || bytes.Contains(whole, []byte(base64.StdEncoding.EncodeToString([]byte("sealed")))) {
		t.Error("the file can be read without the key")
	}
	bad := filepath.Join(t.TempDir(), "bad.age")
	try := func(name string, content []byte) {
		if err := os.WriteFile(bad, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := Open(bad, w.key); err == nil {
			t.Errorf("%s: taken for whole", name)
			_ = c.Close()
		}
	}
	try("cut at the end", whole[:len(whole)-1])
	try("cut in the middle", whole[:len(whole)/2])
	try("something behind", append(bytes.Clone(whole), 'x'))
	changed := bytes.Clone(whole)
	changed[len(changed)*3/4] ^= 1
	try("changed", changed)
	try("empty", nil)
}

func TestMergeRecord(t *testing.T) {
	record := func(number int, step fleet.Step) *fleet.Record { return records(number, step).Clients[kms] }
	gone := &fleet.Revocation{At: time.Unix(1, 0), Reason: "keyCompromise"}
	revoked := record(4, fleet.StepProven)
	revoked.Revoked = gone
	reinstated := record(4, fleet.StepProven)
	reinstated.Revoked = gone
	reinstated.Reinstate(fleet.Reinstatement{Operation: "r"})
	for name, test := range map[string]struct {
		stored, known  *fleet.Record
		waits          int
		newest, number int
		revoked        bool
	}{
		"lost store":                  {record(5, fleet.StepProven), nil, 0, 5, 5 + gap, false},
		"newer store":                 {record(5, fleet.StepProven), record(9, fleet.StepIssued), 0, 9, 9, false},
		"older store":                 {record(5, fleet.StepProven), record(4, fleet.StepProven), 0, 5, 5 + gap, false},
		"revoked in an older store":   {record(5, fleet.StepProven), revoked, 0, 5, 5 + gap, true},
		"revoked in the backup":       {revoked, record(9, fleet.StepProven), 0, 9, 9, true},
		"reinstated since the backup": {revoked, reinstated, 0, 4, 5, false},
		"on its way, with a pick-up":  {record(5, fleet.StepIssued), nil, 5, 5, 5 + gap, false},
		"on its way, and no pick-up":  {record(5, fleet.StepIssued), nil, 0, 4, 5 + gap, false},
		"installed, and no pick-up":   {record(5, fleet.StepInstalled), nil, 0, 5, 5 + gap, false},
		"delivered, and no pick-up":   {record(5, fleet.StepDelivered), nil, 4, 4, 5 + gap, false},
		"restored before, cut short":  {record(5, fleet.StepProven), &fleet.Record{Generations: record(5, fleet.StepProven).Generations, Floor: 5 + gap}, 0, 5, 5 + gap, false},
		"number used that is unknown": {record(5, fleet.StepProven), &fleet.Record{Floor: 5000}, 0, 5, 5000, false},
	} {
		got := mergeRecord(test.stored, test.known, test.waits)
		newest := 0
		if g := got.Newest(); g != nil {
			newest = g.Number
		}
		if newest != test.newest || got.Number() != test.number || (got.Revoked != nil) != test.revoked {
			t.Errorf("%s: newest %d, number %d, revoked %v", name, newest, got.Number(), got.Revoked)
		}
	}
}

// The ledger comes back as it was, and a restore that is run again, or into a
// store that has gone on, adds nothing that does not belong there.
func TestRestoreKeepsTheLedger(t *testing.T) {
	w := newWorld(t)
	write := func(w *world, chain, request string) {
		t.Helper()
		log := audit.New(chain, w.Bus.Ledger(chain), clock.Wall)
		if err := log.Append(t.Context(), audit.Entry{Actor: "admin", Action: "client.revoke", Request: request}); err != nil {
			t.Fatal(err)
		}
	}
	for _, request := range []string{"1", "2", "3"} {
		write(w, "gateway", request)
		write(w, "issuer", request)
	}
	w.backup()
	write(w, "gateway", "4")
	other := empty(t)
	write(other, "gateway", "of another history")
	for to, want := range map[*world][2]int64{w: {4, 4}, empty(t): {3, 4}, other: {2, 4}} {
		for range 2 { // again is no more
			if _, err := to.restore(w, true); err != nil {
				t.Fatal(err)
			}
		}
		write(to, "gateway", "2") // is known where the chain was restored
		write(to, "issuer", "after")
		var chains audit.Chains
		entries, err := to.Bus.Audited(t.Context(), "", 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if _, err := chains.Add(e.Data); err != nil {
				t.Fatal(err)
			}
		}
		if got := [2]int64{chains.Heads()["gateway"].Seq, chains.Heads()["issuer"].Seq}; got != want {
			t.Errorf("%d entries of gateway and issuer, want %d", got, want)
		}
	}
}

// Dead letters come back once, can be settled, and one that has come to its end
// since stays so.
func TestRestoreKeepsDeadLetters(t *testing.T) {
	w := newWorld(t)
	letters := map[string]fleet.Letter{}
	for _, name := range []string{"open", "dropped", "dropped later"} {
		l := fleet.Letter{
			ID: event.ID("letter", name), Service: "issuer", Source: bus.Commands, Consumer: "issuer", Cluster: "edge-01",
			Subject: "rotor.v1.command.issue.edge-01", Reason: "broken", Attempts: 1, First: clock.Wall(), Body: []byte(name),
		}
		letters[name] = l
		if err := w.Bus.Bury(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	drop := func(w *world, name string) {
		t.Helper()
		l, err := w.Bus.Letter(t.Context(), "issuer", "edge-01", letters[name].ID)
		if err != nil {
			t.Fatal(err)
		}
		e, err := event.SettleIssuer.New(event.Meta{Source: "gateway", Cluster: "edge-01", Time: clock.Wall()},
			event.SettleCommand{Letter: l.ID, Revision: l.Revision, Action: event.ActionDrop})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Bus.Settle(bus.Settler{Service: "issuer", Log: bustest.Quiet()})(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	drop(w, "dropped")
	w.backup()
	drop(w, "dropped later")
	for to, want := range map[*world]int{w: 1, empty(t): 2} {
		for range 2 { // again is no more
			if _, err := to.restore(w, true); err != nil {
				t.Fatal(err)
			}
		}
		open := 0
		for _, l := range bustest.Letters(t, to.Server) {
			if l.Open() {
				open++
			}
		}
		if all := len(bustest.Letters(t, to.Server)); all != 3 || open != want {
			t.Errorf("%d letters, %d open; want 3 and %d", all, open, want)
		}
		drop(to, "open")
	}
}
