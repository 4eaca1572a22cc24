package issuer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// records is what is needed of the bucket of the records to read all of them.
type records interface {
	Watch(ctx context.Context, w kv.Watcher[fleet.Credentials])
}

// survey reads the records of all clusters, one after the other: so no more than
// one of them is in memory. After an interruption it begins anew, so look may be
// given a cluster several times.
func survey(ctx context.Context, all records, look func(cluster string, doc *fleet.Credentials)) error {
	watching, done := context.WithCancel(ctx)
	defer done()
	all.Watch(watching, kv.Watcher[fleet.Credentials]{
		Changed: func(e kv.Entry[fleet.Credentials]) { look(e.Key, &e.Value) },
		Current: done,
	})
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("read all records: %w", err)
	}
	return nil
}

// inUse says in words which client still needs a CA or a token key, empty if none
// does. Clusters that are excluded do not count.
func (m *mover) inUse(ctx context.Context, kind fleet.RolloutKind, id string, except []string) (string, error) {
	now, clients, first := m.env.Clock.Now(), map[string]int{}, ""
	err := survey(ctx, m.records, func(cluster string, doc *fleet.Credentials) {
		delete(clients, cluster) // it may come again, and be another by then
		if slices.Contains(except, cluster) {
			return
		}
		for key, record := range doc.Clients {
			if kind == fleet.RolloutCA && record.CALive(id, now) != nil || kind == fleet.RolloutToken && record.TokenEnd(id).After(now) {
				clients[cluster]++
				if name := cluster + "/" + key.String(); first == "" || name < first {
					first = name
				}
			}
		}
	})
	count := 0
	for _, n := range clients {
		count += n
	}
	if err != nil || count == 0 {
		return "", err
	}
	return fmt.Sprintf("%d clients, such as %s", count, first), nil
}

// tokensEnd returns when the last token ends that a key has signed, as far as the
// records tell.
func (f founder) tokensEnd(ctx context.Context, kid string) (end time.Time, err error) {
	err = survey(ctx, f.records, func(_ string, doc *fleet.Credentials) {
		for _, record := range doc.Clients {
			if e := record.TokenEnd(kid); e.After(end) {
				end = e
			}
		}
	})
	return end, err
}
