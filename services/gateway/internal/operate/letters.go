package operate

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rotor-fleet/rotor/services/gateway/internal/ledger"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/audit"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// settled is how long an answer waits for the service to settle a letter: longer
// than a receiver of messages may take.
const settled = 20 * time.Second

// LetterFilter picks dead letters.
type LetterFilter struct {
	Cluster  string
	Consumer string // a service, a consumer of a stream or a channel
	State    fleet.LetterState
}

func (f LetterFilter) takes(l fleet.Letter) bool {
	return (f.State == "" || f.State == l.State) && (f.Cluster == "" || f.Cluster == l.Cluster) &&
		(f.Consumer == "" || f.Consumer == l.Consumer || f.Consumer == l.Service)
}

// Letters returns the dead letters that a filter takes, what was changed last
// first.
func (o *Operator) Letters(ctx context.Context, f LetterFilter) []fleet.Letter {
	o.State.Letters.Fresh(ctx)
	return slices.DeleteFunc(o.State.Letters.All(), func(l fleet.Letter) bool { return !f.takes(l) })
}

// Letter returns a dead letter with its body, or fleet.ErrNotFound.
func (o *Operator) Letter(ctx context.Context, id string) (api.LetterView, error) {
	l, err := o.letter(ctx, id)
	if err != nil {
		return api.LetterView{}, err
	}
	return api.LetterView{Letter: l, Body: bodyOf(l.Body)}, nil
}

// letter returns a dead letter as it is stored.
func (o *Operator) letter(ctx context.Context, id string) (fleet.Letter, error) {
	l, ok := o.State.Letters.Find(id)
	if !ok {
		o.State.Letters.Fresh(ctx)
		if l, ok = o.State.Letters.Find(id); !ok {
			return l, fmt.Errorf("dead letter %q: %w", id, fleet.ErrNotFound)
		}
	}
	stored, err := o.Bus.Letter(ctx, l.Service, l.Cluster, l.ID)
	if err == nil {
		o.State.Letters.Note(stored)
	}
	return stored, err
}

// bodyOf returns a body as JSON where it is JSON, else as text.
func bodyOf(raw []byte) any {
	switch {
	case len(raw) == 0:
		return nil
	case json.Valid(raw):
		return json.RawMessage(raw)
	case utf8.Valid(raw):
		return string(raw)
	default:
		return fmt.Sprintf("%q", raw)
	}
}

// Settle asks the service that gave a letter up to settle it, and waits a moment
// for what becomes of it. A letter that has come to its end stays as it is.
func (o *Operator) Settle(ctx context.Context, id string, action event.Action) (api.LetterView, error) {
	l, err := o.letter(ctx, id)
	if err != nil {
		return api.LetterView{}, err
	}
	if !l.Open() {
		if action == event.ActionReplay && l.State == fleet.LetterDropped {
			return api.LetterView{}, fmt.Errorf("%w: dead letter %s was dropped at %s: what it held is gone", fleet.ErrConflict, l.ID, l.Last.Format(time.RFC3339))
		}
		return settledView(l, true), nil
	}
	if err := o.askToSettle(ctx, l, action); err != nil {
		return api.LetterView{}, err
	}
	return settledView(o.State.Letters.Await(ctx, l, settled)), nil
}

// SettleAll is Settle for each open letter that a filter takes.
func (o *Operator) SettleAll(ctx context.Context, f LetterFilter, action event.Action) ([]api.LetterView, error) {
	f.State = fleet.LetterOpen
	letters := o.Letters(ctx, f)
	for _, l := range letters {
		if err := o.askToSettle(ctx, l, action); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, settled)
	defer cancel()
	views := make([]api.LetterView, len(letters))
	for i, l := range letters {
		views[i] = settledView(o.State.Letters.Await(ctx, l, settled))
	}
	return views, nil
}

// askToSettle publishes the command; asked again about the same revision of a
// letter, it is the same command.
func (o *Operator) askToSettle(ctx context.Context, l fleet.Letter, action event.Action) error {
	kind, ok := event.Settle(l.Service)
	if !ok {
		return fmt.Errorf("%w: dead letter %s is of %q, which settles no letters", fleet.ErrConflict, l.ID, l.Service)
	}
	key := []string{l.ID, strconv.FormatUint(l.Revision, 10), string(action)}
	if err := ledger.Record(ctx, o.Ledger, audit.Entry{
		Action: "letter." + string(action), Cluster: l.Cluster, Request: ledger.Request("letter", strings.Join(key, " ")),
		Details: map[string]string{"letter": l.ID, "service": l.Service, "subject": l.Subject},
	}); err != nil {
		return err
	}
	m := event.Meta{Source: "gateway", Cluster: l.Cluster, Key: key, Time: o.Clock.Now()}
	return bus.Publish(ctx, o.Bus, kind, m, event.SettleCommand{Letter: l.ID, Revision: l.Revision, Action: action, By: ledger.Admin})
}

func settledView(l fleet.Letter, known bool) api.LetterView {
	v := api.LetterView{Letter: l, Outcome: api.OutcomeWaiting}
	switch {
	case !known:
	case l.Open():
		v.Outcome = api.OutcomeFailed
	default:
		v.Outcome = string(l.State)
	}
	v.Letter.Body = nil
	return v
}
