package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func (a *app) authorityTaintCommand() *cobra.Command {
	var wait, yes bool
	c := &cobra.Command{
		Use:   "taint [CA]",
		Short: "Replace a CA that is compromised, as fast as agents can",
		Long: `Say that a CA is compromised. A new one is made and signs at once, before anybody has
proven that it is trusted; all clients are reissued in one wave and outside of
maintenance windows; certificates of the old CA that are replaced go on its CRL. There
is no way back to it.

It works at any time, also in the middle of another rotation, and nothing has to be
undone first. While more than one CA is trusted, say which: by its id, the first
characters of it, or its number, as rotor authority status shows them.

  the one that a rotation replaces   it goes on as an emergency, from where it is
  the one that comes, not active     it is withdrawn, and another one comes in its place
  the one that comes, active         a further one is made and signs; both others go
  on the way back, the one that goes the way back goes on, faster
  on the way back, the one that      it is left again: a further one is made and signs;
  signs in the end                   both others go

The old CA stays in the trust bundle until rotor authority retire, as whoever is not
reissued yet would be cut off. rotor authority status shows the time from this
command to the last client that was replaced. To say it again does no harm.

The question is answered with the id of the CA, or its first 12 characters.`,
		Example: `  rotor authority taint --wait
  rotor authority taint 3f2a9c81d04e
  rotor authority taint 3f2a9c81d04e --yes`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(c, "name one CA: the one that is compromised")
			}
			return nil
		},
		ValidArgsFunction: a.completeCA,
	}
	waitFlag(c, &wait, "wait until every client is reissued")
	yesFlag(c, &yes)
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.asking(c, yes, "this cannot be undone")
		if err != nil {
			return err
		}
		status, err := client.Authority(c.Context())
		if err != nil {
			return err
		}
		ca, err := a.compromised(c, &status, append(args, "")[0], yes)
		if err != nil {
			return err
		}
		return a.taint(c, client, ca, wait)
	}
	return c
}

// compromised returns the CA that is meant, as an operator has confirmed it.
func (a *app) compromised(c *cobra.Command, s *api.AuthorityStatus, name string, yes bool) (*fleet.CA, error) {
	trusted := (&fleet.Authority{CAs: s.CAs}).TrustedCAs()
	var ca *fleet.CA
	var err error
	switch {
	case activeCA(s.CAs) == nil:
		return nil, &ExitError{Code: exitFailure, Err: fmt.Errorf("there is no CA that signs"), Hint: "check that the issuer runs"}
	case name != "":
		ca, err = findCA(c, s.CAs, name)
	case len(trusted) == 1:
		ca = &trusted[0]
	case yes:
		return nil, usage(c, "%d CAs are trusted now: say which one is compromised:\n%s", len(trusted), taintCommands(trusted))
	default:
		_, _ = fmt.Fprintf(c.ErrOrStderr(), "%d CAs are trusted now:\n", len(trusted))
		for _, one := range trusted {
			_, _ = fmt.Fprintf(c.ErrOrStderr(), "  %s  CA %d, %s%s\n", short(one.ID), one.Number, one.Phase, compromisedText(&one))
		}
		answer, err := reply(c, "Which one is compromised? All clients are reissued at once, and there is no way back to it. Its id: ")
		if err != nil {
			return nil, err
		}
		for i := range trusted {
			if answer == short(trusted[i].ID) || answer == trusted[i].ID {
				return &trusted[i], nil
			}
		}
		return nil, &ExitError{Code: exitFailure, Err: fmt.Errorf("nothing was done"), Hint: "type the id of one of them, or name it:\n" + taintCommands(trusted)}
	}
	if err != nil || yes {
		return ca, err
	}
	return ca, a.answered(c, question{
		text: fmt.Sprintf("Is the CA %s (number %d) compromised? %s, and there is no way back.", short(ca.ID), ca.Number, taintEffect(ca)),
		word: short(ca.ID), also: ca.ID,
	})
}

func taintEffect(ca *fleet.CA) string {
	if ca.Phase == fleet.PhaseIncoming {
		return "It is withdrawn before it signs, another one comes in its place"
	}
	return "All clients are reissued at once by a new one"
}

func taintCommands(trusted []fleet.CA) string {
	var lines []string
	for _, ca := range trusted {
		lines = append(lines, fmt.Sprintf("  rotor authority taint %s --yes   # CA %d, %s", short(ca.ID), ca.Number, ca.Phase))
	}
	return strings.Join(lines, "\n")
}

// findCA returns the CA that is named by its number, its id or the beginning of it.
func findCA(c *cobra.Command, all []fleet.CA, name string) (*fleet.CA, error) {
	const least = 4
	var found *fleet.CA
	for i := range all {
		ca := &all[i]
		switch {
		case ca.ID == name:
			return ca, nil
		case strconv.Itoa(ca.Number) != name && (len(name) < least || !strings.HasPrefix(ca.ID, name)):
		case found != nil:
			return nil, usage(c, "%q is the beginning of more than one CA: give more of it", name)
		default:
			found = ca
		}
	}
	if found == nil {
		return nil, usage(c, "there is no CA %q: rotor authority status lists them", name)
	}
	return found, nil
}

func compromisedText(ca *fleet.CA) string {
	if ca.TaintedAt.IsZero() {
		return ""
	}
	return ", compromised"
}

func (a *app) taint(c *cobra.Command, client *api.Client, ca *fleet.CA, wait bool) error {
	r, err := askUntilAnswered(c.Context(), func(ctx context.Context) (fleet.Rollout, error) {
		return client.BeginRollout(ctx, api.RolloutRequest{Kind: fleet.RolloutCA, Taint: true, CA: ca.ID})
	})
	if err != nil {
		return err
	}
	if wait {
		return a.awaitRollout(c, client, &rolloutFollower{kind: fleet.RolloutCA, id: r.ID, taint: ca.ID})
	}
	if !r.Tainted(ca.ID) {
		return notInEffect("the taint of CA " + short(ca.ID))
	}
	_, err = fmt.Fprintln(c.OutOrStdout(), printableLines(taintText(&r, ca)+"\nfollow it with: rotor authority status"))
	return err
}

// taintText says what a taint has come to.
func taintText(r *fleet.Rollout, ca *fleet.CA) string {
	switch {
	case r.Phase.Done():
		return fmt.Sprintf("the CA %s is trusted by nobody any more (%s)", short(ca.ID), r.ID)
	case r.Phase == fleet.RolloutRollback:
		return fmt.Sprintf("the CA %s is compromised: the way back from it goes on as an emergency (%s)", short(ca.ID), r.ID)
	case r.Replaces != "" && ca.Rollout == r.Replaces:
		return fmt.Sprintf("the CA %s is compromised: another rotation of the CA has taken over (%s)", short(ca.ID), r.ID)
	case r.Replaces != "" || !r.TaintedSince().Equal(r.CreatedAt):
		return fmt.Sprintf("the CA %s is compromised: the rotation that replaces it goes on as an emergency (%s)", short(ca.ID), r.ID)
	}
	return fmt.Sprintf("the rotation of the %s has begun (%s)", r.Kind.Name(), r.ID)
}

// completeCA completes a CA that is trusted.
func (a *app) completeCA(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := a.client()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client.HTTP.Timeout = 2 * time.Second
	status, err := client.Authority(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var all []string
	for _, ca := range (&fleet.Authority{CAs: status.CAs}).TrustedCAs() {
		all = append(all, fmt.Sprintf("%s\tCA %d, %s", short(ca.ID), ca.Number, ca.Phase))
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}
