package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"corewire/internal/control"
)

func newRecent() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recent",
		Short: "Show and change the lists of -m recent of the running firewall",
		Long: `Show and change the lists of addresses that rules with -m recent keep, as the files in
/proc/net/xt_recent do. Times are in milliseconds of the firewall's clock, which begins with it.`,
		Example: `  corewire recent list
  corewire recent list SSH
  corewire recent add SSH 192.0.2.7
  corewire recent flush SSH`,
		Args: cobra.NoArgs,
	}
	addSocket(cmd.PersistentFlags())
	change := func(use, short string, args int, what func(list string, rest []string) control.RecentChange) *cobra.Command {
		var asJSON bool
		cmd := &cobra.Command{
			Use: use, Short: short, Args: cobra.ExactArgs(args),
			RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
				done, err := c.ChangeRecent(cmd.Context(), what(args[0], args[1:]))
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), done)
				}
				what := " addresses changed"
				if done.Changed == 1 {
					what = " address changed"
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), strconv.Itoa(done.Changed)+what)
				return err
			}),
		}
		cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
		return cmd
	}
	cmd.AddCommand(newRecentList(),
		change("add NAME ADDRESS", "Enter an address, or note it as seen once more", 2, func(list string, rest []string) control.RecentChange {
			return control.RecentChange{List: list, Add: rest[0]}
		}),
		change("remove NAME ADDRESS", "Forget an address", 2, func(list string, rest []string) control.RecentChange {
			return control.RecentChange{List: list, Remove: rest[0]}
		}),
		change("flush NAME", "Forget all addresses of a list", 1, func(list string, _ []string) control.RecentChange {
			return control.RecentChange{List: list, Flush: true}
		}))
	return cmd
}

func newRecentList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [NAME]",
		Short: "Show a list, the address least recently seen first; without a name, which lists there are",
		Args:  cobra.MaximumNArgs(1),
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			out := cmd.OutOrStdout()
			if len(args) == 0 {
				lists, err := c.RecentLists(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(out, lists)
				}
				rows := [][]string{{"list", "addresses"}}
				for _, l := range lists {
					rows = append(rows, []string{l.List, fmt.Sprint(l.Size)})
				}
				return table(out, rows)
			}
			list, err := c.Recent(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(out, list)
			}
			for _, e := range list.Entries {
				if _, err := fmt.Fprintln(out, e.Line); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
