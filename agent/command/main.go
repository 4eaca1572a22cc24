package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"runtime/debug"

	"github.com/rotor-fleet/rotor/shared/fleet"
)

// Main is the binary agent. It returns the exit code: 0 after a signal, 1 when
// it cannot go on, 2 for wrong arguments.
func Main(ctx context.Context, args []string, p Process) int {
	var o Options
	version := false
	flags := flag.NewFlagSet("agent", flag.ContinueOnError)
	flags.SetOutput(p.Log)
	o.Flags(flags)
	flags.BoolVar(&version, "version", false, "print the version and stop")
	flags.Usage = func() {
		_, _ = fmt.Fprintf(p.Log, "%s\n\nUsage: %s\n\nExamples (the binary agent takes the same arguments):\n%s\n\n", Help, Usage, Example)
		flags.PrintDefaults()
	}
	p.Version = buildVersion(p.Version)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil: // said by Parse
		return 2
	case version:
		_, _ = fmt.Fprintf(p.Out, "agent %s\n", p.Version)
		return 0
	case flags.NArg() > 0:
		err = fmt.Errorf("%w: unexpected argument %q", fleet.ErrInvalid, flags.Arg(0))
	default:
		err = Run(ctx, o, p)
	}
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintf(p.Log, "agent: %v\n", err)
	if errors.Is(err, fleet.ErrInvalid) {
		return 2
	}
	return 1
}

// buildVersion returns the version of this build: what the linker was told, or
// the commit, or "devel".
func buildVersion(linked string) string {
	if linked != "" {
		return linked
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return "devel-" + setting.Value[:min(12, len(setting.Value))]
		}
	}
	return "devel"
}
