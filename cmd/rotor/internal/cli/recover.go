package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleet"
)

// recoverFlags are the flags of `rotor recover`.
type recoverFlags struct {
	wait, dryRun, token bool
	clients             []string
	key                 string
	timeout             time.Duration
}

func (a *app) recoverCommand() *cobra.Command {
	var f recoverFlags
	c := &cobra.Command{
		Use:   "recover CLUSTER",
		Short: "Let locked-out clients of a cluster come back",
		Long: `Let clients of a cluster come back whose certificate and token have both expired,
whatever the policy says. It needs nothing of their own credentials and not the
API server of the cluster. What is due, degraded or recoverable is rotated as with
rotor rotate; healthy clients are left alone; revoked ones stay out.

An agent that is there, or returns within recoveryTokenLife (1h), picks the new
generation up by its enrolment key. For a client whose agent is lost, or that has
none, --token makes a one-time token in place of that, which is shown once with the
commands that redeem it. A workload cluster is refused as management-first while
clients of its management cluster are locked out.

The exit code is 0 when the recovery has completed, 1 when a client failed or was
named and is revoked, or the time was over; the recovery goes on without this
command.`,
		Example: `  rotor recover edge-01 --wait
  rotor recover edge-01 --client kms --token
  rotor recover hq --dry-run`,
		Args:              ExactArgs("CLUSTER"),
		ValidArgsFunction: a.completeClusters,
	}
	flags := c.Flags()
	flags.StringSliceVar(&f.clients, "client", nil, "only this client, as kind or kind/instance; may be repeated")
	flags.BoolVar(&f.token, "token", false, "make a one-time recovery token for each client that is not well, for what has no agent any more")
	flags.BoolVar(&f.wait, "wait", false, "wait until the recovery has ended")
	timeoutFlag(c, &f.timeout)
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would be recovered and change nothing")
	flags.StringVar(&f.key, "idempotency-key", "", "key under which the same recovery may be asked for again (default random)")
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := output.check(c); err != nil {
			return err
		}
		if err := checkTimeout(c, f.timeout); err != nil {
			return err
		}
		request := api.RecoveryRequest{Token: f.token, DryRun: f.dryRun}
		for _, name := range f.clients {
			key, err := fleet.ParseClientKey(name)
			if err != nil {
				return usage(c, "--client: %w", err)
			}
			request.Clients = append(request.Clients, key)
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		client.Key = first(f.key, uuid.NewString())
		return a.recover(c, client, recovery{cluster: args[0], request: request, flags: f, output: output})
	}
	return c
}

// recovery is one call of `rotor recover`.
type recovery struct {
	cluster string
	request api.RecoveryRequest
	flags   recoverFlags
	output  *format
}

func (a *app) recover(c *cobra.Command, client *api.Client, r recovery) error {
	began := clock.Wall()
	view, err := askUntilAnswered(c.Context(), func(ctx context.Context) (api.RecoveryView, error) {
		return client.Recover(ctx, r.cluster, r.request)
	})
	if err != nil {
		return err
	}
	if r.output.value == "table" {
		if err := printTokens(c.OutOrStdout(), client.URL, r, view.Tokens); err != nil {
			return err
		}
	}
	return a.showRotation(c, client, shown{
		view: view.RotationView, tokens: view.Tokens, began: began, output: r.output,
		wait: r.flags.wait, timeout: r.flags.timeout, dryRun: r.flags.dryRun,
	})
}

// printTokens shows recovery tokens, once, before anything is waited for: whoever
// interrupts the wait must have seen them. The commands make the new key where
// they run, and keep the token off every command line.
func printTokens(w io.Writer, server string, r recovery, tokens []api.RecoveryToken) error {
	if r.request.Token && !r.request.DryRun && len(tokens) == 0 {
		_, err := fmt.Fprintf(w, "no recovery token: every client is well, or revoked, or the tokens were shown before\n\n")
		return err
	}
	for _, t := range tokens {
		if _, err := fmt.Fprintf(w, redeem, r.cluster, t.Client, t.Generation, moment(t.ExpiresAt), strings.TrimSuffix(server, "/"), t.Token); err != nil {
			return err
		}
	}
	return nil
}

// redeem says how a recovery token is redeemed.
const redeem = `recovery token of %s/%s for generation %d, until %s UTC, shown only now; where the client runs:
  umask 077
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out tls.key
  curl -sS --fail-with-body -H 'Content-Type: application/json' --data @- %s/v1/recover <<END
  {"token": "%s", "csr": "$(openssl req -new -key tls.key -subj /CN=rotor -outform DER | base64 | tr -d '\n')"}
END
  The answer has certificate, token and ca. A call of /v1/agent/prove with both ends the recovery.

`

// refuses reports whether a recovery was asked for clients by name and leaves one
// of them out, as it is revoked.
func refuses(view api.RotationView) bool {
	if view.Reason != fleet.ReasonRecovery || len(view.Clients) == 0 {
		return false
	}
	for _, cluster := range view.Results {
		for _, result := range cluster.Clients {
			if result.Outcome == fleet.OutcomeRevoked {
				return true
			}
		}
	}
	return false
}
