package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleetfile"
)

func (a *app) upgradeCommand() *cobra.Command {
	var request api.UpgradeRequest
	var at string
	var wait bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "upgrade CLUSTER --release VERSION",
		Short: "Report that a cluster was upgraded",
		Long: `Report that the upgrade of a cluster was completed. Its clients get credentials
whose life counts from the completion, and its update window starts anew. To
report the same upgrade again, or an older one, changes nothing.

The command waits for the rotation that follows and prints a line for each client.`,
		Example: `  rotor upgrade edge-03 --release 2026.08
  rotor upgrade edge-03 --release 2026.08 --at 2026-08-20T06:30:00Z --wait=false`,
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeClusters(c, nil, word)
		},
		Args: ExactArgs("CLUSTER"),
	}
	flags := c.Flags()
	flags.StringVar(&request.Release, "release", "", "release that the cluster runs now")
	flags.StringVar(&at, "at", "", "when the upgrade was completed, as 2026-08-20 or 2026-08-20T06:30:00Z (default now)")
	flags.BoolVar(&wait, "wait", true, "wait until the credentials are rotated")
	timeoutFlag(c, &timeout)
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := output.check(c); err != nil {
			return err
		}
		if err := checkTimeout(c, timeout); err != nil {
			return err
		}
		if request.Release == "" {
			return usage(c, "name the release with --release VERSION")
		}
		if at != "" {
			completed, err := fleetfile.ParseDate(at)
			if err != nil {
				return usage(c, "--at: %w", err)
			}
			request.CompletedAt = completed
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		client.Key = uuid.NewString()
		return a.upgrade(c, client, upgrade{cluster: args[0], request: request, wait: wait, timeout: timeout, output: output})
	}
	return c
}

// upgrade is one call of `rotor upgrade`.
type upgrade struct {
	cluster string
	request api.UpgradeRequest
	wait    bool
	timeout time.Duration
	output  *format
}

func (a *app) upgrade(c *cobra.Command, client *api.Client, u upgrade) error {
	path := api.PathClusters + "/" + url.PathEscape(u.cluster)
	reply, err := askUntilAnswered(c.Context(), func(ctx context.Context) (api.UpgradeReply, error) {
		var reply api.UpgradeReply
		err := client.Call(ctx, "POST", path+"/upgrades", u.request, &reply)
		return reply, err
	})
	if err != nil {
		return err
	}
	w := c.OutOrStdout()
	table := u.output.value == "table"
	if table {
		_, _ = fmt.Fprintf(w, "%s: %s\n", reply.Effect, printable(first(reply.Message, fmt.Sprintf("%s runs %s since %s", reply.Cluster, reply.Release, moment(reply.CompletedAt)))))
	}
	var view *api.RotationView
	var waitErr error
	if u.wait && reply.Rotation != "" && reply.Effect != "older" {
		f := follower{client: client, id: reply.Rotation, limit: u.timeout, log: c.ErrOrStderr(), live: a.Live, quiet: !table}
		start := api.RotationView{}
		start.ID, start.State = reply.Rotation, "accepted"
		var ended api.RotationView
		ended, waitErr = f.follow(c.Context(), start, true)
		view = &ended
	}
	if !table {
		document := struct {
			api.UpgradeReply
			Result *api.RotationView `json:"result,omitempty"`
		}{reply, view}
		_, err = u.output.document(w, document)
		return errors.Join(err, waitErr, ended(view))
	}
	return errors.Join(waitErr, a.printUpgrade(c.Context(), w, client, upgraded{path: path, reply: reply, view: view}), ended(view))
}

func ended(view *api.RotationView) error {
	if view == nil {
		return nil
	}
	return failed(*view)
}

// upgraded is what is told after an upgrade.
type upgraded struct {
	path  string
	reply api.UpgradeReply
	view  *api.RotationView
}

func (a *app) printUpgrade(ctx context.Context, w io.Writer, client *api.Client, u upgraded) error {
	switch {
	case u.view != nil && len(u.view.Results) > 0:
		if err := a.printResults(w, *u.view); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(w, "\n%s\n", summary(*u.view))
	case u.view == nil && u.reply.Rotation != "":
		_, _ = fmt.Fprintf(w, "follow the rotation with: rotor get rotations %s\n", u.reply.Rotation)
	}
	var cluster api.ClusterView
	if err := client.Call(ctx, "GET", u.path, nil, &cluster); err != nil {
		return nil //nolint:nilerr // the upgrade has succeeded; the window is an extra that status shows as well
	}
	deadline := ""
	if cluster.Window.Deadline != nil {
		deadline = fmt.Sprintf(", deadline %s, missed %s", date(cluster.Window.Deadline), names(cluster.Window.Missed))
	}
	_, err := fmt.Fprintf(w, "update window of %s: %s%s\n", cluster.Name, cluster.Window.State, deadline)
	return err
}
