// Package demo runs the sample fleet on a fast clock in a scratch folder and
// counts what happened: a rehearsal of months in a minute, with the real parts.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/up"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
	"github.com/rotor-fleet/rotor/shared/fleetfile"
)

// Options are the arguments of `rotor demo`.
type Options struct {
	Days      int
	ClockRate float64
	Keep      bool      // keep the scratch folder
	Progress  io.Writer // what people read while it runs
}

// Result is what happened.
type Result struct {
	Days         int `json:"days"`
	Clusters     int `json:"clusters"`
	Clients      int `json:"clients"`
	Renewals     int `json:"renewals"`     // generations after the first
	Expired      int `json:"expired"`      // credentials that expired while in use
	WindowMissed int `json:"windowMissed"` // clusters that missed their update window
	Alerts       int `json:"alerts"`       // messages that reached a channel
	LongestGap   int `json:"longestGap"`   // seconds that any client was without a valid certificate or token

	AuthorityRotations int `json:"authorityRotations"` // CAs that were replaced, from the making of the new one to the end of trust in the old one
	TokenKeyRotations  int `json:"tokenKeyRotations"`  // keys of tokens that were replaced
	CutLeaves          int `json:"cutLeaves"`          // generations whose validity was cut to the life of their CA
}

// Run runs the demo and returns its result.
func Run(ctx context.Context, o Options) (Result, error) {
	dir, err := os.MkdirTemp("", "rotor-demo-")
	if err != nil {
		return Result{}, fmt.Errorf("demo: scratch folder: %w", err)
	}
	if !o.Keep {
		defer func() { _ = os.RemoveAll(dir) }()
	}
	fleetPath := filepath.Join(dir, "fleet.yaml")
	if err := os.WriteFile(fleetPath, fleetfile.Sample(clock.Wall()), 0o600); err != nil {
		return Result{}, fmt.Errorf("demo: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, "rotor.log"))
	if err != nil {
		return Result{}, fmt.Errorf("demo: %w", err)
	}
	defer func() { _ = log.Close() }()

	t := newTally(o)
	_, _ = fmt.Fprintf(o.Progress, "The sample fleet for %d days at %g times the pace of time; scratch folder %s\n", o.Days, o.ClockRate, dir)
	err = up.Run(ctx, up.Options{
		Data: dir, Fleet: fleetPath, ClockRate: o.ClockRate,
		ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", ListenNATS: "127.0.0.1:0",
		Out: io.Discard, Log: log, Ready: t.follow,
	})
	if err == nil && !t.ended {
		err = errors.New("demo: interrupted")
	}
	return t.result, err
}

// client names one client of the fleet.
type client struct {
	cluster string
	key     fleet.ClientKey
}

type generation struct {
	client
	number int
}

// tally counts events.
type tally struct {
	options Options
	result  Result
	ended   bool
	start   time.Time
	week    int
	missed  map[string]bool          // clusters whose window was missed and not restored since
	lives   map[generation]time.Time // first end of its two credentials
	inUse   map[client]time.Time     // end of what is installed
	early   map[generation]bool      // told of as installed before it was told of as issued: two services tell
	gap     time.Duration
}

func newTally(o Options) *tally {
	return &tally{
		options: o, result: Result{Days: o.Days},
		missed: map[string]bool{}, lives: map[generation]time.Time{}, inUse: map[client]time.Time{}, early: map[generation]bool{},
	}
}

// follow counts the events of the days asked for. The days begin when every
// client is proven; what led there counts as well.
func (t *tally) follow(ctx context.Context, running up.Running) error {
	if err := waitHealthy(ctx, running.Client); err != nil {
		return err
	}
	t.start = running.Clock.Now()
	end := t.start.Add(time.Duration(t.options.Days) * fleet.Day)
	ctx, cancel := context.WithTimeout(ctx, running.Clock.Wait(end.Sub(running.Clock.Now())))
	defer cancel()
	last := ""
	for ctx.Err() == nil {
		err := running.Client.StreamEvents(ctx, url.Values{"since": {"all"}}, last, func(id string, e event.Event) error {
			last = id
			return t.count(e)
		})
		if ctx.Err() == nil && err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("demo: %w", err)
		}
	}
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil // interrupted
	}
	t.ended = true
	return t.finish(context.WithoutCancel(ctx), running, end)
}

// waitHealthy waits until every client of the fleet is healthy.
func waitHealthy(ctx context.Context, client *api.Client) error {
	for {
		var status api.Status
		if err := client.Call(ctx, http.MethodGet, api.PathStatus, nil, &status); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		if status.Clients > 0 && status.States[fleet.StateHealthy] == status.Clients {
			return nil
		}
		if err := clock.Sleep(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("demo: the fleet did not become healthy: %w", err)
		}
	}
}

func (t *tally) finish(ctx context.Context, running up.Running, end time.Time) error {
	var status api.Status
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := running.Client.Call(ctx, http.MethodGet, api.PathStatus, nil, &status); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	for _, until := range t.inUse {
		t.gap = max(t.gap, end.Sub(until))
	}
	t.result.Clusters, t.result.Clients = len(status.Clusters), status.Clients
	t.result.LongestGap = int(t.gap / time.Second)
	return nil
}

func (t *tally) count(e event.Event) error {
	t.progress(e.Time())
	switch {
	case event.CredentialIssued.Is(e):
		return t.each(event.CredentialIssued, e, t.issued)
	case event.CredentialInstalled.Is(e):
		return t.each(event.CredentialInstalled, e, func(cluster string, c event.Client) { t.installed(e.Time(), cluster, c) })
	case event.CredentialExpired.Is(e):
		return t.each(event.CredentialExpired, e, func(string, event.Client) { t.result.Expired++ })
	case event.AlertSent.Is(e):
		t.result.Alerts++
	case event.WindowMissed.Is(e):
		if !t.missed[e.Subject()] { // told again with each escalation
			t.missed[e.Subject()] = true
			t.result.WindowMissed++
		}
	case event.AuthorityCompleted.Is(e):
		return t.rotated(e)
	case event.WindowRestored.Is(e):
		delete(t.missed, e.Subject())
	}
	return nil
}

// rotated counts a rotation of the authority that has ended.
func (t *tally) rotated(e event.Event) error {
	data, err := event.AuthorityCompleted.Decode(e)
	if err != nil {
		return err
	}
	if data.Kind == fleet.RolloutToken {
		t.result.TokenKeyRotations++
		return nil
	}
	t.result.AuthorityRotations++
	_, _ = fmt.Fprintf(t.options.Progress, "day %3d  %s  the CA was rotated, %d so far\n",
		int(e.Time().Sub(t.start)/fleet.Day), e.Time().Format(time.DateOnly), t.result.AuthorityRotations)
	return nil
}

func (t *tally) each(kind event.Kind[event.Credentials], e event.Event, f func(string, event.Client)) error {
	data, err := kind.Decode(e)
	if err != nil {
		return err
	}
	for _, c := range data.Clients {
		f(e.Subject(), c)
	}
	return nil
}

func (t *tally) issued(cluster string, c event.Client) {
	g := generation{client{cluster, c.Client}, c.Generation}
	if _, repeated := t.lives[g]; repeated {
		return
	}
	t.lives[g] = c.NotAfter
	if c.ExpiresAt.Before(c.NotAfter) {
		t.lives[g] = c.ExpiresAt
	}
	if c.Generation > 1 {
		t.result.Renewals++
	}
	if c.Cut {
		t.result.CutLeaves++
	}
	if t.early[g] {
		t.use(g)
	}
}

func (t *tally) installed(at time.Time, cluster string, c event.Client) {
	who := client{cluster, c.Client}
	if until, had := t.inUse[who]; had {
		t.gap = max(t.gap, at.Sub(until))
	}
	t.use(generation{who, c.Generation})
}

func (t *tally) use(g generation) {
	until, known := t.lives[g]
	if t.early[g] = !known; until.After(t.inUse[g.client]) {
		t.inUse[g.client] = until
	}
}

func (t *tally) progress(now time.Time) {
	const step = 20 * fleet.Day
	week := int(now.Sub(t.start) / step)
	if week <= t.week {
		return
	}
	t.week = week
	_, _ = fmt.Fprintf(t.options.Progress, "day %3d  %s  %3d renewals, %d expired, %d alerts\n",
		int(now.Sub(t.start)/fleet.Day), now.Format(time.DateOnly), t.result.Renewals, t.result.Expired, t.result.Alerts)
}
