package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/event"
)

func (a *app) watchCommand() *cobra.Command {
	var cluster, kind, since, format string
	c := &cobra.Command{
		Use:   "watch",
		Short: "Follow what happens in the fleet",
		Long: `Follow the events of the fleet, one line each, until Ctrl-C. A lost connection is
made again and goes on behind the last event that was seen.`,
		Example: `  rotor watch
  rotor watch --cluster edge-01 --type credential.proven
  rotor watch --since all -o json`,
		Args: ExactArgs(),
	}
	flags := c.Flags()
	flags.StringVar(&cluster, "cluster", "", "only of this cluster")
	flags.StringVar(&kind, "type", "", "only of this type, such as credential.proven or credential")
	flags.StringVar(&since, "since", "", "\"all\" to begin with the oldest event that is kept; now, if empty")
	flags.StringVarP(&format, "output", "o", "text", "format of the output: text, json (a CloudEvent a line)")
	_ = c.RegisterFlagCompletionFunc("cluster", a.completeClusters)
	_ = c.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(eventNames(), cobra.ShellCompDirectiveNoFileComp))
	c.RunE = func(c *cobra.Command, _ []string) error {
		if format != "text" && format != "json" {
			return usage(c, "output %q: use text or json", format)
		}
		if since != "" && since != "all" {
			return usage(c, "since %q: use all", since)
		}
		match, full, err := matchType(c, kind)
		if err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		query := url.Values{}
		for key, value := range map[string]string{"cluster": cluster, "type": full, "since": since} {
			if value != "" {
				query.Set(key, value)
			}
		}
		w := watcher{client: client, query: query, log: c.ErrOrStderr(), out: c.OutOrStdout(), json: format == "json", match: func(e event.Event) bool {
			return match(e) && (cluster == "" || e.Subject() == cluster)
		}}
		return w.run(c.Context())
	}
	return c
}

// shortType is the type of an event without what all of them share.
func shortType(full string) string {
	return strings.TrimSuffix(strings.TrimPrefix(full, "rotor."), ".v1")
}

func eventNames() []string {
	var out []string
	for _, row := range event.Catalog() {
		if !row.Command() {
			out = append(out, shortType(row.Type))
		}
	}
	return out
}

// matchType returns the filter for a type or a noun, and the full type where
// one is named: it is what the server filters by.
func matchType(c *cobra.Command, kind string) (match func(event.Event) bool, full string, err error) {
	if kind == "" {
		return func(event.Event) bool { return true }, "", nil
	}
	name := shortType(kind)
	for _, known := range eventNames() {
		if name == known {
			full = "rotor." + name + ".v1"
			return func(e event.Event) bool { return e.Type() == full }, full, nil
		}
		if strings.HasPrefix(known, name+".") {
			return func(e event.Event) bool { return strings.HasPrefix(shortType(e.Type()), name+".") }, "", nil
		}
	}
	return nil, "", usage(c, "type %q: use %s", kind, orList(eventNames()))
}

// watcher prints the events of a server for as long as it is wanted.
type watcher struct {
	client   *api.Client
	query    url.Values
	match    func(event.Event) bool
	out, log io.Writer
	json     bool
}

// run ends without an error when ctx does. The first connection must succeed:
// later ones are tried for as long as it takes.
func (w *watcher) run(ctx context.Context) error {
	last, connected, tries := "", false, 0
	for {
		query := w.query
		if last != "" { // the place in the stream is known by the last event
			query = cloneWithout(query, "since")
		}
		err := w.client.StreamEvents(ctx, query, last, func(id string, e event.Event) error {
			connected, tries = true, 0
			if id != "" {
				last = id
			}
			return w.show(e)
		})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // Ctrl-C is how a watch ends
		}
		if final := w.final(err, connected); final != nil {
			return final
		}
		connected = true
		if tries++; tries == 1 {
			_, _ = fmt.Fprintln(w.log, "rotor: the connection is lost, trying again")
		}
		limit := min(250*time.Millisecond<<min(tries, 6), 5*time.Second)
		if clock.Sleep(ctx, limit/2+rand.N(limit/2)) != nil {
			return nil
		}
	}
}

// errOutput is a standard output that takes no more.
var errOutput = errors.New("write events")

// final returns the error if trying again would not help.
func (w *watcher) final(err error, connected bool) error {
	if errors.Is(err, errOutput) {
		return err
	}
	if p, ok := errors.AsType[*api.Problem](err); ok && !passing(p) {
		return err
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" && !connected {
		return err
	}
	return nil
}

func (w *watcher) show(e event.Event) error {
	if !w.match(e) {
		return nil
	}
	line := eventLine(e)
	if w.json {
		raw, err := event.Marshal(e)
		if err != nil {
			return err
		}
		line = string(raw)
	}
	if _, err := fmt.Fprintln(w.out, line); err != nil {
		return fmt.Errorf("%w: %w", errOutput, err)
	}
	return nil
}

func cloneWithout(q url.Values, key string) url.Values {
	clone := url.Values{}
	for k, v := range q {
		if k != key {
			clone[k] = slices.Clone(v)
		}
	}
	return clone
}
