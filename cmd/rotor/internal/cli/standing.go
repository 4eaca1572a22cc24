package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

func (a *app) revokeCommand() *cobra.Command {
	var reason, key string
	var yes bool
	c := &cobra.Command{
		Use:   "revoke CLUSTER/CLIENT --reason REASON",
		Short: "Revoke a client: its credentials are void for good",
		Long: `Revoke a client. Its certificates go on the CRL (/crl) and stay there until they
expire, its tokens are inactive to introspection and refused for signing in, and
what waits for its agent is taken away. It gets nothing until rotor reinstate:
not by rotation, renewal, upgrade or recovery.

The files that its agent has installed stay where they are. Whoever verifies
certificates without asking the CRL, as a kube-apiserver does, accepts them until
they expire: take the client's rights away there as well.

The reasons are those of RFC 5280, 5.3.1: ` + orList(reasons()) + `.`,
		Example: `  rotor revoke edge-01/kms --reason key-compromise
  rotor revoke hq/node-agent/host-1 --reason cessation-of-operation --yes`,
		Args:              ExactArgs("CLUSTER/CLIENT"),
		ValidArgsFunction: a.completeClients,
	}
	flags := c.Flags()
	flags.StringVar(&reason, "reason", "", "why: "+orList(reasons()))
	flags.BoolVar(&yes, "yes", false, "do not ask")
	flags.StringVar(&key, "idempotency-key", "", "key under which the same request may be made again (default random)")
	_ = c.RegisterFlagCompletionFunc("reason", cobra.FixedCompletions(reasons(), cobra.ShellCompDirectiveNoFileComp))
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := newStanding(c, args[0], "revocations", output)
		if err != nil {
			return err
		}
		why, err := fleet.ParseCRLReason(reason)
		switch {
		case reason == "":
			return usage(c, "say why with --reason: use %s", orList(reasons()))
		case err != nil:
			return usage(c, "--reason %q: use %s", reason, orList(reasons()))
		}
		question := fmt.Sprintf("Revoke %s (%s)? Its certificates and tokens are void for good, and it gets none until it is reinstated.", args[0], why)
		if err := a.confirm(c, yes, question); err != nil {
			return err
		}
		return a.stand(c, s, first(key, uuid.NewString()), api.RevokeRequest{Client: s.client, Reason: why})
	}
	return c
}

func (a *app) reinstateCommand() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "reinstate CLUSTER/CLIENT",
		Short: "Let a revoked client have credentials again",
		Long: `Let a revoked client have credentials again. It gets a new generation, with a key
that its agent makes from now on. What it had before stays revoked for good, and
its certificates stay on the CRL until they expire.`,
		Example:           `  rotor reinstate edge-01/kms`,
		Args:              ExactArgs("CLUSTER/CLIENT"),
		ValidArgsFunction: a.completeClients,
	}
	c.Flags().StringVar(&key, "idempotency-key", "", "key under which the same request may be made again (default random)")
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		s, err := newStanding(c, args[0], "reinstatements", output)
		if err != nil {
			return err
		}
		s.reinstated = true
		return a.stand(c, s, first(key, uuid.NewString()), api.ReinstateRequest{Client: s.client})
	}
	return c
}

func reasons() []string {
	var names []string
	for _, r := range fleet.CRLReasons() {
		names = append(names, string(r))
	}
	return names
}

// standing is one call of `rotor revoke` or `rotor reinstate`.
type standing struct {
	path       string
	client     fleet.ClientKey
	output     *format
	reinstated bool
}

func newStanding(c *cobra.Command, name, what string, output *format) (standing, error) {
	if err := output.check(c); err != nil {
		return standing{}, err
	}
	cluster, client, ok := strings.Cut(name, "/")
	if !ok {
		return standing{}, usage(c, "%q: write it as CLUSTER/CLIENT, such as edge-01/kms or hq/node-agent/host-1", name)
	}
	key, err := fleet.ParseClientKey(client)
	if err != nil {
		return standing{}, usage(c, "%q: %w", name, err)
	}
	return standing{path: api.PathClusters + "/" + url.PathEscape(cluster) + "/" + what, client: key, output: output}, nil
}

// confirm asks on a terminal. Without one nobody can answer, so --yes has to say
// it: a script that forgot it must not revoke anything.
func (a *app) confirm(c *cobra.Command, yes bool, text string) error {
	if yes {
		return nil
	}
	if !a.Asks {
		return usage(c, "this cannot be undone: say --yes, as there is no terminal to ask on")
	}
	return a.answered(c, question{text: text, word: "yes"})
}

// question is what somebody at a terminal has to answer.
type question struct {
	text string
	word string // that means yes
	also string // another that does
}

// answered asks a question, and returns an error unless the answer is yes.
func (a *app) answered(c *cobra.Command, q question) error {
	answer, err := reply(c, fmt.Sprintf("%s Type %s to go on: ", printable(q.text), printable(q.word)))
	if err == nil && (answer == "" || answer != q.word && answer != q.also) {
		err = &ExitError{Code: exitFailure, Err: fmt.Errorf("not confirmed; nothing was done")}
	}
	return err
}

// reply asks for a line.
func reply(c *cobra.Command, text string) (string, error) {
	if _, err := fmt.Fprint(c.ErrOrStderr(), text); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(c.InOrStdin()).ReadString('\n')
	if err != nil && answer == "" {
		return "", &ExitError{Code: exitFailure, Err: fmt.Errorf("no answer: %w; nothing was done", err)}
	}
	return strings.TrimSpace(answer), nil
}

// stand makes the call and shows what became of the client.
func (a *app) stand(c *cobra.Command, s standing, key string, request any) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	client.Key = key
	view, err := askUntilAnswered(c.Context(), func(ctx context.Context) (api.ClientView, error) {
		var view api.ClientView
		err := client.Call(ctx, "POST", s.path, request, &view)
		return view, err
	})
	if err != nil {
		return err
	}
	w := c.OutOrStdout()
	done, err := s.output.document(w, view)
	if err == nil && (view.State == fleet.StateRevoked) == s.reinstated {
		return &ExitError{
			Code: exitFailure, Err: fmt.Errorf("it was asked for and is not in effect yet: the issuer has not answered"),
			Hint: "it happens as soon as an issuer runs; to ask again does no harm",
		}
	}
	if err != nil || done {
		return err
	}
	return printStanding(w, view, s.reinstated)
}

func printStanding(w io.Writer, v api.ClientView, reinstated bool) error {
	name := v.Cluster + "/" + fleet.ClientKey{Kind: v.Kind, Instance: v.Instance}.String()
	if reinstated && v.State == fleet.StatePending {
		_, err := fmt.Fprintf(w, "%s is reinstated and gets a new generation; follow it with: rotor get clients --cluster %s\n", name, v.Cluster)
		return err
	}
	text := fmt.Sprintf("%s is %s", name, v.State)
	switch {
	case strings.HasPrefix(v.Reason, string(v.State)):
		text = fmt.Sprintf("%s is %s", name, v.Reason)
	case v.Reason != "":
		text += ": " + v.Reason
	}
	if _, err := fmt.Fprintln(w, printable(text)); err != nil || v.Remedy == "" {
		return err
	}
	_, err := fmt.Fprintf(w, "  -> %s\n", printable(v.Remedy))
	return err
}

// completeClients offers clusters, then the clients of one.
func (a *app) completeClients(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	cluster, _, ok := strings.Cut(word, "/")
	if len(args) > 0 || !ok {
		names, directive := a.completeClusters(c, args, word)
		for i := range names {
			names[i] += "/"
		}
		return names, directive | cobra.ShellCompDirectiveNoSpace
	}
	client, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	clients, err := api.List[api.ClientView](c.Context(), client, api.PathClusters+"/"+url.PathEscape(cluster)+"/clients", nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for i := range clients {
		names = append(names, cluster+"/"+fleet.ClientKey{Kind: clients[i].Kind, Instance: clients[i].Instance}.String())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
