package main

import (
	"fmt"
	"slices"
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
		Short: "Read and set the settings that Linux has too by its names, as sysctl does",
		Long: `Read and set what the running firewall has in common with Linux, connection tracking and the
limits of ICMP errors, by the names that Linux has for it, as sysctl does:
net.netfilter.nf_conntrack_tcp_timeout_established, or without what is before the last dot.
All that are set change together, or none. As in Linux a changed timeout holds for a
connection from its next packet on. The change lasts until the firewall ends or reloads; what
should stay belongs into the configuration file.`,
		Example: `  corewire sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max
  corewire sysctl -w net.netfilter.nf_conntrack_udp_timeout=60 net.ipv4.ipfrag_time=10`,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			changes := map[string]string{}
			var names []string
			for _, arg := range args {
				name, value, set := strings.Cut(arg, "=")
				name = strings.ReplaceAll(strings.TrimSpace(name), "/", ".")
				if name == icmp6Name || "net."+name == icmp6Name {
					name = "icmpv6_ratelimit"
				}
				name = name[strings.LastIndexByte(name, '.')+1:]
				if !slices.Contains(sysctls(), name) || set && name == countName {
					return &usageError{fmt.Errorf("argument %q: expected a setting that Linux has too (corewire sysctl -a lists them)", arg)}
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
				names = sysctls()
			}
			if now["nf_conntrack_buckets"] == "0" && slices.Contains(names, "nf_conntrack_buckets") { // it grows by itself: how large it is
				stats, err := c.Stats(cmd.Context())
				if err != nil {
					return err
				}
				now["nf_conntrack_buckets"] = strconv.Itoa(stats.Total.Buckets)
			}
			for _, name := range names {
				line := now[name]
				if !values {
					line = linuxName(name) + " = " + line
				}
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), line); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	addSocket(cmd.Flags())
	cmd.Flags().BoolVarP(&all, "all", "a", false, "print all settings that Linux has too")
	cmd.Flags().BoolVarP(&values, "values", "n", false, "print values only")
	cmd.Flags().BoolP("write", "w", false, "nothing: what has a value is set in any case, as sysctl does")
	return cmd
}

// countName is what Linux has beside the settings: the number of connections.
const countName = "nf_conntrack_count"

// icmp6Name is Linux's name of icmpv6_ratelimit, whose last part alone would say too little.
const icmp6Name = "net.ipv6.icmp.ratelimit"

// sysctls are the names of all settings that Linux has too, in the order of -a.
func sysctls() []string {
	names := []string{countName, "nf_conntrack_max", "nf_conntrack_buckets"}
	for _, r := range conntrack.AllSettings() {
		names = append(names, r.Name)
	}
	return append(names, "icmp_ratelimit", "icmp_ratemask", "icmp_msgs_per_sec", "icmp_msgs_burst", "icmpv6_ratelimit")
}

// linuxName returns a setting's name with what Linux puts before it.
func linuxName(name string) string {
	switch {
	case name == "icmpv6_ratelimit":
		return icmp6Name
	case strings.HasPrefix(name, "ipfrag_"), strings.HasPrefix(name, "icmp_"):
		return "net.ipv4." + name
	}
	return "net.netfilter." + name
}
