package issuer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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
	"github.com/rotor-fleet/rotor/shared/kv"
)

func (w *world) revocation(t testing.TB, what string, key fleet.ClientKey, reason fleet.CRLReason) event.Event {
	t.Helper()
	e, err := event.Revoke.New(event.Meta{Source: "gateway", Cluster: cluster, Key: []string{what}, Time: clock.Wall()},
		event.RevokeCommand{Client: key, Reason: reason, By: "admin", At: clock.Wall()})
	must(t, err)
	return e
}

func (w *world) reinstatement(t testing.TB, what string, key fleet.ClientKey) event.Event {
	t.Helper()
	e, err := event.Reinstate.New(event.Meta{Source: "gateway", Cluster: cluster, Key: []string{what}, Time: clock.Wall()},
		event.ReinstateCommand{Client: key, By: "admin", At: clock.Wall()})
	must(t, err)
	return e
}

// list returns the CRL of the CA that signs, verified.
func (w *world) list(t testing.TB) *x509.RevocationList {
	t.Helper()
	authority := w.authority(t)
	doc, err := bucket[fleet.RevocationList](t, w, bus.Authority).Get(t.Context(), fleet.ListKey(authority.ActiveCA().ID))
	must(t, err)
	list, err := x509.ParseRevocationList(doc.Value.DER)
	must(t, err)
	must(t, list.CheckSignatureFrom(leaf(t, authority.ActiveCA().Certificate)))
	if list.Number.Int64() != doc.Value.Number || !list.NextUpdate.Equal(doc.Value.NextUpdate) {
		t.Errorf("the list says number %d until %s, its document %d until %s", list.Number, list.NextUpdate, doc.Value.Number, doc.Value.NextUpdate)
	}
	return list
}

func serialsOf(list *x509.RevocationList) []string {
	serials := []string{}
	for _, e := range list.RevokedCertificateEntries {
		serials = append(serials, fmt.Sprintf("%s reason %d", e.SerialNumber.Text(16), e.ReasonCode))
	}
	slices.Sort(serials)
	return serials
}

func (w *world) entries(t testing.TB) []audit.Entry {
	t.Helper()
	return slices.DeleteFunc(w.chain(t), func(e audit.Entry) bool { return len(e.Signed) > 0 || e.Checkpoint != "" })
}

// chain returns all entries of the issuer, and checks that they are whole.
func (w *world) chain(t testing.TB) []audit.Entry {
	t.Helper()
	var chains audit.Chains
	var all []audit.Entry
	messages, err := w.Bus.Audited(t.Context(), name, 0, 10000)
	must(t, err)
	for _, m := range messages {
		e, err := chains.Add(m.Data)
		must(t, err)
		all = append(all, e)
	}
	return all
}

// H6: where a serial number is kept over renewals, revoking it hits every
// generation. Here each generation has its own: all that have not ended are on
// the CRL, also those that the record has no place for any more, and the one
// after the reinstatement is not.
func TestH6_EachGenerationIsRevokedByItsOwnSerial(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	const generations = fleet.MaxGenerations + 2
	var want []string
	for g := 1; g <= generations; g++ {
		w.prove(t, s, g, kms)
		want = append(want, w.record(t, kms).Newest().Certificate.Serial+" reason 1")
	}
	w.prove(t, s, 1, csi)
	must(t, s.lists.add(t.Context(), nil))
	must(t, s.revoke(t.Context(), w.revocation(t, "1", kms, fleet.KeyCompromise)))
	slices.Sort(want)
	if got := serialsOf(w.list(t)); !slices.Equal(got, want) || len(got) != generations {
		t.Fatalf("on the CRL: %q\nwant %q", got, want)
	}
	fact := bustest.Expect(t, w.Server, event.CredentialRevoked, nil)
	if fact.Client != kms || fact.Reason != fleet.KeyCompromise || fact.By != "admin" || len(fact.Credentials) != generations {
		t.Errorf("%+v", fact)
	}
	must(t, s.reinstate(t.Context(), w.reinstatement(t, "2", kms)))
	if got := bustest.Expect(t, w.Server, event.ClientReinstated, nil); got.Reason != fleet.KeyCompromise || len(got.Credentials) != generations {
		t.Errorf("%+v", got)
	}
	next := w.record(t, kms).Number() + 1
	w.prove(t, s, next, kms)
	if got := serialsOf(w.list(t)); !slices.Equal(got, want) {
		t.Errorf("after the reinstatement: %q\nwant %q", got, want)
	}
	must(t, s.revoke(t.Context(), w.revocation(t, "3", kms, fleet.CessationOfOperation)))
	want = append(want, w.record(t, kms).Newest().Certificate.Serial+" reason 5")
	slices.Sort(want)
	if got := serialsOf(w.list(t)); !slices.Equal(got, want) {
		t.Errorf("revoked again: %q\nwant %q", got, want)
	}
}

// F27: revoked is another state than expired and superseded: whoever asks and
// whyever, nothing is issued, and what waits is taken away.
func TestF27_RevokedStaysOutWhoeverAsks(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	w.file(t, 2, kms, csi)
	must(t, s.issue(t.Context(), w.order(t, "first", 1, csi)))
	w.file(t, 1, csi)
	must(t, s.issue(t.Context(), w.order(t, "waits", 2, kms)))
	if _, waits := w.pickup(t, kms); !waits {
		t.Fatal("nothing waits")
	}
	must(t, s.revoke(t.Context(), w.revocation(t, "1", kms, fleet.Unspecified)))
	if _, waits := w.pickup(t, kms); waits {
		t.Error("what waited for pick-up still does")
	}
	for _, reason := range []fleet.Reason{fleet.ReasonEnrolment, fleet.ReasonRenewal, fleet.ReasonEmergency, fleet.ReasonUpgrade, fleet.ReasonRotation, fleet.ReasonRecovery} {
		w.file(t, 3, kms)
		at := clock.Wall().Truncate(time.Second)
		e := issueEvent(t, string(reason), event.IssueCommand{Reason: reason, At: at, Clients: []event.IssueClient{{
			Client: kms, Generation: 3, Life: fleet.Life{Certificate: at.Add(fleet.Day), Token: at.Add(fleet.Day)}, RenewAt: at.Add(time.Hour),
		}}})
		must(t, s.issue(t.Context(), e))
		failed := bustest.Expect(t, w.Server, event.CredentialFailed, func(c event.Credentials) bool { return c.Operation == e.ID() })
		if n := w.record(t, kms).Number(); n != 2 || !strings.Contains(failed.Clients[0].Error, "revoked since") {
			t.Fatalf("%s: generation %d was made: %+v", reason, n, failed)
		}
	}
	// The command for what waited comes again, as after a crash: it is not put back.
	must(t, s.issue(t.Context(), w.order(t, "waits", 2, kms)))
	if _, waits := w.pickup(t, kms); waits {
		t.Error("a repeated command has put the pick-up back")
	}
}

// interfering does something between the read and the write of an Edit.
type interfering[T any] struct {
	documents[T]
	between func()
}

func (i *interfering[T]) Edit(ctx context.Context, key string, f func(*T) error) (kv.Entry[T], error) {
	return i.documents.Edit(ctx, key, func(doc *T) error {
		err := f(doc)
		if do := i.between; do != nil {
			i.between = nil
			do()
		}
		return err
	})
}

// A renewal that has begun must not overwrite a revocation that came meanwhile:
// of the record, and of what waits for pick-up.
func TestRenewalDoesNotOverwriteARevocation(t *testing.T) {
	for name, place := range map[string]func(*service, func()){
		"while the record is written": func(s *service, do func()) {
			s.credentials = &interfering[fleet.Credentials]{s.credentials, do}
		},
		"while the pick-up is put in place": func(s *service, do func()) {
			s.bundles = &interfering[fleet.Bundles]{s.bundles, do}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.service(t)
			w.prove(t, s, 1, kms)
			w.file(t, 2, kms)
			slow := *s
			place(&slow, func() { must(t, s.revoke(t.Context(), w.revocation(t, "1", kms, fleet.KeyCompromise))) })
			must(t, slow.issue(t.Context(), w.order(t, "renewal", 2, kms)))
			record := w.record(t, kms)
			if record.Revoked == nil {
				t.Fatal("the revocation is gone")
			}
			if _, waits := w.pickup(t, kms); waits {
				t.Error("a revoked client can pick something up")
			}
			// What was issued before the revocation is on the CRL as well.
			must(t, s.revoke(t.Context(), w.revocation(t, "1", kms, fleet.KeyCompromise)))
			if got := len(serialsOf(w.list(t))); got != len(record.Generations) {
				t.Errorf("%d on the CRL, %d on record", got, len(record.Generations))
			}
		})
	}
}

// mortalLedger ends a handler at an entry.
type mortalLedger struct {
	ledger
	*killer
}

func (m mortalLedger) Append(ctx context.Context, e audit.Entry) error {
	return m.write(func() error { return m.ledger.Append(ctx, e) })
}

// Killed before or after each write and run again, in another process, a
// revocation and a reinstatement come to the same: one entry, one fact, one
// state. A command that comes again later, behind the other, changes nothing.
func TestRevokeKilledAnywhere(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		k := &killer{}
		for _, after := range []bool{false, true} {
			w := newWorld(t)
			s := w.service(t)
			w.prove(t, s, 1, kms)
			k = &killer{at: at, after: after}
			dying := mortally(s, k)
			lists := *s.lists
			lists.documents = mortal[fleet.RevocationList]{lists.documents, k}
			dying.lists, dying.ledger = &lists, mortalLedger{s.ledger, k}
			revoke, reinstate := w.revocation(t, "r", kms, fleet.Superseded), w.reinstatement(t, "i", kms)
			for _, step := range []struct {
				e   event.Event
				run func(*service) error
			}{
				{revoke, func(s *service) error { return s.revoke(t.Context(), revoke) }},
				{reinstate, func(s *service) error { return s.reinstate(t.Context(), reinstate) }},
			} {
				err := step.run(dying)
				if err != nil && !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				must(t, step.run(w.service(t)))
			}
			must(t, s.revoke(t.Context(), revoke)) // comes again, late
			must(t, s.reinstate(t.Context(), reinstate))
			record := w.record(t, kms)
			if record.Revoked != nil || record.Reinstated == nil || record.Newest().Revoked == nil {
				t.Fatalf("write %d, after %v: %+v", at, after, record)
			}
			if entries := w.entries(t); len(entries) != 2 || entries[0].Action != "client.revoke" || entries[1].Action != "client.reinstate" {
				t.Errorf("write %d, after %v: %+v", at, after, entries)
			}
			if n, m := len(bustest.Stored(t, w.Server, event.CredentialRevoked)), len(bustest.Stored(t, w.Server, event.ClientReinstated)); n != 1 || m != 1 {
				t.Errorf("write %d, after %v: told %d and %d times", at, after, n, m)
			}
			if got := serialsOf(w.list(t)); len(got) != 1 {
				t.Errorf("write %d, after %v: on the CRL: %q", at, after, got)
			}
		}
		if k.writes < at {
			if at < 8 {
				t.Fatalf("only %d writes", k.writes)
			}
			return
		}
	}
}

// What cannot be written down is not done.
func TestNoEntryNoRevocation(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	s.ledger = mortalLedger{s.ledger, &killer{at: 1}}
	if err := s.revoke(t.Context(), w.revocation(t, "1", kms, fleet.KeyCompromise)); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	if w.record(t, kms).Revoked != nil {
		t.Error("revoked without an entry")
	}
}

// A client that was never issued anything can be revoked, and one that is gone.
func TestRevokeBeforeTheFirstGeneration(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	must(t, s.revoke(t.Context(), w.revocation(t, "1", kms, fleet.AffiliationChanged)))
	w.file(t, 1, kms)
	must(t, s.issue(t.Context(), w.order(t, "first", 1, kms)))
	if r := w.record(t, kms); r.Revoked == nil || len(r.Generations) > 0 {
		t.Errorf("%+v", r)
	}
}

func TestStandingRefusesNonsense(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	for name, command := range map[string]event.RevokeCommand{
		"reason": {Client: kms, Reason: "because", By: "admin", At: clock.Wall()},
		"client": {Client: fleet.ClientKey{Kind: "kms", Instance: "a/b"}, Reason: fleet.Superseded, By: "admin", At: clock.Wall()},
		"nobody": {Client: kms, Reason: fleet.Superseded, At: clock.Wall()},
		"never":  {Client: kms, Reason: fleet.Superseded, By: "admin"},
	} {
		e, err := event.Revoke.New(event.Meta{Source: "gateway", Cluster: cluster, Key: []string{name}, Time: clock.Wall()}, command)
		must(t, err)
		if err := s.revoke(t.Context(), e); !bus.IsPermanent(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Issuers side by side keep one list, whose number never goes back; it is signed
// again before it is old, and on a clock that is fast as well.
func TestListsAreKeptFresh(t *testing.T) {
	w := newWorld(t)
	start := clock.Wall()
	fast := clock.Fast(start, start, 5*24*3600) // a day in 0.2 s
	for range 2 {
		env := w.env(t)
		env.Clock = fast
		bustest.Run(t, func(ctx context.Context) error { return Run(ctx, env, w.config) })
	}
	var numbers []int64
	bustest.Eventually(t, func() error {
		docs := bucket[fleet.Authority](t, w, bus.Authority)
		e, err := docs.Get(t.Context(), fleet.AuthorityKey)
		if err != nil {
			return err
		}
		list, err := bucket[fleet.RevocationList](t, w, bus.Authority).Get(t.Context(), fleet.ListKey(e.Value.ActiveCA().ID))
		if err != nil {
			return err
		}
		if n := list.Value.Number; len(numbers) == 0 || numbers[len(numbers)-1] != n {
			numbers = append(numbers, n)
		}
		if len(numbers) < 4 {
			return fmt.Errorf("signed %d times", len(numbers))
		}
		return nil
	})
	if !slices.IsSorted(numbers) {
		t.Errorf("numbers %d", numbers)
	}
}

// Two issuers that sign at the same time lose nothing.
func TestIssuersShareAList(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	var clients []fleet.ClientKey
	for i := range 6 {
		clients = append(clients, fleet.ClientKey{Kind: "node-agent", Instance: fmt.Sprintf("host-%d", i)})
	}
	w.prove(t, s, 1, clients...)
	var running sync.WaitGroup
	for i, key := range clients {
		other := w.service(t)
		running.Go(func() {
			if err := other.revoke(t.Context(), w.revocation(t, fmt.Sprint(i), key, fleet.KeyCompromise)); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	if got := serialsOf(w.list(t)); len(got) != len(clients) {
		t.Errorf("on the CRL: %q", got)
	}
}

// After a restore no list has what the records have; one that was damaged is
// made anew.
func TestListsFollowFromTheRecords(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	_, err := w.credentials.Edit(t.Context(), cluster, func(doc *fleet.Credentials) error {
		doc.Clients[kms].Revoked = &fleet.Revocation{At: clock.Wall().Truncate(time.Second), Reason: fleet.Unspecified}
		return nil
	})
	must(t, err)
	lists := bucket[fleet.RevocationList](t, w, bus.Authority)
	authority := w.authority(t)
	id := authority.ActiveCA().ID
	_, err = lists.Create(t.Context(), fleet.ListKey(id), fleet.RevocationList{CA: id, Number: 5, DER: []byte("damaged")})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.keepLists(ctx) }()
	bustest.Eventually(t, func() error {
		e, err := lists.Get(t.Context(), fleet.ListKey(id))
		if err == nil && len(e.Value.Ends) != 1 {
			err = fmt.Errorf("%d entries", len(e.Value.Ends))
		}
		return err
	})
	cancel()
	must(t, <-ended)
	if got := serialsOf(w.list(t)); len(got) != 1 {
		t.Errorf("on the CRL: %q", got)
	}
}

// openssl, where it is there, says the same of the list as we do.
func TestOpenSSLReadsTheList(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Log("no openssl here: only crypto/x509 has looked at the list")
	}
	w := newWorld(t)
	s := w.service(t)
	w.file(t, 1, kms, csi)
	must(t, s.issue(t.Context(), w.order(t, "first", 1, kms, csi)))
	dir := t.TempDir()
	write := func(name string, raw []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, raw, 0o600))
		return path
	}
	bad, _ := w.pickup(t, kms)
	good, _ := w.pickup(t, csi)
	must(t, s.revoke(t.Context(), w.revocation(t, "1", kms, fleet.KeyCompromise)))
	list := w.list(t)
	if list.RevokedCertificateEntries[0].SerialNumber.Cmp(leaf(t, bad.Chain).SerialNumber) != 0 {
		t.Fatal("another certificate is on the list")
	}
	if openssl == "" {
		return
	}
	crl := write("crl.der", list.Raw)
	out, err := exec.CommandContext(t.Context(), openssl, "crl", "-inform", "DER", "-in", crl, "-text").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Key Compromise") || !strings.Contains(string(out), "X509v3 CRL Number") {
		t.Fatalf("%v\n%s", err, out)
	}
	pem := write("crl.pem", out[strings.Index(string(out), "-----BEGIN"):])
	authority := w.authority(t)
	ca := write("ca.pem", authority.ActiveCA().Certificate)
	for name, chain := range map[string][]byte{"good": good.Chain, "bad": bad.Chain} {
		out, err := exec.CommandContext(t.Context(), openssl, "verify", "-crl_check", "-CAfile", ca, "-CRLfile", pem, write(name, chain)).CombinedOutput()
		if (err == nil) != (name == "good") || name == "bad" && !strings.Contains(string(out), "revoked") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// F27: what a client had before it was recovered is revoked, also where it is
// still valid: it may be in the hands of somebody else.
func TestF27_RecoveryPutsWhatWasBeforeOnTheList(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms, csi)
	before := w.record(t, kms).Newest().Certificate.Serial
	w.file(t, 2, kms)
	at := clock.Wall().Truncate(time.Second)
	e := issueEvent(t, "recovery", event.IssueCommand{Reason: fleet.ReasonRecovery, At: at, Clients: []event.IssueClient{{
		Client: kms, Generation: 2, Life: fleet.Life{Certificate: at.Add(fleet.Day), Token: at.Add(fleet.Day)}, RenewAt: at.Add(time.Hour),
	}}})
	for range 2 {
		must(t, s.issue(t.Context(), e))
		if got := serialsOf(w.list(t)); len(got) != 1 || got[0] != before+" reason 4" {
			t.Fatalf("on the CRL: %q", got)
		}
	}
}

// An entry stays on the list until it was on one that is younger than the end of
// its certificate (RFC 5280, 3.3), and the number goes up whatever the clock does.
func TestEntriesStayUntilTheirCertificateHasEnded(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	w.prove(t, s, 1, kms)
	must(t, s.revoke(t.Context(), w.revocation(t, "1", kms, fleet.KeyCompromise)))
	end := w.record(t, kms).Newest().Certificate.NotAfter
	number := w.list(t).Number
	for _, step := range []struct {
		name    string
		now     time.Time
		entries int
		signed  bool
	}{
		{"at once", clock.Wall(), 1, false},
		{"the day before its end", end.Add(-fleet.Day), 1, true},
		{"an hour later", end.Add(-fleet.Day + time.Hour), 1, false},
		{"the clock was ahead", end.Add(-10 * fleet.Day), 1, true},
		{"the clock is ahead, past its end", end.Add(fleet.Day), 1, true},
		{"and right again: it is as revoked as it was", end.Add(-5 * fleet.Day), 1, true},
		{"the day after: the last list with it", end.Add(fleet.Day), 1, true},
		{"two days after", end.Add(2*fleet.Day + time.Minute), 0, true},
	} {
		s.lists.clock = clock.Fast(clock.Wall(), step.now, 1)
		if _, err := s.lists.refresh(t.Context(), nil, false); err != nil {
			t.Fatal(err)
		}
		list := w.list(t)
		if got := len(list.RevokedCertificateEntries); got != step.entries || (list.Number.Cmp(number) > 0) != step.signed {
			t.Errorf("%s: %d entries, number %d after %d", step.name, got, list.Number, number)
		}
		if step.signed && (list.NextUpdate.Sub(step.now).Round(time.Minute) != fleet.ListLife || list.ThisUpdate.After(step.now.Add(-fleet.Backdate+time.Minute))) {
			t.Errorf("%s: from %s to %s", step.name, list.ThisUpdate, list.NextUpdate)
		}
		number = list.Number
	}
	// Signed while the clock is behind the last number, it goes on above it.
	s.lists.clock = clock.Fast(clock.Wall(), end.Add(-20*fleet.Day), 1)
	w.prove(t, s, 1, csi)
	must(t, s.lists.add(t.Context(), []fleet.Former{{
		Serial: w.record(t, csi).Newest().Certificate.Serial, Issuer: w.record(t, csi).Newest().Certificate.Issuer,
		NotAfter: end, Revoked: &fleet.Revocation{At: clock.Wall(), Reason: fleet.Superseded},
	}}))
	if got := w.list(t).Number; got.Cmp(number) <= 0 {
		t.Errorf("number %d after %d", got, number)
	}
}

// overtakenList lets another issuer store its list after this one has put its own
// into the ledger, and before it stores it.
type overtakenList struct {
	documents[fleet.RevocationList]
	once *sync.Once
	by   func()
}

func (o overtakenList) Edit(ctx context.Context, key string, f func(*fleet.RevocationList) error) (kv.Entry[fleet.RevocationList], error) {
	return o.documents.Edit(ctx, key, func(doc *fleet.RevocationList) error {
		err := f(doc)
		o.once.Do(o.by)
		return err
	})
}

// The newest CRL that the ledger names is the one that is handed out, also where
// two issuers have revoked at once: else one could not say that an older one was
// put back.
func TestNoNewerListIsNamedThanIsHandedOut(t *testing.T) {
	w := newWorld(t)
	s, other := w.service(t), w.service2(t)
	w.prove(t, s, 1, kms)
	e := w.revocation(t, "1", kms, fleet.KeyCompromise)
	s.lists.documents = overtakenList{s.lists.documents, &sync.Once{}, func() { must(t, other.revoke(t.Context(), e)) }}
	s.lists.clock = clock.Fast(clock.Wall(), clock.Wall().Add(time.Minute), 1) // a little ahead: it names the higher number
	must(t, s.revoke(t.Context(), e))
	named, held := int64(0), w.list(t).Number.Int64()
	for _, entry := range w.chain(t) {
		for _, signed := range entry.Signed {
			if signed.Kind == audit.KindList {
				number, err := strconv.ParseInt(signed.ID, 10, 64)
				must(t, err)
				named = max(named, number)
			}
		}
	}
	if named != held || len(serialsOf(w.list(t))) != 1 {
		t.Errorf("number %d is handed out, and the ledger names %d", held, named)
	}
}

// While two CAs are trusted each has its list, with the certificates that it has
// signed; a verifier that has only one of them loses nothing.
func TestEachCAHasItsList(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	want := map[string]string{} // CA -> serial
	for generation, day := range []int{1, 261, 276} {
		s.later(t, time.Duration(day)*fleet.Day)
		s.lists.clock = s.env.Clock
		w.file(t, generation+1, kms)
		must(t, s.issue(t.Context(), s.orderAt(t, fmt.Sprint(day), generation+1)))
		g := w.record(t, kms).Newest()
		want[g.Certificate.Issuer] = g.Certificate.Serial
	}
	if len(want) != 2 {
		t.Fatalf("%d CAs have signed", len(want))
	}
	must(t, s.revoke(t.Context(), w.revocation(t, "1", kms, fleet.KeyCompromise)))
	for _, c := range w.authority(t).CAs {
		doc, err := bucket[fleet.RevocationList](t, w, bus.Authority).Get(t.Context(), fleet.ListKey(c.ID))
		must(t, err)
		list, err := x509.ParseRevocationList(doc.Value.DER)
		must(t, err)
		must(t, list.CheckSignatureFrom(leaf(t, c.Certificate)))
		if got := serialsOf(list); len(got) != 1 || !strings.HasPrefix(got[0], want[c.ID]+" ") {
			t.Errorf("list of CA %d: %q, want %s", c.Number, got, want[c.ID])
		}
	}
}
