package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func (a *app) rotationCommand() *cobra.Command {
	c := &cobra.Command{
		Use:         "rotation",
		Annotations: map[string]string{listed: "rotor get rotations"},
		Short:       "Look at a rotation, and let it go on, leave clusters out, or end it",
		Long: `Look at a rotation, and say how it goes on. A rotation in waves halts when too many
clients have failed: what has not begun waits until an operator resumes it. Nothing
of what was rotated is taken back: there is no way back to the credentials before.

A rotation away from a CA goes on by rotor authority.`,
		Example: `  rotor rotation show ID
  rotor rotation resume ID --retry --wait
  rotor rotation exclude ID edge-07 --reason "it moves house"`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(c, "unknown command %q: use show, resume, exclude, include or cancel", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.rotationShow(), a.traced(a.rotationResume()), a.traced(a.rotationExclude()), a.traced(a.rotationInclude()), a.traced(a.rotationCancel()))
	return c
}

func (a *app) rotationShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show ID", Short: "Show a rotation: its waves, each client, and why it was halted",
		Long: `Show a rotation: how far its waves have come, the result of each client whose turn
has come, who is left out, and, of one that was halted, why and what to do.`,
		Example: `  rotor rotation show ID
  rotor rotation show ID -o json`,
		Args: ExactArgs("ID"), ValidArgsFunction: a.completeRotations,
	}
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.steering(c, output)
		if err != nil {
			return err
		}
		view, err := client.Rotation(c.Context(), args[0])
		if err != nil {
			return err
		}
		if done, err := output.document(c.OutOrStdout(), view); done {
			return err
		}
		return a.printRotation(c.OutOrStdout(), view)
	}
	return c
}

func (a *app) rotationResume() *cobra.Command {
	var retry, wait bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "resume ID",
		Short: "Let a halted rotation go on",
		Long: `Let a halted rotation go on. The failures so far are accepted: they count no more
against the limit, and the rotation ends as failed. With --retry they are tried
again instead.`,
		Example: `  rotor rotation resume ID --wait
  rotor rotation resume ID --retry`,
		Args: ExactArgs("ID"), ValidArgsFunction: a.completeRotations,
	}
	c.Flags().BoolVar(&retry, "retry", false, "try what has failed again")
	c.Flags().BoolVar(&wait, "wait", false, "wait until the rotation has ended")
	timeoutFlag(c, &timeout)
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkTimeout(c, timeout); err != nil {
			return err
		}
		client, err := a.steering(c, output)
		if err != nil {
			return err
		}
		began := clock.Wall()
		view, err := askUntilAnswered(c.Context(), func(ctx context.Context) (api.RotationView, error) {
			return client.Resume(ctx, args[0], api.ResumeRequest{Retry: retry})
		})
		if err != nil {
			return err
		}
		if wait {
			return a.showRotation(c, client, shown{view: view, began: began, wait: true, timeout: timeout, output: output})
		}
		if view.State == fleet.RotationHalted {
			return notYet(view)
		}
		return a.steered(c, view, output, fmt.Sprintf("rotation %s goes on\nfollow it with: rotor rotation show %s\n", view.ID, view.ID))
	}
	return c
}

func (a *app) rotationExclude() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "exclude ID CLUSTER --reason REASON",
		Short: "Leave a cluster out of a rotation",
		Long: `Leave a cluster out of a rotation: the others do not wait for it, and what has failed
in it counts no more. What was rotated in it stays so. A halted rotation has to be
resumed all the same.`,
		Example: `  rotor rotation exclude ID edge-07 --reason "it moves house"`,
		Args:    ExactArgs("ID", "CLUSTER"), ValidArgsFunction: a.completeRotations,
	}
	c.Flags().StringVar(&reason, "reason", "", "why; it is written down")
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		if reason == "" {
			return usage(c, "say why with --reason: it is written down")
		}
		client, err := a.steering(c, output)
		if err != nil {
			return err
		}
		view, err := askUntilAnswered(c.Context(), func(ctx context.Context) (api.RotationView, error) {
			return client.Exclude(ctx, args[0], api.ExclusionRequest{Cluster: args[1], Reason: reason})
		})
		if err != nil {
			return err
		}
		if !view.Excluded(args[1]) {
			return notYet(view)
		}
		return a.steered(c, view, output, fmt.Sprintf("%s is left out of rotation %s\n", args[1], view.ID))
	}
	return c
}

func (a *app) rotationInclude() *cobra.Command {
	c := &cobra.Command{
		Use: "include ID CLUSTER", Short: "Take an exclusion from a rotation back",
		Long: `Take an exclusion from a rotation back: the turn of the cluster comes as if it had
not been left out.`,
		Example: `  rotor rotation include ID edge-07`,
		Args:    ExactArgs("ID", "CLUSTER"), ValidArgsFunction: a.completeRotations,
	}
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.steering(c, output)
		if err != nil {
			return err
		}
		view, err := askUntilAnswered(c.Context(), func(ctx context.Context) (api.RotationView, error) {
			return client.Include(ctx, args[0], args[1])
		})
		if err != nil {
			return err
		}
		if view.Excluded(args[1]) {
			return notYet(view)
		}
		return a.steered(c, view, output, fmt.Sprintf("%s is part of rotation %s again\n", args[1], view.ID))
	}
	return c
}

func (a *app) rotationCancel() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "cancel ID",
		Short: "End a rotation: nothing more begins",
		Long: `End a rotation: nothing more begins. What was issued goes on to its proof, and what
was rotated stays so.`,
		Example: `  rotor rotation cancel ID --reason "the wrong day"`,
		Args:    ExactArgs("ID"), ValidArgsFunction: a.completeRotations,
	}
	c.Flags().StringVar(&reason, "reason", "", "why; it is written down")
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.steering(c, output)
		if err != nil {
			return err
		}
		view, err := askUntilAnswered(c.Context(), func(ctx context.Context) (api.RotationView, error) {
			return client.Cancel(ctx, args[0], api.CancelRequest{Reason: reason})
		})
		if err != nil {
			return err
		}
		if view.State != fleet.RotationCancelled {
			return notYet(view)
		}
		return a.steered(c, view, output, fmt.Sprintf("rotation %s is cancelled: %s\n", view.ID, summary(view)))
	}
	return c
}

// steering returns a client for a call that may be repeated.
func (a *app) steering(c *cobra.Command, output *format) (*api.Client, error) {
	if err := output.check(c); err != nil {
		return nil, err
	}
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	client.Key = uuid.NewString()
	return client, nil
}

func (a *app) steered(c *cobra.Command, view api.RotationView, output *format, text string) error {
	if done, err := output.document(c.OutOrStdout(), view); done {
		return err
	}
	_, err := fmt.Fprint(c.OutOrStdout(), printableLines(text))
	return err
}

// notYet says that the scheduler has not answered in the time of a call.
func notYet(view api.RotationView) error {
	return &ExitError{
		Code: exitFailure, Err: fmt.Errorf("it was asked for and is not in effect yet: rotation %s is %s", view.ID, view.State),
		Hint: "it happens as soon as a scheduler leads; look at it with: rotor rotation show " + view.ID,
	}
}

// completeRotations offers the rotations that have not ended, then clusters.
func (a *app) completeRotations(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return a.completeClusters(c, nil, word)
	}
	client, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := api.List[fleet.Rotation](c.Context(), client, api.PathRotations, nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []string
	for i := range all {
		if !all[i].State.Done() || c.Name() == "show" {
			ids = append(ids, all[i].ID)
		}
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}
