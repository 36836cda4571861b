package conntrack

import (
	"net/netip"
	"strconv"
	"time"

	"corewire/internal/packet"
)

// Style is how entries and events are written: what `conntrack -o` chooses.
type Style struct {
	Format Format
	ID     Shown // id: the connection's number
	Times  Shown // ktimestamp: when the connection began, and ended
	// Now is the wall clock's time at which Info was read. It is needed for Times only; its location is that of what is
	// shown.
	Now    time.Time
	Labels *LabelNames // labels: by these names; nil: not shown
}

// Shown says whether a field is written.
type Shown uint8

const (
	Hidden Shown = iota
	Visible
)

// LabelNames are the names of labels by number (connlabel.conf); "" where a label has none, which is then not shown, as
// conntrack does not.
type LabelNames [MaxLabel + 1]string

// line is what differs between a listing's line and an event's.
type line struct {
	timeout Shown // the seconds left
	state   Shown // the protocol's state
	counts  Shown // counters and times
	mark    Shown // the mark, also if it is 0
	use     Shown // references, and the helper
	end     Shown // the connection ends now
}

// AppendLine appends an entry's line, without a newline, to b and returns it.
func (s *Style) AppendLine(b []byte, i *Info) []byte {
	return s.append(b, i, line{timeout: Visible, state: Visible, counts: Visible, mark: Visible, use: Visible})
}

// AppendEvent appends an event's line as `conntrack -E` prints it, without a newline, to b and returns it. What is shown
// of the entry depends on the event as in ctnetlink_conntrack_event (net/netfilter/nf_conntrack_netlink.c).
func (s *Style) AppendEvent(b []byte, e *Event) []byte {
	return s.append(appendKind(b, e.Kind), &e.Info, e.line())
}

// appendKind appends what an event's line begins with.
func appendKind(b []byte, k EventKind) []byte {
	name := k.String()
	for range 9 - len(name) - 2 {
		b = append(b, ' ')
	}
	b = append(b, '[')
	b = append(b, name...)
	return append(b, "] "...)
}

// line says what an event shows.
func (e *Event) line() line {
	l := line{timeout: Visible, state: Visible}
	if e.Kind == EventDestroy {
		l.counts, l.end = Visible, Visible
		if e.Info.Left < 1000 {
			l.timeout = Hidden
		}
		return l
	}
	if e.Changed&ChangedState == 0 {
		l.state = Hidden
	}
	if e.Changed&ChangedMark != 0 {
		l.mark = Visible
	}
	return l
}

// append appends the parts of a line in the order of libnetfilter_conntrack (conntrack/snprintf_default.c) and, for
// FormatProc, of ct_seq_show (net/netfilter/nf_conntrack_standalone.c).
func (s *Style) append(b []byte, i *Info, l line) []byte {
	k, f := &i.Key, s.Format
	if f != FormatConntrack {
		if k.Family == 6 {
			b = append(b, "ipv6     10 "...)
		} else {
			b = append(b, "ipv4     2 "...)
		}
	}
	n := len(b)
	name := ProtoName(k.Proto)
	if k.Proto == packet.ProtoDCCP && f == FormatProc {
		name = "unknown"
	}
	b = append(b, name...)
	for len(b) < n+8 {
		b = append(b, ' ')
	}
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(k.Proto), 10)
	b = append(b, ' ')
	if l.timeout == Visible {
		b = strconv.AppendUint(b, uint64(i.Left/1000), 10)
		b = append(b, ' ')
	}
	if name := i.StateName(); name != "" && l.state == Visible {
		b = append(b, name...)
		b = append(b, ' ')
	}
	if k.Proto == packet.ProtoGRE && f == FormatProc {
		b = appendNumber(b, "timeout=", uint64(i.Timeout/1000))
		b[len(b)-1] = ','
		b = append(b, ' ')
		b = appendNumber(b, "stream_timeout=", uint64(i.StreamTimeout/1000))
	}
	b = i.appendTuple(b, Original, f, l.counts)
	if i.Status&StatusSeenReply == 0 {
		b = append(b, "[UNREPLIED] "...)
	}
	b = i.appendTuple(b, Reply, f, l.counts)
	if i.Status&StatusAssured != 0 {
		b = append(b, "[ASSURED] "...)
	}
	if l.mark == Visible || i.Mark != 0 {
		b = appendNumber(b, "mark=", uint64(i.Mark))
	}
	if k.Zone != 0 || f == FormatProc {
		b = appendNumber(b, "zone=", uint64(k.Zone))
	}
	if i.HasAge && l.counts == Visible {
		b = appendNumber(b, "delta-time=", i.Age/1000)
		if s.Times == Visible {
			b = s.start(i).AppendFormat(b, "[start=Mon Jan _2 15:04:05 2006] ")
			if l.end == Visible {
				b = s.Now.AppendFormat(b, "[stop=Mon Jan _2 15:04:05 2006] ")
			}
		}
	}
	if f == FormatProc {
		return append(b, "use=2"...)
	}
	if i.Helper != HelperNone && l.end == Hidden {
		b = append(b, "helper="...)
		b = append(b, i.Helper.String()...)
		b = append(b, ' ')
	}
	if l.use == Visible {
		b = append(b, "use=1 "...)
	}
	if s.ID == Visible {
		b = appendNumber(b, "id=", uint64(i.ID))
	}
	if s.Labels != nil && i.Labels != (Labels{}) {
		b = append(b, "labels="...)
		b = s.appendLabels(b, i, ",", "")
		b = append(b, ' ')
	}
	return b[:len(b)-1]
}

// start returns when a connection began.
func (s *Style) start(i *Info) time.Time { return s.Now.Add(-time.Duration(i.Age) * time.Millisecond) }

// appendLabels appends the names of the connection's labels, with between between two and around each: "" or an XML element.
func (s *Style) appendLabels(b []byte, i *Info, between, around string) []byte {
	first := true
	for n, name := range s.Labels {
		if name == "" || !i.Labels.Has(n) {
			continue
		}
		if !first {
			b = append(b, between...)
		}
		first = false
		if around == "" {
			b = append(b, name...)
		} else {
			b = appendElement(b, around, name)
		}
	}
	return b
}

// AppendSave appends an entry in the conntrack tool's own syntax, without a newline, to b and returns it: the line of
// `conntrack -L -o save`, which `conntrack -R` reads (ct_save_snprintf, src/conntrack.c of conntrack-tools 1.4.7). It has
// what the tool says and nothing more: neither mark nor labels.
func (i *Info) AppendSave(b []byte) []byte {
	return i.appendSave(append(b, "-A "...), line{timeout: Visible, state: Visible})
}

// AppendSave appends an event in the conntrack tool's own syntax, without a newline, to b and returns it.
func (e *Event) AppendSave(b []byte) []byte {
	b = append(b, [...]string{EventNew: "-A ", EventUpdate: "-U ", EventDestroy: "-D "}[e.Kind]...)
	return e.Info.appendSave(b, e.line())
}

// appendSave appends the options.
func (i *Info) appendSave(b []byte, l line) []byte {
	word := func(name string, v uint64) {
		b = append(b, name...)
		b = append(b, ' ')
		b = strconv.AppendUint(b, v, 10)
		b = append(b, ' ')
	}
	if l.timeout == Visible {
		word("-t", uint64(i.Left/1000))
	}
	b = append(b, "-u "...)
	n := len(b)
	for _, s := range [...]struct {
		bit  uint32
		name string
	}{{StatusExpected, "EXPECTED,"}, {StatusSeenReply, "SEEN_REPLY,"}, {StatusAssured, "ASSURED,"}, {StatusFixedTimeout, "FIXED_TIMEOUT,"}} {
		if i.Status&s.bit != 0 {
			b = append(b, s.name...)
		}
	}
	if len(b) == n {
		b = append(b, "UNSET "...)
	} else {
		b[len(b)-1] = ' '
	}
	if i.Key.Zone != 0 {
		word("-w", uint64(i.Key.Zone))
	}
	o, r := i.Tuple(Original), i.Tuple(Reply)
	for _, a := range [...]struct {
		name string
		addr netip.Addr
	}{{"-s ", o.Src}, {"-d ", o.Dst}, {"-r ", r.Src}, {"-q ", r.Dst}} {
		b = append(b, a.name...)
		b = a.addr.AppendTo(b)
		b = append(b, ' ')
	}
	b = append(b, "-p "...)
	name := ProtoName(i.Key.Proto)
	if name == "unknown" {
		name = strconv.Itoa(int(i.Key.Proto))
	}
	b = append(b, name...)
	b = append(b, ' ')
	switch i.Key.Proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoUDPLite, packet.ProtoSCTP, packet.ProtoDCCP:
		word("--sport", uint64(o.SrcPort))
		word("--dport", uint64(o.DstPort))
		word("--reply-port-src", uint64(r.SrcPort))
		word("--reply-port-dst", uint64(r.DstPort))
	case packet.ProtoICMP:
		word("--icmp-type", uint64(o.Type))
		word("--icmp-code", uint64(o.Code))
		word("--icmp-id", uint64(o.ID))
	case packet.ProtoICMPv6:
		word("--icmpv6-type", uint64(o.Type))
		word("--icmpv6-code", uint64(o.Code))
		word("--icmpv6-id", uint64(o.ID))
	case packet.ProtoGRE:
		word("--srckey", uint64(o.SrcPort))
		word("--dstkey", uint64(o.DstPort))
		word("--reply-key-src", uint64(r.SrcPort))
		word("--reply-key-dst", uint64(r.DstPort))
	}
	if name := i.StateName(); name != "" && l.state == Visible {
		b = append(b, "--state "...)
		b = append(b, name...)
		b = append(b, ' ')
	}
	if i.Key.Proto == packet.ProtoSCTP && l.state == Visible {
		word("--orig-vtag", uint64(i.Tags[Original]))
		word("--reply-vtag", uint64(i.Tags[Reply]))
	}
	return b[:len(b)-1]
}
