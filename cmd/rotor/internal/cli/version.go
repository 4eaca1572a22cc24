package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/clock"
	"github.com/rotor-fleet/rotor/shared/fleetfile"
)

func (a *app) versionCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this program",
		Long:    "Print the version of this program, of the Go that built it, and what it was built for.",
		Example: "  rotor version\n  rotor version -o json",
		Args:    ExactArgs(),
	}
	output := formatFlag(c, "text", "json", "yaml")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := output.check(c); err != nil {
			return err
		}
		build := struct {
			Version  string `json:"version"`
			Go       string `json:"go"`
			Platform string `json:"platform"`
		}{a.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
		if done, err := output.document(c.OutOrStdout(), build); done {
			return err
		}
		_, err := fmt.Fprintln(c.OutOrStdout(), versionLine(a.Version))
		return err
	}
	return c
}

// versionLine is what the command and the flag of the root say.
func versionLine(version string) string {
	return fmt.Sprintf("rotor %s (%s, %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func sampleCommand() *cobra.Command {
	var file string
	var force bool
	c := &cobra.Command{
		Use:   "sample",
		Short: "Print a commented fleet file",
		Long: `Print a commented fleet file whose dates are set relative to today: a management
cluster, three workload clusters, and three releases, of which edge-03 has missed
one for longer than its update window.`,
		Example: "  rotor sample > fleet.yaml\n  rotor sample -o fleet.yaml",
		Args:    ExactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			// The dates must be those of the people who read them: no clock but the machine's.
			raw := fleetfile.Sample(clock.Wall())
			if file == "" {
				_, err := c.OutOrStdout().Write(raw)
				return err
			}
			return writeSample(file, raw, force)
		},
	}
	c.Flags().StringVarP(&file, "output", "o", "", "write to this file instead of standard output")
	c.Flags().BoolVar(&force, "force", false, "overwrite the file if it exists")
	return c
}

func writeSample(path string, raw []byte, force bool) error {
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if !force {
		flags |= os.O_EXCL
	}
	f, err := os.OpenFile(path, flags, 0o644) //nolint:gosec // a fleet file holds no secret and is shared with colleagues
	if errors.Is(err, fs.ErrExist) {
		return &ExitError{Code: exitFailure, Err: fmt.Errorf("sample: %s exists already", path), Hint: "overwrite it with --force"}
	}
	if err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	return nil
}
