package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"corewire/internal/control"
)

func newConntrack() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "conntrack",
		Short: "List, watch, change, hand over and delete tracked connections of the running firewall",
		Long: `List, watch, change, hand over and delete tracked connections of the running firewall. What the
conntrack tool calls -L, -D, -U, -E, -F, -C and -S works here too, with its options:

  corewire conntrack -L -p tcp --dport 443 -o extended,id
  corewire conntrack -E -e NEW,DESTROY -s 10.0.0.0/8
  corewire conntrack -U -s 10.0.0.7 --mark 5`,
		Args: cobra.NoArgs,
		RunE: group,
	}
	addSocket(cmd.PersistentFlags())
	cmd.AddCommand(newConntrackList(), newConntrackEvents(), newConntrackUpdate(), newConntrackDelete(), newConntrackFlush(),
		newConntrackCount(), newConntrackStats(), newConntrackExport(), newConntrackImport())
	return cmd
}

// familiar are the conntrack tool's commands and the verbs that do the same.
var familiar = map[string]string{
	"-L": "list", "--dump": "list", "-D": "delete", "--delete": "delete", "-U": "update", "--update": "update", "-E": "events", "--event": "events",
	"-F": "flush", "--flush": "flush", "-C": "count", "--count": "count", "-S": "stats", "--stats": "stats",
}

// translate puts a verb where the arguments name it as the conntrack tool does. A table's name may follow it, as there.
func translate(args []string) []string {
	if len(args) > 1 && args[0] == "rules" {
		return translateRules(args)
	}
	if len(args) < 2 || args[0] != "conntrack" {
		return args
	}
	for i, arg := range args[1:] {
		if verb, ok := familiar[arg]; ok {
			return slices.Concat(args[:1], []string{verb}, args[1:1+i], args[2+i:])
		}
		if arg == "--" {
			break
		}
	}
	return args
}

// tables are the tables that conntrack has and corewire as well.
func tables(cmd *cobra.Command) {
	cmd.ValidArgs = []string{"conntrack", "expect"}
	cmd.Args = cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs)
}

// filterFlags are the options that select connections and say how they are printed.
type filterFlags struct {
	filter control.Filter
	family string
	output []string
	asJSON bool
}

// add adds the flags, with conntrack's names. -m is the caller's where it sets a mark.
func (x *filterFlags) add(flags *pflag.FlagSet) {
	f := &x.filter
	flags.StringVarP(&x.family, "family", "f", "", "ipv4 or ipv6")
	flags.StringVarP(&f.Proto, "proto", "p", "", "protocol: tcp, udp, icmp, icmpv6, sctp, gre, udplite, dccp, or a number")
	flags.StringVarP(&f.Src, "src", "s", "", "source address or network")
	flags.StringVarP(&f.Dst, "dst", "d", "", "destination address or network")
	flags.StringVarP(&f.ReplySrc, "reply-src", "r", "", "source address or network of the reply direction")
	flags.StringVarP(&f.ReplyDst, "reply-dst", "q", "", "destination address or network of the reply direction")
	flags.IntVar(&f.SrcPort, "sport", 0, "source port")
	flags.IntVar(&f.DstPort, "dport", 0, "destination port")
	flags.StringVar(&f.State, "state", "", "TCP or SCTP state, such as ESTABLISHED")
	flags.StringVarP(&f.Status, "status", "u", "", "ASSURED, SEEN_REPLY, UNREPLIED, EXPECTED; several with commas must all hold")
	flags.StringVarP(&f.Zone, "zone", "w", "", "zone")
	flags.StringVarP(&f.Labels, "label", "l", "", "labels, names or numbers; several with commas must all be set")
	flags.StringSliceVarP(&x.output, "output", "o", nil, "list, extended (the network protocol first), proc (as /proc/net/nf_conntrack), xml or json; also id, ktimestamp, labels, for events timestamp; several with commas")
	flags.BoolVar(&x.asJSON, "json", false, "print a JSON object a line")
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if short, ok := longNames[name]; ok {
			name = short
		}
		return pflag.NormalizedName(name)
	})
}

// mark adds the flag that selects by mark.
func (x *filterFlags) mark(flags *pflag.FlagSet) {
	flags.StringVarP(&x.filter.Mark, "mark", "m", "", "mark or mark/mask")
}

// longNames are further names that conntrack has for some options.
var longNames = map[string]string{
	"protonum": "proto", "orig-src": "src", "orig-dst": "dst", "orig-port-src": "sport", "orig-port-dst": "dport", "event-mask": "events",
}

// read returns what the flags say.
func (x *filterFlags) read(cmd *cobra.Command) (control.Filter, error) {
	f := x.filter
	switch strings.ToLower(x.family) {
	case "":
	case "ipv4", "4":
		f.Family = 4
	case "ipv6", "6":
		f.Family = 6
	default:
		return f, &usageError{fmt.Errorf("--family is %q: expected ipv4 or ipv6", x.family)}
	}
	for _, port := range []struct {
		name  string
		value int
	}{{"sport", f.SrcPort}, {"dport", f.DstPort}} {
		if cmd.Flags().Changed(port.name) && (port.value < 1 || port.value > 65535) {
			return f, &usageError{fmt.Errorf("--%s is %d: expected a port from 1 to 65535", port.name, port.value)}
		}
	}
	for _, word := range x.output {
		switch word {
		case "id", "timestamp", "ktimestamp", "labels":
			f.Show = append(f.Show, word)
		default:
			f.Format = control.Format(word) // the firewall knows which there are
		}
	}
	if x.asJSON {
		f.Format = control.FormatJSON
	}
	return f, nil
}

func newConntrackList() *cobra.Command {
	var x filterFlags
	cmd := &cobra.Command{
		Use:   "list [conntrack|expect]",
		Short: "List tracked connections, a line each, as conntrack -L prints them",
		Long: `List tracked connections, a line each, as conntrack -L prints them, or the connections that
helpers expect (expect). The filters have the names that conntrack gives them; all that are
given must hold. Addresses and ports are those of the original direction.`,
		Example: `  corewire conntrack list -p tcp -s 10.0.0.0/8 --dport 443
  corewire conntrack list --status ASSURED -o extended,id
  corewire conntrack list --json | jq -r .original.src | sort | uniq -c`,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			f, err := x.read(cmd)
			if err != nil {
				return err
			}
			list, what := c.Connections, "flow entries"
			if slices.Contains(args, "expect") {
				list, what = c.Expectations, "expectations"
			}
			n, err := list(cmd.Context(), f, cmd.OutOrStdout())
			if err == nil && colours(cmd.OutOrStdout()) { // a person looks on
				fmt.Fprintf(cmd.ErrOrStderr(), "corewire: %d %s have been shown.\n", n, what)
			}
			return err
		}),
	}
	tables(cmd)
	x.add(cmd.Flags())
	x.mark(cmd.Flags())
	return cmd
}

func newConntrackEvents() *cobra.Command {
	var x filterFlags
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print what happens to connections, a line each, as conntrack -E does, until interrupted",
		Long: `Print what happens to connections, a line each, as conntrack -E does, until interrupted. Those
that a filter selects are told from now on. A reader that is too slow misses events; how
many is said on standard error.`,
		Example: `  corewire conntrack events -e NEW,DESTROY -p tcp --dport 22 -o timestamp
  corewire conntrack events -o json | jq -c 'select(.event == "DESTROY")'`,
		Args: cobra.NoArgs,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			f, err := x.read(cmd)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			n, err := c.Events(ctx, f, cmd.OutOrStdout(), func(lost uint64) {
				fmt.Fprintf(cmd.ErrOrStderr(), "corewire: %d events were missed so far (the reader is too slow; -e and filters help)\n", lost)
			})
			if err == nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "corewire: %d flow events have been shown.\n", n)
			}
			return err
		}),
	}
	x.add(cmd.Flags())
	x.mark(cmd.Flags())
	cmd.Flags().StringVarP(&x.filter.Events, "events", "e", "ALL", "NEW, UPDATES, DESTROY; several with commas")
	return cmd
}

// touched prints how many connections were changed, and fails if there were none, as conntrack does.
func touched(cmd *cobra.Command, n int, done string, err error) error {
	if err != nil {
		return err
	}
	if n == 0 {
		return errors.New("0 flow entries have been " + done)
	}
	_, err = fmt.Fprintf(cmd.ErrOrStderr(), "corewire: %d flow entries have been %s.\n", n, done)
	return err
}

func newConntrackDelete() *cobra.Command {
	var x filterFlags
	cmd := &cobra.Command{
		Use:   "delete",
		Short: "Delete the tracked connections that the filters select, and list them, as conntrack -D does",
		Long: `Delete the tracked connections that the filters select, and list them, as conntrack -D does.
Without a filter all are deleted. If there are none, the exit status is 1.`,
		Example: `  corewire conntrack delete -s 10.0.0.7`,
		Args:    cobra.NoArgs,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			f, err := x.read(cmd)
			if err != nil {
				return err
			}
			n, err := c.Delete(cmd.Context(), f, cmd.OutOrStdout())
			return touched(cmd, n, "deleted", err)
		}),
	}
	x.add(cmd.Flags())
	x.mark(cmd.Flags())
	return cmd
}

func newConntrackUpdate() *cobra.Command {
	var x filterFlags
	var u control.Update
	cmd := &cobra.Command{
		Use:   "update",
		Short: "Set mark or labels of the tracked connections that the filters select, as conntrack -U does",
		Long: `Set mark or labels of the tracked connections that the filters select, and list them, as
conntrack -U does. If there are none, the exit status is 1. Labels have the names of
/etc/xtables/connlabel.conf, or numbers from 0 to 127.`,
		Example: `  corewire conntrack update -s 10.0.0.7 --mark 0x10/0xf0
  corewire conntrack update -p tcp --dport 5060 --label-add voip`,
		Args: cobra.NoArgs,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			f, err := x.read(cmd)
			if err != nil {
				return err
			}
			if (u.Mark == "") == (u.LabelAdd == "" && u.LabelDel == "") {
				return &usageError{errors.New("expected either --mark, or --label-add and --label-del")}
			}
			n, err := c.Update(cmd.Context(), f, u, cmd.OutOrStdout())
			return touched(cmd, n, "updated", err)
		}),
	}
	x.add(cmd.Flags())
	cmd.Flags().StringVarP(&u.Mark, "mark", "m", "", "the new mark, or mark/mask to change the mask's bits only")
	cmd.Flags().StringVar(&u.LabelAdd, "label-add", "", "labels to set")
	cmd.Flags().StringVar(&u.LabelDel, "label-del", "", "labels to remove, or all")
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
		Use:   "flush [conntrack|expect]",
		Short: "Delete all tracked connections",
		Long: `Delete all tracked connections, or all that helpers expect (expect). Connections that are under
way begin anew with their next packet: it is NEW to the rules, and with
nf_conntrack_tcp_loose=0 a TCP one is INVALID.`,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			flush, what := c.Flush, "connections"
			if slices.Contains(args, "expect") {
				flush, what = c.FlushExpectations, "expectations"
			}
			n, err := flush(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), control.Flushed{Flushed: n})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d %s deleted\n", n, what)
			return err
		}),
	}
	tables(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newConntrackExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write all tracked connections to a file, for another firewall to take over",
		Long: `Write all tracked connections to a file (- for standard output), with TCP windows, time left,
marks, labels and status, for another firewall to take over. The file is versioned and
checksummed; it holds neither fragments nor what helpers expect.`,
		Example: `  corewire conntrack export state
  corewire conntrack export - | ssh standby corewire conntrack import -`,
		Args: cobra.ExactArgs(1),
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			if args[0] == "-" {
				return c.Export(cmd.Context(), cmd.OutOrStdout())
			}
			return replaceFile(args[0], func(f *os.File) error { return c.Export(cmd.Context(), f) })
		}),
	}
	return cmd
}

// replaceFile writes a file that appears under its name only when it is complete. Others may not read it.
func replaceFile(path string, write func(*os.File) error) (err error) {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func newConntrackImport() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take over the connections that another firewall has exported, all or none",
		Long: `Take over the connections that another firewall has exported (- for standard input). All of the
file is checked before anything is entered; what is damaged, or does not fit into
nf_conntrack_max, changes nothing. The time since the export counts. Connections that the
firewall knows already stay as they are.`,
		Args: cobra.ExactArgs(1),
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			done, err := c.Import(cmd.Context(), in)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), done)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d connections taken over, %d known already, %d expired since\n", done.Entered, done.Known, done.Expired)
			return err
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
