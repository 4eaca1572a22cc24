package issuer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

var errKilled = errors.New("killed here")

// killer ends a handler at its n-th write, before or after it has happened.
type killer struct {
	writes int // counted
	at     int // 0: never
	after  bool
}

func (k *killer) write(do func() error) error {
	k.writes++
	if k.writes != k.at {
		return do()
	}
	if k.after {
		if err := do(); err != nil {
			return err
		}
	}
	return errKilled
}

type mortal[T any] struct {
	documents[T]
	*killer
}

func (m mortal[T]) Edit(ctx context.Context, key string, f func(*T) error) (e kv.Entry[T], err error) {
	err = m.write(func() error { e, err = m.documents.Edit(ctx, key, f); return err })
	return e, err
}

type mortalPublisher struct {
	publisher
	*killer
}

func (m mortalPublisher) Publish(ctx context.Context, e event.Event) error {
	return m.write(func() error { return m.publisher.Publish(ctx, e) })
}

// mortally returns the service with a killer at every write.
func mortally(s *service, k *killer) *service {
	copied := *s
	copied.credentials = mortal[fleet.Credentials]{s.credentials, k}
	copied.bundles = mortal[fleet.Bundles]{s.bundles, k}
	copied.facts = mortalPublisher{s.facts, k}
	copied.ledger = mortalLedger{s.ledger, k}
	return &copied
}

// Killed before or after each write and run again, in another process, the same
// command leads to the same certificate, also where the CA signs with
// randomness; nothing is made twice and nothing is lost.
func TestIssueKilledAnywhere(t *testing.T) {
	t.Parallel()
	t.Run("sealed", func(t *testing.T) { issueKilledAnywhere(t, newWorld) })
	t.Run("hsm", func(t *testing.T) { issueKilledAnywhere(t, newRandomWorld) })
}

func issueKilledAnywhere(t *testing.T, newWorld func(testing.TB) *world) {
	for at := 1; ; at++ {
		k := &killer{}
		for _, after := range []bool{false, true} {
			w := newWorld(t)
			s := w.service(t)
			w.file(t, 1, kms, csi)
			e := w.order(t, "first", 1, kms, csi, nodeAgent) // the request of the last one is missing
			k = &killer{at: at, after: after}
			err := mortally(s, k).issue(t.Context(), e)
			if k.writes < at {
				must(t, err)
				break // there is no such write
			}
			if !errors.Is(err, errKilled) {
				t.Fatalf("write %d: %v", at, err)
			}
			var chain []byte
			if at == 3 && after || at > 3 {
				p, _ := w.pickup(t, kms)
				chain = p.Chain
			}
			var before *fleet.Record
			if at > 2 || at == 1 && after { // the second write is the entry, in the middle of the first
				before = w.record(t, kms)
			}
			must(t, w.service2(t).issue(t.Context(), e)) // another process
			checkKilled(t, w, fmt.Sprintf("write %d, after %v", at, after), before, chain)
		}
		if k.writes < at {
			if at != 6 {
				t.Errorf("a pass has %d writes, want record, entry, pick-ups and two facts", at-1)
			}
			return
		}
	}
}

func checkKilled(t *testing.T, w *world, name string, before *fleet.Record, chain []byte) {
	t.Helper()
	record := w.record(t, kms)
	if len(record.Generations) != 1 || record.Generations[0].Number != 1 {
		t.Fatalf("%s: %d generations", name, len(record.Generations))
	}
	if before != nil && before.Newest().Certificate != record.Newest().Certificate {
		t.Errorf("%s: a second certificate of one generation", name)
	}
	p, _ := w.pickup(t, kms)
	if chain != nil && !bytes.Equal(chain, p.Chain) {
		t.Errorf("%s: other bytes", name)
	}
	checkPickup(t, w, kms, 1)
	checkPickup(t, w, csi, 1)
	if n := len(bustest.Stored(t, w.Server, event.CredentialIssued)); n != 1 {
		t.Errorf("%s: %d facts of issuance", name, n)
	}
	failed := bustest.Stored(t, w.Server, event.CredentialFailed)
	if len(failed) != 1 || len(failed[0].Clients) != 1 || failed[0].Clients[0].Client != nodeAgent || failed[0].Clients[0].Error == "" {
		t.Errorf("%s: failures %+v", name, failed)
	}
}

// service2 returns the issuer of another process on the same store.
func (w *world) service2(t testing.TB) *service { return w.service(t) }

// Both halves are made again, to the byte: certificate and token.
func TestDerivedAgain(t *testing.T) {
	t.Run("sealed", func(t *testing.T) { derivedAgain(t, newWorld(t)) })
	t.Run("hsm", func(t *testing.T) { derivedAgain(t, newRandomWorld(t)) })
}

func derivedAgain(t *testing.T, w *world) {
	s := w.service(t)
	w.file(t, 1, kms)
	e := w.order(t, "first", 1, kms)
	must(t, s.issue(t.Context(), e))
	first, _ := w.pickup(t, kms)
	must(t, w.drop(t))
	must(t, w.service2(t).issue(t.Context(), e))
	second, ok := w.pickup(t, kms)
	if !ok || !bytes.Equal(first.Chain, second.Chain) {
		t.Error("another chain")
	}
	if w.token(t, kms, first) != w.token(t, kms, second) {
		t.Error("another token")
	}
}

// drop removes the pick-ups, as if they had never been written.
func (w *world) drop(t testing.TB) error {
	_, err := w.bundles.Edit(t.Context(), cluster, func(doc *fleet.Bundles) error { doc.Clients = nil; return nil })
	return err
}

// A request that was replaced between the two writes is told of, not signed.
func TestDerivedAgainFromAnotherRequest(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.file(t, 1, kms)
	e := w.order(t, "first", 1, kms)
	must(t, s.issue(t.Context(), e))
	must(t, w.drop(t))
	w.file(t, 1, kms) // another key for the same generation
	must(t, w.service2(t).issue(t.Context(), e))
	if p, ok := w.pickup(t, kms); ok {
		t.Errorf("a second certificate of generation %d", p.Generation)
	}
	if failed := bustest.Stored(t, w.Server, event.CredentialFailed); len(failed) != 1 {
		t.Errorf("%d failures told", len(failed))
	}
}

// Killed between the record and what follows from it, a proof is finished by
// its repeat.
func TestStepKilledAnywhere(t *testing.T) {
	t.Parallel()
	for at := 1; at <= 3; at++ {
		for _, after := range []bool{false, true} {
			w := newWorld(t)
			s := w.service(t)
			w.prove(t, s, 1, kms)
			w.file(t, 2, kms)
			must(t, s.issue(t.Context(), w.order(t, "second", 2, kms)))
			proof := w.report(t, event.CredentialProven, 2, kms)
			if err := mortally(s, &killer{at: at, after: after}).step(t.Context(), proof); !errors.Is(err, errKilled) {
				t.Fatalf("write %d: %v", at, err)
			}
			must(t, w.service2(t).step(t.Context(), proof))
			record := w.record(t, kms)
			if record.Find(1).Step != fleet.StepSuperseded || record.Find(2).Step != fleet.StepProven {
				t.Errorf("write %d: %s, %s", at, record.Find(1).Step, record.Find(2).Step)
			}
			if told := bustest.Stored(t, w.Server, event.CredentialSuperseded); len(told) != 1 || told[0].Clients[0].Generation != 1 {
				t.Errorf("write %d: told %+v", at, told)
			}
			if _, waits := w.pickup(t, kms); waits {
				t.Errorf("write %d: the pick-up still waits", at)
			}
		}
	}
}

// prove takes clients through a whole generation.
func (w *world) prove(t testing.TB, s *service, generation int, clients ...fleet.ClientKey) {
	t.Helper()
	w.file(t, generation, clients...)
	must(t, s.issue(t.Context(), w.order(t, fmt.Sprint(generation), generation, clients...)))
	must(t, s.step(t.Context(), w.report(t, event.CredentialProven, generation, clients...)))
}
