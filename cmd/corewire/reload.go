package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"corewire/internal/control"
)

func newReload() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the running firewall read its configuration and rule files again, all or nothing",
		Long: `Have the running firewall read its configuration and rule files again, as SIGHUP does. Either
all of it takes effect, between two bursts of each worker, or nothing does: a mistake in a
file, or a setting that needs a restart, leaves the firewall as it is. Connections stay.`,
		Args: cobra.NoArgs,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			r, err := c.Reload(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			for _, w := range r.Warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
			}
			for _, change := range r.Changes {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), changeLine(change)); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d rules in force\n", r.Rules)
			return err
		}),
	}
	addSocket(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
