package cli

import (
	"context"
	"errors"
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

// rotateFlags are the flags of `rotor rotate`.
type rotateFlags struct {
	all, force, wait, dryRun bool
	selector                 []string
	clients                  []string
	key                      string
	timeout                  time.Duration

	canary, maxFailures string
	maxParallel         int
	ignoreMaintenance   bool
}

func (a *app) rotateCommand() *cobra.Command {
	var f rotateFlags
	c := &cobra.Command{
		Use:   "rotate CLUSTER...",
		Short: "Rotate the credentials of clusters",
		Long: `Rotate certificate and token of the clients of clusters. Without --force only
what is due, degraded, recoverable or locked out is rotated; with it, all but
revoked clients. The credentials in use stay valid until the new ones are proven.
A locked-out client that its policy leaves to an operator (recovery: operator, or
away for longer than recoveryLimit) is reported as needs-recovery: see rotor recover.

Named clusters begin all at once. With --all or --selector, or with one of
--canary, --max-parallel and --max-failures, the rotation goes in waves: one
cluster (the canary), a tenth of all, the rest; a wave begins when the one before
is proven. It halts when one client of the canary has failed, later when more than
--max-failures have; then see rotor rotation. In waves each cluster waits for its
maintenance window, unless --ignore-maintenance is given or a client is so near
its end that it would be renewed outside of it.

There is no way back to the credentials before a rotation: until the new ones are
proven those before stay in use, and then they are replaced for good. To replace
what was rotated, rotate again.

With --wait the command ends with the rotation and prints a line for each client.
The exit code is 0 when the rotation has completed, 1 when a client failed, the
rotation was halted or the time was over; it goes on without this command.`,
		Example: `  rotor rotate edge-01 --force --wait
  rotor rotate --all --dry-run
  rotor rotate --all --force --canary edge-01 --max-failures 1%
  rotor rotate --selector site=edge --client kms --force`,
		ValidArgsFunction: a.completeClusters,
		Args: func(c *cobra.Command, args []string) error {
			ways := 0
			for _, given := range []bool{len(args) > 0, f.all, len(f.selector) > 0} {
				if given {
					ways++
				}
			}
			if ways != 1 {
				return usage(c, "name clusters, or use --all, or --selector: one of the three")
			}
			return nil
		},
	}
	flags := c.Flags()
	flags.BoolVar(&f.all, "all", false, "all clusters")
	flags.StringSliceVar(&f.selector, "selector", nil, "clusters with this label, as key=value; repeat to require several")
	flags.StringSliceVar(&f.clients, "client", nil, "only this client, as kind or kind/instance; may be repeated")
	flags.BoolVar(&f.force, "force", false, "rotate what is not due as well")
	flags.BoolVar(&f.wait, "wait", false, "wait until the rotation has ended")
	timeoutFlag(c, &f.timeout)
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would be rotated and change nothing")
	flags.StringVar(&f.key, "idempotency-key", "", "key under which the same rotation may be asked for again (default random)")
	flags.StringVar(&f.canary, "canary", "", "in waves: cluster that goes first (default chosen)")
	flags.IntVar(&f.maxParallel, "max-parallel", 0, fmt.Sprintf("in waves: clusters in progress at once (default %d)", fleet.MaxParallel))
	flags.StringVar(&f.maxFailures, "max-failures", "", "in waves: failed clients after the canary that do not halt it, as a number or a share (default "+string(fleet.DefaultMaxFailures)+")")
	flags.BoolVar(&f.ignoreMaintenance, "ignore-maintenance", false, "in waves: do not wait for maintenance windows")
	_ = c.RegisterFlagCompletionFunc("canary", a.completeClusters)
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := output.check(c); err != nil {
			return err
		}
		if err := checkTimeout(c, f.timeout); err != nil {
			return err
		}
		request, err := f.request(c, args)
		if err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		client.Key = first(f.key, uuid.NewString())
		return a.rotate(c, client, rotation{request: request, flags: f, output: output})
	}
	return c
}

func (f rotateFlags) request(c *cobra.Command, clusters []string) (api.RotateRequest, error) {
	r := api.RotateRequest{
		Clusters: clusters, All: f.all, Force: f.force, DryRun: f.dryRun,
		Canary: f.canary, MaxParallel: f.maxParallel, MaxFailures: fleet.FailureLimit(f.maxFailures), IgnoreMaintenance: f.ignoreMaintenance,
	}
	if f.maxParallel < 0 || c.Flags().Changed("max-parallel") && f.maxParallel == 0 {
		return r, usage(c, "--max-parallel %d: use at least 1", f.maxParallel)
	}
	if err := r.MaxFailures.Validate(); err != nil {
		return r, usage(c, "--max-failures: %w", err)
	}
	for _, label := range f.selector {
		k, v, ok := strings.Cut(label, "=")
		if !ok || k == "" {
			return r, usage(c, "selector %q: write it as key=value", label)
		}
		if r.Selector == nil {
			r.Selector = map[string]string{}
		}
		r.Selector[k] = v
	}
	for _, name := range f.clients {
		key, err := fleet.ParseClientKey(name)
		if err != nil {
			return r, usage(c, "--client: %w", err)
		}
		r.Clients = append(r.Clients, key)
	}
	return r, nil
}

// rotation is one call of `rotor rotate`.
type rotation struct {
	request api.RotateRequest
	flags   rotateFlags
	output  *format
}

func (a *app) rotate(c *cobra.Command, client *api.Client, r rotation) error {
	began := clock.Wall()
	view, err := askUntilAnswered(c.Context(), func(ctx context.Context) (api.RotationView, error) { return client.Rotate(ctx, r.request) })
	if err != nil {
		return err
	}
	return a.showRotation(c, client, shown{
		view: view, began: began, wait: r.flags.wait, timeout: r.flags.timeout, dryRun: r.flags.dryRun, output: r.output,
	})
}

// shown is a rotation that was asked for, and how it is to be shown.
type shown struct {
	view         api.RotationView
	tokens       []api.RecoveryToken // of a recovery
	began        time.Time
	wait, dryRun bool
	timeout      time.Duration
	output       *format
}

// showRotation follows a rotation as far as was asked for and prints it. The
// error is that of the exit code.
func (a *app) showRotation(c *cobra.Command, client *api.Client, s shown) error {
	w, view := c.OutOrStdout(), s.view
	if view.DryRun || s.dryRun {
		if done, err := s.output.document(w, view); done {
			return err
		}
		return a.printDryRun(w, view)
	}
	limit := s.timeout
	if !s.wait {
		// Long enough to hear that nothing is due, which makes waiting pointless.
		limit = 3 * time.Second
	}
	f := follower{client: client, id: view.ID, limit: limit, log: c.ErrOrStderr(), live: a.Live, quiet: !s.wait || s.output.value != "table"}
	var waitErr error
	if !still(view) && (s.wait || !underWay(view)) {
		view, waitErr = f.follow(c.Context(), view, s.wait)
	}
	if !s.wait {
		waitErr = nil
	}
	if done, err := s.output.document(w, s.document(view)); done {
		return errors.Join(err, waitErr, failed(view))
	}
	switch {
	case waitErr != nil:
		return waitErr
	case nothingDue(view):
		return a.printNothingDue(c.Context(), w, client, view)
	case view.State == fleet.RotationHalted:
		if err := a.printRotation(w, view); err != nil {
			return err
		}
		return failed(view)
	case !view.State.Done():
		_, err := fmt.Fprintf(w, "rotation %s is %s for %s\nfollow it with: rotor get rotations %s\n", view.ID, view.State, names(view.Clusters), view.ID)
		return err
	}
	if err := a.printResults(w, view); err != nil {
		return err
	}
	if err := printWaves(w, view); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "\n%s in %s\n", summary(view), clock.Wall().Sub(s.began).Round(100*time.Millisecond)); err != nil {
		return err
	}
	return failed(view)
}

// document is what is printed as JSON or YAML.
func (s shown) document(view api.RotationView) any {
	if len(s.tokens) == 0 {
		return view
	}
	return api.RecoveryView{RotationView: view, Tokens: s.tokens}
}

// failed is the exit code of a rotation that has ended with failures, that was
// halted or cancelled, and of a recovery that leaves out what it was asked for by
// name.
func failed(view api.RotationView) error {
	switch view.State {
	case fleet.RotationFailed, fleet.RotationHalted, fleet.RotationCancelled:
		return &ExitError{Code: exitFailure}
	}
	if view.State.Done() && refuses(view) {
		return &ExitError{Code: exitFailure}
	}
	return nil
}

// nothingDue reports whether a rotation has ended without anything to do.
func nothingDue(view api.RotationView) bool {
	known := false
	for _, cluster := range view.Results {
		for _, r := range cluster.Clients {
			if r.Outcome != fleet.OutcomeNotDue {
				return false
			}
			known = true
		}
	}
	return view.State == fleet.RotationCompleted && (known || view.Total == 0)
}

func (a *app) printNothingDue(ctx context.Context, w io.Writer, client *api.Client, view api.RotationView) error {
	var next *time.Time
	if clusters, err := api.List[api.ClusterView](ctx, client, api.PathClusters, nil); err == nil {
		for i := range clusters {
			if contains(view.Clusters, clusters[i].Name) {
				next = earliest(next, clusters[i].NextRenewal)
			}
		}
	}
	when := ""
	if next != nil {
		when = "; next renewal " + date(next)
	}
	_, err := fmt.Fprintf(w, "nothing is due in %s%s\n", names(view.Clusters), when)
	return err
}

// names lists clusters, the first five of many.
func names(clusters []string) string {
	const most = 5
	if len(clusters) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(clusters[:most], ", "), len(clusters)-most)
	}
	return strings.Join(clusters, ", ")
}

func summary(view api.RotationView) string {
	counts := map[fleet.Outcome]int{}
	total := 0
	for _, cluster := range view.Results {
		for _, r := range cluster.Clients {
			counts[r.Outcome]++
			total++
		}
	}
	parts := []string{fmt.Sprintf("%s: %d of %s rotated", view.State, counts[fleet.OutcomeRotated], plural(total, "client"))}
	for _, o := range []fleet.Outcome{fleet.OutcomeFailed, fleet.OutcomeNeedsRecovery, fleet.OutcomeKept, fleet.OutcomeNotDue, fleet.OutcomeRevoked, fleet.OutcomeExcluded, fleet.OutcomeCancelled, fleet.OutcomeWaiting} {
		if counts[o] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[o], o))
		}
	}
	return strings.Join(parts, ", ")
}

func (a *app) printResults(w io.Writer, view api.RotationView) error {
	t := a.table("CLUSTER", "CLIENT", "GENERATION", "OUTCOME", "REASON")
	for _, cluster := range view.Results {
		for _, r := range cluster.Clients {
			generation := fmt.Sprint(r.From)
			if r.To != 0 && r.To != r.From {
				generation = fmt.Sprintf("%d -> %d", r.From, r.To)
			}
			t.add(cluster.Cluster, r.Client.String(), generation, string(r.Outcome), r.Reason)
		}
	}
	return t.print(w)
}

func (a *app) printDryRun(w io.Writer, view api.RotationView) error {
	if err := a.printResults(w, view); err != nil {
		return err
	}
	if err := printPlan(w, view); err != nil {
		return err
	}
	would, total := 0, 0
	for _, cluster := range view.Results {
		for _, r := range cluster.Clients {
			total++
			if r.Outcome == fleet.OutcomeWaiting || r.Outcome == fleet.OutcomeRotated {
				would++
			}
		}
	}
	_, err := fmt.Fprintf(w, "\n%d of %s would be rotated in %s; nothing was changed\n", would, plural(total, "client"), names(view.Clusters))
	return err
}

func (a *app) rotations() resource {
	var states []string
	for _, s := range fleet.RotationStates() {
		states = append(states, string(s))
	}
	return kindOf[api.RotationView]{
		name:   "rotations",
		path:   at(api.PathRotations),
		states: states,
		state:  func(v api.RotationView) string { return string(v.State) },
		keep: func(v api.RotationView, cluster string) bool {
			return contains(v.Clusters, cluster)
		},
		one: func(ctx context.Context, q query) (api.RotationView, error) { return q.client.Rotation(ctx, q.name) },
		table: func(w io.Writer, q query, items []api.RotationView) error {
			head := []string{"ROTATION", "REASON", "STATE", "WAVE", "CLUSTERS", "ROTATED", "FAILED", "CREATED", "ENDED"}
			if q.wide {
				head = append(head, "BY", "FORCE")
			}
			t := a.table(head...)
			for i := range items {
				v := &items[i]
				row := []string{
					v.ID, string(v.Reason), string(v.State), waveText(v.Rotation), names(v.Clusters), fmt.Sprintf("%d of %d", v.Rotated, v.Total),
					fmt.Sprint(v.Failed), moment(v.CreatedAt), moment(v.EndedAt),
				}
				if q.wide {
					row = append(row, v.By, fmt.Sprint(v.Force))
				}
				t.add(row...)
			}
			return t.print(w)
		},
		detail: func(w io.Writer, _ query, v api.RotationView) error { return a.printRotation(w, v) },
	}.resource()
}
