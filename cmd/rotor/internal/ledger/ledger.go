// Package ledger checks an audit ledger as a whole: that every chain is as it was
// written, that nothing is missing at its end or in its middle, and that what it
// says was signed is what is on record. It reads entries one after the other and
// keeps little more than the records; it knows no HTTP.
package ledger

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/trust"
)

// Checker checks the entries of a ledger as they come. The zero value is ready,
// for a ledger from its first entry on.
type Checker struct {
	FleetKey string   // pin of the key that signs checkpoints; empty: any one key
	Newest   string   // the newest checkpoint, as the authority had it before; empty where nobody knows
	Records  *Records // what is on record; nil where nobody knows
	Held     *Held    // what lies signed in buckets beside; nil where nobody knows

	chains      audit.Chains
	next        uint64                      // position that is next
	gap         error                       // the first place where an entry is missing
	moved       error                       // the first entry that lies elsewhere
	hashes      map[string]map[int64]string // of the entries of each chain that the last checkpoint does not cover
	claims      []claim
	checkpoints Checkpoints
	found       bool // Newest is in the chain
}

// Checkpoints is what there is to say about the checkpoints of a ledger.
type Checkpoints struct {
	Count    int              `json:"count"`
	SignedBy string           `json:"signedBy,omitempty"` // pin of the fleet key
	Pinned   bool             `json:"pinned"`             // SignedBy was known before
	Newest   time.Time        `json:"newest,omitzero"`    // time of the newest entry that one covers
	Covered  map[string]int64 `json:"covered,omitempty"`  // entries of each chain
}

// claim is what a checkpoint says of a chain that has not come so far yet.
type claim struct {
	chain string
	head  trust.Head
	by    string
}

// Add checks the next entry. A position of 0 is none; else positions count from 1,
// and where one is missing something was deleted. An error wraps audit.ErrBroken
// and names the entry.
func (c *Checker) Add(position uint64, raw []byte) error {
	if position > 0 {
		if c.next == 0 {
			c.next = 1
		}
		if position != c.next && c.gap == nil {
			c.gap = fmt.Errorf("%w: nothing lies at position %s: what was there was deleted", audit.ErrBroken, span(c.next, position-1))
		}
		c.next = position + 1
	}
	e, err := c.chains.AddAt(position, raw)
	if errors.Is(err, audit.ErrMoved) {
		if c.moved == nil {
			c.moved = err // what is missing in a chain says more
		}
	} else if err != nil {
		return errors.Join(err, c.gap, c.moved)
	}
	if c.hashes == nil {
		c.hashes = map[string]map[int64]string{}
	}
	if c.hashes[e.Chain] == nil {
		c.hashes[e.Chain] = map[int64]string{}
	}
	c.hashes[e.Chain][e.Seq] = e.Hash
	if err := c.settle(e); err != nil {
		return err
	}
	if e.Checkpoint != "" {
		if err := c.checkpoint(e); err != nil {
			return errors.Join(err, c.gap, c.moved)
		}
	}
	if c.Held != nil {
		c.Held.add(e)
	}
	if c.Records != nil {
		return c.Records.add(e)
	}
	return nil
}

func span(from, to uint64) string {
	if from >= to {
		return strconv.FormatUint(from, 10)
	}
	return fmt.Sprintf("%d to %d", from, to)
}

// settle holds an entry against what a checkpoint has said of it before it came.
func (c *Checker) settle(e audit.Entry) error {
	var err error
	c.claims = slices.DeleteFunc(c.claims, func(a claim) bool {
		if a.chain != e.Chain || a.head.Seq != e.Seq {
			return false
		}
		if a.head.Hash != e.Hash {
			err = a.contradicted(e.Hash)
		}
		return true
	})
	return err
}

func (a claim) contradicted(hash string) error {
	return fmt.Errorf("%w: entry %d of chain %q has the hash %s, and %s has signed %s: the chain was made anew", audit.ErrBroken, a.head.Seq, a.chain, hash, a.by, a.head.Hash)
}

// checkpoint checks the checkpoint in an entry.
func (c *Checker) checkpoint(e audit.Entry) error {
	by := fmt.Sprintf("the checkpoint in entry %d of chain %q", e.Seq, e.Chain)
	p, err := c.open(e.Checkpoint)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", audit.ErrBroken, by, err)
	}
	if err := c.claim(p, by); err != nil {
		return err
	}
	c.checkpoints.Count++
	c.checkpoints.Newest = p.At
	c.found = c.found || e.Checkpoint == c.Newest
	if c.checkpoints.Covered == nil {
		c.checkpoints.Covered = map[string]int64{}
	}
	for chain, head := range p.Heads {
		if head.Seq < c.checkpoints.Covered[chain] {
			return fmt.Errorf("%w: %s covers chain %q to entry %d, and one before it to entry %d", audit.ErrBroken, by, chain, head.Seq, c.checkpoints.Covered[chain])
		}
		c.checkpoints.Covered[chain] = head.Seq
		// What lies before is settled: the chain itself holds it.
		maps.DeleteFunc(c.hashes[chain], func(seq int64, _ string) bool { return seq < head.Seq })
	}
	return nil
}

// open reads a checkpoint that the fleet key has signed.
func (c *Checker) open(signed string) (trust.Checkpoint, error) {
	pin := c.FleetKey
	if pin == "" {
		pin = c.checkpoints.SignedBy
	}
	p, by, err := trust.VerifyCheckpoint(signed, pin)
	if err != nil {
		return p, err
	}
	c.checkpoints.SignedBy, c.checkpoints.Pinned = by, c.FleetKey != ""
	return p, nil
}

// claim holds a checkpoint against the chains; what they have not come to yet has
// to come.
func (c *Checker) claim(p trust.Checkpoint, by string) error {
	for _, chain := range slices.Sorted(maps.Keys(p.Heads)) {
		a := claim{chain, p.Heads[chain], by}
		last := c.chains.Heads()[chain]
		switch hash, known := c.hashes[chain][a.head.Seq]; {
		case last.Seq < a.head.Seq:
			c.claims = append(c.claims, a)
		case known && hash != a.head.Hash:
			return a.contradicted(hash)
		case last.Seq == a.head.Seq && a.head.Position > 0 && c.chains.At(chain) > 0 && a.head.Position != c.chains.At(chain):
			return fmt.Errorf("%w: entry %d of chain %q lies at %d, and %s has it at %d: it was moved, or something before it was put in or left out",
				audit.ErrBroken, last.Seq, chain, c.chains.At(chain), by, a.head.Position)
		}
	}
	return nil
}

// Finish checks that nothing is missing at the end. The position is that of the
// last entry that was ever stored, 0 if nobody knows.
func (c *Checker) Finish(position uint64) error {
	errs := []error{c.newest()}
	if len(c.claims) > 0 {
		first := c.claims[0]
		last := c.chains.Heads()[first.chain].Seq
		errs = append(errs, fmt.Errorf("%w: entry %d of chain %q is missing: %s has signed entry %d: the end was cut off", audit.ErrBroken, last+1, first.chain, first.by, first.head.Seq))
	}
	if from := max(c.next, 1); c.gap == nil && position >= from {
		c.gap = fmt.Errorf("%w: nothing lies at position %s: the end was deleted", audit.ErrBroken, span(from, position))
	}
	return errors.Join(append(errs, c.gap, c.moved)...)
}

// newest holds the checkpoint that the authority has against the chains.
func (c *Checker) newest() error {
	if c.Newest == "" {
		return nil
	}
	const by = "the newest checkpoint, which the authority has,"
	p, err := c.open(c.Newest)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", audit.ErrBroken, by, err)
	}
	if err := c.claim(p, by); err != nil {
		return err
	}
	if head := p.Heads["issuer"]; len(c.claims) == 0 && !c.found {
		return fmt.Errorf("%w: entry %d of chain \"issuer\", or one behind it, is missing: it held %s", audit.ErrBroken, head.Seq+1, strings.TrimSuffix(by, ","))
	}
	return nil
}

// Heads returns the last entry of each chain.
func (c *Checker) Heads() map[string]audit.Entry { return c.chains.Heads() }

// Checkpoints returns what was seen of them.
func (c *Checker) Checkpoints() Checkpoints { return c.checkpoints }
