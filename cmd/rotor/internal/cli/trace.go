package cli

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/rotor-fleet/rotor/shared/telemetry"
)

// traced makes a command that changes something the beginning of a trace, where
// the environment asks for traces.
func (a *app) traced(c *cobra.Command) *cobra.Command {
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		provider, err := telemetry.Open(c.Context(), telemetry.Options{
			Getenv: a.Getenv, Version: a.Version, Log: slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil)),
		})
		if err != nil {
			return usage(c, "%w", err)
		}
		defer provider.Close()
		a.tracer = provider.Tracer("rotor", "")
		ctx, span := a.tracer.Start(c.Context(), telemetry.Internal, c.CommandPath())
		c.SetContext(ctx)
		err = run(c, args)
		telemetry.End(span, err)
		return err
	}
	return c
}
