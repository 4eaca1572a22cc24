package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/cmd/rotor/internal/cluster"
	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
)

// startCluster runs three NATS nodes, two of each service and a host of agents,
// with two clusters whose clients are proven.
func startCluster(t *testing.T) (*cluster.Cluster, *api.Client) {
	t.Helper()
	return startPrograms(t, cluster.Config{Nodes: 3, Copies: 2, Hosts: 1})
}

// wait calls f until it returns nil.
func wait(t *testing.T, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := cluster.Await(ctx, func() (struct{}, error) { return struct{}{}, f() }); err != nil {
		t.Fatalf("%s: not within %s: %v", what, patience, err)
	}
}

func rotated(ctx context.Context, c *api.Client, id string) func() error {
	return func() error {
		r, err := c.Rotation(ctx, id)
		if err == nil && r.State != "completed" {
			err = fmt.Errorf("rotation is %s", r.State)
		}
		return err
	}
}

// measured returns a metric of a process that has no labels.
func measured(ctx context.Context, k *cluster.Cluster, process, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.Metrics(process), nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", process, name)
}

// leads returns the scheduler that says that it leads, and its term.
func leads(t *testing.T, k *cluster.Cluster, names ...string) (leader string, term float64) {
	t.Helper()
	wait(t, "a scheduler leads", func() (err error) {
		for _, name := range names {
			if term, err = measured(t.Context(), k, name, "rotor_scheduler_term"); err == nil && term > 0 {
				leader = name
				return nil
			}
		}
		return fmt.Errorf("none of %v: %w", names, err)
	})
	return leader, term
}

// A leader that was stopped in the midst of its work, for longer than its lease,
// finds another in its place, and changes nothing when it wakes: neither
// documents, nor facts, nor commands.
func TestStoppedLeaderChangesNothingWhenItWakes(t *testing.T) {
	t.Parallel()
	k, client := startCluster(t)
	old, first := leads(t, k, "scheduler-1", "scheduler-2")
	standby := map[string]string{"scheduler-1": "scheduler-2", "scheduler-2": "scheduler-1"}[old]
	var ids []string
	rotate := func(clusters ...string) {
		view, err := client.Rotate(t.Context(), api.RotateRequest{Clusters: clusters, Force: true})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, view.ID)
	}
	for range 10 {
		rotate("edge-01", "edge-02")
	}
	k.Process(old).Pause()
	rotate("edge-01") // its command may well lie in the sleeper's hands
	_, second := leads(t, k, standby)
	if second <= first {
		t.Errorf("term %v after term %v", second, first)
	}
	for _, id := range ids {
		wait(t, "the standby rotates", rotated(t.Context(), client, id))
	}

	nc, err := k.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	sequences := func() map[string]uint64 {
		last := map[string]uint64{}
		for _, stream := range []string{bus.Commands, bus.Events, "KV_" + bus.Schedule, "KV_" + bus.Rotations, "KV_" + bus.Credentials} {
			s, err := js.Stream(t.Context(), stream)
			if err != nil {
				t.Fatal(err)
			}
			last[stream] = s.CachedInfo().State.LastSeq
		}
		return last
	}
	// What follows from the rotations is over when nothing moves any more.
	before := sequences()
	wait(t, "the fleet is at rest", func() error {
		now := sequences()
		for stream, last := range before {
			if now[stream] != last {
				before = now
				return fmt.Errorf("%s moves", stream)
			}
		}
		return nil
	})
	k.Process(old).Resume()
	wait(t, "the old leader has noticed", func() error {
		term, err := measured(t.Context(), k, old, "rotor_scheduler_term")
		if err == nil && term != 0 {
			err = fmt.Errorf("it leads in term %v", term)
		}
		return err
	})
	if _, err = client.Rotate(t.Context(), api.RotateRequest{Clusters: []string{"edge-02"}, DryRun: true}); err != nil {
		t.Fatal(err)
	}
	for stream, last := range sequences() {
		if last != before[stream] {
			t.Errorf("%s has moved from %d to %d since the old leader woke", stream, before[stream], last)
		}
	}
	if leader, term := leads(t, k, old, standby); leader != standby || term != second {
		t.Errorf("%s leads in term %v", leader, term)
	}
	checkTerms(t, js, second)
}

// checkTerms checks that each fact which a scheduler has told was stored in its
// term: after the fences of it, and before those of the next.
func checkTerms(t *testing.T, js jetstream.JetStream, last float64) {
	t.Helper()
	stream, err := js.Stream(t.Context(), bus.Events)
	if err != nil {
		t.Fatal(err)
	}
	terms := map[string]float64{} // sequence of a fence -> term
	counts := map[float64]int{}
	now := 0.0
	for seq := stream.CachedInfo().State.FirstSeq; seq <= stream.CachedInfo().State.LastSeq; seq++ {
		msg, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if bus.IsFence(msg.Subject) {
			var fence struct{ Term float64 }
			if err := json.Unmarshal(msg.Data, &fence); err != nil {
				t.Fatal(err)
			}
			terms[strconv.FormatUint(seq, 10)] = fence.Term
			continue
		}
		if !strings.Contains(string(msg.Data), `"source":"/rotor/scheduler"`) {
			continue
		}
		term := terms[msg.Header.Get(jetstream.ExpectedLastSubjSeqHeader)]
		if term == 0 || term < now {
			t.Errorf("fact %d on %s of term %v was stored in term %v", seq, msg.Subject, term, now)
		}
		now = max(now, term)
		counts[term]++
	}
	if counts[last] == 0 {
		t.Errorf("facts by term: %v", counts)
	}
	t.Logf("facts of schedulers by term: %v", counts)
}

// The loss of any one node of NATS fails no command; some take longer.
func TestLossOfANodeFailsNoCommand(t *testing.T) {
	t.Parallel()
	k, client := startCluster(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var mu sync.Mutex
	var taken []time.Duration
	var users sync.WaitGroup
	for _, name := range []string{"edge-01", "edge-02"} {
		users.Go(func() {
			for ctx.Err() == nil {
				start := clock.Wall()
				c := &api.Client{URL: client.URL, Token: client.Token, Key: rand.Text()}
				_, err := c.Rotate(t.Context(), api.RotateRequest{Clusters: []string{name}, Force: true})
				if err != nil {
					t.Errorf("a command has failed after %s: %v", clock.Wall().Sub(start), err)
				}
				mu.Lock()
				taken = append(taken, clock.Wall().Sub(start))
				mu.Unlock()
				_ = clock.Sleep(ctx, 50*time.Millisecond)
			}
		})
	}
	commands := func() int { mu.Lock(); defer mu.Unlock(); return len(taken) }
	for _, node := range []string{"nats-1", "nats-2", "nats-3"} {
		k.Process(node).Kill()
		after := commands() + 20
		wait(t, "commands go on without "+node, func() error {
			if n := commands(); n < after {
				return fmt.Errorf("%d of %d commands", n, after)
			}
			return nil
		})
		if err := k.Process(node).Start(); err != nil {
			t.Fatal(err)
		}
		ready, cancel := context.WithTimeout(t.Context(), patience)
		if err := k.WaitReady(ready); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	stop()
	users.Wait()
	slices.Sort(taken)
	t.Logf("%d commands: p50 %s, p99 %s, longest %s", len(taken), taken[len(taken)/2], taken[len(taken)*99/100], taken[len(taken)-1])
}
