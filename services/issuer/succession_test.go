package issuer

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/bustest"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/identity"
)

var day0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func onDay(d float64) time.Time { return day0.Add(time.Duration(d * float64(fleet.Day))) }

// generation returns a CA that was made on a day.
func caOf(number int, phase fleet.Phase, day float64) fleet.CA {
	return fleet.CA{Number: number, Phase: phase, NotBefore: onDay(day).Add(-fleet.Backdate), NotAfter: onDay(day + 365), Succession: number > 1}
}

// Each phase passes at its moment, not a second before; one that a rotation has
// prepared is left to it.
func TestSuccessionByTime(t *testing.T) {
	first := caOf(1, fleet.PhaseActive, 0)
	rotated := caOf(2, fleet.PhaseIncoming, 182)
	rotated.Succession, rotated.Rollout = false, "r1"
	short := caOf(1, fleet.PhaseActive, 0)
	short.NotAfter = onDay(73)
	for _, tt := range []struct {
		name   string
		cas    []fleet.CA
		now    time.Time
		move   move
		number int
		next   time.Time
	}{
		{"young", []fleet.CA{first}, onDay(100), stay, 1, onDay(260)},
		{"a second before", []fleet.CA{first}, onDay(260).Add(-time.Second), stay, 1, onDay(260)},
		{"prepare", []fleet.CA{first}, onDay(260), prepare, 2, time.Time{}},
		{"wait", []fleet.CA{first, caOf(2, fleet.PhaseIncoming, 260)}, onDay(260), stay, 2, onDay(275)},
		{"activate", []fleet.CA{first, caOf(2, fleet.PhaseIncoming, 260)}, onDay(275), activate, 2, time.Time{}},
		{"prepared late: trusted for a while first", []fleet.CA{first, caOf(2, fleet.PhaseIncoming, 280)}, onDay(281), stay, 2, onDay(295)},
		{"prepared very late: for half of what is left", []fleet.CA{first, caOf(2, fleet.PhaseIncoming, 361)}, onDay(361), stay, 2, onDay(363)},
		{"prepared after the end", []fleet.CA{first, caOf(2, fleet.PhaseIncoming, 400)}, onDay(400), activate, 2, time.Time{}},
		{"a rotation has prepared one", []fleet.CA{first, rotated}, onDay(300), stay, 2, onDay(365).Add(time.Second)},
		{"and comes to no end, up to the last moment", []fleet.CA{first, rotated}, onDay(365), stay, 2, onDay(365).Add(time.Second)},
		{"and nothing works any more", []fleet.CA{first, rotated}, onDay(365).Add(time.Second), activate, 2, time.Time{}},
		{"a life of 73 days", []fleet.CA{short}, onDay(51), stay, 1, onDay(52)},
		{"prepare after 52 of 73 days", []fleet.CA{short}, onDay(52), prepare, 2, time.Time{}},
		{"valid at its end", []fleet.CA{caOf(1, fleet.PhaseOutgoing, 0), caOf(2, fleet.PhaseActive, 260)}, onDay(365), stay, 2, onDay(365).Add(time.Second)},
		{"retire", []fleet.CA{caOf(1, fleet.PhaseOutgoing, 0), caOf(2, fleet.PhaseActive, 260)}, onDay(365).Add(time.Second), retire, 1, time.Time{}},
		{"the next year", []fleet.CA{caOf(1, fleet.PhaseRetired, 0), caOf(2, fleet.PhaseActive, 260)}, onDay(400), stay, 2, onDay(520)},
		{"nothing", nil, onDay(0), stay, 0, time.Time{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, number, next := succeed(fleet.Authority{CAs: tt.cas}, tt.now)
			if m != tt.move || m != stay && number != tt.number || m == stay && !next.Equal(tt.next) {
				t.Errorf("%q of %d, next %s; want %q of %d, next %s", m, number, next, tt.move, tt.number, tt.next)
			}
		})
	}
}

// later moves the clock of an issuer to a moment after it was made.
func (s *service) later(t testing.TB, after time.Duration) {
	t.Helper()
	s.env.Clock = clock.Fast(clock.Wall(), clock.Wall().Add(after), 1)
	s.authority.succession.env.Clock = s.env.Clock
}

// orderAt is the command to issue a generation of kms on a day.
func (s *service) orderAt(t testing.TB, what string, generation int) event.Event {
	t.Helper()
	at := s.env.Clock.Now().Truncate(time.Second)
	return issueEvent(t, what, event.IssueCommand{At: at, Clients: []event.IssueClient{{
		Client: kms, Generation: generation, Life: fleet.Life{Certificate: at.Add(90 * fleet.Day), Token: at.Add(90 * fleet.Day)}, RenewAt: at.Add(50 * fleet.Day),
	}}})
}

func phasesOf(doc fleet.Authority) string {
	var all []string
	for _, c := range doc.CAs {
		all = append(all, string(c.Phase))
	}
	return strings.Join(all, " ")
}

// A fleet whose CA nobody rotates still has one: every step trusts the successor
// before it signs, each bundle is signed by the fleet key, no leaf is cut or
// outlives its CA, and every step is told of once.
func TestSuccession(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	for generation, tt := range []struct {
		day    float64
		phases string
		bundle int
		signs  int // number of the CA that signs
		trust  int
	}{
		{1, "active", 1, 1, 1},
		{259, "active", 1, 1, 1},
		{261, "active incoming", 2, 1, 2},
		{276, "outgoing active", 3, 2, 2},
		{364, "outgoing active", 3, 2, 2},
		{366, "retired active", 4, 2, 1},
		{366 + 275, "retired retired active", 7, 3, 1}, // asleep meanwhile
	} {
		s.later(t, time.Duration(tt.day*float64(fleet.Day)))
		w.file(t, generation+1, kms)
		must(t, s.issue(t.Context(), s.orderAt(t, string(rune('a'+generation)), generation+1)))
		doc := w.authority(t)
		if got := phasesOf(doc); got != tt.phases || doc.Bundle.Version != tt.bundle || len(doc.Bundle.Certificates) != tt.trust {
			t.Fatalf("day %v: %s, bundle %d with %d certificates; want %+v", tt.day, got, doc.Bundle.Version, len(doc.Bundle.Certificates), tt)
		}
		g := w.record(t, kms).Newest()
		if signer := doc.CAs[tt.signs-1]; g.Certificate.Issuer != signer.ID || g.Cut || g.Certificate.NotAfter.After(signer.NotAfter) {
			t.Errorf("day %v: generation %d by %s, cut %v", tt.day, g.Number, g.Certificate.Issuer, g.Cut)
		}
		p, _ := w.pickup(t, kms)
		if _, err := leaf(t, p.Chain).Verify(x509.VerifyOptions{
			Roots: w.pool(t), CurrentTime: s.env.Clock.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}); err != nil {
			t.Errorf("day %v: %v", tt.day, err)
		}
		must(t, s.step(t.Context(), w.report(t, event.CredentialProven, generation+1, kms)))
	}
	prepared, activated, retired := bustest.Stored(t, w.Server, event.AuthorityPrepared), bustest.Stored(t, w.Server, event.AuthorityActivated), bustest.Stored(t, w.Server, event.AuthorityRetired)
	if len(prepared) != 2 || len(activated) != 4 || len(retired) != 2 || !prepared[0].Succession || !activated[2].Succession {
		t.Errorf("prepared %+v\nactivated %+v\nretired %+v", prepared, activated, retired)
	}
	must(t, w.start(t)) // tells nothing again
	if n := len(bustest.Stored(t, w.Server, event.AuthorityPrepared)); n != 2 {
		t.Errorf("%d facts about preparation after a restart", n)
	}
}

// An issuer that was off past the end of its CA makes a successor before it
// signs anything (bugs: signing under an expired root, hibernated cluster, lost
// timer after suspend).
func TestHibernatedPastTheEndOfTheCA(t *testing.T) {
	w := newWorld(t)
	must(t, w.start(t))
	old := w.authority(t).CAs[0]
	env := w.env(t)
	env.Log = bustest.Quiet()
	env.Clock = clock.Fast(clock.Wall(), clock.Wall().Add(400*fleet.Day), 1)
	s, err := open(t.Context(), env, w.Bus, w.config)
	must(t, err)
	doc := w.authority(t)
	if phasesOf(doc) != "retired active" || len(doc.Bundle.Certificates) != 1 || doc.Bundle.Version < 2 {
		t.Fatalf("%s, bundle %d", phasesOf(doc), doc.Bundle.Version)
	}
	w.file(t, 1, kms)
	must(t, s.issue(t.Context(), s.orderAt(t, "first", 1)))
	if g := w.record(t, kms).Newest(); g == nil || g.Certificate.Issuer == old.ID || g.Cut {
		t.Errorf("%+v", g)
	}
	// The gateway gets its certificate of the new one.
	_, csr := newCSR(t)
	e, err := event.Certify.New(event.Meta{Source: "gateway", Cluster: "_gateway-g1", Key: []string{"k"}, Time: s.env.Clock.Now()},
		event.CertifyCommand{CSR: csr, Names: []string{"localhost"}, At: s.env.Clock.Now()})
	must(t, err)
	must(t, s.certify(t.Context(), e))
	stored, err := w.bundles.Get(t.Context(), "_gateway-g1")
	must(t, err)
	if _, err := leaf(t, stored.Value.Server.Chain).Verify(x509.VerifyOptions{Roots: w.pool(t), CurrentTime: s.env.Clock.Now(), DNSName: "localhost"}); err != nil {
		t.Error(err)
	}
}

// Issuers that share the work make one successor.
func TestOneSuccessor(t *testing.T) {
	w := newWorld(t)
	must(t, w.start(t))
	errs := make([]error, 4)
	var all sync.WaitGroup
	for i := range errs {
		env := w.env(t)
		env.Log = bustest.Quiet()
		env.Clock = clock.Fast(clock.Wall(), clock.Wall().Add(300*fleet.Day), 1)
		all.Go(func() { _, errs[i] = open(t.Context(), env, w.Bus, w.config) })
	}
	all.Wait()
	must(t, errors.Join(errs...))
	doc := w.authority(t)
	if phasesOf(doc) != "active incoming" || doc.Bundle.Version != 2 {
		t.Errorf("%s, bundle %d", phasesOf(doc), doc.Bundle.Version)
	}
	block, _ := pem.Decode(doc.CAs[1].Certificate)
	c, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	if c.Subject.CommonName != "Rotor CA 2" || !c.IsCA || identity.Serial(c) == "" {
		t.Errorf("%s", c.Subject)
	}
}

// Killed before or after each write and run again, a succession ends the same,
// and every step of it is told of.
func TestSuccessionKilledAnywhere(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		k := &killer{}
		for _, after := range []bool{false, true} {
			w := newWorld(t)
			must(t, w.start(t))
			first := w.service(t)
			first.later(t, 400*fleet.Day)
			k = &killer{at: at, after: after}
			s := first.authority.succession
			s.keys, s.documents, s.facts = mortalKeys{s.keys, k}, mortal[fleet.Authority]{s.documents, k}, mortalPublisher{s.facts, k}
			s.ledger = mortalLedger{s.ledger, k}
			err := s.keep(t.Context())
			if k.writes < at {
				must(t, err)
				break // there is no such write
			}
			if !errors.Is(err, errKilled) {
				t.Fatalf("write %d: %v", at, err)
			}
			again := w.service(t)
			again.later(t, 400*fleet.Day)
			must(t, again.authority.succession.keep(t.Context()))
			doc := w.authority(t)
			if phasesOf(doc) != "retired active" || len(doc.CAs) != 2 {
				t.Fatalf("write %d, after %v: %s", at, after, phasesOf(doc))
			}
			w.pool(t)
			var actions []string
			for _, e := range w.entries(t) {
				actions = append(actions, e.Action+" "+e.Details["number"])
			}
			if got := strings.Join(actions, ", "); got != "authority.prepare 2, authority.activate 2, authority.retire 1" {
				t.Errorf("write %d, after %v: ledger %s", at, after, got)
			}
			for kind, want := range map[event.Kind[event.Authority]]int{event.AuthorityPrepared: 1, event.AuthorityActivated: 3, event.AuthorityRetired: 1} {
				if n := len(bustest.Stored(t, w.Server, kind)); n != want {
					t.Errorf("write %d, after %v: %d facts %s, want %d", at, after, n, kind.Type(), want)
				}
			}
		}
		if k.writes < at {
			return
		}
	}
}

// What a rotation of the CA has under way is not disturbed, and a store that is
// being restored is left alone.
func TestSuccessionKeepsOut(t *testing.T) {
	w := newWorld(t)
	s := w.service(t)
	_, err := bucket[fleet.Authority](t, w, bus.Authority).Edit(t.Context(), fleet.AuthorityKey, func(doc *fleet.Authority) error {
		doc.Restoring = true
		return nil
	})
	must(t, err)
	s.later(t, 300*fleet.Day)
	if err := s.authority.succession.keep(t.Context()); !errors.Is(err, errRestoring) {
		t.Errorf("%v", err)
	}
	if doc := w.authority(t); len(doc.CAs) != 1 {
		t.Errorf("%s", phasesOf(doc))
	}
}
