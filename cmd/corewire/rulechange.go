package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"corewire/internal/control"
)

// ruleVerbs are the verbs that change rules, with iptables' letter.
var ruleVerbs = []struct{ name, letter, use, short string }{
	{"append", "A", "append CHAIN RULE…", "Put a rule behind the last of a chain (-A)"},
	{"insert", "I", "insert CHAIN [N] RULE…", "Put a rule before the N-th of a chain, or before the first (-I)"},
	{"delete", "D", "delete CHAIN N|RULE…", "Take a rule out of a chain, by its number or by its text (-D)"},
	{"replace", "R", "replace CHAIN N RULE…", "Put a rule in the place of the N-th of a chain (-R)"},
	{"zero", "Z", "zero [CHAIN [N]]", "Set counters to zero: of a table, a chain, or a rule (-Z)"},
	{"policy", "P", "policy CHAIN ACCEPT|DROP", "Set the policy of a chain (-P)"},
	{"flush", "F", "flush [CHAIN]", "Take all rules out of a chain, or out of all chains of a table (-F)"},
	{"new-chain", "N", "new-chain CHAIN", "Make a user chain (-N)"},
	{"delete-chain", "X", "delete-chain CHAIN", "Remove a user chain that is empty and that no rule leads to (-X)"},
}

// newRuleChanges makes the verbs that change rules. They read their words themselves: a rule's own options look like flags.
func newRuleChanges() (verbs []*cobra.Command) {
	for _, v := range ruleVerbs {
		cmd := &cobra.Command{
			Use:   v.use,
			Short: v.short,
			Long: v.short + `.

Rules of the running firewall change as iptables changes them: same words, same numbers.
With -t TABLE those of that table instead of filter; with -4 or -6 those for that IP version
only: a rule that is for both is left to the other. Numbers are those that corewire rules
show prints with the same -4 or -6.

The change is in force between two bursts of each worker, for every packet or for none;
connections stay, and so do the counters of all other rules. It lives until the firewall
ends or reads its rule files again: corewire rules save writes what is in force.

Further options: --control-socket PATH, --config FILE, --json.`,
			Example: map[string]string{
				"insert":  "  corewire rules insert FORWARD 2 -s 192.0.2.0/24 -p tcp --dport 22 -j DROP\n  corewire rules -t mangle -I FORWARD -p udp -j MARK --set-mark 1",
				"append":  "  corewire rules append FORWARD -p icmp -j ACCEPT",
				"delete":  "  corewire rules delete FORWARD 2\n  corewire rules -D FORWARD -p icmp -j ACCEPT",
				"replace": "  corewire rules replace FORWARD 2 -p udp --dport 53 -j ACCEPT",
				"zero":    "  corewire rules zero FORWARD 2",
			}[v.name],
			DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error {
				c, asJSON, err := parseRuleChange(cmd, v.name, args)
				if errors.Is(err, errHelp) {
					return cmd.Help()
				}
				if err != nil {
					return &usageError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
				}
				return ask(func(cmd *cobra.Command, client *control.Client, _ []string) error {
					done, err := client.ChangeRules(cmd.Context(), c)
					if err != nil {
						return err
					}
					for _, w := range done.Warnings {
						fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
					}
					if asJSON {
						return printJSON(cmd.OutOrStdout(), done)
					}
					return nil
				})(cmd, nil)
			},
			ValidArgsFunction: completeChain,
		}
		verbs = append(verbs, cmd)
	}
	return verbs
}

var errHelp = errors.New("help is asked for")

// parseRuleChange reads the words of a verb.
func parseRuleChange(cmd *cobra.Command, verb string, args []string) (c control.RuleChange, asJSON bool, err error) {
	c.Op = verb
	var words []string
	for i := 0; i < len(args); i++ {
		name, value, attached := strings.Cut(args[i], "=")
		take := func() bool {
			if attached {
				return true
			}
			if i++; i == len(args) {
				err = fmt.Errorf("%s needs an argument", name)
				return false
			}
			value = args[i]
			return true
		}
		switch {
		case name == "-t" || name == "--table":
			if !take() {
				return c, false, err
			}
			c.Table = value
		case name == "--control-socket" || name == "--config":
			if !take() {
				return c, false, err
			}
			if err := cmd.Flags().Set(name[2:], value); err != nil {
				return c, false, err
			}
		case args[i] == "-4" || args[i] == "--ipv4" || args[i] == "-6" || args[i] == "--ipv6":
			n := 4
			if strings.HasSuffix(args[i], "6") {
				n = 6
			}
			if c.Family != 0 && c.Family != n {
				return c, false, errors.New("-4 and -6 exclude one another (without them the change is for both)")
			}
			c.Family = n
		case args[i] == "--json":
			asJSON = true
		case args[i] == "-h" || args[i] == "--help":
			return c, false, errHelp
		default:
			words = append(words, args[i])
		}
	}
	if len(words) > 0 {
		c.Chain, words = words[0], words[1:]
	}
	number := func() bool {
		if len(words) == 0 {
			return false
		}
		n, err := strconv.Atoi(words[0])
		if err != nil || n < 1 {
			return false
		}
		c.Number, words = n, words[1:]
		return true
	}
	switch verb {
	case "flush", "zero":
	default:
		if c.Chain == "" {
			return c, false, errors.New("a chain is missing")
		}
	}
	switch verb {
	case "insert":
		number()
		c.Rule, words = words, nil
	case "append":
		c.Rule, words = words, nil
	case "delete":
		if !number() {
			if c.Rule, words = words, nil; len(c.Rule) == 0 {
				return c, false, errors.New("a rule's number or text is missing")
			}
		}
	case "replace":
		if !number() {
			return c, false, errors.New("a rule's number is missing")
		}
		c.Rule, words = words, nil
	case "zero":
		number()
	case "policy":
		if len(words) == 0 {
			return c, false, errors.New("a policy is missing: ACCEPT or DROP")
		}
		c.Policy, words = words[0], words[1:]
	}
	if len(words) > 0 {
		return c, false, fmt.Errorf("%q is too much", words[0])
	}
	return c, asJSON, nil
}

// completeChain completes the name of a chain from the running firewall's, where one stands.
func completeChain(cmd *cobra.Command, args []string, begin string) ([]string, cobra.ShellCompDirective) {
	c, _, err := parseRuleChange(cmd, "flush", args)
	if err != nil || c.Chain != "" || strings.HasPrefix(begin, "-") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if c.Table == "" {
		c.Table = "filter"
	}
	var names []string
	_ = ask(func(cmd *cobra.Command, client *control.Client, _ []string) error { // nothing to complete without a firewall
		chains, err := client.Rules(cmd.Context(), 0)
		for _, x := range chains {
			if x.Table == c.Table && !slices.Contains(names, x.Chain) {
				names = append(names, x.Chain)
			}
		}
		return err
	})(cmd, nil)
	return names, cobra.ShellCompDirectiveNoFileComp
}

func newRulesSave() *cobra.Command {
	var o saveOptions
	cmd := &cobra.Command{
		Use:   "save [CHAIN]",
		Short: "Print the rules in force, or those of a chain, as iptables-save does",
		Long: `Print the rules in force as iptables-save does, changes made since the rule files were read
included: this is how they are kept. The text is a rule file: of --rules without -4 and -6,
where rules for one IP version have -4 or -6 before them; of --rules4 with -4, of --rules6
with -6. Rules of two files, one for each version, are printed with -4 or -6 only.`,
		Example: `  corewire rules save > /etc/corewire/rules
  corewire rules save -c -4 -t filter`,
		Args:              cobra.MaximumNArgs(1),
		RunE:              ask(o.run),
		ValidArgsFunction: completeChain,
	}
	o.add(cmd)
	return cmd
}
