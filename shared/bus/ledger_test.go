package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func entry(request string) audit.Entry {
	return audit.Entry{Actor: "admin", Action: "client.revoke", Request: request, Reason: "superseded"}.About("edge-01", fleet.ClientKey{Kind: "kms"})
}

// verify walks the whole ledger.
func verify(t *testing.T, b *bus.Bus) map[string]audit.Entry {
	t.Helper()
	var chains audit.Chains
	for after := uint64(0); ; {
		page, err := b.Audited(t.Context(), "", after, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page {
			if _, err := chains.Add(m.Data); err != nil {
				t.Fatal(err)
			}
			after = m.Position
		}
		if len(page) == 0 {
			return chains.Heads()
		}
	}
}

// Replicas of a service share one chain, and a request that comes again, at any
// of them and at the same time, makes one entry.
func TestReplicasShareAChain(t *testing.T) {
	s := bustest.New(t)
	const replicas, requests = 4, 15
	var writers sync.WaitGroup
	for range replicas {
		log := audit.New("gateway", s.Bus.Ledger("gateway"), clock.Wall)
		writers.Go(func() {
			for i := range requests {
				if err := log.Append(t.Context(), entry(fmt.Sprint(i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	other := audit.New("issuer", s.Bus.Ledger("issuer"), clock.Wall)
	writers.Go(func() {
		for i := range requests {
			if err := other.Append(t.Context(), entry(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		}
	})
	writers.Wait()
	heads := verify(t, s.Bus)
	if heads["gateway"].Seq != requests || heads["issuer"].Seq != requests {
		t.Errorf("%d and %d entries, want %d each", heads["gateway"].Seq, heads["issuer"].Seq, requests)
	}
	if page, err := s.Bus.Audited(t.Context(), "issuer", 0, 1000); err != nil || len(page) != requests {
		t.Errorf("%d of issuer, %v", len(page), err)
	}
}

func TestARequestIsOneEntry(t *testing.T) {
	s := bustest.New(t)
	log := audit.New("gateway", s.Bus.Ledger("gateway"), clock.Wall)
	for _, request := range []string{"a", "b", "a", "b", "c"} {
		if err := log.Append(t.Context(), entry(request)); err != nil {
			t.Fatal(request, err)
		}
	}
	other := entry("a")
	other.Action = "client.reinstate"
	if err := log.Append(t.Context(), other); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("the request of another: %v", err)
	}
	for _, wrong := range []audit.Entry{{Actor: "x", Action: "y"}, {Actor: "x", Request: "y"}, {Action: "x", Request: "y"}} {
		if err := log.Append(t.Context(), wrong); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	if heads := verify(t, s.Bus); heads["gateway"].Seq != 3 {
		t.Errorf("%d entries", heads["gateway"].Seq)
	}
}

// What is written stays: not even who may do all can delete, purge or overwrite.
func TestTheLedgerOnlyGrows(t *testing.T) {
	s := bustest.New(t)
	log := audit.New("issuer", s.Bus.Ledger("issuer"), clock.Wall)
	if err := log.Append(t.Context(), entry("a")); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), bus.Audit)
	if err != nil {
		t.Fatal(err)
	}
	if stream.DeleteMsg(t.Context(), 1) == nil || stream.Purge(t.Context()) == nil {
		t.Error("an entry was taken away")
	}
	// An entry that does not fit is found by whoever comes next, and nothing is
	// put behind it.
	if _, err := js.Publish(t.Context(), "rotor.v1.audit.issuer", []byte(`{"chain":"issuer","seq":2}`)); err != nil {
		t.Fatal(err)
	}
	fresh := audit.New("issuer", s.Bus.Ledger("issuer"), clock.Wall)
	for _, l := range []*audit.Log{log, fresh} {
		if err := l.Append(t.Context(), entry("b")); !errors.Is(err, audit.ErrChanged) {
			t.Errorf("went on behind a broken entry: %v", err)
		}
	}
}

// Where the ledger cannot be written, the caller hears of it at once.
func TestNoEntryIsAnError(t *testing.T) {
	s := bustest.NewDenying(t, "rotor.v1.audit.>")
	b, err := bus.New(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := audit.New("gateway", b.Ledger("gateway"), clock.Wall).Append(ctx, entry("a")); !errors.Is(err, bus.ErrDenied) {
		t.Errorf("%v", err)
	}
}
