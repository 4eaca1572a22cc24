package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// resource is one kind of object that `rotor get` shows.
type resource struct {
	name   string
	states []string // values of --state; none, if empty
	// clustered says that each is of a cluster, or about some.
	clustered bool
	// list reads the objects; the result is a slice that prints as JSON.
	list func(ctx context.Context, q query) (any, error)
	// pick reduces what list returned to the one that is named.
	pick func(ctx context.Context, q query, list any) (any, error)
	// print writes a list or one object as a table.
	print func(w io.Writer, q query, v any) error
}

// query is what was asked for.
type query struct {
	client         *api.Client
	name           string
	cluster, state string
	wide           bool
}

func (a *app) getCommand() *cobra.Command {
	resources := a.resources()
	names := make([]string, len(resources))
	for i, r := range resources {
		names[i] = r.name
	}
	var q query
	c := &cobra.Command{
		Use:   "get " + "clusters|clients|releases|rotations|alerts|agents [NAME]",
		Short: "List objects, or show one",
		Long: `List objects, or show one by its name: a cluster, a release and an agent by
cluster; a client by cluster/kind or cluster/kind/instance, or all clients of a
cluster by the cluster; a rotation by its id; an alert by its fingerprint.

Lists are sorted by cluster, clients in the order in which they are rotated.`,
		Example: `  rotor get clients
  rotor get clients edge-01/kms -o json
  rotor get clients --state due
  rotor get alerts --state firing -o wide`,
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return names, cobra.ShellCompDirectiveNoFileComp
			}
			if len(args) == 1 && slices.Contains([]string{"clusters", "clients", "agents"}, args[0]) {
				return a.completeClusters(c, nil, word)
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return usage(c, "say what to get: %s", orList(names))
			case len(args) > 2:
				return usage(c, "unexpected argument %q", args[2])
			}
			return nil
		},
	}
	output := formatFlag(c, "table", "json", "yaml", "wide")
	c.Flags().StringVar(&q.cluster, "cluster", "", "only of this cluster")
	c.Flags().StringVar(&q.state, "state", "", "only in this state")
	_ = c.RegisterFlagCompletionFunc("cluster", a.completeClusters)
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := output.check(c); err != nil {
			return err
		}
		r, err := findResource(c, resources, names, args[0])
		if err != nil {
			return err
		}
		if q.state != "" && !slices.Contains(r.states, q.state) {
			if len(r.states) == 0 {
				return usage(c, "%s have no state", r.name)
			}
			return usage(c, "state %q: use %s", q.state, orList(r.states))
		}
		if q.cluster != "" && !r.clustered {
			return usage(c, "%s are of no cluster", r.name)
		}
		if q.client, err = a.client(); err != nil {
			return err
		}
		q.wide = output.value == "wide"
		if len(args) == 2 {
			q.name = args[1]
		}
		v, err := r.list(c.Context(), q)
		if err == nil && q.name != "" {
			v, err = r.pick(c.Context(), q, v)
		}
		if errors.Is(err, fleet.ErrNotFound) && !strings.Contains(err.Error(), `cluster "`) {
			return &ExitError{Code: exitFailure, Err: err, Hint: "see what there is with `rotor get " + r.name + "`"}
		}
		if err != nil {
			return err
		}
		if done, err := output.document(c.OutOrStdout(), v); done {
			return err
		}
		return r.print(c.OutOrStdout(), q, v)
	}
	return c
}

func findResource(c *cobra.Command, resources []resource, names []string, name string) (resource, error) {
	for _, r := range resources {
		if name == r.name || name+"s" == r.name {
			return r, nil
		}
	}
	return resource{}, usage(c, "cannot get %q: use %s", name, orList(names))
}

// kindOf makes a resource of a type of the API from small functions over it.
type kindOf[T any] struct {
	name    string
	path    func(q query) (string, url.Values)
	states  []string
	cluster func(T) string                    // what a list is sorted and filtered by; nil where it has none
	keep    func(item T, cluster string) bool // filters where there is no single cluster
	state   func(T) string
	named   func(item T, name string) bool
	one     func(ctx context.Context, q query) (T, error) // reads a named one; nil to search the list
	table   func(w io.Writer, q query, items []T) error
	detail  func(w io.Writer, q query, item T) error // shows one; nil for a table of one row
}

func (k kindOf[T]) resource() resource {
	clustered := k.cluster != nil || k.keep != nil
	return resource{name: k.name, states: k.states, clustered: clustered, list: k.list, pick: k.pick, print: k.print}
}

func (k kindOf[T]) list(ctx context.Context, q query) (any, error) {
	if q.name != "" && k.one != nil {
		return []T{}, nil
	}
	path, values := k.path(q)
	items, err := api.List[T](ctx, q.client, path, values)
	if err != nil {
		return nil, err
	}
	items = slices.DeleteFunc(items, func(item T) bool {
		return q.state != "" && k.state(item) != q.state || q.cluster != "" && !k.of(item, q.cluster)
	})
	if k.cluster != nil {
		slices.SortStableFunc(items, func(x, y T) int { return compare(k.cluster(x), k.cluster(y)) })
	}
	return items, nil
}

// of reports whether an item concerns a cluster.
func (k kindOf[T]) of(item T, cluster string) bool {
	if k.keep != nil {
		return k.keep(item, cluster)
	}
	return k.cluster(item) == cluster
}

func (k kindOf[T]) pick(ctx context.Context, q query, list any) (any, error) {
	if k.one != nil {
		item, err := k.one(ctx, q)
		return item, err
	}
	for _, item := range list.([]T) { // list is what k.list has made
		if k.named(item, q.name) {
			return item, nil
		}
	}
	return nil, fmt.Errorf("%s %q: %w", k.name[:len(k.name)-1], q.name, fleet.ErrNotFound)
}

func (k kindOf[T]) print(w io.Writer, q query, v any) error {
	if item, ok := v.(T); ok {
		if k.detail != nil {
			return k.detail(w, q, item)
		}
		return k.table(w, q, []T{item})
	}
	items, _ := v.([]T)
	if len(items) == 0 {
		_, err := fmt.Fprintf(w, "no %s\n", k.name)
		return err
	}
	return k.table(w, q, items)
}
