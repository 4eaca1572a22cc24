package issuer

import (
	"context"
	"crypto"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// checkpointEvery is the least time between two checkpoints, on the machine's
// time: what is cut off a chain within it is not missed.
const checkpointEvery = 10 * time.Second

// checkpoints has the fleet key sign where the chains of the ledger have come to.
// The signature lies in the chain of the issuer and, for when the end of that is
// cut off, in the document of the authority. Several issuers may do it side by
// side.
type checkpoints struct {
	heads     func(ctx context.Context) (map[string]audit.Message, error)
	fleetKey  func(ctx context.Context) (crypto.Signer, error)
	documents documents[fleet.Authority]
	ledger    *telling
	metrics   *metrics
	log       *slog.Logger
}

// run signs a checkpoint at once and then whenever a chain has moved, until ctx
// ends.
func (c *checkpoints) run(ctx context.Context) error {
	for attempt := 1; ctx.Err() == nil; attempt++ {
		pause := checkpointEvery
		if err := c.keep(ctx); err != nil && ctx.Err() == nil {
			c.log.ErrorContext(ctx, "no checkpoint of the ledger was signed", "attempt", attempt, "err", err)
			pause += bus.Backoff(attempt, time.Minute)
		} else {
			attempt = 0
		}
		_ = clock.Sleep(ctx, pause)
	}
	return nil
}

// keep makes sure that a checkpoint covers the heads of all chains as they are
// now.
func (c *checkpoints) keep(ctx context.Context) error {
	heads, err := c.ends(ctx)
	if err != nil {
		return err
	}
	stored, err := c.documents.Get(ctx, fleet.AuthorityKey)
	if err != nil {
		return err
	}
	if stored.Value.Restoring {
		return errRestoring
	}
	known, err := checkpointOf(stored.Value)
	if err != nil {
		return err
	}
	if err := uncut(known, heads); err != nil {
		return err
	}
	if covers(known, stored.Value.Checkpoint, heads) {
		if c.ledger.down.Load() { // nothing else might try it for long
			err = c.write(ctx, stored.Value.Checkpoint)
		}
	} else {
		err = c.move(ctx, heads, stored.Value.Bundle.FleetKey)
	}
	if err == nil && c.metrics != nil {
		c.metrics.checkpoint.Set(float64(clock.Wall().Unix()))
	}
	return err
}

// end is the last entry of a chain.
type end struct {
	audit.Entry
	position uint64
}

// ends returns the last entry of each chain.
func (c *checkpoints) ends(ctx context.Context) (map[string]end, error) {
	messages, err := c.heads(ctx)
	if err != nil {
		return nil, err
	}
	heads := map[string]end{}
	for chain, message := range messages {
		e, err := audit.Parse(message.Data)
		if err != nil {
			return nil, fmt.Errorf("ALARM: last entry of chain %q: %w: see `rotor audit verify`", chain, err)
		}
		heads[chain] = end{e, message.Position}
	}
	return heads, nil
}

// checkpointOf returns the newest checkpoint, the zero one if there is none yet.
func checkpointOf(doc fleet.Authority) (trust.Checkpoint, error) {
	if doc.Checkpoint == "" {
		return trust.Checkpoint{}, nil
	}
	known, _, err := trust.VerifyCheckpoint(doc.Checkpoint, doc.Bundle.FleetKey)
	if err != nil {
		return known, fmt.Errorf("ALARM: what bucket %s holds as the newest checkpoint of the ledger is none: %w", bus.Authority, err)
	}
	return known, nil
}

// uncut refuses to go on where a chain ends before a checkpoint says that it was:
// a new one would hide it.
func uncut(known trust.Checkpoint, heads map[string]end) error {
	for _, chain := range slices.Sorted(maps.Keys(known.Heads)) {
		if was, is := known.Heads[chain].Seq, heads[chain].Seq; is < was {
			return fmt.Errorf("ALARM: chain %q of the ledger ends with entry %d, and a checkpoint has signed entry %d: its end was cut off: see `rotor audit verify`", chain, is, was)
		}
	}
	return nil
}

// covers reports whether nothing has come since a checkpoint but its own entry.
func covers(known trust.Checkpoint, signed string, heads map[string]end) bool {
	for chain, is := range heads {
		was := known.Heads[chain]
		own := is.Checkpoint != "" && is.Checkpoint == signed && is.Previous == was.Hash
		if is.Hash != was.Hash && !own {
			return false
		}
	}
	return true
}

// move signs the heads: into the chain first, then into the document.
func (c *checkpoints) move(ctx context.Context, heads map[string]end, pin string) error {
	next := trust.Checkpoint{Heads: map[string]trust.Head{}}
	for chain, e := range heads {
		next.Heads[chain] = trust.Head{Seq: e.Seq, Hash: e.Hash, Position: e.position}
		if e.Time.After(next.At) {
			next.At = e.Time
		}
	}
	signed := heads[name].Checkpoint
	if left, _, err := trust.VerifyCheckpoint(signed, pin); err == nil && covers(left, signed, heads) {
		next = left // its entry is there, and whoever wrote it has not come to the document
	} else {
		key, err := c.fleetKey(ctx)
		if err != nil {
			return alarm(err)
		}
		if signed, err = trust.SignCheckpoint(key, next); err != nil {
			return err
		}
		if err := c.write(ctx, signed); err != nil {
			return err
		}
	}
	_, err := c.documents.Edit(ctx, fleet.AuthorityKey, func(doc *fleet.Authority) error {
		known, err := checkpointOf(*doc)
		if err != nil {
			return err
		}
		if doc.Restoring || next.Compare(known) <= 0 {
			return kv.Keep
		}
		doc.Checkpoint = signed
		return nil
	})
	return err
}

// write puts a checkpoint into the chain. The same heads give the same entry, so
// that issuers side by side, and a repeat, make one.
func (c *checkpoints) write(ctx context.Context, signed string) error {
	return c.ledger.Append(ctx, audit.Entry{
		Actor: name, Action: audit.ActionCheckpoint, Request: "checkpoint " + audit.Content([]byte(signed))[:32], Checkpoint: signed,
	})
}
