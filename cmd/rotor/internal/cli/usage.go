package cli

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usage is the error of a wrong command line.
func usage(c *cobra.Command, format string, args ...any) error {
	return &ExitError{Code: exitUsage, Err: fmt.Errorf(format, args...), Hint: fmt.Sprintf("see `%s --help`", c.CommandPath())}
}

// Usage is the error of a wrong command line, for commands that are handed in.
func Usage(c *cobra.Command, format string, args ...any) error { return usage(c, format, args...) }

// wrongFlag says of a flag with a value of another type what it takes, where the
// parser tells of the functions of Go that have failed.
func wrongFlag(err error) error {
	wrong, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	flag := wrong.GetFlag()
	want, known := map[string]string{
		"int": "a whole number", "float64": "a number", "bool": "true or false", "duration": "a duration such as 30s, 5m or 1h",
	}[flag.Value.Type()]
	if !known {
		return err
	}
	return fmt.Errorf("--%s %q: use %s", flag.Name, wrong.GetValue(), want)
}

// timeoutFlag is the flag --timeout of a command that waits.
func timeoutFlag(c *cobra.Command, timeout *time.Duration) {
	c.Flags().DurationVar(timeout, "timeout", 5*time.Minute, "how long to wait")
}

// checkTimeout refuses a time in which nothing can be waited for, before anything
// is asked for.
func checkTimeout(c *cobra.Command, timeout time.Duration) error {
	if timeout <= 0 {
		return usage(c, "--timeout %s: use more than 0s", timeout)
	}
	return nil
}

// ExactArgs is cobra.ExactArgs with an error that names what is missing, and the
// exit code of a wrong command line.
func ExactArgs(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage(c, "%s is missing", strings.Join(names[len(args):], " "))
		case len(args) > len(names):
			return usage(c, "unexpected argument %q", args[len(names)])
		}
		return nil
	}
}
