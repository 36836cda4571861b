package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"corewire/internal/control"
)

func newRules() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "Show the rules of the running firewall with their counters",
		Args:  cobra.NoArgs,
	}
	addSocket(cmd.PersistentFlags())
	show := newRulesShow()
	cmd.RunE = show.RunE
	cmd.Flags().AddFlagSet(show.Flags())
	cmd.AddCommand(show)
	return cmd
}

func newRulesShow() *cobra.Command {
	var asJSON, save, exact bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show rules and counters, as iptables -L -v -n --line-numbers does",
		Long: `Show rules and counters, as iptables -L -v -n --line-numbers does. Bytes are those of the
IP datagrams. Matches are written as iptables-save writes them.`,
		Args: cobra.NoArgs,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			chains, err := c.Rules(cmd.Context())
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				return printJSON(cmd.OutOrStdout(), chains)
			case save:
				return printSave(cmd.OutOrStdout(), chains)
			}
			return printRules(cmd.OutOrStdout(), chains, exact)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&save, "save", false, "print what iptables-save -c would")
	cmd.Flags().BoolVarP(&exact, "exact", "x", false, "print counters in full, not rounded to K, M, G, T")
	return cmd
}

func printRules(w io.Writer, chains []control.ChainCounters, exact bool) error {
	number := rounded
	if exact {
		number = count
	}
	for i, c := range chains {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		title := fmt.Sprintf("Chain %s (%s", c.Chain, c.Family)
		if c.Policy != "" {
			title += fmt.Sprintf(", policy %s %s packets, %s bytes", c.Policy, number(c.Packets), number(c.Bytes))
		}
		if _, err := fmt.Fprintln(w, title+")"); err != nil {
			return err
		}
		rows := [][]string{{"num", "pkts", "bytes", "target", "prot", "in", "out", "source", "destination", ""}}
		for _, r := range c.Rules {
			rows = append(rows, []string{strconv.Itoa(r.Number), number(r.Packets), number(r.Bytes), r.Target, r.Proto, r.In, r.Out, r.Src, r.Dst, r.Options})
		}
		if err := table(w, rows); err != nil {
			return err
		}
	}
	return nil
}

// rounded shortens a counter as iptables does (xtables_print_num): above 99,999 in thousands, above 9,999 thousand in
// millions, and so on.
func rounded(n uint64) string {
	if n <= 99999 {
		return count(n)
	}
	for _, unit := range []string{"K", "M", "G"} {
		if n = (n + 500) / 1000; n <= 9999 {
			return count(n) + unit
		}
	}
	return count((n+500)/1000) + "T"
}

func printSave(w io.Writer, chains []control.ChainCounters) error {
	table := ""
	end := func() error {
		if table == "" {
			return nil
		}
		_, err := fmt.Fprintln(w, "COMMIT")
		return err
	}
	for i, c := range chains {
		if key := c.Family + c.Table; key != table {
			if err := end(); err != nil {
				return err
			}
			table = key
			if _, err := fmt.Fprintf(w, "# %s\n*%s\n", c.Family, c.Table); err != nil {
				return err
			}
			for _, d := range chains[i:] {
				if d.Family+d.Table != key {
					break
				}
				policy := d.Policy
				if policy == "" {
					policy = "-"
				}
				if _, err := fmt.Fprintf(w, ":%s %s [%d:%d]\n", d.Chain, policy, d.Packets, d.Bytes); err != nil {
					return err
				}
			}
		}
		for _, r := range c.Rules {
			if _, err := fmt.Fprintf(w, "[%d:%d] %s\n", r.Packets, r.Bytes, r.Save); err != nil {
				return err
			}
		}
	}
	return end()
}
