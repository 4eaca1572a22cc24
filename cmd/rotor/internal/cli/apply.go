package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/api"
	"github.com/rotor-fleet/rotor/shared/fleetfile"
)

func (a *app) applyCommand() *cobra.Command {
	var file string
	var dryRun, prune bool
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make the fleet what a fleet file says",
		Long: `Make the fleet what a fleet file says, and print what changes: + is added,
~ is changed, - is removed, = differs from the file and stays as it is.

A file with any error changes nothing. To apply a file again has no effect. What
is not in the file stays, unless --prune is given.`,
		Example: `  rotor apply -f fleet.yaml --dry-run
  rotor apply -f fleet.yaml
  rotor sample | rotor apply -f -`,
		Args: ExactArgs(),
	}
	c.Flags().StringVarP(&file, "file", "f", "", "fleet file, - for standard input")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would change and change nothing")
	c.Flags().BoolVar(&prune, "prune", false, "remove clusters and releases that are not in the file")
	output := formatFlag(c, "table", "json", "yaml")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := output.check(c); err != nil {
			return err
		}
		if file == "" {
			return usage(c, "name the fleet file with -f FILE")
		}
		raw, name, err := readInput(c, file)
		if err != nil {
			return err
		}
		// The same check as the server's, so that errors need no server.
		if _, err := fleetfile.Parse(raw); err != nil {
			return FleetFileError(name, err)
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		plan, err := client.Apply(c.Context(), raw, dryRun, prune)
		if err != nil {
			return FleetFileError(name, err)
		}
		if plan.Changes == nil {
			plan.Changes = []api.Change{}
		}
		if done, err := output.document(c.OutOrStdout(), plan); done {
			return err
		}
		PrintPlan(c.OutOrStdout(), plan)
		return nil
	}
	return c
}

func readInput(c *cobra.Command, file string) (raw []byte, name string, err error) {
	if file == "-" {
		raw, err = io.ReadAll(io.LimitReader(c.InOrStdin(), fleetfile.MaxSize+1))
		return raw, "standard input", err
	}
	raw, err = os.ReadFile(file)
	if err != nil {
		return nil, "", fmt.Errorf("apply: %w", err)
	}
	return raw, file, nil
}

// FleetFileError writes each error of a fleet file as FILE:line:column: message.
// Any other error is returned as it is.
func FleetFileError(name string, err error) error {
	var lines []string
	if errs, ok := errors.AsType[fleetfile.Errors](err); ok {
		for _, e := range errs {
			lines = append(lines, fmt.Sprintf("%s:%d:%d: %s", name, e.Line, e.Column, e.Message))
		}
	} else if p, ok := errors.AsType[*api.Problem](err); ok && p.Status == 422 {
		for _, e := range p.Errors {
			lines = append(lines, strings.TrimSuffix(name+":"+e.Location, ":")+": "+e.Message)
		}
	}
	if len(lines) == 0 {
		return err
	}
	return &ExitError{
		Code: exitFailure,
		Err:  fmt.Errorf("%s in the fleet file, nothing was applied\n%s", plural(len(lines), "error"), strings.Join(lines, "\n")),
	}
}

// symbols of the actions of a plan.
func symbol(action api.Action) string {
	switch action {
	case api.ActionAdd:
		return "+"
	case api.ActionChange:
		return "~"
	case api.ActionRemove:
		return "-"
	default:
		return "="
	}
}

// PrintPlan writes a plan, one line for each detail, and a summary.
func PrintPlan(w io.Writer, plan api.Plan) {
	kinds, names, changing := 0, 0, 0
	for _, change := range plan.Changes {
		kinds, names = max(kinds, len(change.Kind)), max(names, len(change.Name))
		if change.Action != api.ActionKeep {
			changing++
		}
	}
	var out strings.Builder
	for _, change := range plan.Changes {
		details := change.Details
		if len(details) == 0 {
			details = []string{""}
		}
		for i, detail := range details {
			line := fmt.Sprintf("%s %-*s  %-*s  %s", symbol(change.Action), kinds, change.Kind, names, change.Name, detail)
			if i > 0 {
				line = strings.Repeat(" ", 2+kinds+2+names+2) + detail
			}
			out.WriteString(strings.TrimRight(printable(line), " ") + "\n")
		}
	}
	switch unchanged := plural(plan.Unchanged, "object"); {
	case changing == 0:
		fmt.Fprintf(&out, "nothing to change: %s as the file says\n", unchanged)
	case !plan.Applied:
		fmt.Fprintf(&out, "%s to make, %s unchanged; nothing was applied\n", plural(changing, "change"), unchanged)
	default:
		fmt.Fprintf(&out, "%s applied, %s unchanged\n", plural(changing, "change"), unchanged)
	}
	_, _ = io.WriteString(w, out.String()) // a plan that nobody can read is applied all the same
}
