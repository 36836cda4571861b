package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"corewire/internal/config"
	"corewire/internal/control"
	"corewire/ring"
)

func newRelease() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release --inside IF --outside IF",
		Short: "Give back the interfaces that a killed firewall left attached",
		Long: `Give back the interfaces that a killed firewall left attached: detach the XDP program, remove
its pins, and restore every interface setting that was changed. A running firewall is
refused. Nothing to release is no failure.

A killed firewall leaves its program attached on purpose, so that the fail mode holds; the
next corewire run of the same interfaces takes over without a gap, and needs no release.`,
		Example: `  corewire release --inside eth1 --outside eth2`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := settings(cmd)
			if err != nil {
				return err
			}
			if c.Inside == "" || c.Outside == "" {
				return &usageError{errors.New("name both interfaces with --inside and --outside (see corewire release --help)")}
			}
			err = ring.Release(control.LinkConfig(c))
			message := "released %s and %s\n"
			if errors.Is(err, ring.ErrNothingHeld) {
				message, err = "nothing to release at %s and %s\n", nil
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), message, c.Inside, c.Outside)
			return err
		},
	}
	config.AddFlags(cmd.Flags(), func(s *config.Setting) bool {
		switch s.Name {
		case "inside", "outside", "pin-path", "state-file":
			return true
		}
		return false
	})
	return cmd
}
