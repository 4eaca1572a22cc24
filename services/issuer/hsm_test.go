package issuer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/health"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/kv"

	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore/keystoretest"
)

// newRandomWorld returns a world whose CA key lies in an HSM: each of its
// signatures is another.
func newRandomWorld(t testing.TB) *world {
	t.Helper()
	w := newWorld(t)
	w.config.token = &keystoretest.Token{}
	return w
}

func (w *world) hsm(t testing.TB) *keystoretest.Token {
	t.Helper()
	token, ok := w.config.token.(*keystoretest.Token)
	if !ok {
		t.Fatal("the world has no HSM")
	}
	return token
}

// Several issuers that start at once end with one CA, and with one key for it.
func TestOneAuthorityInAnHSM(t *testing.T) {
	w := newRandomWorld(t)
	errs := make([]error, 4)
	var all sync.WaitGroup
	for i := range errs {
		env := w.env(t)
		all.Go(func() { _, errs[i] = open(t.Context(), env, w.Bus, w.config) })
	}
	all.Wait()
	must(t, errors.Join(errs...))
	if labels := w.hsm(t).Labels(); len(labels) != 1 || labels[0] != "rotor-ca-1" {
		t.Errorf("keys in the HSM: %v", labels)
	}
	first := w.authority(t)
	must(t, w.start(t))
	if again := w.authority(t); len(again.CAs) != 1 || string(again.CAs[0].Certificate) != string(first.CAs[0].Certificate) {
		t.Error("another CA after a restart")
	}
}

// Two issuers that carry out one command at once hand over what is on record,
// and nothing else is ever to be seen.
func TestTwoIssuersWithRandomSignatures(t *testing.T) {
	w := newRandomWorld(t)
	services := []*service{w.service(t), w.service2(t)}
	for generation := 1; generation <= 2; generation++ {
		w.file(t, generation, someClients...)
		e := w.order(t, fmt.Sprint(generation), generation, someClients...)
		var all sync.WaitGroup
		for _, s := range services {
			all.Go(func() {
				if err := s.issue(t.Context(), e); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for _, key := range someClients {
			p, ok := w.pickup(t, key)
			g := w.record(t, key).Newest()
			if !ok || p.Generation != generation || g.Number != generation || identity.Fingerprint(leaf(t, p.Chain).Raw) != g.Certificate.Fingerprint {
				t.Errorf("%s: handed over is not what is on record, of generation %d", key, generation)
			}
			checkPickup(t, w, key, generation)
		}
		if failed := bustest.Stored(t, w.Server, event.CredentialFailed); len(failed) > 0 {
			t.Fatalf("told as failed: %+v", failed)
		}
		must(t, services[0].step(t.Context(), w.report(t, event.CredentialProven, generation, someClients...)))
	}
}

// overtaken lets another issuer store its record after this one has signed and
// before it stores its own.
type overtaken struct {
	documents[fleet.Credentials]
	once *sync.Once
	by   func()
}

func (o overtaken) Edit(ctx context.Context, key string, f func(*fleet.Credentials) error) (kv.Entry[fleet.Credentials], error) {
	return o.documents.Edit(ctx, key, func(doc *fleet.Credentials) error {
		err := f(doc)
		o.once.Do(o.by)
		return err
	})
}

// Of two that have signed the first on record wins, also when it dies before it
// could hand over anything: the other hands over what it has not signed itself.
func TestOvertakenWithRandomSignatures(t *testing.T) {
	w := newRandomWorld(t)
	s, other := w.service(t), mortally(w.service2(t), &killer{at: 1, after: true})
	w.file(t, 1, kms)
	e := w.order(t, "first", 1, kms)
	s.credentials = overtaken{s.credentials, &sync.Once{}, func() {
		if err := other.issue(t.Context(), e); !errors.Is(err, errKilled) {
			t.Error(err)
		}
	}}
	must(t, s.issue(t.Context(), e))
	p, ok := w.pickup(t, kms)
	if !ok || identity.Fingerprint(leaf(t, p.Chain).Raw) != w.record(t, kms).Newest().Certificate.Fingerprint {
		t.Error("handed over is not what is on record")
	}
}

// Programs that ask two issuers at once with one key get one certificate.
func TestTwoLoginsWithRandomSignatures(t *testing.T) {
	w := newRandomWorld(t)
	key := newKey(t)
	asked := []caller{ask(t, key, nil), ask(t, key, nil)}
	services := []*service{w.service(t), w.service2(t)}
	var all sync.WaitGroup
	for i, s := range services {
		all.Go(func() {
			if err := s.login(t.Context(), asked[i].e); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	one, _ := w.taken(t, asked[0], 1)
	other, _ := w.taken(t, asked[1], 1)
	if one != other || identity.Fingerprint(leaf(t, []byte(one)).Raw) != w.record(t, kms).Newest().Certificate.Fingerprint {
		t.Error("two certificates of one generation")
	}
}

// A gateway's certificate stays when the command comes again.
func TestCertifyAgainWithRandomSignatures(t *testing.T) {
	w := newRandomWorld(t)
	_, csr := newCSR(t)
	e := certify(t, clock.Wall(), csr, "localhost")
	var chains [][]byte
	for _, s := range []*service{w.service(t), w.service2(t)} {
		must(t, s.command(t.Context(), e))
		doc, err := w.bundles.Get(t.Context(), e.Subject())
		must(t, err)
		chains = append(chains, doc.Value.Server.Chain)
	}
	if !bytes.Equal(chains[0], chains[1]) {
		t.Error("the repeat replaced the certificate")
	}
}

// Without its HSM an issuer refuses nothing: what it cannot sign waits.
func TestHSMAwayForAWhile(t *testing.T) {
	w := newRandomWorld(t)
	s := w.service(t)
	w.file(t, 1, kms)
	_, csr := newCSR(t)
	signIn := ask(t, newKey(t), func(c *event.LoginCommand) { c.Client = csi })
	commands := []event.Event{w.order(t, "first", 1, kms), certify(t, clock.Wall(), csr, "localhost"), signIn.e}
	w.hsm(t).Fail(keystore.ErrUnavailable)
	for _, e := range commands {
		if err := s.command(t.Context(), e); !errors.Is(err, keystore.ErrUnavailable) || bus.IsPermanent(err) {
			t.Errorf("%s: %v", e.Type(), err)
		}
	}
	if failed := bustest.Stored(t, w.Server, event.CredentialFailed); len(failed) > 0 {
		t.Errorf("told as failed: %+v", failed)
	}
	w.hsm(t).Fail(nil)
	for _, e := range commands {
		must(t, s.command(t.Context(), e))
	}
	checkPickup(t, w, kms, 1)
	if a := w.answer(t, signIn); a.Error != "" {
		t.Error(a.Error)
	}
	for _, e := range w.chain(t) {
		if e.Action == "credential.withhold" {
			t.Errorf("said to be thrown away, and on record: %+v", e.Signed)
		}
	}
}

// An issuer that starts without its HSM waits for it and says so.
func TestStartWithoutTheHSM(t *testing.T) {
	w := newRandomWorld(t)
	w.hsm(t).Fail(fmt.Errorf("%w: cable", keystore.ErrUnavailable))
	board := w.runOnBoard(t)
	waits(t, board, "cable")
	w.hsm(t).Fail(nil)
	bustest.Eventually(t, func() error {
		if status := board.Status(); !status.Ready {
			return fmt.Errorf("not ready: %+v", status)
		}
		return nil
	})
}

// A key that is gone is the same alarm as for a sealed key, and no fresh start.
func TestHSMLosesTheKey(t *testing.T) {
	w := newRandomWorld(t)
	must(t, w.start(t))
	w.hsm(t).Lose()
	if err := w.start(t); !errors.Is(err, keystore.ErrLost) || !strings.Contains(err.Error(), "ALARM") || !strings.Contains(err.Error(), "backup") {
		t.Errorf("started without the key of the CA: %v", err)
	}
	if labels := w.hsm(t).Labels(); len(labels) > 0 {
		t.Errorf("made %v", labels)
	}
}

// While it runs, /readyz shows that a key is gone.
func TestHSMLosesTheKeyWhileInUse(t *testing.T) {
	w := newRandomWorld(t)
	s := w.service(t)
	board := health.New()
	s.env.Health = board.Part("issuer")
	w.hsm(t).Lose()
	bustest.Run(t, s.watchKeys)
	waits(t, board, "ALARM")
}

// The key of a CA that is retired may be destroyed, as operators are advised to:
// that is no alarm, neither while the issuer runs nor when it starts. That of a CA
// that is trusted is missed.
func TestTheKeyOfARetiredCAMayGo(t *testing.T) {
	w := newRandomWorld(t)
	s := w.service(t)
	old := w.authority(t).CAs[0].ID
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MovePrepare, From: old})))
	doc := w.authority(t)
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MoveActivate, ID: doc.CAs[1].ID, From: old, Bundle: doc.Bundle.Version})))
	must(t, s.phase(t.Context(), phaseEvent(t, event.PhaseCommand{Move: fleet.MoveRetire, ID: old, From: old})))
	if got := phasesOf(w.authority(t)); got != "retired active" {
		t.Fatal(got)
	}
	watched, ok := s.keys.(interface{ Check(context.Context) error })
	if !ok {
		t.Fatalf("%T", s.keys)
	}
	destroy := func(id string) {
		t.Helper()
		box, err := bucket[keystore.Box](t, w, bus.Keys).Get(t.Context(), id)
		must(t, err)
		must(t, w.hsm(t).Delete(t.Context(), box.Value.HSM.ID, box.Value.HSM.Label))
	}
	destroy(keyCA(1))
	must(t, watched.Check(t.Context()))
	must(t, w.start(t))
	destroy(keyCA(2))
	if err := watched.Check(t.Context()); !errors.Is(err, keystore.ErrLost) {
		t.Errorf("the key that signs is gone: %v", err)
	}
}

// People are told of an HSM that is away for a while, once and not for each look,
// and that it is back; of one that was away for a moment they are not.
func TestHSMAwayIsTold(t *testing.T) {
	w := newRandomWorld(t)
	l := newLookout(w.env(t), w.Bus)
	told := func(away, back int) {
		t.Helper()
		gone, returned := bustest.Stored(t, w.Server, event.AuthorityUnavailable), bustest.Stored(t, w.Server, event.AuthorityAvailable)
		if len(gone) != away || len(returned) != back {
			t.Fatalf("told %d times that it is away and %d that it is back, want %d and %d", len(gone), len(returned), away, back)
		}
	}
	cable := fmt.Errorf("%w: cable", keystore.ErrUnavailable)
	l.away(t.Context(), cable)
	l.back(t.Context())
	told(0, 0)
	l.grace = 0
	for range 3 {
		l.away(t.Context(), cable)
	}
	told(1, 0)
	if got := bustest.Stored(t, w.Server, event.AuthorityUnavailable)[0]; !strings.Contains(got.Why, "cable") || got.Since.IsZero() {
		t.Errorf("%+v", got)
	}
	l.next = clock.Wall() // an hour later
	l.away(t.Context(), cable)
	l.back(t.Context())
	l.back(t.Context())
	told(2, 1)
	l.grace = awayFor
	l.away(t.Context(), cable)
	told(2, 1)
}

// An issuer that starts says that it can use its HSM, for one that ended without
// it; then it tells what changes, at the first start as later.
func TestHSMIsToldOfByTheIssuer(t *testing.T) {
	w := newRandomWorld(t)
	s := w.service(t)
	s.look.grace = 0
	bustest.Run(t, s.watchKeys)
	bustest.Expect(t, w.Server, event.AuthorityAvailable, nil)
	starting := newLookout(w.env(t), w.Bus)
	starting.grace = 0
	tries := 0
	must(t, patiently(t.Context(), starting, func() error {
		if tries++; tries == 1 {
			return fmt.Errorf("%w: cable", keystore.ErrUnavailable)
		}
		return nil
	}))
	if got := bustest.Expect(t, w.Server, event.AuthorityUnavailable, nil); !strings.Contains(got.Why, "cable") {
		t.Errorf("%+v", got)
	}
}

// A PIN that is refused is not tried again: that could lock the token.
func TestRefusedPINIsNotTriedAgain(t *testing.T) {
	w := newWorld(t)
	env := w.env(t)
	board := health.New()
	env.Health, env.Log = board.Part("issuer"), bustest.Quiet()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // many times the first pause
	defer cancel()
	tried := 0
	err := patiently(ctx, newLookout(env, w.Bus), func() error {
		if tried++; tried > 1 {
			return nil
		}
		return fmt.Errorf("%w: token", keystore.ErrRefused)
	})
	if tried != 1 || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("tried %d times: %v", tried, err)
	}
	waits(t, board, "PIN is refused")
}

// runOnBoard runs an issuer until the test ends, and returns what it waits for.
func (w *world) runOnBoard(t testing.TB) *health.Board {
	t.Helper()
	board := health.New()
	env := w.env(t)
	env.Health, env.Log = board.Part("issuer"), bustest.Quiet()
	bustest.Run(t, func(ctx context.Context) error { return Run(ctx, env, w.config) })
	return board
}

// waits waits until the keystore is shown to wait for something.
func waits(t testing.TB, board *health.Board, why string) {
	t.Helper()
	bustest.Eventually(t, func() error {
		status := board.Status()
		for _, waiting := range status.Parts["issuer"].Waiting {
			if waiting.For == keystoreHealth && strings.Contains(waiting.Why, why) {
				return nil
			}
		}
		return fmt.Errorf("%q is not shown: %+v", why, status)
	})
}
