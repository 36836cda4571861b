package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"corewire/conntrack"
	"corewire/internal/control"
)

func newSysctl() *cobra.Command {
	var all, values bool
	cmd := &cobra.Command{
		Use:   "sysctl {NAME | NAME=VALUE}…",
		Short: "Read and set connection tracking's settings by Linux's names, as sysctl does",
		Long: `Read and set connection tracking's settings in the running firewall by the names that Linux
has for them, as sysctl does: net.netfilter.nf_conntrack_tcp_timeout_established, or without
what is before the last dot. All that are set change together, or none. As in Linux a changed
timeout holds for a connection from its next packet on. The change lasts until the firewall
ends or reloads; what should stay belongs into the configuration file.`,
		Example: `  corewire sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max
  corewire sysctl -w net.netfilter.nf_conntrack_udp_timeout=60 net.ipv4.ipfrag_time=10`,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			changes := map[string]string{}
			var names []string
			for _, arg := range args {
				name, value, set := strings.Cut(arg, "=")
				name = strings.ReplaceAll(strings.TrimSpace(name), "/", ".")
				name = name[strings.LastIndexByte(name, '.')+1:]
				if !tracked(name) || set && name == countName {
					return &usageError{fmt.Errorf("argument %q: expected a setting of connection tracking (corewire sysctl -a lists them)", arg)}
				}
				names = append(names, name)
				if set {
					if _, twice := changes[name]; twice {
						return &usageError{fmt.Errorf("argument %q: %s is given twice", arg, name)}
					}
					changes[name] = strings.TrimSpace(value)
				}
			}
			if len(args) == 0 && !all {
				return &usageError{fmt.Errorf("expected names, or -a for all (see %s --help)", cmd.CommandPath())}
			}
			if len(changes) > 0 {
				if _, err := c.Change(cmd.Context(), changes); err != nil {
					return err
				}
			}
			settings, err := c.Config(cmd.Context())
			if err != nil {
				return err
			}
			count, err := c.Count(cmd.Context())
			if err != nil {
				return err
			}
			now := map[string]string{countName: strconv.Itoa(count.Count)}
			for _, v := range settings {
				now[v.Name] = v.Value
			}
			now["nf_conntrack_max"] = strconv.Itoa(count.Max) // what holds where the setting leaves it to the memory's size
			if all {
				names = append([]string{countName, "nf_conntrack_max", "nf_conntrack_buckets"}, rowNames()...)
			}
			for _, name := range names {
				line := now[name]
				if !values {
					line = space(name) + name + " = " + line
				}
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), line); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	addSocket(cmd.Flags())
	cmd.Flags().BoolVarP(&all, "all", "a", false, "print all settings of connection tracking")
	cmd.Flags().BoolVarP(&values, "values", "n", false, "print values only")
	cmd.Flags().BoolP("write", "w", false, "nothing: what has a value is set in any case, as sysctl does")
	return cmd
}

// countName is what Linux has beside the settings: the number of connections.
const countName = "nf_conntrack_count"

// rowNames are the names of package conntrack's settings.
func rowNames() []string {
	var names []string
	for _, r := range conntrack.AllSettings() {
		names = append(names, r.Name)
	}
	return names
}

// tracked tells whether a setting is one of connection tracking's.
func tracked(name string) bool {
	if name == countName || name == "nf_conntrack_max" || name == "nf_conntrack_buckets" {
		return true
	}
	_, err := conntrack.DefaultSettings().Get(name)
	return err == nil
}

// space returns the part of a name that Linux puts before it.
func space(name string) string {
	if strings.HasPrefix(name, "ipfrag_") {
		return "net.ipv4."
	}
	return "net.netfilter."
}
