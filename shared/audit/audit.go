// Package audit is the ledger of what was done to a fleet: who, what, when, at
// whose request. Each service that writes has a chain of its own, in which every
// entry holds the SHA-256 of the one before: an entry that is changed, left out
// or moved breaks the chain from there on.
//
// The form is public, so that an export can be checked without Rotor. An entry
// is a JSON object; its "hash" is the SHA-256, in hexadecimal, of all its other
// members in the canonical form of RFC 8785; "previous" is the hash of the entry
// before, empty in the first; "seq" counts from 1; "behind" is where the entry
// before lies among those of all chains, so that none can be moved. Members that a reader does not
// know are part of the hash: entries may say more in time, such as a signature
// over the head of a chain.
//
// The package knows no NATS: bus.Ledger keeps the chains.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Entry is one thing that was done, or is about to be. What Append completes is
// left empty by the caller.
type Entry struct {
	Chain   string            `json:"chain" doc:"the service that wrote it"`
	Seq     int64             `json:"seq" doc:"place in its chain, from 1"`
	Time    time.Time         `json:"time" doc:"on the clock of the fleet"`
	Actor   string            `json:"actor" doc:"who asked: admin, agent <id>, or a service"`
	Action  string            `json:"action" doc:"what: noun.verb, such as client.revoke"`
	Cluster string            `json:"cluster,omitempty"`
	Client  string            `json:"client,omitempty" doc:"kind or kind/instance"`
	Request string            `json:"request" doc:"id of the request: the same request makes no second entry in a chain"`
	Reason  string            `json:"reason,omitempty"`
	Details map[string]string `json:"details,omitempty" doc:"what else there is to say; never a secret"`
	Signed  []Signed          `json:"signed,omitempty" doc:"what is about to be signed"`

	// Checkpoint is of an entry with the action ActionCheckpoint.
	Checkpoint string `json:"checkpoint,omitempty" doc:"heads of all chains, signed by the fleet key: a JWS in compact form (RFC 7515)"`

	Behind   uint64 `json:"behind,omitempty" doc:"position in the store of the entry before, that is its line in an export of the whole ledger; absent in the first"`
	Previous string `json:"previous" doc:"hash of the entry before; empty in the first"`
	Hash     string `json:"hash" doc:"SHA-256 of the other members in the form of RFC 8785, hexadecimal"`
}

// ActionCheckpoint is the action of an entry that holds a checkpoint.
const ActionCheckpoint = "checkpoint"

// About returns the entry with the client that it is about.
func (e Entry) About(cluster string, client fleet.ClientKey) Entry {
	e.Cluster, e.Client = cluster, ""
	if client != (fleet.ClientKey{}) {
		e.Client = client.String()
	}
	return e
}

// The limits of an entry, in bytes: what people and programs put into it comes
// from outside.
const (
	maxEntry = 256 << 10
	maxField = 1 << 10
)

// check demands what every entry must say.
func (e Entry) check() error {
	for name, value := range map[string]string{"actor": e.Actor, "action": e.Action, "request": e.Request} {
		if value == "" || len(value) > maxField {
			return fmt.Errorf("%w: audit entry: %s of %d bytes: want 1 to %d", fleet.ErrInvalid, name, len(value), maxField)
		}
	}
	return nil
}

// same reports whether two entries are about the same request.
func (e Entry) same(o Entry) bool {
	return e.Request == o.Request && e.Actor == o.Actor && e.Action == o.Action && e.Cluster == o.Cluster &&
		e.Client == o.Client && e.Reason == o.Reason && maps.Equal(e.Details, o.Details) &&
		slices.EqualFunc(e.Signed, o.Signed, Signed.equal) && e.Checkpoint == o.Checkpoint
}

// seal completes an entry behind the one before it, which is the zero entry for
// the first of a chain, and returns its bytes.
func (e Entry) seal(last head) (Entry, []byte, error) {
	e.Seq, e.Previous, e.Behind, e.Time = last.entry.Seq+1, last.entry.Hash, last.at, e.Time.UTC()
	e.Hash = ""
	raw, err := json.Marshal(e)
	if err != nil {
		return e, nil, fmt.Errorf("audit entry: %w", err)
	}
	if e.Hash, err = hashOf(raw); err != nil {
		return e, nil, err
	}
	if raw, err = json.Marshal(e); err != nil {
		return e, nil, fmt.Errorf("audit entry: %w", err)
	}
	if len(raw) > maxEntry {
		return e, nil, fmt.Errorf("%w: audit entry of %d bytes: at most %d", fleet.ErrInvalid, len(raw), maxEntry)
	}
	return e, raw, nil
}

// Parse reads an entry and checks that its hash is that of its content. It does
// not look at the entry before: Chain does.
func Parse(raw []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(raw, &e); err != nil {
		return e, fmt.Errorf("%w: audit entry: %w", fleet.ErrInvalid, err)
	}
	want, err := hashOf(raw)
	if err != nil {
		return e, err
	}
	if e.Hash != want {
		return e, fmt.Errorf("%w: its content has the hash %s and it says %q", ErrChanged, want, e.Hash)
	}
	return e, nil
}

// The errors of a ledger that is not as it was written.
var (
	ErrBroken  = errors.New("the chain is broken")   // an entry is not what was written, or not where
	ErrMoved   = fmt.Errorf("%w", ErrBroken)         // an entry fits its chain, and lies elsewhere among those of others
	ErrChanged = errors.New("the entry was changed") // its content does not have its hash
)

// hashOf returns the hash of an entry: of all members but "hash".
func hashOf(raw []byte) (string, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var members map[string]any
	if err := decoder.Decode(&members); err != nil {
		return "", fmt.Errorf("%w: audit entry: %w", fleet.ErrInvalid, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("%w: audit entry: more than one JSON value", fleet.ErrInvalid)
	}
	delete(members, "hash")
	canonical, err := canonical(members)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:]), nil
}
