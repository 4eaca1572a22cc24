// Package live streams facts to whoever follows the fleet, in the event stream
// format of the HTML standard, 9.2. Each stream reads for itself, so one that is
// slow holds up nobody else.
package live

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rotor-fleet/rotor/shared/bus"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

const (
	heartbeat = 15 * time.Second
	// writeLimit is how long one event may take to reach a follower before the
	// stream is ended; it comes back with the id of the last event that it saw.
	writeLimit = 10 * time.Second
	// ahead is how many facts are read ahead of what a follower takes.
	ahead = 256
)

// Streams serves streams. It is safe for concurrent use.
type Streams struct {
	Bus  *bus.Bus
	Stop <-chan struct{}  // closed when the gateway ends
	Open prometheus.Gauge // streams open now
}

// Filter says which facts a follower wants, and from where.
type Filter struct {
	Cluster string // every cluster, if empty
	Type    string // rotor.credential.issued.v1, credential.issued or credential; every type, if empty
	Since   string // "all" or "0" for all that is kept; the next fact, if empty
	LastID  string // id of the last fact seen; goes before Since
}

// Plan is a checked filter.
type Plan struct {
	subjects []string
	after    uint64
}

// Prepare checks a filter. The stream then begins at the present end of the
// facts, so that nothing that happens from now on is missed.
func (s *Streams) Prepare(ctx context.Context, f Filter) (Plan, error) {
	var p Plan
	var err error
	if p.subjects, err = subjects(f); err != nil {
		return p, err
	}
	since, what := f.LastID, "Last-Event-ID"
	if since == "" {
		since, what = f.Since, "since"
	}
	last, err := s.Bus.LastSequence(ctx)
	if err != nil {
		return p, err
	}
	p.after = last
	if since != "" && since != "all" {
		n, err := strconv.ParseUint(since, 10, 64)
		if err != nil {
			return p, fmt.Errorf("%w: %s %q: use the id of an event", fleet.ErrInvalid, what, since)
		}
		p.after = min(n, last)
	} else if since == "all" {
		p.after = 0
	}
	if p.after == 0 {
		p.after = bus.FromStart
	}
	return p, nil
}

func subjects(f Filter) ([]string, error) {
	cluster := "*"
	if f.Cluster != "" {
		cluster = f.Cluster
		if err := fleet.CheckName("cluster", cluster); err != nil && cluster != event.FleetWide {
			return nil, err
		}
	}
	if f.Type == "" {
		return []string{"rotor.v1.event.*.*." + cluster}, nil
	}
	var found []string
	for _, row := range event.Catalog() {
		if !row.Command() && slices.Contains([]string{row.Type, row.Noun + "." + row.Verb, row.Noun}, f.Type) {
			found = append(found, row.Subject(cluster))
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: type %q: use a type of the catalog, such as rotor.credential.issued.v1, credential.issued or credential", fleet.ErrInvalid, f.Type)
	}
	return found, nil
}

// Serve writes facts until the follower leaves, is too slow, or the gateway
// ends.
func (s *Streams) Serve(ctx context.Context, w http.ResponseWriter, p Plan) {
	s.Open.Inc()
	defer s.Open.Dec()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	facts := make(chan bus.Stored, ahead)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		_ = s.Bus.Follow(ctx, p.subjects, p.after, func(fact bus.Stored) error {
			select {
			case facts <- fact:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	defer func() { cancel(); <-followed }()

	out := &writer{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	if out.send([]byte(": rotor\n\n")) != nil {
		return
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		var frame []byte
		select {
		case <-ctx.Done():
			return
		case <-s.Stop:
			return
		case <-followed:
			return // the follower comes back and goes on where it was
		case <-beat.C:
			frame = []byte(":\n\n")
		case fact := <-facts:
			frame = Frame(fact)
		}
		if out.send(frame) != nil {
			return
		}
	}
}

type writer struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (o *writer) send(frame []byte) error {
	// A deadline of the network is the machine's business.
	_ = o.control.SetWriteDeadline(clock.Wall().Add(writeLimit))
	if _, err := o.w.Write(frame); err != nil {
		return err
	}
	return o.control.Flush()
}

// Frame returns one fact in the event stream format.
func Frame(fact bus.Stored) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "id: %d\nevent: %s\ndata: ", fact.Sequence, typeOf(fact.Subject))
	start := b.Len()
	if err := json.Compact(&b, fact.Body); err != nil { // not JSON: nobody of ours has published it
		b.Truncate(start)
		b.WriteString("{}")
	}
	b.WriteString("\n\n")
	return b.Bytes()
}

// typeOf returns the type of the facts on rotor.v1.event.<noun>.<verb>.<cluster>.
func typeOf(subject string) string {
	parts := strings.Split(subject, ".")
	if len(parts) != 6 {
		return "message"
	}
	return "rotor." + parts[3] + "." + parts[4] + "." + parts[1]
}
