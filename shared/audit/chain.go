package audit

import "fmt"

// Chains checks entries as they come, each chain for itself. The zero value is
// ready, for entries from the first on.
type Chains struct {
	last map[string]head
}

// Add checks the next entry of its chain. The error is ErrBroken and names the
// entry; what comes after it says nothing any more.
func (c *Chains) Add(raw []byte) (Entry, error) { return c.AddAt(0, raw) }

// AddAt is Add for an entry whose position in the store is known, and checks also
// that the entry before it lies where it was when this one was written: else the
// error is ErrMoved, and the chain itself can be followed further. A position is
// known of all entries or of none.
func (c *Chains) AddAt(position uint64, raw []byte) (Entry, error) {
	e, err := Parse(raw)
	last := c.last[e.Chain]
	if err != nil {
		return e, fmt.Errorf("%w: entry %d of chain %q, behind %d: %w", ErrBroken, e.Seq, e.Chain, last.entry.Seq, err)
	}
	switch {
	case e.Chain == "":
		return e, fmt.Errorf("%w: an entry names no chain", ErrBroken)
	case e.Seq > last.entry.Seq+1:
		return e, fmt.Errorf("%w: entry %d of chain %q is missing or was moved: entry %d comes behind %d", ErrBroken, last.entry.Seq+1, e.Chain, e.Seq, last.entry.Seq)
	case e.Seq <= last.entry.Seq:
		return e, fmt.Errorf("%w: entry %d of chain %q comes behind %d: it was moved, or is there twice", ErrBroken, e.Seq, e.Chain, last.entry.Seq)
	case e.Previous != last.entry.Hash:
		return e, fmt.Errorf("%w: entry %d of chain %q follows %q, and the entry before has %q", ErrBroken, e.Seq, e.Chain, e.Previous, last.entry.Hash)
	}
	if c.last == nil {
		c.last = map[string]head{}
	}
	c.last[e.Chain] = head{position, e}
	if position > 0 && e.Behind > 0 && e.Behind != last.at {
		return e, fmt.Errorf("%w: entry %d of chain %q lies at %d, and lay at %d when entry %d was written: it was moved, or something before it was put in or left out",
			ErrMoved, last.entry.Seq, e.Chain, last.at, e.Behind, e.Seq)
	}
	return e, nil
}

// Heads returns the last entry of each chain.
func (c *Chains) Heads() map[string]Entry {
	heads := map[string]Entry{}
	for chain, last := range c.last {
		heads[chain] = last.entry
	}
	return heads
}

// At returns the position of the last entry of a chain, 0 if it is not known.
func (c *Chains) At(chain string) uint64 { return c.last[chain].at }
