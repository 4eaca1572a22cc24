package cli

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func (a *app) joinCommand() *cobra.Command {
	var request api.JoinRequest
	c := &cobra.Command{
		Use:   "join CLUSTER",
		Short: "Let an agent join: print the command that starts it",
		Long: `Make a one-time join token and print the whole command that starts the agent of
a cluster where its clients live. Only --dir FOLDER is to be added.

A token can be used for one hour, by one agent; only its hash is stored, and a
new token takes the place of one that was made before. A cluster has one agent:
a second one is refused, unless --replace says that it takes the first one's
place. The first one keeps its work until the second has joined.`,
		Example: `  rotor join edge-04
  rotor join edge-04 --replace                     # its machine or its key is lost, or was copied
  $(rotor join edge-04 -o json | jq -r .command) --dir /var/lib/rotor-agent`,
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeClusters(c, nil, word)
		},
		Args: ExactArgs("CLUSTER"),
	}
	c.Flags().BoolVar(&request.Replace, "replace", false, "the new agent takes the place of the one that the cluster has")
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := output.check(c); err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		var reply api.JoinReply
		if err := client.Call(c.Context(), "POST", api.PathClusters+"/"+url.PathEscape(args[0])+"/join-tokens", request, &reply); err != nil {
			if errors.Is(err, fleet.ErrNotFound) {
				return &ExitError{Code: exitFailure, Err: err, Hint: "see what there is with `rotor get clusters`, add it with `rotor apply`"}
			}
			return err
		}
		if done, err := output.document(c.OutOrStdout(), reply); done {
			return err
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), `Run this where the clients of %s read their credentials, with --dir FOLDER added:

  %s

Good once, until %s UTC. Others can read a command line: where that matters,
leave --join out and put the token in ROTOR_JOIN_TOKEN or in a file (--join-file).
`, reply.Cluster, reply.Command, moment(reply.ExpiresAt))
		return err
	}
	return c
}
