package chaos

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// facts are what the stream of facts tells.
type facts struct {
	contents map[string]string // by event id
	issued   map[string]string // cluster/client@generation -> serial and token id
	proven   map[string]bool
	missed   map[string]bool // clusters past their update window
}

// check compares what the state, the facts, the disk and the receiver say.
func (r *run) check(ctx context.Context) error {
	told, err := r.readFacts(ctx)
	if err != nil {
		return err
	}
	client := &api.Client{URL: r.cluster.API(), Token: r.token}
	clients, err := api.List[api.ClientView](ctx, client, api.PathClients, nil)
	if err != nil {
		return err
	}
	for _, c := range clients {
		r.checkClient(c, told)
	}
	if err := r.checkAlerts(ctx, client, told); err != nil {
		return err
	}
	return r.checkDead(ctx)
}

// checkClient: every generation up to the newest was told of, the newest was
// told to be proven, and record, facts and disk show the same.
func (r *run) checkClient(c api.ClientView, told facts) {
	name := filepath.Join(c.Cluster, c.Kind, c.Instance)
	for number := 1; number <= c.Generation; number++ {
		if told.issued[fmt.Sprintf("%s@%d", name, number)] == "" {
			r.broken.add(noFact, "%s: generation %d of %d was never told to be issued", name, number, c.Generation)
		}
	}
	newest := fmt.Sprintf("%s@%d", name, c.Generation)
	if c.Certificate == nil || c.Token == nil {
		r.broken.add(notHealed, "%s has no generation", name)
		return
	}
	if !told.proven[newest] {
		r.broken.add(noFact, "%s is on record as %s and was never told to be proven", newest, c.Step)
	}
	record := c.Certificate.Serial + " " + c.Token.ID
	if issued := told.issued[newest]; issued != "" && issued != record {
		r.broken.add(twoCertificates, "%s: the fact says %s, the record %s", newest, issued, record)
	}
	r.reader.mu.Lock()
	defer r.reader.mu.Unlock()
	for number := 1; number <= c.Generation; number++ {
		key := fmt.Sprintf("%s@%d", name, number)
		disk, fact := r.reader.seen[key], told.issued[key]
		if disk != "" && fact != "" && !strings.HasPrefix(disk, fact+" ") {
			r.broken.add(twoCertificates, "%s: the fact says %s, the disk %s", key, fact, disk)
		}
	}
}

// readFacts reads the whole stream, from the server itself: what a gateway
// leaves out would be missing here.
func (r *run) readFacts(ctx context.Context) (facts, error) {
	f := facts{contents: map[string]string{}, issued: map[string]string{}, proven: map[string]bool{}, missed: map[string]bool{}}
	js, closeNATS, err := r.jetstream()
	if err != nil {
		return f, err
	}
	defer closeNATS()
	err = each(ctx, js, bus.Events, func(msg jetstream.Msg) error {
		e, err := event.Unmarshal(msg.Data())
		if err != nil {
			return err
		}
		return r.takeFact(f, e)
	})
	return f, err
}

func (r *run) takeFact(f facts, e event.Event) error {
	if before, known := f.contents[e.ID()]; known && before != e.String() {
		r.broken.add(twoContents, "%s:\n%s\n%s", e.ID(), before, e)
	}
	f.contents[e.ID()] = e.String()
	kind := event.CredentialIssued
	switch {
	case event.WindowMissed.Is(e):
		f.missed[e.Subject()] = true
		return nil
	case event.CredentialProven.Is(e):
		kind = event.CredentialProven
	case !event.CredentialIssued.Is(e):
		return nil
	}
	data, err := kind.Decode(e)
	if err != nil {
		return err
	}
	for _, c := range data.Clients {
		key := fmt.Sprintf("%s@%d", filepath.Join(e.Subject(), c.Client.String()), c.Generation)
		if event.CredentialProven.Is(e) {
			f.proven[key] = true
			continue
		}
		says := c.Serial + " " + c.TokenID
		if before, known := f.issued[key]; known && before != says {
			r.broken.add(twoCertificates, "%s was told to be issued twice: %s and %s", key, before, says)
		}
		f.issued[key] = says
	}
	return nil
}

// each calls f with every message that a stream holds now.
func each(ctx context.Context, js jetstream.JetStream, stream string, f func(jetstream.Msg) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	last := s.CachedInfo().State.LastSeq
	if s.CachedInfo().State.Msgs == 0 {
		return nil
	}
	consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	for {
		msg, err := messages.Next()
		if err != nil {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		if !bus.IsFence(msg.Subject()) {
			if err := f(msg); err != nil {
				return err
			}
		}
		if meta.Sequence.Stream >= last {
			return nil
		}
	}
}

// checkAlerts: each message on record has come, each is visible once, and each
// cluster that has missed its window has led to one.
func (r *run) checkAlerts(ctx context.Context, client *api.Client, told facts) error {
	var alerts []fleet.Alert
	pending := r.within(ctx, 30*time.Second, func(ctx context.Context) (err error) {
		if alerts, err = api.List[fleet.Alert](ctx, client, api.PathAlerts, url.Values{"all": {"true"}}); err != nil {
			return err
		}
		for i := range alerts {
			for _, d := range alerts[i].Deliveries {
				if d.State == fleet.DeliveryPending {
					return fmt.Errorf("%s of %s: %s is pending after %d attempts: %s", alerts[i].Rule, alerts[i].Cluster, d.About, d.Attempts, d.Error)
				}
			}
		}
		return nil
	})
	if pending != nil {
		r.broken.add(alertLost, "%v", pending)
	}
	warned := map[string]bool{}
	for i := range alerts {
		a := &alerts[i]
		if a.Rule == "window-missed" {
			warned[a.Cluster] = true
		}
		for _, d := range a.Deliveries {
			status := "firing"
			if d.About == "resolved" {
				status = "resolved"
			}
			if d.State == fleet.DeliverySent && !r.receiver.has(a.Fingerprint, status) {
				r.broken.add(alertLost, "%s of %s: %s is on record as sent and did not come", a.Rule, a.Cluster, d.About)
			}
		}
	}
	for name := range told.missed {
		if !warned[name] {
			r.broken.add(alertLost, "%s has missed its window, and there is no alert", name)
		}
	}
	r.receiver.mu.Lock()
	defer r.receiver.mu.Unlock()
	for says, keys := range r.receiver.messages {
		if len(keys) > 1 {
			r.broken.add(alertTwice, "%s came under %d keys", says, len(keys))
		}
	}
	return nil
}

// checkDead: nothing that was given up waits for somebody.
func (r *run) checkDead(ctx context.Context) error {
	js, closeNATS, err := r.jetstream()
	if err != nil {
		return err
	}
	defer closeNATS()
	return each(ctx, js, bus.Dead, func(msg jetstream.Msg) error {
		if state := msg.Headers().Get(bus.HeaderState); state != string(fleet.LetterOpen) {
			return nil // explained: somebody has seen to it
		}
		r.broken.add(deadLetters, "%s: %s", msg.Subject(), msg.Headers().Get(bus.HeaderReason))
		return nil
	})
}

func (r *run) jetstream() (jetstream.JetStream, func(), error) {
	nc, err := r.cluster.Connect()
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return js, nc.Close, nil
}

// usage is what one program holds.
type usage struct{ goroutines, memory float64 }

// measure reads the metrics of every program that has some.
func (r *run) measure(ctx context.Context) map[string]usage {
	all := map[string]usage{}
	for _, p := range r.cluster.Processes() {
		address := r.cluster.Metrics(p.Name)
		if address == "" {
			continue
		}
		text, err := fetch(ctx, address)
		if err != nil {
			continue
		}
		all[p.Name] = usage{sample(text, "go_goroutines"), sample(text, "process_resident_memory_bytes")}
	}
	return all
}

// Twice as much and this is not back.
const (
	spareGoroutines = 100
	spareMemory     = 64 << 20
)

func (r *run) compare(before, after map[string]usage) {
	for name, was := range before {
		is, known := after[name]
		if !known || is.goroutines > 2*was.goroutines+spareGoroutines || is.memory > 2*was.memory+spareMemory {
			r.broken.add(notBack, "%s: %.0f goroutines and %.0f MB before, %.0f and %.0f after",
				name, was.goroutines, was.memory/1e6, is.goroutines, is.memory/1e6)
		}
	}
}

func fetch(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// sample returns the value of a metric without labels.
func sample(text, name string) float64 {
	for line := range strings.SplitSeq(text, "\n") {
		if value, found := strings.CutPrefix(line, name+" "); found {
			var v float64
			_, _ = fmt.Sscan(value, &v)
			return v
		}
	}
	return 0
}
