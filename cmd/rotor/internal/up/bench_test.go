package up

import (
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleetfile"
)

// rotations is how many forced rotations of one cluster are measured.
const rotations = 60

// BenchmarkFigureLatency runs `rotor up` with the sample fleet and its hosted
// agents, and forces rotations of one cluster, one after the other: from the
// call of the API until the proof of each client is told of.
func BenchmarkFigureLatency(b *testing.B) {
	data := b.TempDir()
	fleetFile := filepath.Join(data, "fleet.yaml")
	if err := os.WriteFile(fleetFile, fleetfile.Sample(clock.Wall()), 0o600); err != nil {
		b.Fatal(err)
	}
	var took []time.Duration
	for b.Loop() {
		err := Run(b.Context(), Options{
			Data: filepath.Join(data, "var"), Fleet: fleetFile, Out: io.Discard, Log: io.Discard,
			ListenAPI: "127.0.0.1:0", ListenAgents: "127.0.0.1:0", ListenNATS: "127.0.0.1:0",
			Ready: func(ctx context.Context, r Running) error {
				one, err := forced(ctx, r.Client, "edge-01", rotations)
				took = append(took, one...)
				return err
			},
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(took)
	at := func(share float64) float64 {
		return float64(took[min(int(share*float64(len(took))), len(took)-1)].Microseconds()) / 1000
	}
	b.ReportMetric(at(0.5), "ms-p50")
	b.ReportMetric(at(0.99), "ms-p99")
	b.ReportMetric(at(1), "ms-max")
	b.ReportMetric(float64(len(took)), "proofs")
	b.ReportMetric(0, "ns/op")
}

// forced rotates a cluster so many times and returns how long each client took.
func forced(ctx context.Context, client *api.Client, cluster string, times int) ([]time.Duration, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	proofs := make(chan string, 1000)
	go func() {
		query := url.Values{"type": {event.CredentialProven.Type()}}
		for last := ""; ctx.Err() == nil; {
			_ = client.StreamEvents(ctx, query, last, func(id string, e event.Event) error {
				last = id
				data, err := event.CredentialProven.Decode(e)
				for range data.Clients {
					if e.Subject() == cluster {
						proofs <- data.Rotation
					}
				}
				return err
			})
		}
	}()
	if err := settled(ctx, client); err != nil {
		return nil, err
	}
	for len(proofs) > 0 {
		<-proofs // of the enrolment
	}
	var took []time.Duration
	for range times {
		start := clock.Wall()
		r, err := client.Rotate(ctx, api.RotateRequest{Clusters: []string{cluster}, Force: true})
		if err != nil {
			return took, err
		}
		for range r.Total {
			select {
			case <-proofs:
				took = append(took, clock.Wall().Sub(start))
			case <-time.After(time.Minute):
				return took, errors.New("not proven within a minute")
			}
		}
		// The next requests have to be on file, or the next rotation waits for them.
		for !r.State.Done() {
			if err := clock.Sleep(ctx, 20*time.Millisecond); err != nil {
				return took, err
			}
			if r, err = client.Rotation(ctx, r.ID); err != nil {
				return took, err
			}
		}
		if err := clock.Sleep(ctx, 300*time.Millisecond); err != nil {
			return took, err
		}
	}
	return took, nil
}

// settled waits until every client of the fleet is proven.
func settled(ctx context.Context, client *api.Client) error {
	for {
		clients, err := api.List[api.ClientView](ctx, client, api.PathClients, nil)
		if err != nil {
			return err
		}
		if len(clients) > 0 && !slices.ContainsFunc(clients, func(c api.ClientView) bool { return c.Step != "proven" }) {
			return nil
		}
		if err := clock.Sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}
