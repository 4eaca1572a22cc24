package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// deadFilter is what picks dead letters.
type deadFilter struct{ cluster, consumer, state string }

func (f *deadFilter) flags(a *app, c *cobra.Command) {
	c.Flags().StringVar(&f.cluster, "cluster", "", "only letters about this cluster; _fleet for those about more than one")
	c.Flags().StringVar(&f.consumer, "consumer", "", "only letters of this service, or of this channel")
	_ = c.RegisterFlagCompletionFunc("cluster", a.completeClusters)
}

func (f *deadFilter) query() url.Values {
	query := url.Values{}
	for key, value := range map[string]string{"cluster": f.cluster, "consumer": f.consumer, "state": f.state} {
		if value != "" {
			query.Set(key, value)
		}
	}
	return query
}

func (a *app) deadCommand() *cobra.Command {
	var f deadFilter
	states := []string{string(fleet.LetterOpen), string(fleet.LetterReplayed), string(fleet.LetterDropped), "all"}
	c := &cobra.Command{
		Use:   "dead",
		Short: "List dead letters, and have them tried again",
		Long: `List the dead letters: messages that a service has given up, because they are broken
or have failed for days, and alerts that a channel has refused or not taken for
days. Each says why, how often it was tried, and when first and last.

Mend the cause, then replay the letter: the service that gave it up tries it once
more. What is not wanted any more is dropped. Until then rotor status wants
attention, and the alert dead-letter fires.`,
		Example: `  rotor alert dead
  rotor alert dead --cluster edge-01 -o json
  rotor alert dead show 3f0c8a52
  rotor alert dead replay --all --consumer chat
  rotor alert dead drop 3f0c8a52`,
		Args: NoSubcommand,
	}
	f.flags(a, c)
	c.Flags().StringVar(&f.state, "state", states[0], "only letters in this state: "+strings.Join(states, ", "))
	_ = c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
	output := formatFlag(c, "table", "wide", "json", "yaml")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := output.check(c); err != nil {
			return err
		}
		if !contains(states, f.state) {
			return usage(c, "state %q: use %s", f.state, orList(states))
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		letters, err := api.List[fleet.Letter](c.Context(), client, api.PathDeadLetters, f.query())
		if err != nil {
			return err
		}
		if done, err := output.document(c.OutOrStdout(), letters); done {
			return err
		}
		return a.printLetters(c.OutOrStdout(), letters, output.value == "wide")
	}
	c.AddCommand(a.deadShowCommand(), a.traced(a.deadReplayCommand()), a.traced(a.deadDropCommand()))
	return c
}

func (a *app) printLetters(w io.Writer, letters []fleet.Letter, wide bool) error {
	if len(letters) == 0 {
		_, err := fmt.Fprintln(w, "no dead letters")
		return err
	}
	head := []string{"LETTER", "STATE", "CLUSTER", "SERVICE", "FROM", "ATTEMPTS", "FIRST", "LAST", "REASON"}
	if wide {
		head = append(head, "SUBJECT", "BY")
	}
	t := a.table(head...)
	for _, l := range letters {
		row := []string{
			l.ID, string(l.State), l.Cluster, l.Service, fromText(l), strconv.Itoa(l.Attempts), moment(l.First), moment(l.Last), l.Reason,
		}
		if wide {
			row = append(row, l.Subject, l.By)
		}
		t.add(row...)
	}
	return t.print(w)
}

// fromText says where a letter came from: a stream, or the channel that did not
// take it.
func fromText(l fleet.Letter) string {
	if l.Source == fleet.SourceChannel {
		return "channel " + l.Consumer
	}
	return l.Source
}

func (a *app) deadShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "show LETTER",
		Short:             "Show one dead letter with what it holds",
		Long:              `Show one dead letter with what it holds. Its first characters will do for a name.`,
		Example:           "  rotor alert dead show 3f0c8a52\n  rotor alert dead show 3f0c8a52 -o json | jq .body",
		Args:              ExactArgs("LETTER"),
		ValidArgsFunction: a.completeLetters,
	}
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := output.check(c); err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		ids, err := letterIDs(c, client, args)
		if err != nil {
			return err
		}
		var l api.LetterView
		if err := client.Call(c.Context(), "GET", letterPath(ids[0]), nil, &l); err != nil {
			return err
		}
		if done, err := output.document(c.OutOrStdout(), l); done {
			return err
		}
		return printLetter(c.OutOrStdout(), l)
	}
	return c
}

func printLetter(w io.Writer, l api.LetterView) error {
	var out strings.Builder
	for _, line := range [][2]string{
		{"letter", l.ID},
		{"state", string(l.State)},
		{"cluster", l.Cluster},
		{"service", l.Service},
		{"from", fromText(l.Letter)},
		{"subject", l.Subject},
		{"attempts", strconv.Itoa(l.Attempts)},
		{"first", moment(l.First)},
		{"last", moment(l.Last)},
		{"by", l.By},
		{"reason", l.Reason},
	} {
		if line[1] != "" {
			fmt.Fprintf(&out, "%-9s %s\n", line[0], printable(line[1]))
		}
	}
	if l.Body != nil {
		body, ok := l.Body.(string)
		if !ok {
			raw, err := json.MarshalIndent(l.Body, "", "  ")
			if err != nil {
				return fmt.Errorf("letter %s: %w", l.ID, err)
			}
			body = string(raw)
		}
		fmt.Fprintf(&out, "\n%s\n", printableLines(body))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func (a *app) deadReplayCommand() *cobra.Command {
	var f deadFilter
	var all bool
	c := &cobra.Command{
		Use:   "replay LETTER...|--all",
		Short: "Have dead letters tried again",
		Long: `Have dead letters tried again by the services that gave them up, once, and say how
that has ended. A letter that fails again stays, with the new reason; one that
succeeds is gone from the list. A repeat does no harm.

The exit code is 0 when all have succeeded, 1 when one has not, or waits for its
service.`,
		Example: `  rotor alert dead replay 3f0c8a52
  rotor alert dead replay --all
  rotor alert dead replay --all --cluster edge-01`,
		ValidArgsFunction: a.completeLetters,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case all == (len(args) > 0):
				return usage(c, "name letters, or use --all: one of the two")
			case !all && (f.cluster != "" || f.consumer != ""):
				return usage(c, "--cluster and --consumer go with --all")
			}
			return nil
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all open dead letters")
	f.flags(a, c)
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := output.check(c); err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		var views []api.LetterView
		if all {
			var page api.Page[api.LetterView]
			err = client.Call(c.Context(), "POST", api.PathDeadLetters+"/replay", api.ReplayRequest{Cluster: f.cluster, Consumer: f.consumer}, &page)
			views = page.Items
		} else {
			views, err = settle(c, client, args, func(ctx context.Context, id string, v *api.LetterView) error {
				return client.Call(ctx, "POST", letterPath(id)+"/replay", nil, v)
			})
		}
		if err != nil {
			return err
		}
		return a.printSettled(c, output, views)
	}
	return c
}

func (a *app) deadDropCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "drop LETTER...",
		Short: "Drop dead letters that nobody wants any more",
		Long: `Drop dead letters that nobody wants any more: what they hold is gone, that they
were there is remembered for 90 days.`,
		Example:           "  rotor alert dead drop 3f0c8a52",
		ValidArgsFunction: a.completeLetters,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(c, "LETTER is missing")
			}
			return nil
		},
	}
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := output.check(c); err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		views, err := settle(c, client, args, func(ctx context.Context, id string, v *api.LetterView) error {
			return client.Call(ctx, "DELETE", letterPath(id), nil, v)
		})
		if err != nil {
			return err
		}
		return a.printSettled(c, output, views)
	}
	return c
}

func letterPath(id string) string { return api.PathDeadLetters + "/" + url.PathEscape(id) }

// settle has each named letter settled, one after the other.
func settle(
	c *cobra.Command, client *api.Client, names []string, ask func(ctx context.Context, id string, v *api.LetterView) error,
) ([]api.LetterView, error) {
	ids, err := letterIDs(c, client, names)
	if err != nil {
		return nil, err
	}
	views := make([]api.LetterView, len(ids))
	for i, id := range ids {
		if err := ask(c.Context(), id, &views[i]); err != nil {
			return nil, err
		}
	}
	return views, nil
}

func (a *app) printSettled(c *cobra.Command, output *format, views []api.LetterView) error {
	if views == nil {
		views = []api.LetterView{}
	}
	var failure error
	for _, v := range views {
		if v.Outcome == api.OutcomeFailed || v.Outcome == api.OutcomeWaiting {
			failure = &ExitError{Code: exitFailure}
		}
	}
	if done, err := output.document(c.OutOrStdout(), views); done {
		return cmp.Or(err, failure)
	}
	if len(views) == 0 {
		_, err := fmt.Fprintln(c.OutOrStdout(), "no dead letters")
		return err
	}
	t := a.table("LETTER", "OUTCOME", "CLUSTER", "SERVICE", "FROM", "ATTEMPTS", "REASON")
	for _, v := range views {
		reason := v.Reason
		switch v.Outcome {
		case api.OutcomeFailed:
		case api.OutcomeWaiting:
			reason = "the " + v.Service + " has not answered yet: it does it as soon as it can"
		default:
			reason = ""
		}
		t.add(v.ID, v.Outcome, v.Cluster, v.Service, fromText(v.Letter), strconv.Itoa(v.Attempts), reason)
	}
	return cmp.Or(t.print(c.OutOrStdout()), failure)
}

// The lengths of the id of a letter, and of what is enough of it to name it.
const (
	letterName = 6
	letterFull = 36
)

// letterIDs returns the ids of letters of which some may be named by the first
// characters.
func letterIDs(c *cobra.Command, client *api.Client, names []string) ([]string, error) {
	var known []fleet.Letter
	ids := make([]string, len(names))
	for i, name := range names {
		ids[i] = name
		if len(name) >= letterFull {
			continue
		}
		if len(name) < letterName {
			return nil, usage(c, "letter %q: give at least %d characters of its id", name, letterName)
		}
		if known == nil {
			var err error
			if known, err = api.List[fleet.Letter](c.Context(), client, api.PathDeadLetters, url.Values{"state": {"all"}}); err != nil {
				return nil, err
			}
		}
		found := ""
		for _, l := range known {
			switch {
			case !strings.HasPrefix(l.ID, name):
			case found != "":
				return nil, usage(c, "letter %q: more than one begins so: give more of its id", name)
			default:
				found = l.ID
			}
		}
		if found == "" {
			return nil, &ExitError{
				Code: exitFailure, Err: fmt.Errorf("%w: dead letter %q", fleet.ErrNotFound, name), Hint: "see what there is with `rotor alert dead --state all`",
			}
		}
		ids[i] = found
	}
	return ids, nil
}

// completeLetters completes the ids of open letters.
func (a *app) completeLetters(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	letters, err := api.List[fleet.Letter](c.Context(), client, api.PathDeadLetters, nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for _, l := range letters {
		ids = append(ids, l.ID+"\t"+l.Cluster+": "+printable(l.Reason))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
