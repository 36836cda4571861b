package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/config"
	"corewire/internal/control"
	"corewire/internal/packet"
	"corewire/internal/replay"
	"corewire/ring"
)

// explainOptions are what says which packet is meant.
type explainOptions struct {
	in, proto, src, dst, flags, icmp, state string
	sport, dport                            port
	pcap                                    string
	frame                                   int
	nets                                    []string
	asJSON, matched                         bool
}

func newExplain() *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:   "explain (--in PORT -s ADDR -d ADDR -p PROTO … | --pcap FILE --frame N --inside-net CIDR)",
		Short: "Say what would become of a packet, and why: every rule tried, the connection, its state",
		Long: `Say what would become of a packet, and why: every rule that is tried, in order, through the
tables raw, mangle, filter and security, with the condition that did not hold; what rules
change on the way; which one decides; the connection as it is found, the packet's state and
the reason for it; and whether the verdict is or would be cached.

The packet is described by its addresses and ports, or is a frame of a capture. Without
--rules the running firewall is asked: its rules, its connections. With --rules (or --rules4,
--rules6) it is judged offline: a described packet as the first of its connection, a frame of
a capture after all those before it.

Nothing is changed: no counter, no connection, no token of a limit, no set. A condition that
depends on chance is tossed. With
--state the packet is taken to be in that state, and no connection is looked for.

Exit status: 0 if the packet passes, 1 if it is dropped or an error came first; the others as
in corewire --help. --json prints an object: verdict, reason, rule, state, why, connection,
windows, steps (rule, place, text, matched, why, did), cached, cache.`,
		Example: `  corewire explain --in inside -p tcp -s 10.0.0.1 --sport 40000 -d 192.0.2.1 --dport 443
  corewire explain --in outside -p tcp -s 192.0.2.1 --sport 443 -d 10.0.0.1 --dport 40000 --flags syn,ack
  corewire explain --in inside -p icmp -s 10.0.0.1 -d 192.0.2.1 --icmp-type 8 --rules rules
  corewire explain --pcap trace.pcap --frame 17 --inside-net 10.0.0.0/8 --rules rules`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			state, err := control.ParseState(o.state)
			if err != nil {
				return &usageError{err}
			}
			frame, in, err := o.packet(cmd)
			if err != nil {
				return err
			}
			at := beginProgress(cmd.ErrOrStderr(), "explaining")
			defer at.end()
			offline := false
			for _, name := range []string{"rules", "rules4", "rules6"} {
				offline = offline || cmd.Flags().Changed(name)
			}
			var answer control.Explained
			if offline {
				answer, err = o.offline(cmd, frame, in, state)
			} else {
				err = ask(func(cmd *cobra.Command, c *control.Client, _ []string) (err error) {
					answer, err = c.Explain(cmd.Context(), control.ExplainRequest{Frame: frame, In: in.String(), State: o.state})
					return err
				})(cmd, args)
			}
			if err != nil {
				return err
			}
			at.end()
			if o.matched {
				answer.Steps = slices.DeleteFunc(answer.Steps, func(s control.ExplainedStep) bool { return !s.Matched })
			}
			if o.asJSON {
				err = printJSON(cmd.OutOrStdout(), answer)
			} else {
				err = printExplained(cmd.OutOrStdout(), &answer)
			}
			if err == nil && answer.Verdict == dataplane.Drop.String() {
				err = errors.New("the packet is dropped")
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.in, "in", "inside", "port that it comes in on: inside or outside")
	flags.StringVarP(&o.proto, "protocol", "p", "tcp", "tcp, udp, icmp, icmpv6, sctp, udplite, or a number")
	flags.StringVarP(&o.src, "source", "s", "", "source address")
	flags.StringVarP(&o.dst, "destination", "d", "", "destination address")
	o.sport = 40000
	flags.Var(&o.sport, "sport", "source port")
	flags.Var(&o.dport, "dport", "destination port")
	flags.StringVar(&o.flags, "flags", "syn", "TCP flags with commas: fin, syn, rst, psh, ack, urg, ece, cwr, or none")
	flags.StringVar(&o.icmp, "icmp-type", "8", "ICMP or ICMPv6 type, or type/code; the echo request of IPv6 is 128")
	flags.StringVar(&o.state, "state", "", "take it to be NEW, ESTABLISHED, RELATED, INVALID or UNTRACKED")
	flags.StringVar(&o.pcap, "pcap", "", "capture with the frame; needs --frame and --inside-net")
	flags.IntVar(&o.frame, "frame", 0, "number of the frame, from 1")
	flags.StringSliceVar(&o.nets, "inside-net", nil, "networks of the inside, with commas")
	flags.BoolVar(&o.matched, "matched", false, "of the rules that were tried, only those that hold")
	flags.BoolVar(&o.asJSON, "json", false, "print JSON")
	config.AddFlags(flags, func(s *config.Setting) bool {
		return s.Judges() || s.Name == "control-socket" || s.Name == "inside" || s.Name == "outside"
	})
	return cmd
}

// described are the flags that describe a packet.
var described = []string{"in", "protocol", "source", "destination", "sport", "dport", "flags", "icmp-type"}

// port is a flag's port.
type port uint16

// String returns the number.
func (p *port) String() string { return strconv.Itoa(int(*p)) }

// Type returns what help calls it.
func (p *port) Type() string { return "port" }

// Set reads a number.
func (p *port) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return errors.New("expected a port from 0 to 65535")
	}
	*p = port(n)
	return nil
}

// capture returns what replay needs to read the capture.
func (o *explainOptions) capture() (replay.Config, error) {
	c := replay.Config{File: o.pcap}
	for _, text := range o.nets {
		net, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return c, &usageError{fmt.Errorf("--inside-net %q: expected a network such as 10.0.0.0/8 or 2001:db8::/32", text)}
		}
		c.Nets = append(c.Nets, net.Masked())
	}
	return c, nil
}

// packet returns the frame that is meant; nil for one of a capture that is replayed.
func (o *explainOptions) packet(cmd *cobra.Command) ([]byte, packet.Port, error) {
	in, err := control.PortNamed(o.in)
	if err != nil {
		return nil, in, &usageError{fmt.Errorf("--in %s: expected inside or outside", o.in)}
	}
	if o.pcap != "" {
		for _, name := range described {
			if cmd.Flags().Changed(name) {
				return nil, in, &usageError{fmt.Errorf("--%s describes a packet, --pcap names one: give one of them (see corewire explain --help)", name)}
			}
		}
	}
	if o.pcap == "" {
		if cmd.Flags().Changed("frame") || cmd.Flags().Changed("inside-net") {
			return nil, in, &usageError{errors.New("--frame and --inside-net go with --pcap (see corewire explain --help)")}
		}
		frame, err := o.build()
		if err != nil {
			return nil, in, &usageError{err}
		}
		return frame, in, nil
	}
	if o.frame < 1 || len(o.nets) == 0 {
		return nil, in, &usageError{errors.New("--pcap needs --frame, a number from 1, and --inside-net (see corewire explain --help)")}
	}
	c, err := o.capture()
	if err != nil {
		return nil, in, err
	}
	w, err := ring.OpenCapture(ring.CaptureConfig{File: o.pcap, Port: replay.NewSides(c.Nets).Port})
	if err != nil {
		return nil, in, err
	}
	for {
		at, err := w.Next()
		if err != nil {
			if err == io.EOF {
				err = fmt.Errorf("%s has no frame %d", o.pcap, o.frame)
			}
			return nil, in, errors.Join(err, w.Close())
		}
		var f [1]packet.Frame
		w.Receive(at.Port, f[:])
		frame := append([]byte(nil), f[0].Data...)
		w.Release(f[:])
		if at.Number == o.frame {
			return frame, at.Port, w.Close()
		}
	}
}

// offline judges by rule files.
func (o *explainOptions) offline(cmd *cobra.Command, frame []byte, in packet.Port, state *conntrack.State) (answer control.Explained, err error) {
	c, warnings, err := settings(cmd)
	if err != nil {
		return answer, err
	}
	warn(cmd.ErrOrStderr(), warnings)
	rs, err := c.LoadRules()
	if err != nil {
		return answer, err
	}
	memory, err := config.Memory()
	if err != nil {
		return answer, err
	}
	setup := c.Engine(rs, memory)
	if o.pcap != "" {
		r, err := o.capture()
		if err != nil {
			return answer, err
		}
		r.Engine = setup
		p, err := replay.Open(r)
		if err != nil {
			return answer, err
		}
		defer func() { err = errors.Join(err, p.Close()) }()
		for range o.frame - 1 {
			if _, err := p.Next(); err != nil {
				return answer, err
			}
		}
		x, err := p.Explain(state)
		if err != nil {
			return answer, err
		}
		return control.NewExplained(&x), nil
	}
	wires, err := ring.NewMemory(ring.MemoryConfig{Pool: ring.PoolConfig{Workers: 1, Chunks: 256}})
	if err != nil {
		return answer, err
	}
	defer func() { err = errors.Join(err, wires[0].Close()) }()
	setup.Wires, setup.CPUs = []ring.Wire{wires[0]}, nil
	e, err := dataplane.New(setup)
	if err != nil {
		return answer, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	x, err := e.Explain(context.Background(), frame, in, state)
	if err != nil {
		return answer, err
	}
	return control.NewExplained(&x), nil
}

// tcpFlagNames are the flags of a TCP header, from the lowest bit on.
var tcpFlagNames = []string{"fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"}

// build makes a frame of what the flags say: headers and no data, with right checksums.
func (o *explainOptions) build() ([]byte, error) {
	src, err := netip.ParseAddr(o.src)
	if err != nil {
		return nil, fmt.Errorf("--source %q: expected an address", o.src)
	}
	dst, err := netip.ParseAddr(o.dst)
	if err != nil || dst.Is4() != src.Is4() {
		return nil, fmt.Errorf("--destination %q: expected an address of the same IP version as the source", o.dst)
	}
	proto, ok := map[string]uint8{"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "ipv6-icmp": 58, "sctp": 132, "udplite": 136, "gre": 47, "esp": 50, "ah": 51}[strings.ToLower(o.proto)]
	if !ok {
		n, err := strconv.ParseUint(o.proto, 10, 8)
		if err != nil {
			return nil, fmt.Errorf("--protocol %q: expected tcp, udp, icmp, icmpv6, sctp, udplite, or a number up to 255", o.proto)
		}
		proto = uint8(n)
	}
	transport, check, err := o.transport(proto)
	if err != nil {
		return nil, err
	}
	pseudo := append(append(src.AsSlice(), dst.AsSlice()...), 0, proto, byte(len(transport)>>8), byte(len(transport)))
	switch {
	case proto == 1:
		binary.BigEndian.PutUint16(transport[check:], packet.Checksum(packet.SumBytes(0, transport)))
	case proto == 132:
		binary.LittleEndian.PutUint32(transport[check:], packet.SCTPChecksum(transport))
	case check > 0:
		binary.BigEndian.PutUint16(transport[check:], packet.Checksum(packet.SumBytes(packet.SumBytes(0, pseudo), transport)))
	}
	frame := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	if src.Is4() {
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(transport)))
		copy(ip[12:], src.AsSlice())
		copy(ip[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(ip[10:], packet.Checksum(packet.SumBytes(0, ip)))
		return append(append(append(frame, 8, 0), ip...), transport...), nil
	}
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(len(transport)))
	copy(ip[8:], src.AsSlice())
	copy(ip[24:], dst.AsSlice())
	return append(append(append(frame, 0x86, 0xdd), ip...), transport...), nil
}

// transport makes the transport header, and says where its checksum is; 0 for none.
func (o *explainOptions) transport(proto uint8) (b []byte, check int, err error) {
	switch proto {
	case 6:
		b = make([]byte, 20)
		b[12] = 5 << 4
		binary.BigEndian.PutUint16(b[14:], 65535)
		for _, name := range strings.Split(strings.ToLower(o.flags), ",") {
			bit := -1
			for i, n := range tcpFlagNames {
				if n == name {
					bit = i
				}
			}
			switch {
			case bit >= 0:
				b[13] |= 1 << bit
			case name != "none":
				return nil, 0, fmt.Errorf("--flags %q: expected %s, or none, with commas", name, strings.Join(tcpFlagNames, ", "))
			}
		}
		check = 16
	case 17, 136:
		b = make([]byte, 8)
		b[5] = 8
		check = 6
	case 132:
		b = make([]byte, 32) // an INIT chunk, RFC 9260 section 3.3.2
		b[12], b[15] = 1, 20
		binary.BigEndian.PutUint32(b[16:], 1)
		binary.BigEndian.PutUint32(b[20:], 65535)
		b[25], b[27] = 1, 1
		check = 8
	case 1, 58:
		kind, code, has := strings.Cut(o.icmp, "/")
		k, err := strconv.ParseUint(kind, 10, 8)
		c := uint64(0)
		if has && err == nil {
			c, err = strconv.ParseUint(code, 10, 8)
		}
		if err != nil {
			return nil, 0, fmt.Errorf("--icmp-type %q: expected a type or type/code, each up to 255", o.icmp)
		}
		b = make([]byte, 8)
		b[0], b[1], b[5], b[7] = uint8(k), uint8(c), 1, 1
		return b, 2, nil
	default:
		return make([]byte, 8), 0, nil
	}
	binary.BigEndian.PutUint16(b, uint16(o.sport))
	binary.BigEndian.PutUint16(b[2:], uint16(o.dport))
	return b, check, nil
}

// printExplained prints an explanation for people.
func printExplained(w io.Writer, x *control.Explained) error {
	var b strings.Builder
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%-10s  %s\n", name, text)
		}
	}
	if x.State != "" {
		line("state", x.State+": "+x.Why)
	} else {
		line("why", x.Why)
	}
	line("connection", x.Connection)
	for _, s := range x.Windows {
		line("", s)
	}
	for _, s := range x.Steps {
		sign := "-"
		if s.Matched {
			sign = "+"
		}
		fmt.Fprintf(&b, "%s %-24s %s", sign, s.Rule, s.Text)
		switch {
		case s.Did != "":
			b.WriteString("   ⇒ " + s.Did)
		case s.Why != "":
			b.WriteString("   ✗ " + s.Why)
		}
		fmt.Fprintf(&b, "   (%s)\n", s.Place)
	}
	verdict := x.Verdict
	if x.Reason != "" && x.Reason != "rule" {
		verdict += ", " + x.Reason
	}
	if x.Rule != "" {
		verdict += " by " + x.Rule
	}
	line("verdict", verdict)
	if x.Cached != "" {
		line("cached", x.Cached)
	}
	line("cache", x.Cache)
	_, err := io.WriteString(w, b.String())
	return err
}
