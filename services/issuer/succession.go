package issuer

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
	"github.com/rotor-fleet/rotor/services/issuer/internal/keystore"
)

// slackOf returns how long before the end of a CA its successor signs: the life of
// a leaf by default, 90 of 365 days. With less left, the CA would have to cut
// leaves, and an outage of a month could expire a client.
func slackOf(c *fleet.CA) time.Duration { return c.NotAfter.Sub(c.PreparedAt()) * 90 / 365 }

// leadOf returns how long a successor is trusted before it signs, so that agents
// and verifiers load it: 15 of 365 days. It is time and no proof.
func leadOf(c *fleet.CA) time.Duration { return c.NotAfter.Sub(c.PreparedAt()) * 15 / 365 }

// succession is the last resort of the CA: it gives the authority a successor
// when the CA comes near its end and nobody has rotated it, so that a fleet that
// nobody looks after still has an authority after a year. Its phases pass by
// time alone: a rotation that is driven by proof comes long before, and then
// there is nothing to do here. What such a rotation has prepared is left to it,
// until the active CA has expired: then nothing works any more, and it signs.
type succession struct {
	founder
	documents documents[fleet.Authority]
	tool      ca.Tool
	metrics   *metrics // set once there are any

	mu   sync.Mutex
	next time.Time // when to look again

	wake chan struct{} // holds one while it shall look at once
}

func newSuccession(f founder, tool ca.Tool) *succession {
	return &succession{founder: f, documents: f.documents, tool: tool, wake: make(chan struct{}, 1)}
}

// move is one change of phase by time; there may be none.
type move = fleet.Move

const (
	stay     move = ""
	prepare       = fleet.MovePrepare  // make a successor that is trusted and signs nothing
	activate      = fleet.MoveActivate // let it sign
	retire        = fleet.MoveRetire   // trust one no more that has expired
)

// succeed decides what is due now, and when to look again. CA is the number of
// the generation that moves; of the one to come, if it is to be prepared.
func succeed(doc fleet.Authority, now time.Time) (m move, number int, next time.Time) {
	active := doc.ActiveCA()
	if active == nil {
		return stay, 0, time.Time{}
	}
	due := func(moment time.Time) bool {
		if now.Before(moment) && (next.IsZero() || moment.Before(next)) {
			next = moment
		}
		return !now.Before(moment)
	}
	var incoming *fleet.CA
	for i := range doc.CAs {
		c := &doc.CAs[i]
		switch c.Phase {
		case fleet.PhaseIncoming:
			incoming = c
		case fleet.PhaseOutgoing:
			if due(c.NotAfter.Add(time.Second)) { // valid at its notAfter (RFC 5280, 4.1.2.5)
				return retire, c.Number, next
			}
		}
	}
	switch {
	case incoming == nil:
		if due(active.NotAfter.Add(-slackOf(active) - leadOf(active))) {
			return prepare, doc.NextCA(), next
		}
	case due(activation(active, incoming)):
		return activate, incoming.Number, next
	}
	return stay, 0, next
}

// activation returns when a successor begins to sign: when leaves would have to
// be cut, and not before it was trusted for a while. Made late, it waits for no
// longer than half of what is left. One that a rotation has made is that
// rotation's matter until the active CA has expired: it may still lack the proof
// that all trust it, and no proof comes any more when nothing can be signed.
func activation(active, incoming *fleet.CA) time.Time {
	if !incoming.Succession {
		return active.NotAfter.Add(time.Second) // valid at its notAfter (RFC 5280, 4.1.2.5)
	}
	prepared := incoming.PreparedAt()
	trusted := prepared.Add(min(leadOf(active), active.NotAfter.Sub(prepared)/2))
	if full := active.NotAfter.Add(-slackOf(active)); trusted.Before(full) {
		return full
	}
	return trusted
}

// run keeps the authority until ctx ends.
func (s *succession) run(ctx context.Context) error {
	for attempt := 1; ctx.Err() == nil; attempt++ {
		pause := time.Duration(0)
		err := s.keep(ctx)
		var next time.Time
		if err == nil {
			next, err = s.retireKeys(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.env.Log.Error("the authority cannot be kept", "attempt", attempt, "err", err)
			pause = bus.Backoff(attempt, time.Minute)
		} else {
			attempt = 0
			pause = s.pause(next)
		}
		s.wait(ctx, pause)
	}
	return nil
}

// pause returns how long nothing is due, on the time of the machine, if a token key
// is due next at a moment that may be zero.
func (s *succession) pause(key time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	pause := s.env.Clock.Until(s.next)
	if !key.IsZero() {
		pause = min(pause, s.env.Clock.Until(key))
	}
	return max(pause, minPause)
}

// wait waits until it is time, or until something has changed.
func (s *succession) wait(ctx context.Context, pause time.Duration) {
	waiting, done := context.WithCancel(ctx)
	defer done()
	go func() {
		select {
		case <-s.wake:
			done()
		case <-waiting.Done():
		}
	}()
	_ = clock.Sleep(waiting, pause)
}

// look has keep look again, as something has changed.
func (s *succession) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = time.Time{}
	select {
	case s.wake <- struct{}{}:
	default: // it is woken already
	}
}

// keep makes the moves that are due, one after the other. It is also called
// before anything is signed: a timer may be late, as on a machine that slept.
func (s *succession) keep(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.env.Clock.Now().Before(s.next) {
		return nil
	}
	for {
		m, doc, err := s.move(ctx)
		if err != nil {
			return fmt.Errorf("succession of the CA: %w", err)
		}
		if m == stay {
			now := s.env.Clock.Now()
			if _, _, s.next = succeed(doc, now); s.next.IsZero() { // a rotation is under way: look again in a while
				s.next = now.Add(time.Duration(float64(clock.MaxWait) * s.env.Clock.Rate()))
			}
			return nil
		}
		if err := s.announce(ctx, doc); err != nil {
			return err
		}
	}
}

// move makes the one move that is due, unless another issuer has made it.
func (s *succession) move(ctx context.Context) (move, fleet.Authority, error) {
	known, err := s.documents.Get(ctx, fleet.AuthorityKey)
	if err != nil {
		return stay, known.Value, err
	}
	if known.Value.Restoring {
		return stay, known.Value, errRestoring
	}
	now := s.env.Clock.Now()
	m, number, _ := succeed(known.Value, now)
	if m == stay {
		return stay, known.Value, nil
	}
	sealer, err := s.sealer(ctx, s.tool)
	if err != nil {
		return m, known.Value, err
	}
	var root ca.Root
	if m == prepare {
		life := known.Value.ActiveCA().NotAfter.Sub(known.Value.ActiveCA().PreparedAt())
		if root, err = s.root(ctx, known.Value, ca.RootRequest{Number: number, At: now, Life: min(life, fleet.AuthorityLife)}); err != nil {
			return m, known.Value, err
		}
	}
	if err := s.writeDown(ctx, known.Value, m, number); err != nil {
		return m, known.Value, err
	}
	made := false
	stored, err := s.documents.Edit(ctx, fleet.AuthorityKey, func(doc *fleet.Authority) error {
		again, same, _ := succeed(*doc, now)
		if made = again == m && same == number && !doc.Restoring; !made {
			return kv.Keep
		}
		shift(doc, m, number, now)
		if m == prepare {
			doc.CAs = append(doc.CAs, fleet.CA{
				ID: root.ID, Number: number, Phase: fleet.PhaseIncoming, Certificate: root.Certificate,
				NotBefore: root.NotBefore, NotAfter: root.NotAfter, Succession: true,
			})
		}
		doc.Bundle.Version, doc.Bundle.Certificates = doc.NextBundle()
		if m == prepare {
			doc.CAs[len(doc.CAs)-1].Bundle = doc.Bundle.Version
		}
		return sealer.seal(ctx, doc)
	})
	if err == nil && made {
		s.report(stored.Value, m, number)
	}
	return m, stored.Value, err
}

// writeDown puts a move into the ledger before it is made. Several issuers, and a
// repeat, make one entry each at most; a number comes again after a restore only,
// which has another epoch.
func (s *succession) writeDown(ctx context.Context, doc fleet.Authority, m move, number int) error {
	return s.ledger.Append(ctx, audit.Entry{
		Actor: name, Action: "authority." + string(m), Reason: "succession",
		Request: fmt.Sprintf("succession %s %d %s", m, number, doc.Epoch), Details: map[string]string{"number": strconv.Itoa(number)},
	})
}

// shift changes the phases of what there is.
func shift(doc *fleet.Authority, m move, number int, now time.Time) {
	now = now.UTC().Truncate(time.Second)
	for i := range doc.CAs {
		c := &doc.CAs[i]
		switch {
		case m == activate && c.Number == number:
			c.Phase, c.ActivatedAt = fleet.PhaseActive, now
		case m == activate && c.Phase == fleet.PhaseActive:
			c.Phase = fleet.PhaseOutgoing
		case m == retire && c.Number == number:
			c.Phase, c.RetiredAt = fleet.PhaseRetired, now
		}
	}
}

// root makes the key and the certificate of a successor. The key may be there
// from a run that was interrupted.
func (s *succession) root(ctx context.Context, doc fleet.Authority, r ca.RootRequest) (ca.Root, error) {
	if err := s.keys.Create(ctx, keyCA(r.Number), keystore.ECDSAP256); err != nil {
		return ca.Root{}, alarm(err)
	}
	signer, err := s.keys.Signer(ctx, keyCA(r.Number))
	if err != nil {
		return ca.Root{}, alarm(err)
	}
	secret, err := s.keys.Secret(ctx, keyDerivation)
	if err != nil {
		return ca.Root{}, alarm(err)
	}
	tool := s.tool
	tool.Serial = epoch{secret, doc.Epoch}
	return tool.NewRoot(signer, r, announceCA(ctx, s.ledger))
}

// report says loudly what has happened: a fleet should not come to this.
func (s *succession) report(doc fleet.Authority, m move, number int) {
	i := slices.IndexFunc(doc.CAs, func(c fleet.CA) bool { return c.Number == number })
	c, active := doc.CAs[i], doc.ActiveCA()
	if s.metrics != nil {
		s.metrics.notAfter.Set(float64(active.NotAfter.Unix()))
	}
	args := []any{"ca", c.ID, "number", number, "notAfter", c.NotAfter, "bundle", doc.Bundle.Version}
	switch m {
	case prepare:
		s.env.Log.Warn("LAST RESORT: nobody has rotated the CA and it comes near its end; a successor is trusted from now on",
			append(args, "active", active.ID, "activeNotAfter", active.NotAfter, "signsFrom", activation(active, &c))...)
	case activate:
		s.env.Log.Warn("LAST RESORT: the successor of the CA signs from now on; nobody has proven that every agent has loaded it", args...)
	case retire:
		s.env.Log.Info("a CA has expired and is not trusted any more", args...)
	}
}
