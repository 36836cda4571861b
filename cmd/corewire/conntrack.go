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
conntrack tool calls -L, -G, -D, -I, -A, -U, -E, -F, -C, -S and -R works here too, with its options:

  corewire conntrack -L -p tcp --dport 443 -o extended,id
  corewire conntrack -E -e NEW,DESTROY -s 10.0.0.0/8
  corewire conntrack -U -s 10.0.0.7 --mark 5
  corewire conntrack -L -o save > saved; corewire conntrack -R saved`,
		Args: cobra.NoArgs,
		RunE: group,
	}
	addSocket(cmd.PersistentFlags())
	cmd.AddCommand(newConntrackList(), newConntrackGet(), newConntrackEvents(), newConntrackCreate(existing), newConntrackCreate(tolerated), newConntrackUpdate(), newConntrackDelete(),
		newConntrackFlush(), newConntrackCount(), newConntrackStats(), newConntrackLoad(), newConntrackExport(), newConntrackImport())
	return cmd
}

// tables lets a verb take the name of one of the tables.
func tables(cmd *cobra.Command, names ...string) {
	cmd.ValidArgs = names
	cmd.Args = func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) > 1:
			return fmt.Errorf("at most one table can be named, not %s", strings.Join(args, " "))
		case len(args) == 1 && !slices.Contains(names, tableOf(args[0])):
			return fmt.Errorf("there is no table %q for that (%s)", args[0], strings.Join(names, ", "))
		}
		return nil
	}
}

// table returns the table that the arguments name.
func tableNamed(args []string) string {
	if len(args) == 0 {
		return "conntrack"
	}
	return tableOf(args[0])
}

func newConntrackList() *cobra.Command {
	var x filterFlags
	var zero bool
	cmd := &cobra.Command{
		Use:   "list [conntrack|expect]",
		Short: "List tracked connections, a line each, as conntrack -L prints them",
		Long: `List tracked connections, a line each, as conntrack -L prints them, or the connections that
helpers expect (expect). The filters have the names that conntrack gives them; all that are
given must hold. Addresses and ports are those of the original direction, or of the expected
connection.`,
		Example: `  corewire conntrack list -p tcp -s 10.0.0.0/8 --dport 443
  corewire conntrack list --status ASSURED -o extended,id
  corewire conntrack list --json | jq -r .original.src | sort | uniq -c`,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			f, err := x.read(cmd.Flags())
			if err != nil {
				return err
			}
			list, what := c.Connections, "flow entries"
			switch tableNamed(args) {
			case "expect":
				list, what = c.Expectations, "expectations"
			case "dying", "unconfirmed": // an entry is in the table or it is not
				f.Translated = true
			}
			if zero {
				if what != "flow entries" {
					return &usageError{errors.New("--zero goes with connections only: expectations have no counters")}
				}
				list = c.Zero
			}
			n, err := list(cmd.Context(), f, cmd.OutOrStdout())
			if err == nil && colours(cmd.OutOrStdout()) { // a person looks on
				fmt.Fprintf(cmd.ErrOrStderr(), "corewire: %d %s have been shown.\n", n, what)
			}
			return err
		}),
	}
	tables(cmd, "conntrack", "expect", "dying", "unconfirmed")
	x.add(cmd.Flags())
	x.selects(cmd.Flags())
	x.status(cmd.Flags())
	x.mark(cmd.Flags())
	cmd.Flags().BoolVarP(&zero, "zero", "z", false, "set the counters of those that are listed to zero")
	return cmd
}

func newConntrackGet() *cobra.Command {
	var x filterFlags
	cmd := &cobra.Command{
		Use:   "get [conntrack|expect]",
		Short: "Show one tracked connection, as conntrack -G does",
		Long: `Show one tracked connection, as conntrack -G does, or one that is expected: that which the options
name. They must say protocol, source and destination. If there is none, the exit status is 1.`,
		Example: `  corewire conntrack get -p tcp -s 10.0.0.7 -d 192.0.2.1 --sport 40000 --dport 443`,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			f, err := x.read(cmd.Flags())
			if err != nil {
				return err
			}
			if f.Proto == "" || (f.Src == "" || f.Dst == "") && (f.ReplySrc == "" || f.ReplyDst == "") {
				return &usageError{errors.New("expected --proto, and --src and --dst or --reply-src and --reply-dst")}
			}
			list, what := c.Connections, "connection"
			if tableNamed(args) == "expect" {
				list, what = c.Expectations, "expectation"
			}
			n, err := list(cmd.Context(), f, cmd.OutOrStdout())
			if err == nil && n == 0 {
				err = errors.New("there is no such " + what)
			}
			return err
		}),
	}
	tables(cmd, "conntrack", "expect")
	x.add(cmd.Flags())
	x.selects(cmd.Flags())
	return cmd
}

func newConntrackEvents() *cobra.Command {
	var x filterFlags
	cmd := &cobra.Command{
		Use:   "events [conntrack|expect]",
		Short: "Print what happens to connections, a line each, as conntrack -E does, until interrupted",
		Long: `Print what happens to connections, a line each, as conntrack -E does, or to those that helpers
expect (expect), until interrupted. Those that a filter selects are told from now on. A reader
that is too slow misses events; how many is said on standard error.`,
		Example: `  corewire conntrack events -e NEW,DESTROY -p tcp --dport 22 -o timestamp
  corewire conntrack events expect
  corewire conntrack events -o json | jq -c 'select(.event == "DESTROY")'`,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			f, err := x.read(cmd.Flags())
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("buffer-size") && f.Buffer < 1 {
				return &usageError{errors.New("--buffer-size: expected a number of bytes")}
			}
			follow, what := c.Events, "flow"
			if tableNamed(args) == "expect" {
				follow, what = c.ExpectEvents, "expectation"
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			n, err := follow(ctx, f, cmd.OutOrStdout(), func(lost uint64) {
				fmt.Fprintf(cmd.ErrOrStderr(), "corewire: %d events were missed so far (the reader is too slow; -b, -e and filters help)\n", lost)
			})
			if err == nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "corewire: %d %s events have been shown.\n", n, what)
			}
			return err
		}),
	}
	tables(cmd, "conntrack", "expect")
	x.add(cmd.Flags())
	x.selects(cmd.Flags())
	x.status(cmd.Flags())
	x.mark(cmd.Flags())
	cmd.Flags().StringVarP(&x.filter.Events, "events", "e", "ALL", "NEW, UPDATES, DESTROY; several with commas")
	cmd.Flags().IntVarP(&x.filter.Buffer, "buffer-size", "b", 0, "bytes of memory for events of each worker that wait for the reader, at most 64 MiB; 0 = some 2 MiB")
	return cmd
}

// touched prints how many connections were changed, and fails if there were none, as conntrack does.
func touched(cmd *cobra.Command, n int, what, done string, err error) error {
	if err != nil {
		return err
	}
	if n == 0 {
		return errors.New("0 " + what + " have been " + done)
	}
	_, err = fmt.Fprintf(cmd.ErrOrStderr(), "corewire: %d %s have been %s.\n", n, what, done)
	return err
}

func newConntrackDelete() *cobra.Command {
	var x filterFlags
	cmd := &cobra.Command{
		Use:   "delete [conntrack|expect]",
		Short: "Delete the tracked connections that the filters select, and list them, as conntrack -D does",
		Long: `Delete the tracked connections that the filters select, and list them, as conntrack -D does, or
those that helpers expect (expect). Without a filter all are deleted. If there are none, the
exit status is 1.`,
		Example: `  corewire conntrack delete -s 10.0.0.7
  corewire conntrack delete expect -p tcp -d 10.0.0.7 --dport 2056`,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			f, err := x.read(cmd.Flags())
			if err != nil {
				return err
			}
			remove, what := c.Delete, "flow entries"
			if tableNamed(args) == "expect" {
				remove, what = c.DeleteExpectations, "expectations"
			}
			n, err := remove(cmd.Context(), f, cmd.OutOrStdout())
			return touched(cmd, n, what, "deleted", err)
		}),
	}
	tables(cmd, "conntrack", "expect")
	x.add(cmd.Flags())
	x.selects(cmd.Flags())
	x.status(cmd.Flags())
	x.mark(cmd.Flags())
	return cmd
}

// updateFlags are the options of an update.
type updateFlags struct {
	filterFlags
	update control.Update
}

func (x *updateFlags) add(flags *pflag.FlagSet) {
	x.filterFlags.add(flags)
	x.selects(flags)
	flags.StringVarP(&x.update.Mark, "mark", "m", "", "the new mark, or mark/mask to change the mask's bits only")
	flags.StringVarP(&x.update.Timeout, "timeout", "t", "", "seconds until it expires, if no packet comes")
	flags.StringVarP(&x.update.Status, "status", "u", "", "status to be set: ASSURED, SEEN_REPLY, FIXED_TIMEOUT; several with commas")
	flags.StringVar(&x.update.LabelAdd, "label-add", "", "labels to set")
	flags.StringVar(&x.update.LabelDel, "label-del", "", "labels to remove, or all")
	flags.Lookup("label-del").NoOptDefVal = "all"
}

// read returns what the flags say.
func (x *updateFlags) read(set *pflag.FlagSet) (control.Filter, control.Update, error) {
	f, err := x.filterFlags.read(set)
	u := x.update
	u.State, f.State = f.State, "" // here it says what shall be
	if err == nil && u == (control.Update{}) {
		err = &usageError{errors.New("nothing is to be changed: expected --mark, --timeout, --status, --state, --label-add or --label-del")}
	}
	return f, u, err
}

func newConntrackUpdate() *cobra.Command {
	var x updateFlags
	cmd := &cobra.Command{
		Use:   "update",
		Short: "Change mark, timeout, status, state or labels of tracked connections, as conntrack -U does",
		Long: `Change mark, timeout, status, state (--state, with --proto tcp or sctp) or labels of the tracked
connections that the filters select, and list them, as conntrack -U does. If there are none, the
exit status is 1. Labels have the names of /etc/xtables/connlabel.conf, or numbers from 0 to 127.`,
		Example: `  corewire conntrack update -s 10.0.0.7 --mark 0x10/0xf0
  corewire conntrack update -p tcp --dport 5060 --label-add voip --timeout 600`,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			f, u, err := x.read(cmd.Flags())
			if err != nil {
				return err
			}
			n, err := c.Update(cmd.Context(), f, u, cmd.OutOrStdout())
			return touched(cmd, n, "flow entries", "updated", err)
		}),
	}
	tables(cmd, "conntrack")
	x.add(cmd.Flags())
	return cmd
}

func newConntrackCount() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "count [conntrack|expect]",
		Short: "Print the number of tracked connections, or of expected ones",
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			var n control.Count
			var err error
			if tableNamed(args) == "expect" {
				var s control.Stats
				s, err = c.Stats(cmd.Context())
				n = control.Count{Count: s.Expect.Entries, Max: s.Expect.Max}
			} else {
				n, err = c.Count(cmd.Context())
			}
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
	tables(cmd, "conntrack", "expect")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with the maximum")
	return cmd
}

func newConntrackStats() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats [conntrack|expect]",
		Short: "Print the counters of connection tracking, a line for each worker, as conntrack -S does",
		Long: `Print the counters of connection tracking, a line for each worker, as conntrack -S does, or those
of expected connections (expect), in one line: all workers share these.`,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			if tableNamed(args) == "expect" {
				s, err := c.Stats(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), s.Expect)
				}
				n := s.Expect.Counters
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "expect_new=%d expect_create=%d expect_delete=%d\n", n["new"], n["create"], n["delete"])
				return err
			}
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
	tables(cmd, "conntrack", "expect")
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
			if tableNamed(args) == "expect" {
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
	tables(cmd, "conntrack", "expect")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringP("family", "f", "", "accepted and not looked at, as conntrack does")
	cmd.Flags().Lookup("family").Hidden = true
	return cmd
}
