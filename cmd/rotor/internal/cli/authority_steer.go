package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func (a *app) authorityRollbackCommand() *cobra.Command {
	var tokenKey, wait, yes bool
	c := &cobra.Command{
		Use:   "rollback",
		Short: "Take a rotation of the CA, or of the token key, back",
		Long: `Take a rotation back: the old CA goes on to sign, or signs again; who has a
certificate of the new one gets another; and the new one is trusted no more. It is
refused once the old one is not trusted any more, and after rotor authority taint.`,
		Example: `  rotor authority rollback --wait
  rotor authority rollback --token-key --yes`,
		Args: ExactArgs(),
	}
	c.Flags().BoolVar(&tokenKey, "token-key", false, "take the rotation of the token key back")
	waitFlag(c, &wait, "wait until it is taken back")
	yesFlag(c, &yes)
	c.RunE = func(c *cobra.Command, _ []string) error {
		kind := kindFor(tokenKey)
		client, err := a.asking(c, yes, "it concerns the whole fleet")
		if err != nil {
			return err
		}
		if !yes {
			if err := a.answered(c, question{text: fmt.Sprintf("Take the rotation of the %s back?", kind.Name()), word: "yes"}); err != nil {
				return err
			}
		}
		r, err := steer(c, course{what: "the way back", done: func(r *fleet.Rollout) bool {
			return r.Phase == fleet.RolloutRollback || r.Phase == fleet.RolloutRolledBack
		}}, func(ctx context.Context) (fleet.Rollout, error) {
			return client.SteerRollout(ctx, api.PathRollback, kind)
		})
		switch {
		case err != nil && (!wait || r.ID == ""):
			return err
		case wait:
			return a.awaitRollout(c, client, &rolloutFollower{kind: kind, id: r.ID, back: true})
		case r.Phase == fleet.RolloutRolledBack:
			_, err = fmt.Fprintf(c.OutOrStdout(), "the rotation of the %s is taken back\n", kind.Name())
		default:
			_, err = fmt.Fprintf(c.OutOrStdout(), "the rotation of the %s is being taken back\nfollow it with: rotor authority status\n", kind.Name())
		}
		return err
	}
	return c
}

func (a *app) authorityResumeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "resume",
		Short: "Let a rotation of the CA go on that has halted",
		Long: `Let a rotation of the CA go on that has halted because too many clients have failed.
What has failed is accepted: the rotation still waits for those clients before the
old CA is retired, unless their cluster is excluded.`,
		Example: `  rotor authority resume`,
		Args:    ExactArgs(),
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := a.asking(c, true, "")
		if err != nil {
			return err
		}
		r, err := steer(c, course{what: "going on", done: func(r *fleet.Rollout) bool { return r.Halted == "" }},
			func(ctx context.Context) (fleet.Rollout, error) {
				return client.SteerRollout(ctx, api.PathResume, fleet.RolloutCA)
			})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "the rotation of the CA goes on, in phase %s\nfollow it with: rotor authority status\n", r.Phase)
		return err
	}
	return c
}

func (a *app) authorityExcludeCommand() *cobra.Command {
	var reason string
	var yes bool
	c := &cobra.Command{
		Use:   "exclude CLUSTER --reason REASON",
		Short: "Have a rotation of the CA not wait for a cluster",
		Long: `Have the rotation of the CA that is under way not wait for a cluster, such as one
that is switched off for months. Its clients may keep certificates of a CA that
nobody trusts any more, until it is back: its agent then believes the new trust
bundle by the fleet key that it has pinned, and its clients are reissued at once.

The reason is written to the ledger.`,
		Example: `  rotor authority exclude edge-03 --reason "closed until spring"
  rotor authority exclude edge-03 --reason "closed until spring" --yes`,
		Args:              ExactArgs("CLUSTER"),
		ValidArgsFunction: a.completeCluster,
	}
	c.Flags().StringVar(&reason, "reason", "", "why it is not waited for")
	yesFlag(c, &yes)
	c.RunE = func(c *cobra.Command, args []string) error {
		if reason == "" {
			return usage(c, "say why with --reason: it is written to the ledger")
		}
		client, err := a.asking(c, yes, "clients of the cluster may be refused until it is back")
		if err != nil {
			return err
		}
		if !yes {
			text := fmt.Sprintf("Not wait for %s? Until it is back, its clients may be refused, and may refuse others.", args[0])
			if err := a.answered(c, question{text: text, word: "yes"}); err != nil {
				return err
			}
		}
		_, err = steer(c, course{what: "the exclusion", done: func(r *fleet.Rollout) bool { return excludes(r, args[0]) }},
			func(ctx context.Context) (fleet.Rollout, error) {
				return client.ExcludeFromRollout(ctx, api.Exclude{Cluster: args[0], Reason: reason})
			})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s is not waited for\ntake that back with: rotor authority include %s\n", args[0], args[0])
		return err
	}
	return c
}

func excludes(r *fleet.Rollout, cluster string) bool {
	_, ok := r.Excluded[cluster]
	return ok
}

func (a *app) authorityIncludeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:               "include CLUSTER",
		Short:             "Have a rotation of the CA wait for an excluded cluster again",
		Long:              `Take an exclusion back: the rotation of the CA that is under way waits for the cluster again.`,
		Example:           `  rotor authority include edge-03`,
		Args:              ExactArgs("CLUSTER"),
		ValidArgsFunction: a.completeExcluded,
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.asking(c, true, "")
		if err != nil {
			return err
		}
		_, err = steer(c, course{what: "it", done: func(r *fleet.Rollout) bool { return !excludes(r, args[0]) }},
			func(ctx context.Context) (fleet.Rollout, error) { return client.IncludeInRollout(ctx, args[0]) })
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "%s is waited for\n", args[0])
		return err
	}
	return c
}

func (a *app) authorityRetireCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use:   "retire",
		Short: "Trust a compromised CA no more",
		Long: `After rotor authority taint, take the old CA out of the trust bundle. It is refused
while a client uses it: rotor authority status names them, and rotor authority
exclude leaves out those that are not waited for. After any other rotation the old
CA is retired by itself.`,
		Example: `  rotor authority retire
  rotor authority retire --yes`,
		Args: ExactArgs(),
	}
	yesFlag(c, &yes)
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := a.asking(c, yes, "this cannot be undone")
		if err != nil {
			return err
		}
		if !yes {
			if err := a.answered(c, question{text: "Trust the compromised CA no more? Who still has a certificate of it is refused.", word: "yes"}); err != nil {
				return err
			}
		}
		_, err = steer(c, course{what: "it", done: func(r *fleet.Rollout) bool { return r.RetireAsked || r.Phase == fleet.RolloutCompleted }},
			func(ctx context.Context) (fleet.Rollout, error) {
				return client.SteerRollout(ctx, api.PathRetirement, fleet.RolloutCA)
			})
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), "the compromised CA goes out of the trust bundle\nfollow it with: rotor authority status")
		return err
	}
	return c
}

// course is what is asked of a rotation that is under way.
type course struct {
	what string // in the words of an error
	done func(*fleet.Rollout) bool
}

// steer asks for a change of course until it is answered. That it is not in
// effect yet is an error, with the rotation as it stands.
func steer(c *cobra.Command, want course, call func(context.Context) (fleet.Rollout, error)) (fleet.Rollout, error) {
	r, err := askUntilAnswered(c.Context(), call)
	if err != nil || want.done(&r) {
		return r, err
	}
	return r, notInEffect(want.what)
}

// notInEffect says that the scheduler has not answered yet.
func notInEffect(what string) error {
	return &ExitError{
		Code: exitFailure, Err: fmt.Errorf("%s was asked for and is not in effect yet: the scheduler has not answered", what),
		Hint: "it happens as soon as a scheduler runs; to ask again does no harm",
	}
}

// completeCluster completes one cluster.
func (a *app) completeCluster(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeClusters(c, args, word)
}

// completeExcluded completes the clusters that are left out now.
func (a *app) completeExcluded(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := a.client()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client.HTTP.Timeout = 2 * time.Second
	status, err := client.Authority(c.Context())
	if err != nil || status.CA == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return sortedKeys(status.CA.Excluded), cobra.ShellCompDirectiveNoFileComp
}
