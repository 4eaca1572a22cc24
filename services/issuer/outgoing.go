package issuer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// outgoing returns the first token key that signs no more and may be due to leave
// the key set, nil if there is none, and when the next one is.
func outgoing(doc fleet.Authority, now time.Time) (due *fleet.SigningKey, next time.Time) {
	for i := range doc.Keys {
		k := &doc.Keys[i]
		switch {
		case k.Phase != fleet.PhaseOutgoing:
		case !now.Before(k.RetireAt):
			return k, next
		case next.IsZero() || k.RetireAt.Before(next):
			next = k.RetireAt
		}
	}
	return nil, next
}

// retireKeys takes the token keys out of the key set whose last token has ended,
// and returns when the next one is due. What an issuer was signing with a key
// while it ceased to be the one that signs is on record by now: so the records
// have the last word.
func (s *succession) retireKeys(ctx context.Context) (time.Time, error) {
	for {
		known, err := s.documents.Get(ctx, fleet.AuthorityKey)
		if err != nil || known.Value.Restoring {
			return time.Time{}, err
		}
		if err := s.announce(ctx, known.Value); err != nil {
			return time.Time{}, err
		}
		key, next := outgoing(known.Value, s.env.Clock.Now())
		if key == nil {
			return next, nil
		}
		if err := s.retireKey(ctx, *key, known.Value.Epoch); err != nil {
			return time.Time{}, fmt.Errorf("retire token key %s: %w", key.ID, err)
		}
	}
}

// retireKey retires one key, or moves its end if a token of it is good for longer.
func (s *succession) retireKey(ctx context.Context, key fleet.SigningKey, epoch string) error {
	now := s.env.Clock.Now().UTC().Truncate(time.Second)
	end, err := s.tokensEnd(ctx, key.ID)
	if err != nil {
		return err
	}
	gone := !end.After(now)
	if gone {
		if err := s.ledger.Append(ctx, audit.Entry{
			Actor: name, Action: "authority.retire", Reason: "its last token has ended",
			Request: fmt.Sprintf("token key %s %s", key.ID, epoch), Details: map[string]string{"what": string(fleet.RolloutToken), "id": key.ID},
		}); err != nil {
			return err
		}
	}
	made := false
	stored, err := s.documents.Edit(ctx, fleet.AuthorityKey, func(doc *fleet.Authority) error {
		i := slices.IndexFunc(doc.Keys, func(k fleet.SigningKey) bool { return k.ID == key.ID })
		made = i >= 0 && doc.Keys[i].Phase == fleet.PhaseOutgoing && doc.Keys[i].RetireAt.Equal(key.RetireAt) && !doc.Restoring
		switch {
		case !made:
			return kv.Keep
		case gone:
			doc.Keys[i].Phase, doc.Keys[i].RetiredAt = fleet.PhaseRetired, now
		default:
			doc.Keys[i].RetireAt = end
		}
		return nil
	})
	if err != nil {
		return err
	}
	if made && gone {
		s.env.Log.InfoContext(ctx, "a token key is out of the key set: its last token has ended", "key", key.ID, "number", key.Number)
	}
	return s.announce(ctx, stored.Value)
}
