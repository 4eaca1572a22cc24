package issuer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// announce tells of what has happened to the generations of the authority and was
// not told yet. All follows from the document, so that nothing is lost when an
// issuer ends between a change and its fact; one that was told and not noted is
// told again under the same id.
func (f founder) announce(ctx context.Context, doc fleet.Authority) error {
	facts, err := happened(doc)
	if err != nil {
		return fmt.Errorf("announce authority: %w", err)
	}
	var told []string
	for _, fact := range facts {
		if slices.Contains(doc.Told, fact.ID()) {
			continue
		}
		if err := f.facts.Publish(ctx, fact); err != nil {
			return fmt.Errorf("announce authority: %w", err)
		}
		told = append(told, fact.ID())
	}
	if len(told) == 0 {
		return nil
	}
	if _, err := f.documents.Edit(ctx, fleet.AuthorityKey, func(doc *fleet.Authority) error { return note(doc, told) }); err != nil {
		return fmt.Errorf("announce authority: note what was told: %w", err)
	}
	return nil
}

// note remembers what was told, for as long as it follows from the document.
func note(doc *fleet.Authority, told []string) error {
	facts, err := happened(*doc)
	if err != nil {
		return err
	}
	var all []string
	for _, fact := range facts {
		if id := fact.ID(); slices.Contains(doc.Told, id) || slices.Contains(told, id) {
			all = append(all, id)
		}
	}
	if slices.Equal(all, doc.Told) {
		return kv.Keep
	}
	doc.Told = all
	return nil
}

// happening is one change of a generation.
type happening struct {
	kind  event.Kind[event.Authority]
	at    time.Time
	again string // what makes it another one than the first of its kind, if it may come several times
}

// happened returns the facts that follow from the authority, in the order in which
// they happened.
func happened(doc fleet.Authority) ([]event.Event, error) {
	var all []event.Event
	add := func(h happening, data event.Authority) error {
		key := []string{data.What, data.ID}
		if h.again != "" {
			key = append(key, h.again)
		}
		e, err := h.kind.New(event.Meta{Source: name, Cluster: event.FleetWide, Key: key, Time: h.at}, data)
		all = append(all, e)
		return err
	}
	for i := range doc.CAs {
		c := &doc.CAs[i]
		l := life{
			first: c.Number == 1, made: c.PreparedAt(), incoming: c.Phase == fleet.PhaseIncoming,
			activated: c.ActivatedAt, retired: c.RetiredAt, withdrawn: c.Withdrawn,
		}
		for _, h := range l.happenings() {
			if err := add(h, event.Authority{What: "ca", ID: c.ID, NotAfter: c.NotAfter, Rollout: c.Rollout, Succession: c.Succession}); err != nil {
				return nil, err
			}
		}
	}
	for i := range doc.Keys {
		k := &doc.Keys[i]
		l := life{
			first: k.Number == 1, made: k.CreatedAt, incoming: k.Phase == fleet.PhaseIncoming,
			activated: k.ActivatedAt, retired: k.RetiredAt, withdrawn: k.Withdrawn,
		}
		for _, h := range l.happenings() {
			if err := add(h, event.Authority{What: "token", ID: k.ID, Rollout: k.Rollout}); err != nil {
				return nil, err
			}
		}
	}
	slices.SortStableFunc(all, func(a, b event.Event) int { return a.Time().Compare(b.Time()) })
	return all, nil
}

// life is what of a generation is told: of a CA or of a token key.
type life struct {
	first     bool // made ready to sign; nobody was told that it was prepared
	made      time.Time
	incoming  bool
	activated time.Time
	retired   time.Time
	withdrawn bool
}

func (l life) happenings() []happening {
	var all []happening
	if !l.first {
		all = append(all, happening{kind: event.AuthorityPrepared, at: l.made})
	}
	switch {
	case !l.activated.IsZero(): // several times, when it was restored
		all = append(all, happening{kind: event.AuthorityActivated, at: l.activated, again: l.activated.UTC().Format(time.RFC3339)})
	case l.first && !l.incoming:
		all = append(all, happening{kind: event.AuthorityActivated, at: l.made})
	}
	switch {
	case l.retired.IsZero():
	case l.withdrawn:
		all = append(all, happening{kind: event.AuthorityWithdrawn, at: l.retired})
	default:
		all = append(all, happening{kind: event.AuthorityRetired, at: l.retired})
	}
	return all
}
