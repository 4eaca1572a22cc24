package issuer

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func TestReplayedCommand(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.file(t, 1, kms)
	e := w.order(t, "first", 1, kms)
	must(t, s.issue(t.Context(), e))
	revision := w.revision(t)
	must(t, s.issue(t.Context(), e))
	must(t, w.service2(t).issue(t.Context(), e))
	if w.revision(t) != revision {
		t.Error("a repeat wrote something")
	}
	if n := len(bustest.Stored(t, w.Server, event.CredentialIssued)); n != 1 {
		t.Errorf("%d facts", n)
	}
	if failed := bustest.Stored(t, w.Server, event.CredentialFailed); len(failed) != 0 {
		t.Errorf("what is there already was told as failed: %+v", failed)
	}
}

func (w *world) revision(t testing.TB) [2]uint64 {
	t.Helper()
	c, err := w.credentials.Get(t.Context(), cluster)
	must(t, err)
	b, err := w.bundles.Get(t.Context(), cluster)
	must(t, err)
	return [2]uint64{c.Revision, b.Revision}
}

// A late repeat finds the generation proven, and does not bring its pick-up back.
func TestReplayedAfterTheProof(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	must(t, s.issue(t.Context(), w.order(t, "1", 1, kms)))
	if _, waits := w.pickup(t, kms); waits {
		t.Error("a secret that nobody needs lies about again")
	}
}

func TestTwoCommandsForOneGeneration(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.file(t, 1, kms)
	must(t, s.issue(t.Context(), w.order(t, "one", 1, kms)))
	before := *w.record(t, kms).Newest()
	must(t, s.issue(t.Context(), w.order(t, "two", 1, kms)))
	if after := *w.record(t, kms).Newest(); !reflect.DeepEqual(after, before) {
		t.Errorf("generation was made twice: %+v, then %+v", before, after)
	}
	if n := len(bustest.Stored(t, w.Server, event.CredentialIssued)); n != 1 {
		t.Errorf("%d facts", n)
	}
	if failed := bustest.Stored(t, w.Server, event.CredentialFailed); len(failed) != 0 {
		t.Errorf("what is there already was told as failed: %+v", failed)
	}
}

// Several issuers, several commands, one of each generation.
func TestConcurrentIssuers(t *testing.T) {
	w := newWorld(t)
	w.run(t, 3)
	w.file(t, 1, someClients...)
	for _, what := range []string{"a", "b", "c", "d", "e", "f"} {
		must(t, w.Bus.Publish(t.Context(), w.order(t, what, 1, someClients...)))
	}
	issued := bustest.Expect(t, w.Server, event.CredentialIssued, nil)
	if len(issued.Clients) != len(someClients) {
		t.Errorf("issued %+v", issued)
	}
	for _, key := range someClients {
		if record := w.record(t, key); len(record.Generations) != 1 {
			t.Errorf("%s has %d generations", key, len(record.Generations))
		}
		checkPickup(t, w, key, 1)
	}
	if n := len(w.authority(t).CAs); n != 1 {
		t.Errorf("%d CAs", n)
	}
}

// The same command in two processes at once: one certificate.
func TestConcurrentRepeat(t *testing.T) {
	w := newWorld(t)
	services := []*service{w.service(t), w.service2(t), w.service2(t)}
	w.file(t, 1, someClients...)
	e := w.order(t, "first", 1, someClients...)
	errs := make([]error, len(services))
	var all sync.WaitGroup
	for i, s := range services {
		all.Go(func() { errs[i] = s.issue(t.Context(), e) })
	}
	all.Wait()
	must(t, errors.Join(errs...))
	for _, key := range someClients {
		checkPickup(t, w, key, 1)
	}
	if n := len(bustest.Stored(t, w.Server, event.CredentialIssued)); n != 1 {
		t.Errorf("%d facts", n)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms, csi)
	for _, test := range []struct {
		name       string
		generation int
		prepare    func()
		want       string
	}{
		{"no request on file", 2, func() {}, "no certificate request for generation 2"},
		{"request of another generation", 2, func() { w.file(t, 3, kms) }, "no certificate request for generation 2"},
		{"a generation is left out", 3, func() { w.file(t, 3, kms) }, "ask for 2"},
		{"key of the generation before again", 2, func() { w.refile(t, kms, kms) }, "key was used before"},
		{"key of another client", 2, func() { w.refile(t, csi, kms) }, "key was used before"},
		{"filed under another thumbprint", 2, func() {
			w.file(t, 2, kms)
			w.editRequest(t, func(r *fleet.Request) { r.Key = "other" })
		}, "was filed as other"},
		{"broken request", 2, func() {
			w.file(t, 2, kms)
			w.editRequest(t, func(r *fleet.Request) { r.CSR = r.CSR[1:] })
		}, "certificate request"},
		{"F27: revoked is never issued", 2, func() {
			w.file(t, 2, kms)
			_, err := w.credentials.Edit(t.Context(), cluster, func(doc *fleet.Credentials) error {
				doc.Clients[kms].Revoked = &fleet.Revocation{At: clock.Wall(), Reason: "keyCompromise"}
				return nil
			})
			must(t, err)
		}, "revoked since"},
	} {
		test.prepare()
		e := w.order(t, test.name, test.generation, kms)
		must(t, s.issue(t.Context(), e))
		failed := bustest.Expect(t, w.Server, event.CredentialFailed, func(c event.Credentials) bool { return c.Operation == e.ID() })
		if len(failed.Clients) != 1 || !strings.Contains(failed.Clients[0].Error, test.want) {
			t.Errorf("%s: %+v, want %q", test.name, failed.Clients, test.want)
		}
		if n := w.record(t, kms).Number(); n != 1 {
			t.Fatalf("%s: generation %d was made", test.name, n)
		}
	}
}

// refile puts a client's old request on file for its or another's generation 2.
func (w *world) refile(t testing.TB, from, to fleet.ClientKey) {
	t.Helper()
	_, err := w.agents.Edit(t.Context(), cluster, func(a *fleet.Agent) error {
		thumbprint := w.record(t, from).Newest().Key
		a.Requests[to] = fleet.Request{Generation: 2, CSR: csrOf(t, w.keys[from]), Key: thumbprint}
		return nil
	})
	must(t, err)
	_ = to
}

func (w *world) editRequest(t testing.TB, f func(*fleet.Request)) {
	t.Helper()
	_, err := w.agents.Edit(t.Context(), cluster, func(a *fleet.Agent) error {
		r := a.Requests[kms]
		f(&r)
		a.Requests[kms] = r
		return nil
	})
	must(t, err)
}

func TestNoAgent(t *testing.T) {
	w := newWorld(t)
	must(t, w.service(t).issue(t.Context(), w.order(t, "first", 1, kms)))
	failed := bustest.Expect(t, w.Server, event.CredentialFailed, nil)
	if !strings.Contains(failed.Clients[0].Error, "no agent has joined") {
		t.Errorf("%+v", failed)
	}
}

// One bad client does not hold up the others.
func TestOneOfMany(t *testing.T) {
	w := newWorld(t)
	w.file(t, 1, kms, csi)
	w.editRequest(t, func(r *fleet.Request) { r.CSR = nil })
	must(t, w.service(t).issue(t.Context(), w.order(t, "first", 1, kms, csi)))
	checkPickup(t, w, csi, 1)
	if w.record(t, kms) != nil {
		t.Error("an empty record was made")
	}
}

// A life that would outlast the CA is cut, and the renewal moves with it.
func TestCut(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.file(t, 1, kms)
	end := w.authority(t).CAs[0].NotAfter
	at := end.Add(-80 * fleet.Day)
	must(t, s.issue(t.Context(), issueEvent(t, "late", event.IssueCommand{At: at, Clients: []event.IssueClient{{
		Client: kms, Generation: 1, Life: fleet.Life{Certificate: at.Add(100 * fleet.Day), Token: at.Add(100 * fleet.Day)}, RenewAt: at.Add(50 * fleet.Day),
	}}})))
	g := w.record(t, kms).Newest()
	if !g.Cut || !g.Certificate.NotAfter.Equal(end) || !g.Token.ExpiresAt.Equal(end) || !g.RenewAt.Equal(at.Add(40*fleet.Day)) {
		t.Errorf("cut %v, until %s and %s, renewed at %s", g.Cut, g.Certificate.NotAfter, g.Token.ExpiresAt, g.RenewAt)
	}
	if fact := bustest.Expect(t, w.Server, event.CredentialIssued, nil); !fact.Clients[0].Cut {
		t.Error("nobody is told of it")
	}
	must(t, w.drop(t))
}

// An issuer whose CA has expired signs nothing, whatever the command says.
func TestSigningUnderAnExpiredRoot(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.file(t, 1, kms)
	s.env.Clock = clock.Fast(clock.Wall(), clock.Wall().Add(fleet.AuthorityLife+time.Hour), 1)
	must(t, s.issue(t.Context(), w.order(t, "first", 1, kms)))
	failed := bustest.Expect(t, w.Server, event.CredentialFailed, nil)
	if !strings.Contains(failed.Clients[0].Error, "has expired") {
		t.Errorf("%+v", failed)
	}
}

// History is bounded, and what a client uses is never dropped from it.
func TestF3_OldGenerationStaysUntilProven(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	for n := 2; n <= 6; n++ {
		w.file(t, n, kms)
		must(t, s.issue(t.Context(), w.order(t, string(rune('0'+n)), n, kms)))
		record := w.record(t, kms)
		if used := record.InUse(); used == nil || used.Number != 1 || used.Step != fleet.StepProven {
			t.Fatalf("after %d: in use is %+v", n, used)
		}
		if len(record.Generations) > fleet.MaxGenerations || record.Number() != n {
			t.Fatalf("after %d: %d generations, newest %d", n, len(record.Generations), record.Number())
		}
	}
	must(t, s.step(t.Context(), w.report(t, event.CredentialProven, 6, kms)))
	for _, g := range w.record(t, kms).Generations[:2] {
		if g.Step != fleet.StepSuperseded {
			t.Errorf("generation %d is %s", g.Number, g.Step)
		}
	}
}

func TestMalformedCommands(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	good := event.IssueCommand{At: clock.Wall(), Clients: []event.IssueClient{{Client: kms, Generation: 1}}}
	for name, change := range map[string]func(*event.IssueCommand){
		"no moment":    func(c *event.IssueCommand) { c.At = time.Time{} },
		"generation 0": func(c *event.IssueCommand) { c.Clients = []event.IssueClient{{Client: kms}} },
	} {
		command := good
		change(&command)
		if err := s.command(t.Context(), issueEvent(t, name, command)); !bus.IsPermanent(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*event.Event){
		"fleet wide":      func(e *event.Event) { e.SetSubject(event.FleetWide) },
		"a gateway":       func(e *event.Event) { e.SetSubject("_gateway-a") },
		"unknown type":    func(e *event.Event) { e.SetType("rotor.command.other.v1") },
		"data of no sort": func(e *event.Event) { _ = e.SetData("application/json", "x") },
	} {
		e := issueEvent(t, name, good)
		change(&e)
		if err := s.command(t.Context(), e); !bus.IsPermanent(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzIssueCommand(f *testing.F) {
	good := issueEvent(f, "x", event.IssueCommand{At: clock.Wall(), Clients: []event.IssueClient{{Client: kms, Generation: 1}}})
	f.Add(good.Data())
	f.Add([]byte(`{"at":"2026-01-01T00:00:00Z","clients":[{"client":"../x","generation":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e := good.Clone()
		e.DataEncoded = data
		p, err := newPass(e)
		if err != nil {
			return
		}
		// Nothing on file: whatever was asked, nothing is made.
		p.authority, p.now = &authority{}, clock.Wall()
		var doc fleet.Credentials
		if err := p.record(t.Context(), none{}, &doc); err == nil || len(doc.Clients) != 0 {
			t.Errorf("made %+v", doc)
		}
	})
}

// none is a ledger that nothing may be written to.
type none struct{}

func (none) Append(_ context.Context, e audit.Entry) error {
	return fmt.Errorf("an entry for nothing: %+v", e)
}
