package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What Apply did, or would do, with a stream, bucket or consumer.
const (
	Made      = "made"
	Changed   = "changed"
	Unchanged = "unchanged"
)

// Change is what Apply did with one stream, bucket or durable consumer.
type Change struct {
	Kind    string   `json:"kind"` // stream, bucket or consumer
	Name    string   `json:"name"` // of a consumer: <stream>/<name>
	What    string   `json:"what"`
	Details []string `json:"details,omitempty"` // what differs
}

// Setup creates what is missing of the layout and updates what differs. Each
// call to the server is short and repeated while a cluster elects a leader; it
// ends with ctx.
func Setup(ctx context.Context, nc *nats.Conn, replicas int) error {
	_, err := Apply(ctx, nc, Options{Replicas: replicas})
	return err
}

// Options say how Apply makes the layout.
type Options struct {
	Replicas int  // copies of each stream; 1, if less
	Dry      bool // only tell what would be done
	// Waiting is told why a call is repeated, each time; nil tells nobody.
	Waiting func(error)
}

// ErrNoStorage is the error of a server that offers its streams less space on
// disk than they may take together.
var ErrNoStorage = errors.New("the streams need more space than NATS offers them")

// Apply is Setup that tells what it did.
func Apply(ctx context.Context, nc *nats.Conn, o Options) ([]Change, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("set up streams: %w", err)
	}
	ask := asker{guard: Guard(nc), waiting: o.Waiting}
	var changes []Change
	for _, config := range Layout(max(o.Replicas, 1)) {
		change := Change{Kind: "stream", Name: config.Name}
		if name, ok := strings.CutPrefix(config.Name, "KV_"); ok {
			change.Kind, change.Name = "bucket", name
		}
		var stream jetstream.Stream
		err := ask.do(ctx, func(ctx context.Context) (err error) {
			stream, err = js.Stream(ctx, config.Name)
			return err
		})
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			change.What = Made
		case err != nil:
			return changes, fmt.Errorf("set up stream %s: %w", config.Name, err)
		default:
			change.compare(streamDifferences(stream.CachedInfo().Config, config))
		}
		if change.What != Unchanged && !o.Dry {
			err := ask.do(ctx, func(ctx context.Context) error {
				_, err := js.CreateOrUpdateStream(ctx, config)
				return err
			})
			if err != nil {
				return changes, fmt.Errorf("set up stream %s: %w", config.Name, err)
			}
		}
		changes = append(changes, change)
	}
	for _, d := range Durables() {
		change, err := d.apply(ctx, js, ask, o.Dry)
		if err != nil {
			return changes, fmt.Errorf("set up consumer %s of %s: %w", d.Name, d.Stream, err)
		}
		changes = append(changes, change)
	}
	return changes, nil
}

func (d Durable) apply(ctx context.Context, js jetstream.JetStream, ask asker, dry bool) (Change, error) {
	change := Change{Kind: "consumer", Name: d.Stream + "/" + d.Name}
	var consumer jetstream.Consumer
	err := ask.do(ctx, func(ctx context.Context) (err error) {
		consumer, err = js.Consumer(ctx, d.Stream, d.Name)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), dry && errors.Is(err, jetstream.ErrStreamNotFound):
		change.What = Made
	case err != nil:
		return change, err
	default:
		change.compare(d.differences(consumer.CachedInfo().Config))
	}
	if change.What == Unchanged || dry {
		return change, nil
	}
	return change, ask.do(ctx, func(ctx context.Context) error {
		_, err := js.CreateOrUpdateConsumer(ctx, d.Stream, d.config())
		return err
	})
}

// asker repeats calls while a server says "not now".
type asker struct {
	guard   *Denials
	waiting func(error)
}

// do is Retry that ends at once when the user may not ask, and when there is no
// space: a cluster calls that "no suitable peers", as it calls servers that are
// still starting.
func (a asker) do(ctx context.Context, call func(context.Context) error) error {
	return Retry(ctx, func(ctx context.Context) error {
		err := a.guard.Do(ctx, "$JS.API.", call)
		if lacksStorage(err) {
			return fmt.Errorf("%w, %d GB of a disk that is to have a third more; give them a larger disk or a limit of their own, "+
				"such as `rotor nats config --max-store 100GB`: %s", ErrNoStorage, reserved()>>30, err)
		}
		if err != nil && a.waiting != nil && Transient(err) {
			a.waiting(err)
		}
		return err
	})
}

// lacksStorage reports whether a server, or each of a cluster that runs, has
// refused a stream for its bound on bytes.
func lacksStorage(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return false
	}
	return api.ErrorCode == codeNoStorage ||
		api.ErrorCode == codeNoPeers && strings.Contains(api.Description, "insufficient storage") && !strings.Contains(api.Description, "offline")
}

// reserved is how many bytes the streams may take together, on each server.
func reserved() (n int64) {
	for _, config := range Layout(1) {
		n += max(config.MaxBytes, 0)
	}
	return n
}

func (c *Change) compare(details []string) {
	c.What, c.Details = Unchanged, details
	if len(details) > 0 {
		c.What = Changed
	}
}

// differences collects values that are not as wanted.
type differences []string

func differ[T comparable](d *differences, name string, is, want T) {
	if is != want {
		*d = append(*d, fmt.Sprintf("%s %v -> %v", name, is, want))
	}
}

// streamDifferences compares what the layout says of a stream; what it leaves
// to the server is not looked at.
func streamDifferences(is, want jetstream.StreamConfig) []string {
	var d differences
	differ(&d, "subjects", strings.Join(is.Subjects, " "), strings.Join(want.Subjects, " "))
	differ(&d, "replicas", is.Replicas, want.Replicas)
	differ(&d, "retention", is.Retention, want.Retention)
	differ(&d, "discard", is.Discard, want.Discard)
	differ(&d, "max age", is.MaxAge, want.MaxAge)
	differ(&d, "max bytes", max(is.MaxBytes, 0), want.MaxBytes)
	differ(&d, "max messages per subject", max(is.MaxMsgsPerSubject, 0), want.MaxMsgsPerSubject)
	differ(&d, "max message size", is.MaxMsgSize, want.MaxMsgSize)
	differ(&d, "duplicate window", is.Duplicates, want.Duplicates)
	differ(&d, "compression", is.Compression, want.Compression)
	differ(&d, "allow direct", is.AllowDirect, want.AllowDirect)
	differ(&d, "allow message TTL", is.AllowMsgTTL, want.AllowMsgTTL)
	differ(&d, "allow rollup", is.AllowRollup, want.AllowRollup)
	differ(&d, "deny delete", is.DenyDelete, want.DenyDelete)
	differ(&d, "deny purge", is.DenyPurge, want.DenyPurge)
	return d
}

func (d Durable) differences(is jetstream.ConsumerConfig) []string {
	want := d.config()
	var found differences
	differ(&found, "subjects", patterns(filters(is)), patterns(want.FilterSubjects))
	differ(&found, "ack wait", is.AckWait, want.AckWait)
	differ(&found, "max ack pending", is.MaxAckPending, want.MaxAckPending)
	differ(&found, "max deliver", is.MaxDeliver, want.MaxDeliver)
	return found
}

// filters returns the filters of a consumer; the server keeps a single one
// apart.
func filters(c jetstream.ConsumerConfig) []string {
	if c.FilterSubject != "" {
		return []string{c.FilterSubject}
	}
	return c.FilterSubjects
}

func patterns(subjects []string) string {
	return strings.Join(slices.Sorted(slices.Values(subjects)), " ")
}
