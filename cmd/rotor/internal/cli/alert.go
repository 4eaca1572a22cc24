package cli

import "github.com/spf13/cobra"

// alertCommand holds what is done about alerts, beside looking at them.
func (a *app) alertCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "alert",
		Short: "See to what was given up",
		Long: `See to what was given up: messages that a service could not handle and alerts that
a channel did not take. The alerts themselves are shown by rotor get alerts.`,
		Example: "  rotor alert dead\n  rotor alert dead replay --all",
		Args:    NoSubcommand,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.deadCommand())
	return c
}

// NoSubcommand refuses arguments of a command that has commands below it.
func NoSubcommand(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(c, "unknown command %q for %q", args[0], c.CommandPath())
	}
	return nil
}
