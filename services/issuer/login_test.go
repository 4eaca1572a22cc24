package issuer

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
	"github.com/rotor-fleet/rotor/shared/secret"
)

// caller is a gateway that asks in the name of a program.
type caller struct {
	open secret.OpenKey
	e    event.Event
	event.LoginCommand
}

// asks counts the commands of a test: each has an id of its own.
var nextAsk int

// ask returns the command for a key; change may be nil.
func ask(t testing.TB, key *ecdsa.PrivateKey, change func(*event.LoginCommand)) caller {
	t.Helper()
	open, err := secret.NewOpenKey()
	must(t, err)
	nextAsk++
	at := clock.Wall().Truncate(time.Second).Add(time.Duration(nextAsk) * time.Second) // a later one asks for another validity
	c := caller{open: open, LoginCommand: event.LoginCommand{
		Client: kms, Reason: fleet.ReasonRecovery, Generation: 1, CSR: csrOf(t, key), At: at,
		Life:    fleet.Life{Certificate: at.Add(90 * fleet.Day), Token: at.Add(90 * fleet.Day)},
		RenewAt: at.Add(50 * fleet.Day), SealTo: open.SealKey(), AskedAt: clock.Wall(),
	}}
	if change != nil {
		change(&c.LoginCommand)
	}
	c.e, err = event.Login.New(event.Meta{Source: "gateway", Cluster: cluster, Key: []string{fmt.Sprint(nextAsk)}, Time: at}, c.LoginCommand)
	must(t, err)
	return c
}

// shows makes a command one with the token of a generation.
func shows(generation int) func(*event.LoginCommand) {
	return func(c *event.LoginCommand) {
		c.Reason, c.Shown, c.Generation = fleet.ReasonLogin, generation, generation+1
	}
}

func (w *world) answer(t testing.TB, c caller) fleet.Answer {
	t.Helper()
	e, err := w.bundles.Get(t.Context(), cluster)
	must(t, err)
	a := e.Value.Answer(c.e.ID())
	if a == nil {
		t.Fatalf("no answer to %s among %d", c.e.ID(), len(e.Value.Answers))
	}
	return *a
}

// taken returns chain and token of an answer that holds a generation.
func (w *world) taken(t testing.TB, c caller, generation int) (chain, token string) {
	t.Helper()
	a := w.answer(t, c)
	if a.Generation != generation || a.Error != "" {
		t.Fatalf("answer %d %s %q, want generation %d", a.Generation, a.Kind, a.Error, generation)
	}
	text, err := c.open.Open(secret.TokenContext(cluster, kms.String(), generation), a.Token)
	must(t, err)
	return string(a.Chain), text.Reveal()
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, _ := newCSR(t)
	return k
}

// A reply was lost after a one-time token was consumed: the same key gets the
// same certificate and token again, and another key gets neither.
func TestF28_TheSameKeyGetsTheSameGeneration(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	key := newKey(t)
	first := ask(t, key, nil)
	must(t, s.login(t.Context(), first.e))
	chain, token := w.taken(t, first, 1)
	g := w.record(t, kms).Newest()
	thumbprint, err := identity.Thumbprint(key.Public())
	must(t, err)
	if g.Agent != "" || g.Key != thumbprint || g.Reason != fleet.ReasonRecovery || g.Operation != first.e.ID() || g.Step != fleet.StepIssued {
		t.Errorf("on record: %+v", g)
	}
	again := ask(t, key, nil) // by another gateway, and later
	must(t, w.service2(t).login(t.Context(), again.e))
	if c, text := w.taken(t, again, 1); c != chain || text != token {
		t.Error("the same key got other bytes")
	}
	other := ask(t, newKey(t), nil)
	must(t, s.login(t.Context(), other.e))
	if a := w.answer(t, other); a.Kind != "conflict" || a.Chain != nil || a.Token != nil {
		t.Errorf("another key got %+v", a)
	}
	if told := bustest.Stored(t, w.Server, event.CredentialIssued); len(told) != 1 || told[0].Clients[0].Serial != g.Certificate.Serial {
		t.Errorf("told %+v", told)
	}
	if len(w.record(t, kms).Generations) != 1 {
		t.Error("a second generation")
	}
	raw, err := w.bundles.Get(t.Context(), cluster)
	must(t, err)
	if strings.Contains(fmt.Sprintf("%+v", raw.Value), token) {
		t.Error("a token lies in the bucket in clear")
	}
}

// Killed before or after each write and run again by another process.
func TestF28_LoginKilledAnywhere(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		k := &killer{}
		for _, after := range []bool{false, true} {
			w := newRandomWorld(t) // the harder case: no signature comes again
			s := w.service(t)
			c := ask(t, newKey(t), nil)
			k = &killer{at: at, after: after}
			err := mortally(s, k).login(t.Context(), c.e)
			if k.writes < at {
				must(t, err)
				break // there is no such write
			}
			if !errors.Is(err, errKilled) {
				t.Fatalf("write %d: %v", at, err)
			}
			var before string
			if at > 3 || at == 3 && after { // the second write is the entry, in the middle of the first
				before, _ = w.taken(t, c, 1)
			}
			must(t, w.service2(t).login(t.Context(), c.e))
			if chain, _ := w.taken(t, c, 1); before != "" && chain != before {
				t.Errorf("write %d, after %v: other bytes", at, after)
			}
			if n := len(w.record(t, kms).Generations); n != 1 {
				t.Errorf("write %d, after %v: %d generations", at, after, n)
			}
			if n := len(bustest.Stored(t, w.Server, event.CredentialIssued)); n != 1 {
				t.Errorf("write %d, after %v: told %d times", at, after, n)
			}
		}
		if k.writes < at {
			if at != 5 {
				t.Errorf("a login has %d writes, want record, entry, answer and fact", at-1)
			}
			return
		}
	}
}

func TestLoginFollowsTheTokenShown(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	first, second := newKey(t), newKey(t)
	must(t, s.login(t.Context(), ask(t, first, nil).e))
	c := ask(t, second, shows(1))
	must(t, s.login(t.Context(), c.e))
	w.taken(t, c, 2)
	for name, tt := range map[string]struct {
		c    caller
		kind fleet.ErrorKind
	}{
		"a key that was used":        {ask(t, first, func(c *event.LoginCommand) { shows(2)(c) }), "invalid"},
		"another key in its place":   {ask(t, newKey(t), shows(1)), "conflict"},
		"a generation not on record": {ask(t, newKey(t), shows(5)), "denied"},
		"one that was passed":        {ask(t, second, func(c *event.LoginCommand) { shows(1)(c); c.Generation = 3 }), "conflict"},
		"not a request":              {ask(t, newKey(t), func(c *event.LoginCommand) { shows(2)(c); c.CSR = []byte("x") }), "invalid"},
	} {
		must(t, s.login(t.Context(), tt.c.e))
		if a := w.answer(t, tt.c); a.Kind != tt.kind || a.Error == "" || a.Token != nil {
			t.Errorf("%s: %+v, want %s", name, a, tt.kind)
		}
	}
	if n := w.record(t, kms).Number(); n != 2 {
		t.Errorf("generation %d", n)
	}
	w.revoke(t, kms)
	revoked := ask(t, newKey(t), shows(2))
	must(t, s.login(t.Context(), revoked.e))
	if a := w.answer(t, revoked); a.Kind != "denied" {
		t.Errorf("revoked: %+v", a)
	}
}

func (w *world) revoke(t testing.TB, key fleet.ClientKey) {
	t.Helper()
	_, err := w.credentials.Edit(t.Context(), cluster, func(doc *fleet.Credentials) error {
		doc.Record(key).Revoked = &fleet.Revocation{At: clock.Wall(), Reason: "keyCompromise"}
		return nil
	})
	must(t, err)
}

// A command that lay for too long makes nothing; one that has made something is
// brought to its end.
func TestLoginThatNobodyWaitsForMakesNothing(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	old := func(c *event.LoginCommand) { c.AskedAt = clock.Wall().Add(-stale - time.Minute) }
	must(t, s.login(t.Context(), ask(t, newKey(t), old).e))
	if _, err := w.credentials.Get(t.Context(), cluster); !errors.Is(err, fleet.ErrNotFound) {
		t.Fatalf("a record was made: %v", err)
	}
	c := ask(t, newKey(t), nil)
	must(t, s.login(t.Context(), c.e))
	late := ask(t, newKey(t), nil)
	late.LoginCommand = c.LoginCommand
	old(&late.LoginCommand)
	e, err := event.Login.New(event.Meta{Source: "gateway", Cluster: cluster, Key: []string{"late"}, Time: c.At}, late.LoginCommand)
	must(t, err)
	late.e, late.open = e, c.open
	must(t, s.login(t.Context(), late.e))
	w.taken(t, late, 1)
}

// An answer goes when it was collected, with the next ones when it is old, and
// when there are too many.
func TestAnswersAreTakenOut(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	key := newKey(t)
	c, kept := ask(t, key, nil), ask(t, key, nil)
	must(t, s.login(t.Context(), c.e))
	must(t, s.login(t.Context(), kept.e))
	delivered, err := event.CredentialDelivered.New(event.Meta{Source: "gateway", Cluster: cluster, Key: []string{"d"}, Time: clock.Wall()},
		event.Credentials{Operation: c.e.ID(), Clients: []event.Client{{Client: kms, Generation: 1}}})
	must(t, err)
	must(t, s.step(t.Context(), delivered))
	doc, err := w.bundles.Get(t.Context(), cluster)
	must(t, err)
	if doc.Value.Answer(c.e.ID()) != nil || doc.Value.Answer(kept.e.ID()) == nil {
		t.Errorf("answers %+v", doc.Value.Answers)
	}
	if g := w.record(t, kms).Newest(); g.Step != fleet.StepDelivered {
		t.Errorf("step %s", g.Step)
	}
	must(t, s.dropAnswers(t.Context(), cluster, func(fleet.Answer) bool { return true }))
	if s.answers.old(clock.Wall()) != nil || len(s.answers.old(clock.Wall().Add(fleet.AnswerLife))) != 1 {
		t.Error("what was written is not swept when it is old")
	}
	for name, e := range map[string]event.Event{
		"of no command": mustLogin(t, event.LoginCommand{}),
		"sealed to nobody": mustLogin(t, event.LoginCommand{
			Client: kms, Reason: fleet.ReasonLogin, Generation: 1, At: clock.Wall(), SealTo: bytes.Repeat([]byte{1}, 7),
		}),
	} {
		if err := s.login(t.Context(), e); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func mustLogin(t testing.TB, c event.LoginCommand) event.Event {
	t.Helper()
	e, err := event.Login.New(event.Meta{Source: "gateway", Cluster: cluster, Key: []string{"x"}, Time: clock.Wall()}, c)
	must(t, err)
	return e
}

// What a recovery has replaced is on the CRL while it has not ended, also when
// the record has no place for it any more.
func TestRecoveryRevokesOlderGenerations(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	must(t, s.login(t.Context(), ask(t, newKey(t), nil).e))
	must(t, s.login(t.Context(), ask(t, newKey(t), shows(1)).e))
	first, second := w.record(t, kms).Find(1).Certificate.Serial, w.record(t, kms).Find(2).Certificate.Serial
	if on := w.listed(t, s); len(on) != 0 { // the first one came by a recovery: there was nothing before
		t.Errorf("on the list: %v", on)
	}
	recovery := func(c *event.LoginCommand) { c.Generation = 3 }
	must(t, s.login(t.Context(), ask(t, newKey(t), recovery).e))
	for shown := 3; shown < 6; shown++ {
		must(t, s.login(t.Context(), ask(t, newKey(t), shows(shown)).e))
	}
	want := []string{first, second}
	if on := w.listed(t, s); !sameSet(on, want) {
		t.Errorf("on the list: %v, want %v", on, want)
	}
	record := w.record(t, kms)
	if n := len(record.Barred(clock.Wall())); n != 2 || record.Find(1) != nil {
		t.Errorf("%d barred of %+v", n, record)
	}
}

func (w *world) listed(t testing.TB, s *service) []string {
	t.Helper()
	authority, err := s.authority.current(t.Context())
	must(t, err)
	doc, err := s.lists.documents.Get(t.Context(), fleet.ListKey(authority.ca.ID()))
	if errors.Is(err, fleet.ErrNotFound) {
		return nil
	}
	must(t, err)
	entries, err := authority.ca.ReadList(doc.Value.DER)
	must(t, err)
	var serials []string
	for _, e := range entries {
		serials = append(serials, e.Serial)
	}
	return serials
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
