package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"corewire/internal/control"
	"corewire/rules"
)

func newRules() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "Show the rules of the running firewall with their counters, and change them",
		Long: `Show the rules of the running firewall with their counters, and change them one by one.
The words are iptables' own; corewire rules -I FORWARD … and the like work as well.`,
		Args: cobra.NoArgs,
	}
	addSocket(cmd.PersistentFlags())
	show := newRulesShow()
	cmd.RunE = show.RunE
	cmd.Flags().AddFlagSet(show.Flags())
	cmd.AddCommand(show, newRulesSave())
	cmd.AddCommand(newRuleChanges()...)
	return cmd
}

// versions adds -4 and -6.
type versions struct{ v4, v6 bool }

func (v *versions) add(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&v.v4, "ipv4", "4", false, "rules for IPv4 only, numbered for themselves")
	cmd.Flags().BoolVarP(&v.v6, "ipv6", "6", false, "rules for IPv6 only, numbered for themselves")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if v.v4 && v.v6 {
			return &usageError{errors.New("-4 and -6 exclude one another (without them it is about both)")}
		}
		return nil
	}
}

// family returns 4, 6, or 0 for both.
func (v *versions) family() int {
	switch {
	case v.v4:
		return 4
	case v.v6:
		return 6
	}
	return 0
}

// saveOptions are what iptables-save takes.
type saveOptions struct {
	versions
	table    string
	counters bool
}

func (o *saveOptions) add(cmd *cobra.Command) {
	o.versions.add(cmd)
	cmd.Flags().StringVarP(&o.table, "table", "t", "", "that table only")
	cmd.Flags().BoolVarP(&o.counters, "counters", "c", false, "with the rules' counters")
}

// run prints the rules: those of one chain where one is named.
func (o *saveOptions) run(cmd *cobra.Command, c *control.Client, chain []string) error {
	if len(chain) == 0 {
		return c.SaveRules(cmd.Context(), cmd.OutOrStdout(), o.family(), o.table, rules.Counting(o.counters))
	}
	var all bytes.Buffer
	if err := c.SaveRules(cmd.Context(), &all, o.family(), o.table, rules.Counting(o.counters)); err != nil {
		return err
	}
	found := false
	out := bufio.NewWriter(cmd.OutOrStdout())
	for line := range strings.Lines(all.String()) {
		head, _, _ := strings.Cut(line, " ")
		found = found || head == ":"+chain[0]
		// Counters and an IP version may stand before it.
		for k, words := 0, strings.Fields(line); k < 3 && k+1 < len(words); k++ {
			if words[k] == "-A" {
				if words[k+1] == chain[0] {
					out.WriteString(line)
				}
				break
			}
		}
	}
	if !found {
		return &refusedError{fmt.Errorf("save chain %s: there is none (corewire rules show lists all)", chain[0])}
	}
	return out.Flush()
}

func newRulesShow() *cobra.Command {
	var o saveOptions
	var list listOptions
	var asJSON, save bool
	cmd := &cobra.Command{
		Use:   "show [CHAIN]",
		Short: "Show rules and counters, as iptables -L -v -n does",
		Long: `Show rules and counters, as iptables -L -v -n does: with -4 or -6 in the same columns and
words. Without, rules of files for both IP versions are shown once. Bytes are those of the
IP datagrams.

With --origin two columns more: where each rule came from, file and line, or the change
that it came with; and why verdicts of packets that come to it are not cached on their
connection, by what it asks that may differ from packet to packet. Packets decided by a
cached verdict are counted all the same.

--unmatched shows the rules that have counted no packet since the firewall started (or
since their counters were set to zero): exit status 0 whether there are any or not.

--json prints an array of chains; see the API's ChainCounters.`,
		Example: `  corewire rules show
  corewire rules show -4 -t filter --line-numbers FORWARD
  corewire rules show --unmatched --origin
  corewire rules show --save -c -4`,
		Args: cobra.MaximumNArgs(1),
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			if save {
				if asJSON {
					return &usageError{errors.New("--save and --json are two forms: give one of them")}
				}
				return o.run(cmd, c, args)
			}
			at := beginProgress(cmd.ErrOrStderr(), "listing rules")
			chains, err := c.Rules(cmd.Context(), o.family())
			at.end()
			if err != nil {
				return err
			}
			var kept []control.ChainCounters
			for _, x := range chains {
				if (o.table == "" || x.Table == o.table) && (len(args) == 0 || x.Chain == args[0]) {
					kept = append(kept, x)
				}
			}
			switch {
			case len(kept) > 0:
			case o.table != "" && !slices.ContainsFunc(chains, func(x control.ChainCounters) bool { return x.Table == o.table }):
				return &refusedError{fmt.Errorf("show table %s: the rules in force have none (corewire rules show lists all)", o.table)}
			case len(args) > 0:
				return &refusedError{fmt.Errorf("show chain %s: there is none (corewire rules show lists all)", args[0])}
			}
			if list.unmatched {
				kept = unmatched(kept)
			}
			if asJSON {
				if kept == nil {
					kept = []control.ChainCounters{}
				}
				return printJSON(cmd.OutOrStdout(), kept)
			}
			list.tables = o.table == ""
			return list.print(cmd.OutOrStdout(), kept)
		}),
		ValidArgsFunction: completeChain,
	}
	o.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&save, "save", false, "print what iptables-save would, as corewire rules save")
	cmd.Flags().BoolVarP(&list.exact, "exact", "x", false, "print counters in full, not rounded to K, M, G, T")
	cmd.Flags().BoolP("numeric", "n", true, "as iptables takes it: names are never looked up")
	cmd.Flags().BoolP("verbose", "v", true, "as iptables takes it: counters are always printed")
	cmd.Flags().BoolVar(&list.numbers, "line-numbers", false, "print the rules' numbers")
	cmd.Flags().BoolVar(&list.origin, "origin", false, "print where each rule came from, and why it forbids to cache verdicts")
	cmd.Flags().BoolVar(&list.unmatched, "unmatched", false, "only rules that have counted no packet")
	return cmd
}

// unmatched keeps the rules that have counted nothing, and the chains that have any.
func unmatched(chains []control.ChainCounters) (out []control.ChainCounters) {
	for _, c := range chains {
		var kept []control.RuleCounters
		for _, r := range c.Rules {
			if r.Packets == 0 {
				kept = append(kept, r)
			}
		}
		if c.Rules = kept; len(kept) > 0 {
			out = append(out, c)
		}
	}
	return out
}

// listOptions say how rules are printed.
type listOptions struct {
	exact, numbers, origin, unmatched bool
	tables                            bool // say which table a chain is of
}

// print prints chains in iptables' columns (print_header and print_firewall in iptables/xshared.c and iptables.c).
func (o *listOptions) print(w io.Writer, chains []control.ChainCounters) error {
	out := bufio.NewWriter(w)
	table := ""
	for i := range chains {
		c := &chains[i]
		if i > 0 {
			out.WriteByte('\n')
		}
		if name := c.Table + ", " + c.Family; o.tables && name != table {
			table = name
			fmt.Fprintf(out, "Table %s\n", name)
		}
		if c.Policy != "" {
			fmt.Fprintf(out, "Chain %s (policy %s %s packets, %s bytes)\n", c.Chain, c.Policy, o.plain(c.Packets), o.plain(c.Bytes))
		} else {
			fmt.Fprintf(out, "Chain %s (%d references)\n", c.Chain, c.References)
		}
		if o.numbers || o.unmatched {
			fmt.Fprintf(out, "%-4s ", "num")
		}
		if o.exact {
			fmt.Fprintf(out, "%8s %8s ", "pkts", "bytes")
		} else {
			fmt.Fprintf(out, "%5s %5s ", "pkts", "bytes")
		}
		fmt.Fprintf(out, "%-9s  prot opt %-6s %-6s  %-19s  %-19s \n", "target", "in", "out", "source", "destination")
		for k := range c.Rules {
			o.rule(out, &c.Rules[k])
		}
	}
	return out.Flush()
}

// rule prints one rule.
func (o *listOptions) rule(out *bufio.Writer, r *control.RuleCounters) {
	if o.numbers || o.unmatched {
		fmt.Fprintf(out, "%-4d ", r.Number)
	}
	fmt.Fprintf(out, "%s %s %-9s ", o.number(r.Packets), o.number(r.Bytes), r.Target)
	inverted := func(s string) (string, string) { // the sign has a column of its own
		if rest, ok := strings.CutPrefix(s, "!"); ok {
			return "!", rest
		}
		return " ", s
	}
	sign, proto := inverted(r.Proto)
	fmt.Fprintf(out, "%s%-5s%-2s  %-6s %-6s ", sign, proto, r.Opt, r.In, r.Out)
	sign, src := inverted(r.Src)
	fmt.Fprintf(out, "%s%-19s ", sign, src)
	sign, dst := inverted(r.Dst)
	fmt.Fprintf(out, "%s%-19s ", sign, dst)
	if r.Options != "" {
		if !strings.HasPrefix(r.Options, "[goto]") {
			out.WriteByte(' ')
		}
		out.WriteString(r.Options)
	}
	if o.origin {
		fmt.Fprintf(out, "  (%s)", r.Place)
		if len(r.NoCache) > 0 {
			fmt.Fprintf(out, "  not cached: %s", strings.Join(r.NoCache, ", "))
		}
	}
	out.WriteByte('\n')
}

// plain is a counter in a sentence.
func (o *listOptions) plain(n uint64) string { return strings.TrimSpace(o.number(n)) }

// number is a counter in its column (xtables_print_num).
func (o *listOptions) number(n uint64) string {
	if o.exact {
		return fmt.Sprintf("%8d", n)
	}
	if n <= 99999 {
		return fmt.Sprintf("%5d", n)
	}
	for _, unit := range []string{"K", "M", "G"} {
		if n = (n + 500) / 1000; n <= 9999 {
			return fmt.Sprintf("%4d%s", n, unit)
		}
	}
	return fmt.Sprintf("%4dT", (n+500)/1000)
}
