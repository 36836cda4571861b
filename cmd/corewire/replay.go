package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/config"
	"corewire/internal/replay"
)

// timeForm is how times of frames are written: UTC, with all nine digits, so that columns align and text sorts.
const timeForm = "2006-01-02T15:04:05.000000000Z"

func newReplay() *cobra.Command {
	var o replayOptions
	cmd := &cobra.Command{
		Use:   "replay --rules FILE (--pcap FILE --inside-net CIDR[,CIDR…] | --inside FILE --outside FILE)",
		Short: "Judge the frames of captures as the firewall would have",
		Long: `Judge the frames of captures (pcap or pcapng, also gzip) as the firewall would have, by the same
code, in the captures' own time. No privileges are needed and nothing is sent.

With --inside and --outside each file holds the frames that arrived at that port; they are
merged by time. With --pcap one file holds both, and where a frame came from is found out:
  - an IP packet comes from the inside if its source address is in one of the networks of
    --inside-net, else from the outside;
  - ARP likewise, by the sender's protocol address;
  - other frames, and those with an unspecified source address (0.0.0.0, ::), come from where
    the last packet with their source MAC address came from, or else from the inside.

--json prints an object a line for each frame, in order:
  n        number of the frame, from 1
  ts       time of the frame
  in       inside or outside
  verdict  accept, drop, or hold: a fragment that waits for the rest of its datagram
  reason   why it was dropped, "rule" for a rule or policy; else empty
  rule     what decided, such as "FORWARD 3" or "FORWARD policy"; empty where no rule was asked
  state    connection state as the rules saw it; empty where connection tracking was not asked

--conntrack prints the connections that are left after the last frame, a line each as in
/proc/net/nf_conntrack; timeouts count from the last frame's time.

A frame that was cut by the capture's snap length is judged as it stands in the file: mostly it
is dropped for its length, or INVALID for its checksum (--nf_conntrack_checksum=0).

A damaged file is an error (exit status 1) after all frames that could be read.
Settings are those of corewire run, from flags, environment and configuration file: with the same
ones a frame is judged as on the wire. Rules may name the interfaces that the file or the
environment says (inside, outside), besides inside and outside themselves.`,
		Example: `  corewire replay --rules rules --pcap trace.pcap --inside-net 10.0.0.0/8,2001:db8::/32
  corewire replay --rules rules --inside in.pcapng --outside out.pcapng --json --conntrack
  corewire replay --rules rules --pcap trace.pcap --inside-net 10.0.0.0/8 --out-outside passed.pcap`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd); err != nil {
				return &usageError{err}
			}
			c, warnings, err := settings(cmd)
			if err != nil {
				return err
			}
			warn(cmd.ErrOrStderr(), warnings)
			return o.run(c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.File, "pcap", "", "capture with the frames of both ports; needs --inside-net")
	flags.StringSliceVar(&o.nets, "inside-net", nil, "networks of the inside, with commas")
	flags.StringVar(&o.Inside, "inside", "", "capture of the frames that arrived at the inside port")
	flags.StringVar(&o.Outside, "outside", "", "capture of the frames that arrived at the outside port")
	flags.StringVar(&o.OutInside, "out-inside", "", "write the frames that leave through the inside port; pcapng, or pcap if named .pcap")
	flags.StringVar(&o.OutOutside, "out-outside", "", "write the frames that leave through the outside port")
	flags.BoolVar(&o.json, "json", false, "print a JSON object a line for each frame")
	flags.BoolVar(&o.conntrack, "conntrack", false, "print the connections that are left")
	config.AddFlags(flags, (*config.Setting).Judges)
	return cmd
}

type replayOptions struct {
	replay.Config
	nets      []string
	json      bool
	conntrack bool
}

// check refuses flags that do not fit together.
func (o *replayOptions) check(cmd *cobra.Command) error {
	given := cmd.Flags().Changed
	see := " (see corewire replay --help)"
	switch {
	case o.File != "" && (given("inside") || given("outside")):
		return errors.New("--pcap excludes --inside and --outside" + see)
	case o.File != "" && len(o.nets) == 0:
		return errors.New("--pcap needs --inside-net, which says which source addresses are inside" + see)
	case o.File == "" && given("inside-net"):
		return errors.New("--inside-net goes with --pcap" + see)
	case o.File == "" && o.Inside == "" && o.Outside == "":
		return errors.New("no capture is named: give --pcap and --inside-net, or --inside and --outside" + see)
	}
	o.Nets = nil
	for _, text := range o.nets {
		text = strings.TrimSpace(text)
		net, err := netip.ParsePrefix(text)
		if err != nil {
			addr, aerr := netip.ParseAddr(text)
			if aerr != nil {
				return fmt.Errorf("--inside-net %q: expected a network such as 10.0.0.0/8 or 2001:db8::/32", text)
			}
			net = netip.PrefixFrom(addr, addr.BitLen())
		}
		o.Nets = append(o.Nets, net.Masked())
	}
	return nil
}

// run replays and prints.
func (o *replayOptions) run(c *config.Config, stdout, stderr io.Writer) (err error) {
	sets, err := c.LoadSets()
	if err != nil {
		return err
	}
	rs, err := c.LoadRulesFor(sets)
	if err != nil {
		if errors.Is(err, config.ErrNoRules) {
			return &usageError{err}
		}
		return err
	}
	for _, w := range rs.Warnings() {
		fmt.Fprintln(stderr, "warning:", w)
	}
	memory, err := config.Memory()
	if err != nil {
		return err
	}
	o.Engine, o.Describe = c.Engine(rs, memory), !o.json
	o.Engine.Sets = sets
	r, err := replay.Open(o.Config)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(stdout, 64<<10)
	print := o.text(out, colours(stdout))
	if o.json {
		print = jsonLines(out)
	}
	damage := o.frames(r, print, stderr) // what could be read is still worth its listing
	if o.conntrack {
		err = listConnections(r, out)
	}
	return errors.Join(err, out.Flush(), r.Close(), damage)
}

// frames judges and prints all frames, and returns what ended them early.
func (o *replayOptions) frames(r *replay.Replay, print func(*replay.Frame) error, stderr io.Writer) error {
	var verdicts [8]int
	n, cut := 0, 0
	for {
		f, err := r.Next()
		if err != nil {
			if cut > 0 {
				fmt.Fprintf(stderr, "warning: %s cut by the capture's snap length and judged as they stand in it\n", number(cut, "frame"))
			}
			if err == io.EOF {
				err = nil
			}
			if !o.json {
				fmt.Fprintf(stderr, "%s: %d accepted, %d dropped, %d held\n", number(n, "frame"), verdicts[dataplane.Accept], verdicts[dataplane.Drop], verdicts[dataplane.Hold])
			}
			return err
		}
		n++
		verdicts[f.Verdict&7]++
		if f.Truncated {
			cut++
		}
		if err := print(&f); err != nil {
			return err
		}
	}
}

// jsonLines prints frames in the form that the help describes.
func jsonLines(w io.Writer) func(*replay.Frame) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return func(f *replay.Frame) error {
		return e.Encode(struct {
			Number  int    `json:"n"`
			Time    string `json:"ts"`
			In      string `json:"in"`
			Verdict string `json:"verdict"`
			Reason  string `json:"reason"`
			Rule    string `json:"rule"`
			State   string `json:"state"`
		}{f.Number, f.Time.UTC().Format(timeForm), f.In.String(), f.Verdict.String(), f.Reason.String(), f.Rule, f.State})
	}
}

// text prints frames for people.
func (o *replayOptions) text(w io.Writer, coloured bool) func(*replay.Frame) error {
	return func(f *replay.Frame) error {
		verdict := fmt.Sprintf("%-6s", f.Verdict)
		if coloured {
			verdict = map[dataplane.Verdict]string{dataplane.Accept: green, dataplane.Drop: red, dataplane.Hold: yellow}[f.Verdict] + verdict + plain
		}
		why := f.Rule
		if f.Reason != dataplane.DropNone && f.Reason != dataplane.DropRule {
			why = f.Reason.String()
		}
		line := fmt.Sprintf("%6d %s %-7s %s %-11s %-16s %s", f.Number, f.Time.UTC().Format(timeForm), f.In, verdict, f.State, why, f.Text)
		_, err := fmt.Fprintln(w, strings.TrimRight(line, " "))
		return err
	}
}

// listConnections prints what is left.
func listConnections(r *replay.Replay, w io.Writer) error {
	var line []byte
	return r.Connections(func(infos []conntrack.Info) error {
		for i := range infos {
			line = append(infos[i].AppendLine(line[:0], conntrack.FormatProc), '\n')
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
		return nil
	})
}
