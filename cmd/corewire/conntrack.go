package main

import (
	"errors"
	"fmt"
	"net/netip"
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

// familiar are the conntrack tool's commands and the verbs that do the same.
var familiar = map[string]string{
	"-L": "list", "--dump": "list", "-G": "get", "--get": "get", "-D": "delete", "--delete": "delete", "-U": "update", "--update": "update",
	"-E": "events", "--event": "events", "-F": "flush", "--flush": "flush", "-C": "count", "--count": "count", "--counter": "count", "-S": "stats", "--stats": "stats",
	"-I": "create", "--create": "create", "-A": "add", "--add": "add", "-R": "load", "--load-file": "load",
}

// optional are options of the conntrack tool whose argument may be missing, and which takes the next word if that begins
// with no dash; here an argument needs an equals sign.
var optional = map[string]string{
	"-n": "--src-nat", "--src-nat": "--src-nat", "-g": "--dst-nat", "--dst-nat": "--dst-nat", "-j": "--any-nat", "--any-nat": "--any-nat", "--label-del": "--label-del",
}

// translate puts a verb where the arguments name it as the conntrack tool does, and gives options their argument. A
// table's name may follow the verb, as there.
func translate(args []string) []string {
	if len(args) > 1 && args[0] == "rules" {
		return translateRules(args)
	}
	if len(args) > 1 && args[0] == "set" {
		return translateSet(args)
	}
	if len(args) < 2 || args[0] != "conntrack" {
		return args
	}
	out := []string{args[0], ""}
	rest := args[1:]
	for len(rest) > 0 && rest[0] != "--" {
		arg := rest[0]
		rest = rest[1:]
		if verb, ok := familiar[arg]; ok && out[1] == "" {
			out[1] = verb
			continue
		}
		if name, ok := optional[arg]; ok {
			if arg = name; len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && tableOf(rest[0]) == "" {
				arg += "=" + rest[0]
				rest = rest[1:]
			}
		}
		out = append(out, arg)
	}
	if out[1] == "" {
		out = slices.Delete(out, 1, 2)
	}
	return append(out, rest...)
}

// tableOf returns the table that a word names, as the conntrack tool takes it: any beginning of the name; "" for none.
func tableOf(word string) string {
	for _, name := range []string{"expect", "conntrack", "dying", "unconfirmed"} {
		if word != "" && strings.HasPrefix(name, word) {
			return name
		}
	}
	return ""
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

// filterFlags are the options that select connections and say how they are printed, or what a new one shall be.
type filterFlags struct {
	filter     control.Filter
	family     string
	output     []string
	labels     []string
	masks      [2]string // --mask-src, --mask-dst
	zones      [2]string // --orig-zone, --reply-zone
	replyKeys  [2]string // --reply-key-src, --reply-key-dst
	translated [3]string // --src-nat, --dst-nat, --any-nat
	secmark    string
	asJSON     bool
}

// add adds the flags, with conntrack's names. -m is the caller's where it sets a mark, and so is -u.
func (x *filterFlags) add(flags *pflag.FlagSet) {
	f := &x.filter
	flags.StringVarP(&x.family, "family", "f", "", "ipv4 or ipv6")
	flags.StringVarP(&f.Proto, "proto", "p", "", "protocol: tcp, udp, icmp, icmpv6, sctp, gre, udplite, dccp, or a number")
	flags.StringVarP(&f.Src, "src", "s", "", "source address or network")
	flags.StringVarP(&f.Dst, "dst", "d", "", "destination address or network")
	flags.StringVarP(&f.ReplySrc, "reply-src", "r", "", "source address or network of the reply direction")
	flags.StringVarP(&f.ReplyDst, "reply-dst", "q", "", "destination address or network of the reply direction")
	flags.StringVar(&x.masks[0], "mask-src", "", "mask of the source address, such as 255.255.255.0")
	flags.StringVar(&x.masks[1], "mask-dst", "", "mask of the destination address")
	flags.IntVar(&f.SrcPort, "sport", 0, "source port")
	flags.IntVar(&f.DstPort, "dport", 0, "destination port")
	flags.IntVar(&f.ReplySrcPort, "reply-port-src", 0, "source port of the reply direction")
	flags.IntVar(&f.ReplyDstPort, "reply-port-dst", 0, "destination port of the reply direction")
	flags.StringVar(&f.Type, "icmp-type", "", "type of an ICMP or ICMPv6 request")
	flags.StringVar(&f.Code, "icmp-code", "", "its code")
	flags.StringVar(&f.QueryID, "icmp-id", "", "its identifier")
	flags.StringVar(&f.SrcKey, "srckey", "", "GRE key of the source, decimal or with 0x")
	flags.StringVar(&f.DstKey, "dstkey", "", "GRE key of the destination")
	flags.StringVar(&x.replyKeys[0], "reply-key-src", "", "GRE key of the source, in the reply direction")
	flags.StringVar(&x.replyKeys[1], "reply-key-dst", "", "GRE key of the destination, in the reply direction")
	flags.StringVar(&f.OrigTag, "orig-vtag", "", "SCTP verification tag of the original direction")
	flags.StringVar(&f.ReplyTag, "reply-vtag", "", "SCTP verification tag of the reply direction")
	flags.StringVar(&f.State, "state", "", "TCP or SCTP state, such as ESTABLISHED")
	flags.StringVarP(&f.Zone, "zone", "w", "", "zone")
	flags.StringVar(&x.zones[0], "orig-zone", "", "zone of the original direction, which has the same as the other here")
	flags.StringVar(&x.zones[1], "reply-zone", "", "zone of the reply direction")
	flags.StringSliceVarP(&x.output, "output", "o", nil, "list, extended (the network protocol first), proc (as /proc/net/nf_conntrack), save (as options of create), xml or json; also id, ktimestamp, labels, for events timestamp; several with commas")
	flags.BoolVar(&x.asJSON, "json", false, "print a JSON object a line")
	flags.StringVarP(&x.secmark, "secmark", "c", "", "SELinux mark; refused: a wire has none")
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if short, ok := longNames[name]; ok {
			name = short
		}
		return pflag.NormalizedName(name)
	})
	for _, hidden := range []string{"secmark", "orig-zone", "reply-zone", "reply-key-src", "reply-key-dst"} {
		flags.Lookup(hidden).Hidden = true
	}
}

// select adds the flags that only look for connections.
func (x *filterFlags) selects(flags *pflag.FlagSet) {
	f := &x.filter
	flags.StringSliceVarP(&x.labels, "label", "l", nil, "labels, names or numbers; several with commas must all be set")
	flags.StringVarP(&f.ID, "id", "i", "", "number that listings show with -o id")
	for i, name := range []string{"src-nat", "dst-nat", "any-nat"} {
		flags.StringVarP(&x.translated[i], name, [...]string{"n", "g", "j"}[i], "", "translated connections: a wire has none")
		flags.Lookup(name).NoOptDefVal = "any"
		flags.Lookup(name).Hidden = true
	}
}

// status adds the flag that selects by status.
func (x *filterFlags) status(flags *pflag.FlagSet) {
	flags.StringVarP(&x.filter.Status, "status", "u", "", "ASSURED, SEEN_REPLY, UNREPLIED, EXPECTED, FIXED_TIMEOUT; several with commas must all hold")
}

// mark adds the flag that selects by mark.
func (x *filterFlags) mark(flags *pflag.FlagSet) {
	flags.StringVarP(&x.filter.Mark, "mark", "m", "", "mark or mark/mask")
}

// longNames are further names that conntrack has for some options.
var longNames = map[string]string{
	"protonum": "proto", "orig-src": "src", "orig-dst": "dst", "orig-port-src": "sport", "orig-port-dst": "dport", "event-mask": "events",
	"icmpv6-type": "icmp-type", "icmpv6-code": "icmp-code", "icmpv6-id": "icmp-id", "orig-key-src": "srckey", "orig-key-dst": "dstkey",
	"tuple-src": "src", "tuple-dst": "dst", "tuple-port-src": "sport", "tuple-port-dst": "dport",
}

// read returns what the flags say.
func (x *filterFlags) read(set *pflag.FlagSet) (control.Filter, error) {
	f := x.filter
	refuse := func(format string, args ...any) (control.Filter, error) {
		return f, &usageError{fmt.Errorf(format, args...)}
	}
	switch strings.ToLower(x.family) {
	case "":
	case "ipv4", "4":
		f.Family = 4
	case "ipv6", "6":
		f.Family = 6
	default:
		return refuse("--family is %q: expected ipv4 or ipv6", x.family)
	}
	for _, port := range []struct {
		name  string
		value int
	}{{"sport", f.SrcPort}, {"dport", f.DstPort}, {"reply-port-src", f.ReplySrcPort}, {"reply-port-dst", f.ReplyDstPort}} {
		if set.Changed(port.name) && (port.value < 1 || port.value > 65535) {
			return refuse("--%s is %d: expected a port from 1 to 65535", port.name, port.value)
		}
	}
	if x.secmark != "" {
		return refuse("--secmark is not carried out: connections on a wire have no SELinux context")
	}
	for i, side := range []*string{&f.Src, &f.Dst} {
		if x.masks[i] == "" {
			continue
		}
		name := [...]string{"src", "dst"}[i]
		length, ok := maskLength(x.masks[i])
		if *side == "" || strings.Contains(*side, "/") || !ok {
			return refuse("--mask-%s is %q: expected a mask such as 255.255.255.0 of an address in --%s", name, x.masks[i], name)
		}
		*side += "/" + strconv.Itoa(length)
	}
	for _, same := range []struct {
		name string
		a    *string
		b    string
	}{{"zone", &f.Zone, x.zones[0]}, {"zone", &f.Zone, x.zones[1]}, {"source key", &f.SrcKey, x.replyKeys[1]}, {"destination key", &f.DstKey, x.replyKeys[0]}} {
		if same.b == "" {
			continue
		}
		if *same.a != "" && *same.a != same.b {
			return refuse("the %s is %s in one direction and %s in the other: both directions have the same on a wire", same.name, *same.a, same.b)
		}
		*same.a = same.b
	}
	if x.translated[2] != "" && x.translated[0]+x.translated[1] != "" {
		return refuse("--any-nat excludes --src-nat and --dst-nat")
	}
	f.Translated = x.translated != [3]string{}
	f.Labels = strings.Join(x.labels, ",")
	for _, word := range x.output {
		switch word {
		case "id", "timestamp", "ktimestamp", "labels", "userspace":
			f.Show = append(f.Show, word)
		default:
			f.Format = control.Format(word) // the firewall knows which there are
		}
	}
	if slices.Contains(x.output, "save") && len(x.output) > 1 {
		return refuse("-o save goes with no other form of output")
	}
	if x.asJSON {
		f.Format = control.FormatJSON
	}
	return f, nil
}

// maskLength returns how many ones a mask such as 255.255.255.0 or ffff:: begins with; false if others follow.
func maskLength(text string) (int, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return 0, false
	}
	for n := range a.BitLen() + 1 {
		ones := netip.IPv6Unspecified()
		full := netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
		if a.Is4() {
			full = netip.AddrFrom4([4]byte{255, 255, 255, 255})
		}
		if p, err := full.Prefix(n); err == nil {
			ones = p.Addr()
		}
		if ones == a {
			return n, true
		}
	}
	return 0, false
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

func newConntrackExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write all tracked connections to a file, for another firewall to take over",
		Long: `Write all tracked connections to a file (- for standard output), with TCP windows, time left,
marks, labels, zones, timeout policies and status, what helpers have read, and what they expect,
for another firewall to take over. The file is versioned and checksummed; it holds no fragments.`,
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
			expected := ""
			if done.Expected > 0 {
				expected = fmt.Sprintf(", %d expectations of theirs", done.Expected)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d connections taken over, %d known already, %d expired since%s\n", done.Entered, done.Known, done.Expired, expected)
			return err
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
