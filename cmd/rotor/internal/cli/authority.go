package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// authorityCommand holds what is done about the CA and the key that signs tokens.
func (a *app) authorityCommand() *cobra.Command {
	c := &cobra.Command{
		Use:         "authority",
		Annotations: map[string]string{listed: "rotor authority status"},
		Short:       "Show and rotate the CA and the token key",
		Long: `Show and rotate the CA and the key that signs tokens. Both are rotated by
themselves; nothing here has to be typed for that.

A new CA signs only when every agent has proven that it trusts it, and the old one
is trusted until no client uses it: a rotation passes on proof, never by time. Who
is waited for is named by rotor authority status, and can be left out.`,
		Example: `  rotor authority status
  rotor authority rotate --wait
  rotor authority rollback`,
		Args: NoSubcommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(
		a.authorityStatusCommand(), a.traced(a.authorityRotateCommand()), a.traced(a.authorityRollbackCommand()), a.traced(a.authorityResumeCommand()),
		a.traced(a.authorityExcludeCommand()), a.traced(a.authorityIncludeCommand()), a.traced(a.authorityTaintCommand()),
		a.traced(a.authorityRetireCommand()), a.traced(a.authorityCSRCommand()), a.traced(a.authorityImportCommand()),
	)
	return c
}

func kindFor(tokenKey bool) fleet.RolloutKind {
	if tokenKey {
		return fleet.RolloutToken
	}
	return fleet.RolloutCA
}

func (a *app) authorityRotateCommand() *cobra.Command {
	var tokenKey, wait, yes bool
	request := api.RolloutRequest{}
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Rotate the CA, or the token key",
		Long: `Rotate the CA: a new one is made and trusted beside the old one, each agent proves
that it trusts it, then it signs, all clients are reissued in waves, and the old
one is trusted no more once nobody uses it. No client is interrupted. Until the old
one is retired all of it can be taken back with rotor authority rollback.

With --token-key the key that signs tokens is rotated: the new one is published, and
signs when every verifier has had the time to fetch it, which takes 10 minutes.

With --wait the command ends with the rotation. The exit code is 0 when it has
completed, 1 when it has halted or was taken back. The rotation does not depend on
this command: it goes on when that is interrupted.`,
		Example: `  rotor authority rotate --wait
  rotor authority rotate --canary edge-01 --max-parallel 5
  rotor authority rotate --token-key --wait --yes`,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case tokenKey && (c.Flags().Changed("canary") || c.Flags().Changed("max-parallel")):
				return usage(c, "--canary and --max-parallel are of the CA: no client is reissued for the token key")
			case request.MaxParallel < 0:
				return usage(c, "--max-parallel %d: use 1 or more clusters, or 0 for the default", request.MaxParallel)
			}
			return ExactArgs()(c, args)
		},
	}
	flags := c.Flags()
	flags.BoolVar(&tokenKey, "token-key", false, "rotate the key that signs tokens")
	flags.StringVar(&request.Canary, "canary", "", "cluster that is reissued first (default chosen)")
	flags.IntVar(&request.MaxParallel, "max-parallel", 0, "clusters that are reissued at once (0 for the default)")
	_ = c.RegisterFlagCompletionFunc("canary", a.completeClusters)
	waitFlag(c, &wait, "wait until the rotation has ended")
	yesFlag(c, &yes)
	c.RunE = func(c *cobra.Command, _ []string) error {
		request.Kind = kindFor(tokenKey)
		client, err := a.asking(c, yes, "it concerns the whole fleet")
		if err != nil {
			return err
		}
		if !yes {
			var status api.Status
			if err := client.Call(c.Context(), "GET", api.PathStatus, nil, &status); err != nil {
				return err
			}
			if err := a.answered(c, question{text: rotateQuestion(request, status), word: "yes"}); err != nil {
				return err
			}
		}
		return a.beginRollout(c, client, begin{request: request, wait: wait})
	}
	return c
}

// rotateQuestion says what a rotation is about to do.
func rotateQuestion(r api.RolloutRequest, s api.Status) string {
	if r.Kind == fleet.RolloutToken {
		return "Rotate the token key? The new one signs 10 minutes after it is published; tokens of the old one stay valid until they end."
	}
	now, own := "the CA", ""
	if ca := activeCA(s.Authority.CAs); ca != nil {
		now = fmt.Sprintf("CA %d, %s, valid until %s", ca.Number, short(ca.ID), date(&ca.NotAfter))
		if len(ca.Anchor) > 0 {
			own = " The next one is a root of Rotor's own; to stay below your offline root, use rotor authority csr instead."
		}
	}
	order := "the canary first"
	if r.Canary != "" {
		order = r.Canary + " first"
	}
	return fmt.Sprintf("Rotate %s? The next one signs when every agent trusts it; then %s of %s get certificates of it, %s.%s",
		now, plural(s.Clients, "client"), plural(len(s.Clusters), "cluster"), order, own)
}

// activeCA returns the one that signs, or nil.
func activeCA(all []fleet.CA) *fleet.CA { return (&fleet.Authority{CAs: all}).ActiveCA() }

func waitFlag(c *cobra.Command, wait *bool, text string) {
	c.Flags().BoolVar(wait, "wait", false, text)
}

func yesFlag(c *cobra.Command, yes *bool) {
	c.Flags().BoolVar(yes, "yes", false, "do not ask")
}

// asking returns a client, or refuses where nobody can answer the question that
// comes: a script that forgot --yes must not do anything.
func (a *app) asking(c *cobra.Command, yes bool, why string) (*api.Client, error) {
	if !yes && !a.Asks {
		return nil, usage(c, "%s: say --yes, as there is no terminal to ask on", why)
	}
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	client.Key = uuid.NewString()
	return client, nil
}

// begin is a rotation of the authority that is asked for.
type begin struct {
	request api.RolloutRequest
	wait    bool
}

func (a *app) beginRollout(c *cobra.Command, client *api.Client, b begin) error {
	r, err := askUntilAnswered(c.Context(), func(ctx context.Context) (fleet.Rollout, error) { return client.BeginRollout(ctx, b.request) })
	if err != nil {
		return err
	}
	if b.wait {
		return a.awaitRollout(c, client, &rolloutFollower{kind: r.Kind, id: r.ID})
	}
	lines := []string{
		fmt.Sprintf("the rotation of the %s has begun (%s)", r.Kind.Name(), r.ID),
		"follow it with: rotor authority status",
	}
	_, err = fmt.Fprintln(c.OutOrStdout(), printableLines(strings.Join(lines, "\n")))
	return err
}
