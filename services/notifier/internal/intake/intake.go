// Package intake takes facts in and writes what follows from them to the book
// of alerts. Several notifiers share the facts; each fact may come again, and
// late.
package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/nats-io/nats.go"

	"github.com/rotor-fleet/rotor/services/notifier/internal/book"
	"github.com/rotor-fleet/rotor/services/notifier/internal/record"
	"github.com/rotor-fleet/rotor/services/notifier/internal/route"
	"github.com/rotor-fleet/rotor/services/notifier/internal/rule"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/kv"
)

// consumer is the durable name on the stream of facts; all notifiers share it.
const consumer = "notifier"

// lookBack is among how many of the newest facts one is sought that has
// overtaken the fact at hand. Facts overtake each other by a few places, when
// two notifiers work side by side or one had to try again.
const lookBack = 5000

// Intake takes facts in.
type Intake struct {
	Bus      *bus.Bus
	Book     *book.Book
	Clusters *kv.Bucket[fleet.Cluster]
	Settings *kv.Bucket[fleet.Settings] // the same bucket, for its one other document
	Channels []string
	Log      *slog.Logger
}

// New returns an Intake, and waits for the bucket of the clusters until ctx
// ends.
func New(ctx context.Context, nc *nats.Conn, b *bus.Bus, in Intake) (*Intake, error) {
	var err error
	in.Bus = b
	if in.Clusters, err = kv.Open[fleet.Cluster](ctx, nc, bus.Clusters); err != nil {
		return nil, err
	}
	if in.Settings, err = kv.Open[fleet.Settings](ctx, nc, bus.Clusters); err != nil {
		return nil, err
	}
	return &in, nil
}

// Run takes facts in until ctx ends.
func (in *Intake) Run(ctx context.Context) error {
	return in.Bus.Consume(ctx, bus.Consumer{Stream: bus.Events, Name: consumer, Subjects: rule.Subjects(), Log: in.Log}, in.Handle)
}

// Handle takes one fact in.
func (in *Intake) Handle(ctx context.Context, e event.Event) error {
	effect, err := rule.Of(e)
	if err != nil {
		return bus.Permanent(err)
	}
	for _, a := range effect.Raise {
		if err := in.raise(ctx, a); err != nil {
			return fmt.Errorf("raise %s of %s: %w", a.Rule, a.Cluster, err)
		}
	}
	if err := in.end(ctx, effect.End); err != nil {
		return fmt.Errorf("end alerts of %s: %w", e.Subject(), err)
	}
	return nil
}

func (in *Intake) raise(ctx context.Context, a fleet.Alert) error {
	channels, err := in.route(ctx, &a)
	if err != nil {
		return err
	}
	changed, err := in.Book.Edit(ctx, a.Fingerprint, func(stored *fleet.Alert) bool {
		return record.Raise(stored, a, channels)
	})
	if err != nil {
		return err
	}
	if changed {
		in.Log.Info("alert raised", "alert", a.Fingerprint, "rule", a.Rule, "cluster", a.Cluster, "level", a.Level, "channels", len(channels))
	}
	// Also when nothing changed: the attempt before may have been cut short here.
	return in.overtaken(ctx, a)
}

func (in *Intake) route(ctx context.Context, a *fleet.Alert) ([]string, error) {
	cluster := kv.Entry[fleet.Cluster]{Value: fleet.Cluster{Name: a.Cluster}}
	if a.Cluster != event.FleetWide {
		stored, err := in.Clusters.Get(ctx, a.Cluster)
		switch {
		case err == nil:
			cluster = stored
		case !errors.Is(err, fleet.ErrNotFound):
			return nil, err
		}
	}
	settings, err := in.Settings.Get(ctx, fleet.SettingsKey)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		return nil, err
	}
	choice := route.Choose(a, &cluster.Value, settings.Value.Routes, in.Channels)
	if len(choice.Unknown) > 0 {
		in.Log.Warn("route names channels that are not configured", "cluster", a.Cluster, "rule", a.Rule,
			"unknown", choice.Unknown, "told", choice.Channels)
	}
	return choice.Channels, nil
}

// overtaken ends an alert that was raised by a fact which came later than the
// one that ends it. It looks after the alert is stored: an end published from
// then on finds it in the book.
func (in *Intake) overtaken(ctx context.Context, a fleet.Alert) error {
	for _, subject := range rule.Enders(a.Rule, a.Cluster) {
		facts, err := in.Bus.Recent(ctx, subject, lookBack)
		if err != nil {
			return err
		}
		for _, fact := range facts {
			effect, err := rule.Of(fact)
			if err != nil {
				continue // it moves to the dead letters when its turn comes
			}
			for _, ending := range effect.End {
				if !ending.Matches(&a) {
					continue
				}
				if err := in.endOne(ctx, a.Fingerprint, ending); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (in *Intake) end(ctx context.Context, endings []rule.Ending) error {
	if len(endings) == 0 {
		return nil
	}
	alerts, err := in.Book.Fresh(ctx)
	if err != nil {
		return err
	}
	for _, ending := range endings {
		for _, e := range alerts {
			if e.Value.State != fleet.AlertFiring || !ending.Matches(&e.Value) {
				continue
			}
			if err := in.endOne(ctx, e.Key, ending); err != nil {
				return err
			}
		}
	}
	return nil
}

func (in *Intake) endOne(ctx context.Context, fingerprint string, ending rule.Ending) error {
	changed, err := in.Book.Edit(ctx, fingerprint, func(a *fleet.Alert) bool { return record.End(a, ending) })
	if err == nil && changed {
		in.Log.Info("alert resolved", "alert", fingerprint, "cluster", ending.Cluster, "silent", ending.Silent)
	}
	return err
}
