package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Content is a backup that was read to its end and found whole. Only what
// decides about a restore is held in memory; the documents are read again.
type Content struct {
	Header   Header
	Manifest Manifest

	file       *os.File
	identities []age.Identity
	last       map[string]uint64 // stream and subject -> the one that counts
	keys       map[string][]byte // sealed
	authority  fleet.Authority
	declared   map[string][]byte                  // clusters and releases by subject
	pickups    map[string]map[fleet.ClientKey]int // cluster -> generations that wait for pick-up
}

// Open reads and verifies all of a backup.
func Open(path string, key Key) (*Content, error) {
	identities, err := key.identities()
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	c := &Content{
		file: file, identities: identities, last: map[string]uint64{}, keys: map[string][]byte{},
		declared: map[string][]byte{}, pickups: map[string]map[fleet.ClientKey]int{},
	}
	c.Header, c.Manifest, err = read(file, identities, func(_ Header, d Document) error { return c.note(d) })
	if err == nil && (len(c.keys) == 0 || c.authority.Bundle.FleetKey == "") {
		err = fmt.Errorf("%w: it holds no authority", ErrDamaged)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("backup %s: %w", path, err), file.Close())
	}
	return c, nil
}

// Close closes the file.
func (c *Content) Close() error { return c.file.Close() }

// note keeps what decides. Documents come in the order in which they were
// written: a later one takes the place of an earlier one.
func (c *Content) note(d Document) error {
	c.last[d.Stream+" "+d.Subject] = d.Seq
	var err error
	switch d.Stream {
	case "KV_" + bus.Keys:
		c.keys[key(d)] = d.Data
	case "KV_" + bus.Authority:
		if key(d) == fleet.AuthorityKey { // CRLs lie beside it, and follow from the records
			err = decode(d, &c.authority)
		}
	case "KV_" + bus.Clusters, "KV_" + bus.Releases:
		c.declared[d.Subject] = d.Data
		if gone(d) {
			delete(c.declared, d.Subject)
		}
	case "KV_" + bus.Bundles:
		waits := map[fleet.ClientKey]int{}
		var doc fleet.Bundles
		if !gone(d) {
			err = decode(d, &doc)
		}
		for client, p := range doc.Clients {
			waits[client] = p.Generation
		}
		c.pickups[key(d)] = waits
	}
	return err
}

// documents passes on the documents that count.
func (c *Content) documents(f func(Document) error) error {
	if _, err := c.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read backup again: %w", err)
	}
	_, _, err := read(c.file, c.identities, func(_ Header, d Document) error {
		bucket := strings.HasPrefix(d.Stream, "KV_")
		if bucket && (c.last[d.Stream+" "+d.Subject] != d.Seq || gone(d)) {
			return nil
		}
		return f(d)
	})
	return err
}

// key returns the key of a document in its bucket.
func key(d Document) string {
	return strings.TrimPrefix(d.Subject, "$KV."+strings.TrimPrefix(d.Stream, "KV_")+".")
}

// gone reports whether a document is the mark of a deleted one.
func gone(d Document) bool { return len(d.Header["KV-Operation"]) > 0 }

func decode(d Document, into any) error {
	if err := json.Unmarshal(d.Data, into); err != nil {
		return fmt.Errorf("%w: document %s: %w", ErrDamaged, d.Subject, err)
	}
	return nil
}
