package issuer

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/services/issuer/internal/ca"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// lists keeps the CRL of each CA that is not retired, and of one that is
// compromised until it has expired, for verifiers that have not heard of it: with every certificate that
// was revoked and has not ended, and never old. It is safe for concurrent use,
// also by several issuers: what one has signed the others find.
type lists struct {
	documents documents[fleet.RevocationList]
	authority *authorities
	ledger    ledger
	clock     clock.Clock
	log       *slog.Logger
	metrics   *metrics
	shown     map[string]bool // CAs with a series in the metrics; of keep alone
}

// add puts certificates on the lists of the CAs that have signed them. Those that
// are there already change nothing.
func (l *lists) add(ctx context.Context, revoked []fleet.Former) error {
	authority, err := l.authority.current(ctx)
	if err != nil {
		return err
	}
	for id, entries := range l.byCA(revoked) {
		signer, ok := authority.listers[id]
		if !ok {
			continue // a CA that is retired is trusted by nobody
		}
		if _, err := l.sign(ctx, signer, entries, false); err != nil {
			return err
		}
	}
	return nil
}

// byCA returns the entries for the list of each CA.
func (l *lists) byCA(revoked []fleet.Former) map[string][]ca.ListEntry {
	entries := map[string][]ca.ListEntry{}
	now := l.clock.Now()
	for _, f := range revoked {
		if now.After(f.NotAfter) {
			continue // only its token has not ended, and that is on no list
		}
		entries[f.Issuer] = append(entries[f.Issuer], ca.ListEntry{Serial: f.Serial, At: f.Revoked.At, Reason: f.Revoked.Reason.Code(), Ends: f.NotAfter})
	}
	return entries
}

// sign makes sure that the list of a CA has these entries and is not old. Where
// they are all there are, a list that cannot be read is made anew from them.
func (l *lists) sign(ctx context.Context, signer *ca.Authority, add []ca.ListEntry, all bool) (fleet.RevocationList, error) {
	signed, named := false, int64(0)
	e, err := l.documents.Edit(ctx, fleet.ListKey(signer.ID()), func(doc *fleet.RevocationList) error {
		now := l.clock.Now().UTC().Truncate(time.Second)
		signed = false
		have, err := entriesOf(signer, doc)
		switch {
		case err != nil && !all:
			return fmt.Errorf("%w: start an issuer again, it makes the list anew from the records", err)
		case err != nil:
			l.log.Error("ALARM: stored CRL is not what was signed; it is made anew from the records", "err", err)
		}
		merged, more := merge(have, add)
		// One from a clock that ran ahead would be good only in time to come.
		ahead := now.Before(doc.ThisUpdate)
		// Nor is one kept that is older than what this call has put into the ledger:
		// the newest that is named there is the one that is handed out.
		if !more && err == nil && !ahead && now.Before(refreshAt(doc)) && doc.Number >= named {
			return kv.Keep
		}
		// An entry stays until it was on a list that is younger than the end of
		// its certificate (RFC 5280, 3.3); one of a time to come was not.
		if !ahead {
			merged = slices.DeleteFunc(merged, func(e ca.ListEntry) bool { return doc.ThisUpdate.After(e.Ends) })
		}
		next := fleet.RevocationList{
			CA: signer.ID(), ThisUpdate: now.Add(-fleet.Backdate), NextUpdate: now.Add(fleet.ListLife),
			// The moment as number goes on above those of a list that was lost.
			Number: max(doc.Number+1, named+1, now.Unix()),
		}
		named = next.Number
		der, entries, err := signer.SignList(ca.ListRequest{Number: next.Number, ThisUpdate: next.ThisUpdate, NextUpdate: next.NextUpdate, Entries: merged}, announceList(ctx, l.ledger))
		if err != nil {
			return err
		}
		next.DER = der
		for _, e := range entries {
			next.Ends = append(next.Ends, e.Ends.Unix())
		}
		*doc, signed = next, true
		return nil
	})
	if err != nil {
		return e.Value, fmt.Errorf("CRL of CA %s: %w", signer.ID(), err)
	}
	if signed {
		l.log.InfoContext(ctx, "CRL signed", "ca", signer.ID(), "number", e.Value.Number, "entries", len(e.Value.Ends), "nextUpdate", e.Value.NextUpdate)
	}
	return e.Value, nil
}

// refreshAt is when a list is signed anew though nothing was revoked.
func refreshAt(doc *fleet.RevocationList) time.Time {
	if doc.Number == 0 {
		return time.Time{}
	}
	return doc.ThisUpdate.Add(fleet.Backdate + fleet.ListRefresh)
}

// entriesOf returns the entries of a stored list with the ends of their
// certificates.
func entriesOf(signer *ca.Authority, doc *fleet.RevocationList) ([]ca.ListEntry, error) {
	if doc.Number == 0 {
		return nil, nil
	}
	entries, err := signer.ReadList(doc.DER)
	if err != nil {
		return nil, err
	}
	if len(entries) != len(doc.Ends) {
		return nil, fmt.Errorf("%w: CRL of CA %s has %d entries and %d ends", fleet.ErrInvalid, signer.ID(), len(entries), len(doc.Ends))
	}
	for i := range entries {
		entries[i].Ends = time.Unix(doc.Ends[i], 0).UTC()
	}
	return entries, nil
}

// merge adds entries whose serial number is not there yet: the first reason stays.
func merge(have, add []ca.ListEntry) (merged []ca.ListEntry, more bool) {
	known := map[string]bool{}
	for _, e := range have {
		known[e.Serial] = true
	}
	merged = have
	for _, e := range add {
		if !known[e.Serial] {
			merged, more = append(merged, e), true
			known[e.Serial] = true
		}
	}
	return merged, more
}

// minPause bounds how often lists are looked at on a fast clock.
const minPause = 100 * time.Millisecond

// keep signs the lists before they are old, until ctx ends. It begins with all
// that the records have as revoked: after a restore no list has it.
func (l *lists) keep(ctx context.Context, records records) error {
	for attempt, first := 1, true; ; {
		var revoked []fleet.Former
		var err error
		pause := time.Duration(0)
		if first {
			revoked, err = l.collect(ctx, records)
		}
		if err == nil {
			pause, err = l.refresh(ctx, revoked, first)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			l.log.WarnContext(ctx, "CRL not signed; trying again", "err", err)
			pause = bus.Backoff(attempt, clock.MaxWait)
			attempt++
		default:
			attempt, first = 1, false
		}
		if clock.Sleep(ctx, max(pause, minPause)) != nil {
			return nil
		}
	}
}

// refresh makes sure that each CA has a list that is not old, and returns how
// long until one is. At first, what is given is all that was revoked.
func (l *lists) refresh(ctx context.Context, revoked []fleet.Former, first bool) (time.Duration, error) {
	authority, err := l.authority.current(ctx)
	if err != nil {
		return 0, err
	}
	pause, entries := clock.MaxWait, l.byCA(revoked)
	for id := range l.shown {
		if authority.listers[id] == nil { // retired: nobody asks for its list any more
			l.metrics.listEnd.DeleteLabelValues(id)
			delete(l.shown, id)
		}
	}
	for _, b := range authority.doc.Severed {
		entries[b.By] = append(entries[b.By], severedEntry(b))
	}
	for id, signer := range authority.listers {
		doc, err := l.sign(ctx, signer, entries[id], first)
		if err != nil {
			return 0, err
		}
		l.shown[id] = true
		l.metrics.listEnd.WithLabelValues(id).Set(float64(doc.NextUpdate.Unix()))
		pause = min(pause, l.clock.Until(refreshAt(&doc)))
	}
	return pause, nil
}

// severed makes sure that each CA has a list, a new one from its first moment on,
// and that bridges which nobody may use any more are on it.
func (l *lists) severed(ctx context.Context) error {
	authority, err := l.authority.current(ctx)
	if err != nil {
		return err
	}
	entries := map[string][]ca.ListEntry{}
	for _, b := range authority.doc.Severed {
		entries[b.By] = append(entries[b.By], severedEntry(b))
	}
	for id, signer := range authority.listers {
		if _, err := l.sign(ctx, signer, entries[id], false); err != nil {
			return err
		}
	}
	return nil
}

func severedEntry(b fleet.SeveredBridge) ca.ListEntry {
	return ca.ListEntry{Serial: b.Serial, At: b.At, Reason: b.Reason.Code(), Ends: b.NotAfter}
}

// collect returns all that is revoked and has not ended, and what a CA that is
// compromised has signed and nobody needs any more.
func (l *lists) collect(ctx context.Context, all records) ([]fleet.Former, error) {
	authority, err := l.authority.current(ctx)
	if err != nil {
		return nil, err
	}
	now := l.clock.Now()
	var found []fleet.Former
	err = survey(ctx, all, func(_ string, doc *fleet.Credentials) {
		for _, record := range doc.Clients {
			found = append(found, record.Barred(now)...)
			found = append(found, authority.condemned(record, now)...)
		}
	})
	return found, err
}

// condemn puts on the lists of CAs that are compromised what they have signed and
// nobody needs any more.
func (l *lists) condemn(ctx context.Context, all records) error {
	authority, err := l.authority.current(ctx)
	if err != nil || len(authority.tainted) == 0 {
		return err
	}
	now := l.clock.Now()
	var found []fleet.Former
	err = survey(ctx, all, func(_ string, doc *fleet.Credentials) {
		for _, record := range doc.Clients {
			found = append(found, authority.condemned(record, now)...)
		}
	})
	if err != nil || len(found) == 0 {
		return err
	}
	return l.add(ctx, found)
}

// condemned returns what CAs that are compromised have signed for a client and it
// needs no more; of one that is retired, all.
func (a *authority) condemned(record *fleet.Record, now time.Time) []fleet.Former {
	var all []fleet.Former
	for _, c := range a.tainted {
		for _, f := range record.Replaced(c.ID, c.Phase == fleet.PhaseRetired, now) {
			f.Revoked = &fleet.Revocation{At: c.TaintedAt, Reason: fleet.CACompromise}
			all = append(all, f)
		}
	}
	return all
}
