package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"corewire/internal/config"
	"corewire/internal/control"
)

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show, check and change settings",
		Args:  cobra.NoArgs,
		RunE:  group,
	}
	cmd.AddCommand(newConfigShow(), newConfigCheck(), newConfigSet(), newConfigDocs())
	return cmd
}

func newConfigShow() *cobra.Command {
	var asJSON, running, changed bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show every setting with its value, and where the value came from",
		Long: `Show every setting with its value, and where the value came from: the flag, the environment
variable, the line of the file, or the default. With --running they are those of the
running firewall, changes made since its start included.`,
		Example: `  corewire config show --config /etc/corewire/corewire.yaml --changed
  corewire config show --running --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			show := func(values []config.Value) error {
				if changed {
					var kept []config.Value
					for _, v := range values {
						if v.Source != config.Default.String() {
							kept = append(kept, v)
						}
					}
					values = kept
				}
				if asJSON {
					if values == nil {
						values = []config.Value{}
					}
					return printJSON(cmd.OutOrStdout(), values)
				}
				return printValues(cmd.OutOrStdout(), values)
			}
			if running {
				return ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
					values, err := c.Config(cmd.Context())
					if err != nil {
						return err
					}
					return show(values)
				})(cmd, args)
			}
			c, warnings, err := settings(cmd)
			if err != nil {
				return err
			}
			warn(cmd.ErrOrStderr(), warnings)
			return show(c.Values())
		},
	}
	config.AddFlags(cmd.Flags(), nil)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&running, "running", false, "ask the running firewall")
	cmd.Flags().BoolVar(&changed, "changed", false, "only settings that are not at their default")
	return cmd
}

func warn(w io.Writer, warnings []string) {
	for _, text := range warnings {
		fmt.Fprintln(w, "warning:", text)
	}
}

func printValues(w io.Writer, values []config.Value) error {
	rows := [][]string{{"SETTING", "VALUE", "UNIT", "SOURCE", "CHANGE"}}
	for _, v := range values {
		value, source := v.Value, v.Place
		if value == "" {
			value = `""`
		}
		if source == "" {
			source = v.Source
		}
		rows = append(rows, []string{v.Name, value, v.Unit, source, v.Apply})
	}
	return table(w, rows)
}

func newConfigCheck() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a configuration file and the rule files that it names, without touching anything",
		Long: `Check a configuration file, or flags and environment alone, and the rule files that they name,
without touching anything. Every mistake is reported with file and line, what was found,
what was expected, and a hint; what in the rules has no effect is a warning.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := configPath(cmd)
			if len(args) == 1 {
				path = args[0]
			}
			c, warnings, err := config.Load(path, cmd.Flags())
			if err != nil {
				return &refusedError{err}
			}
			warn(cmd.ErrOrStderr(), warnings)
			rs, err := c.LoadRules()
			if err != nil {
				return &refusedError{err}
			}
			for _, w := range rs.Warnings() {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %s, %s\n", number(rs.Len(), "rule"), number(len(rs.Warnings())+len(warnings), "warning"))
			return err
		},
	}
	config.AddFlags(cmd.Flags(), nil)
	return cmd
}

func newConfigSet() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "set NAME=VALUE…",
		Short: "Change settings of the running firewall, all of them or none",
		Long: `Change settings of the running firewall, all of them or none. Only live settings can be changed
(corewire config docs says which are). The change lasts until the firewall ends or
reloads; what should stay belongs into the configuration file.`,
		Example: `  corewire config set nf_conntrack_tcp_timeout_established=1h log-level=debug`,
		Args:    cobra.MinimumNArgs(1),
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			changes := map[string]string{}
			for _, arg := range args {
				name, value, ok := strings.Cut(arg, "=")
				if !ok {
					return &usageError{fmt.Errorf("argument %q: expected NAME=VALUE", arg)}
				}
				if _, twice := changes[name]; twice {
					return &usageError{fmt.Errorf("argument %q: %s is given twice", arg, name)}
				}
				changes[name] = value
			}
			done, err := c.Change(cmd.Context(), changes)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), done)
			}
			for _, change := range done {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), changeLine(change)); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	addSocket(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// changeLine is a change as a line.
func changeLine(c config.Change) string { return fmt.Sprintf("%s: %q to %q", c.Name, c.From, c.To) }

func newConfigDocs() *cobra.Command {
	return &cobra.Command{
		Use:   "docs",
		Short: "Print the documentation of all settings, as Markdown",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), config.Markdown())
			return err
		},
	}
}
