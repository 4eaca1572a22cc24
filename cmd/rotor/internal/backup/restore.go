package backup

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Target is where a backup is restored to. Its streams exist, and nothing else
// works on it.
type Target struct {
	NATS     *nats.Conn
	Replicas int
	Force    bool     // also where what was declared since goes back
	Revoke   []string // cluster/client: revoked since the backup
}

// Result says what a restore has done.
type Result struct {
	Clusters, Clients int
	Kept              int // clients whose record in the store had come at least as far
	Revoked           int
}

type restore struct {
	Target
	content *Content
	js      jetstream.JetStream
	buckets map[string]jetstream.KeyValue
	ledger  *bus.Bus
	chains  map[string]end // by subject
	result  Result
}

// Restore brings a backup back. It may be killed anywhere and run again: until
// it has ended, the authority is marked, and no issuer signs.
func Restore(ctx context.Context, t Target, c *Content) (Result, error) {
	js, err := jetstream.New(t.NATS, jetstream.WithDefaultTimeout(10*time.Second))
	if err != nil {
		return Result{}, err
	}
	ledger, err := bus.New(t.NATS)
	if err != nil {
		return Result{}, err
	}
	r := &restore{Target: t, content: c, js: js, buckets: map[string]jetstream.KeyValue{}, ledger: ledger, chains: map[string]end{}}
	revoked, err := parseRevoked(t.Revoke)
	if err != nil {
		return Result{}, err
	}
	for _, config := range bus.Layout(1) {
		if name, ok := strings.CutPrefix(config.Name, "KV_"); ok {
			if r.buckets[config.Name], err = js.KeyValue(ctx, name); err != nil {
				return Result{}, fmt.Errorf("open bucket %s: %w", name, err)
			}
		}
	}
	authority, err := r.begin(ctx)
	if err != nil {
		return Result{}, err
	}
	for _, step := range []func(context.Context) error{r.clear, r.fill, func(ctx context.Context) error { return r.revoke(ctx, revoked) }} {
		if err := step(ctx); err != nil {
			return Result{}, fmt.Errorf("restore is not complete, run it again: %w", err)
		}
	}
	authority.Restoring = false
	return r.result, r.store(ctx, "KV_"+bus.Authority, fleet.AuthorityKey, authority)
}

func parseRevoked(names []string) (map[string][]fleet.ClientKey, error) {
	all := map[string][]fleet.ClientKey{}
	for _, name := range names {
		cluster, client, ok := strings.Cut(name, "/")
		key, err := fleet.ParseClientKey(client)
		if !ok || err != nil {
			return nil, fmt.Errorf("%w: --revoke %q: write CLUSTER/CLIENT", fleet.ErrInvalid, name)
		}
		all[cluster] = append(all[cluster], key)
	}
	return all, nil
}

// begin makes sure that the restore may go on, and marks the store. Nothing is
// written before the mark.
func (r *restore) begin(ctx context.Context) (fleet.Authority, error) {
	var known *fleet.Authority
	var doc fleet.Authority
	found, err := r.load(ctx, "KV_"+bus.Authority, fleet.AuthorityKey, &doc)
	if err != nil {
		return doc, err
	}
	if found {
		known = &doc
	}
	merged, err := mergeAuthority(r.content.authority, known, rand.Text())
	if err != nil {
		return merged, err
	}
	if err := r.sameKeys(ctx); err != nil {
		return merged, err
	}
	if !r.Force && (known == nil || !known.Restoring) {
		lost, err := r.lost(ctx)
		if err != nil {
			return merged, err
		}
		if len(lost) > 0 {
			return merged, &LostError{CreatedAt: r.content.Header.CreatedAt, What: lost}
		}
	}
	return merged, r.store(ctx, "KV_"+bus.Authority, fleet.AuthorityKey, merged)
}

// sameKeys refuses a store that holds another key under a name of the backup's.
func (r *restore) sameKeys(ctx context.Context) error {
	for id, box := range r.content.keys {
		e, err := r.buckets["KV_"+bus.Keys].Get(ctx, id)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read key %s: %w", id, err)
		}
		if !bytes.Equal(e.Value(), box) {
			return fmt.Errorf("%w: the store holds another key %s: restore into an empty folder", fleet.ErrConflict, id)
		}
	}
	return nil
}

// LostError names what was declared since the backup, and would go back.
type LostError struct {
	CreatedAt time.Time
	What      []string
}

// Error names all of it.
func (e *LostError) Error() string {
	return fmt.Sprintf("the store is newer than the backup of %s, and would lose:\n  %s\ngive --force if it shall",
		e.CreatedAt.Format(time.RFC3339), strings.Join(e.What, "\n  "))
}

func (r *restore) lost(ctx context.Context) ([]string, error) {
	var lost []string
	for _, stream := range []string{"KV_" + bus.Clusters, "KV_" + bus.Releases} {
		err := each(ctx, r.js, stream, func(d Document) error {
			stored, ok := r.content.declared[d.Subject]
			name := strings.TrimSuffix(strings.TrimPrefix(stream, "KV_"), "s") + " " + key(d)
			switch {
			case gone(d):
			case !ok:
				lost = append(lost, name+", which the backup does not have")
			case !bytes.Equal(stored, d.Data):
				lost = append(lost, "the changes of "+name)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(lost)
	return slices.Compact(lost), nil
}

// clear takes away what must not go on: commands that were given to the state
// of before, and what was declared since.
func (r *restore) clear(ctx context.Context) error {
	if err := r.js.DeleteStream(ctx, bus.Commands); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("empty %s: %w", bus.Commands, err)
	}
	if err := bus.Setup(ctx, r.NATS, r.Replicas); err != nil {
		return err
	}
	for _, stream := range []string{"KV_" + bus.Clusters, "KV_" + bus.Releases} {
		err := each(ctx, r.js, stream, func(d Document) error {
			if _, ok := r.content.declared[d.Subject]; ok || gone(d) {
				return nil
			}
			return r.buckets[stream].Delete(ctx, key(d))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// fill writes the documents of the backup.
func (r *restore) fill(ctx context.Context) error {
	return r.content.documents(func(d Document) error {
		switch d.Stream {
		case "KV_" + bus.Authority:
			return nil // begun with, and ended with
		case "KV_" + bus.Clusters, "KV_" + bus.Releases:
			if d.Stream == "KV_"+bus.Clusters && !strings.HasPrefix(key(d), "_") {
				r.result.Clusters++
			}
			return r.put(ctx, d)
		case "KV_" + bus.Credentials:
			return r.credentials(ctx, d)
		case "KV_" + bus.Agents:
			var a fleet.Agent
			if err := decode(d, &a); err != nil {
				return err
			}
			raw, err := json.Marshal(admitted(a))
			if err != nil {
				return err
			}
			d.Data = raw
			return r.missing(ctx, d)
		}
		if r.buckets[d.Stream] != nil {
			return r.missing(ctx, d)
		}
		if d.Stream == bus.Audit {
			return r.audit(ctx, d)
		}
		return r.letter(ctx, d)
	})
}

// missing writes a document where there is none: what is there is newer, and
// says what has happened in the world.
func (r *restore) missing(ctx context.Context, d Document) error {
	_, err := r.buckets[d.Stream].Create(ctx, key(d), d.Data)
	if err != nil && !errors.Is(err, jetstream.ErrKeyExists) {
		return fmt.Errorf("write %s: %w", d.Subject, err)
	}
	return nil
}

func (r *restore) put(ctx context.Context, d Document) error {
	if _, err := r.buckets[d.Stream].Put(ctx, key(d), d.Data); err != nil {
		return fmt.Errorf("write %s: %w", d.Subject, err)
	}
	return nil
}

// letter puts a dead letter back where the store has none of its id: the one
// there may have come to its end since.
func (r *restore) letter(ctx context.Context, d Document) error {
	msg := nats.NewMsg(d.Subject)
	msg.Data = d.Data
	for k, v := range d.Header {
		if !strings.HasPrefix(k, "Nats-") {
			msg.Header[k] = v
		}
	}
	_, err := r.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(0))
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", d.Subject, err)
	}
	return nil
}

// audit puts an entry behind the end of its chain, if the store does not have it:
// chains only grow. Where the store's went on in another way, it stays.
func (r *restore) audit(ctx context.Context, d Document) error {
	entry, err := audit.Parse(d.Data)
	if err != nil {
		return fmt.Errorf("%w: %s at %d: %w", ErrDamaged, d.Subject, d.Seq, err)
	}
	end, known := r.chains[d.Subject]
	if !known {
		last, err := r.ledger.Ledger(entry.Chain).Last(ctx)
		if err != nil {
			return err
		}
		if end.at = last.Position; end.at > 0 {
			stored, err := audit.Parse(last.Data)
			if err != nil {
				return fmt.Errorf("last entry of %s: %w", d.Subject, err)
			}
			end.seq, end.hash = stored.Seq, stored.Hash
		}
	}
	if entry.Seq == end.seq+1 && entry.Previous == end.hash {
		id := "restore " + d.Subject + " " + entry.Request
		if ids := d.Header[jetstream.MsgIDHeader]; len(ids) > 0 {
			id = ids[0] // its request stays known
		}
		if end.at, _, err = r.ledger.Ledger(entry.Chain).Append(ctx, d.Data, id, end.at); err != nil {
			return err
		}
		end.seq, end.hash = entry.Seq, entry.Hash
	}
	r.chains[d.Subject] = end
	return nil
}

// end is how far a chain of the store has come.
type end struct {
	at   uint64 // position in the stream
	seq  int64  // place in the chain
	hash string
}

func (r *restore) credentials(ctx context.Context, d Document) error {
	var stored, known fleet.Credentials
	if err := decode(d, &stored); err != nil {
		return err
	}
	if _, err := r.load(ctx, d.Stream, key(d), &known); err != nil {
		return err
	}
	for client, record := range stored.Clients {
		r.result.Clients++
		if k := known.Clients[client]; k != nil && k.Number() >= record.Number() {
			r.result.Kept++
		}
	}
	return r.store(ctx, d.Stream, key(d), mergeCredentials(stored, known, r.content.pickups[key(d)]))
}

// revoke marks what the operator knows to be revoked.
func (r *restore) revoke(ctx context.Context, clusters map[string][]fleet.ClientKey) error {
	for cluster, clients := range clusters {
		var doc fleet.Credentials
		if _, err := r.load(ctx, "KV_"+bus.Credentials, cluster, &doc); err != nil {
			return err
		}
		for _, client := range clients {
			revoke(&doc, client, clock.Wall())
			r.result.Revoked++
		}
		if err := r.store(ctx, "KV_"+bus.Credentials, cluster, doc); err != nil {
			return err
		}
	}
	return nil
}

func (r *restore) load(ctx context.Context, stream, key string, into any) (bool, error) {
	e, err := r.buckets[stream].Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s of %s: %w", key, stream, err)
	}
	if err := json.Unmarshal(e.Value(), into); err != nil {
		return false, fmt.Errorf("read %s of %s: %w", key, stream, err)
	}
	return true, nil
}

func (r *restore) store(ctx context.Context, stream, key string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write %s of %s: %w", key, stream, err)
	}
	if _, err := r.buckets[stream].Put(ctx, key, raw); err != nil {
		return fmt.Errorf("write %s of %s: %w", key, stream, err)
	}
	return nil
}
