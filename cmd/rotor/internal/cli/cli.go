// Package cli is the command line of Rotor: commands that talk HTTP to a
// gateway, and nothing else. Commands that run parts of Rotor themselves are
// handed in by main, so that this package needs none of them.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/daemon"
	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// Options are what the commands are made from.
type Options struct {
	Extra   []*cobra.Command         // commands of the caller, such as up and demo
	Getenv  func(name string) string // os.Getenv, if nil
	Version string                   // the version of this build, if empty
	Styled  bool                     // standard output is a terminal that may show colours
	Asks    bool                     // standard input is a terminal on which somebody can answer
	Live    bool                     // standard error is a terminal on which a line may be rewritten
}

// app is what every command shares.
type app struct {
	Options
	url, tokenFile, caFile, data string
	tracer                       telemetry.Tracer
}

// ExitError ends the program with a code. An ExitError without Err prints
// nothing: the command has said all there is to say.
type ExitError struct {
	Code int
	Err  error
	Hint string // what to do about it
}

// The exit codes.
const (
	exitFailure = 1 // something failed, or wants attention
	exitUsage   = 2 // the command line is wrong; of status: the fleet is broken
)

// Error returns the text of Err.
func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *ExitError) Unwrap() error { return e.Err }

// New returns the root command with everything below it.
func New(o Options) *cobra.Command {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Version == "" {
		o.Version = daemon.Version()
	}
	a := &app{Options: o}
	root := &cobra.Command{
		Use:   "rotor",
		Short: "Keep the certificates and tokens of a fleet of Kubernetes clusters alive",
		Long: `Rotor keeps the certificates and tokens of a fleet of Kubernetes clusters alive.

Commands find a running server by --url or ROTOR_URL (with ROTOR_TOKEN or
--token-file, and ROTOR_CA_FILE or --ca-file where a private CA has signed its
certificate), else by the file that ` + "`rotor up`" + ` writes to its data folder.`,
		Example: `  rotor sample > fleet.yaml
  rotor apply -f fleet.yaml
  rotor status`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			err := fmt.Errorf("unknown command %q", args[0])
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				err = fmt.Errorf("%w: did you mean %q?", err, near[0])
			}
			return &ExitError{Code: exitUsage, Err: err, Hint: "see `rotor --help`"}
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SuggestionsMinimumDistance = 2
	flags := root.PersistentFlags()
	flags.StringVar(&a.url, "url", "", "address of the API (default $ROTOR_URL, else from the data folder)")
	flags.StringVar(&a.tokenFile, "token-file", "", "file with the admin token (default $ROTOR_TOKEN, else from the data folder)")
	flags.StringVar(&a.caFile, "ca-file", "", "file with the CA of the API's certificate, PEM (default $ROTOR_CA_FILE, else the system's)")
	flags.StringVar(&a.data, "data", "var", "data folder of a server on this machine")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, "%w", wrongFlag(err)) })
	root.AddCommand(
		a.traced(a.applyCommand()), a.statusCommand(), a.getCommand(), a.traced(a.rotateCommand()), a.rotationCommand(),
		a.traced(a.recoverCommand()), a.traced(a.revokeCommand()), a.traced(a.reinstateCommand()), a.traced(a.upgradeCommand()),
		a.watchCommand(), a.inspectCommand(), a.auditCommand(), a.versionCommand(), sampleCommand(),
		a.joinCommand(), a.alertCommand(), a.authorityCommand(),
	)
	root.AddCommand(o.Extra...)
	root.Version = o.Version // and with it the flag --version
	root.SetVersionTemplate(versionLine(o.Version) + "\n")
	return root
}

// Main runs the command line and returns the exit code: 0 for success, 1 for a
// failure or a fleet that wants attention, 2 for a wrong command line or a
// fleet that is broken.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, extra ...*cobra.Command) int {
	root := New(Options{Extra: extra, Styled: styled(stdout), Live: terminal(stderr), Asks: terminal(stdin)})
	return Execute(ctx, root, args, Streams{stdin, stdout, stderr})
}

// Streams are the standard streams of a program.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Execute runs a root command that New has made, prints its error and returns
// the exit code.
func Execute(ctx context.Context, root *cobra.Command, args []string, s Streams) int {
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	code, hint := exitFailure, hintFor(c, err)
	if e, ok := errors.AsType[*ExitError](err); ok {
		if e.Err == nil {
			return e.Code
		}
		code = e.Code
		if e.Hint != "" {
			hint = e.Hint
		}
	}
	_, _ = fmt.Fprintf(s.Err, "rotor: %s\n", printableLines(err.Error()))
	if hint != "" {
		_, _ = fmt.Fprintf(s.Err, "hint: %s\n", hint)
	}
	return code
}
