package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"corewire/internal/control"
)

func newConntrack() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "conntrack",
		Short: "List, count and delete tracked connections of the running firewall",
		Args:  cobra.NoArgs,
		RunE:  group,
	}
	addSocket(cmd.PersistentFlags())
	cmd.AddCommand(newConntrackList(), newConntrackCount(), newConntrackStats(), newConntrackFlush())
	return cmd
}

func newConntrackList() *cobra.Command {
	var f control.Filter
	var family, output string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List tracked connections, a line each, as conntrack -L prints them",
		Long: `List tracked connections, a line each, as conntrack -L prints them. The filters have the
names that conntrack gives them; all that are given must hold. Addresses and ports are
those of the original direction.`,
		Example: `  corewire conntrack list -p tcp -s 10.0.0.0/8 --dport 443
  corewire conntrack list --status ASSURED -o extended
  corewire conntrack list --json | jq -r .original.src | sort | uniq -c`,
		Args: cobra.NoArgs,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			switch strings.ToLower(family) {
			case "":
			case "ipv4", "4":
				f.Family = 4
			case "ipv6", "6":
				f.Family = 6
			default:
				return &usageError{fmt.Errorf("--family is %q: expected ipv4 or ipv6", family)}
			}
			for _, port := range []struct {
				name  string
				value int
			}{{"sport", f.SrcPort}, {"dport", f.DstPort}} {
				if cmd.Flags().Changed(port.name) && (port.value < 1 || port.value > 65535) {
					return &usageError{fmt.Errorf("--%s is %d: expected a port from 1 to 65535", port.name, port.value)}
				}
			}
			if f.Format = control.Format(output); asJSON {
				f.Format = control.FormatJSON
			}
			n, err := c.Connections(cmd.Context(), f, cmd.OutOrStdout())
			if err == nil && colours(cmd.OutOrStdout()) { // a person looks on
				fmt.Fprintf(cmd.ErrOrStderr(), "corewire: %d flow entries have been shown.\n", n)
			}
			return err
		}),
	}
	flags := cmd.Flags()
	flags.StringVarP(&family, "family", "f", "", "ipv4 or ipv6")
	flags.StringVarP(&f.Proto, "proto", "p", "", "protocol: tcp, udp, icmp, icmpv6, sctp, gre, udplite, dccp, or a number")
	flags.StringVarP(&f.Src, "src", "s", "", "source address or network")
	flags.StringVarP(&f.Dst, "dst", "d", "", "destination address or network")
	flags.IntVar(&f.SrcPort, "sport", 0, "source port")
	flags.IntVar(&f.DstPort, "dport", 0, "destination port")
	flags.StringVar(&f.State, "state", "", "TCP or SCTP state, such as ESTABLISHED")
	flags.StringVarP(&f.Status, "status", "u", "", "ASSURED, SEEN_REPLY, UNREPLIED; several with commas must all hold")
	flags.StringVarP(&f.Mark, "mark", "m", "", "mark or mark/mask")
	flags.StringVarP(&output, "output", "o", "list", "list, extended (the network protocol first), proc (as /proc/net/nf_conntrack) or json")
	flags.BoolVar(&asJSON, "json", false, "print a JSON object a line")
	return cmd
}

func newConntrackCount() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "count",
		Short: "Print the number of tracked connections",
		Args:  cobra.NoArgs,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			n, err := c.Count(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), n)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), n.Count)
			return err
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with the maximum")
	return cmd
}

func newConntrackStats() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Print the counters of connection tracking, a line for each worker, as conntrack -S does",
		Args:  cobra.NoArgs,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			workers, err := c.Trackers(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), workers)
			}
			for _, w := range workers {
				line := "worker=" + strconv.Itoa(w.Worker)
				for _, name := range control.KernelCounters {
					line += fmt.Sprintf(" %s=%d", name, w.Counters[name])
				}
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s entries=%d\n", line, w.Entries); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with the counters that Linux does not have as well")
	return cmd
}

func newConntrackFlush() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "flush",
		Short: "Delete all tracked connections",
		Long: `Delete all tracked connections. Those that are under way begin anew with their next packet:
it is NEW to the rules, and with nf_conntrack_tcp_loose=0 a TCP one is INVALID.`,
		Args: cobra.NoArgs,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			n, err := c.Flush(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), control.Flushed{Flushed: n})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d connections deleted\n", n)
			return err
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
