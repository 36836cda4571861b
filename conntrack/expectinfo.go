package conntrack

import (
	"net/netip"
	"strconv"
	"strings"

	"corewire/internal/packet"
)

// ExpectInfo is one expectation as a listing shows it. It is a value of its own.
type ExpectInfo struct {
	Src, Dst         packet.Addr // the connection that is expected
	SrcPort, DstPort uint16
	AnySrc           bool // the source address is not compared; Src is zero
	AnyPort          bool // the source port is not compared; SrcPort is 0
	Zone             uint16
	Proto            uint8
	Family           uint8
	Flags            uint8 // ExpectPermanent, ExpectInactive
	Class            uint8 // of the helper's classes
	Helper           Helper
	Left             uint32 // ms until it expires, at least 1; 0 in the event of one that has

	Master        packet.Key // the connection that expects
	MasterFlipped bool       // its original direction runs from Master.B to Master.A
}

// List copies expectations to out, from the place that cursor names (0 to begin), and returns how many they are and the
// cursor to go on with; 0 when the listing is complete. Expired ones are left out. Each call looks at no more than
// eight times len(out) slots and holds the lock meanwhile. It may be called from any goroutine.
func (x *Expectations) List(cursor uint32, out []ExpectInfo, now Tick) (n int, next uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := max(cursor, 1); i < x.top; i++ {
		if n == len(out) || i-cursor >= uint32(8*len(out)) {
			return n, i
		}
		s := &x.slots[i]
		when := s.when.Load()
		f := expectFlags(when)
		if f&(expectUsed|expectCall) != expectUsed || expectExpired(when, now) {
			continue
		}
		out[n] = x.info(s, now)
		n++
	}
	return n, 0
}

// info describes an expectation.
func (x *Expectations) info(s *expectSlot, now Tick) ExpectInfo {
	t, when := s.tuple(), s.when.Load()
	f := expectFlags(when)
	return ExpectInfo{
		Src: t.src, Dst: t.dst, SrcPort: t.sport(), DstPort: t.dport(), AnySrc: f&expectAnySrc != 0, AnyPort: f&expectAnyPt != 0,
		Zone: t.zone(), Proto: t.proto(), Family: t.family(), Flags: f & (ExpectPermanent | ExpectInactive),
		Class: s.class, Helper: s.helper, Left: uint32(max(0, int32(uint32(when)-uint32(now)))),
		Master: s.master, MasterFlipped: s.masterFlipped != 0,
	}
}

// Delete removes expectations that match (all, if match is nil) and copies them to out, cut into slices like List. match
// is called under the lock. PPTP calls stay, as in Linux.
func (x *Expectations) Delete(cursor uint32, out []ExpectInfo, match func(*ExpectInfo) bool, now Tick) (n int, next uint32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now = now
	for i := max(cursor, 1); i < x.top; i++ {
		if n == len(out) || i-cursor >= uint32(8*len(out)) {
			return n, i
		}
		s := &x.slots[i]
		if when := s.when.Load(); expectFlags(when)&(expectUsed|expectCall) != expectUsed || expectExpired(when, now) {
			continue
		}
		out[n] = x.info(s, now)
		if match == nil || match(&out[n]) {
			x.unlink(i)
			n++
		}
	}
	return n, 0
}

// ExpectEvent is a connection that is expected from now on (EventNew), or no longer (EventDestroy): because it came, its
// time is over, or its master has gone. A new deadline is no event, as in Linux (IPEXP_NEW and IPEXP_DESTROY are all that
// enum ip_conntrack_expect_events has, include/uapi/linux/netfilter/nf_conntrack_common.h).
type ExpectEvent struct {
	Kind EventKind
	At   Tick // when it happened, some ms ago at most
	Info ExpectInfo
}

// ExpectSink takes events under the store's lock: Push takes those that it has room for, returns how many they are, keeps
// nothing of the slice and does not wait. Calls come from all shards, one at a time.
type ExpectSink interface {
	Push([]ExpectEvent) int
}

// Listen has every event from now on pushed to sink; nil ends that. It may be called from any goroutine.
func (x *Expectations) Listen(sink ExpectSink) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sink = sink
}

// tell pushes one event.
func (x *Expectations) tell(kind EventKind, ref uint32) {
	if x.sink == nil {
		return
	}
	x.event[0] = ExpectEvent{Kind: kind, At: x.now, Info: x.info(&x.slots[ref], x.now)}
	x.sink.Push(x.event[:])
}

// Flush removes all expectations (conntrack -F expect) and returns how many they were. PPTP calls stay. It may be called
// from any goroutine; it takes up to some milliseconds, during which announcements wait.
func (x *Expectations) Flush() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	for i := uint32(1); i < x.top; i++ {
		if expectFlags(x.slots[i].when.Load())&(expectUsed|expectCall) == expectUsed {
			x.unlink(i)
			n++
		}
	}
	return n
}

// AppendEvent appends an event's line as `conntrack -E expect` prints it, without a newline, to b and returns it.
func (e *ExpectEvent) AppendEvent(b []byte, f Format) []byte {
	return e.Info.AppendLine(appendKind(b, e.Kind), f)
}

// The XML form of `conntrack -L expect -o xml` (libnetfilter_conntrack, expect/snprintf_xml.c): a document is
// ExpectXMLHead, a line for each expectation or event, ExpectXMLTail.
const (
	ExpectXMLHead = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<expect>\n"
	ExpectXMLTail = "</expect>\n"
)

// AppendXML appends the expectation as an XML element, without a newline, to b and returns it.
func (i *ExpectInfo) AppendXML(b []byte) []byte {
	return i.appendFlow(append(b, "<flow>"...))
}

// AppendEventXML appends an event as an XML element, without a newline, to b and returns it.
func (e *ExpectEvent) AppendEventXML(b []byte) []byte {
	b = append(b, `<flow type="`...)
	b = append(b, strings.ToLower(e.Kind.String())...)
	return e.Info.appendFlow(append(b, `">`...))
}

// appendFlow appends what is within a flow element, and its end.
func (i *ExpectInfo) appendFlow(b []byte) []byte {
	parts := i.parts()
	if i.Family == 6 {
		b = append(b, `<layer3 protonum="10" protoname="ipv6">`...)
	} else {
		b = append(b, `<layer3 protonum="2" protoname="ipv4">`...)
	}
	names := [...]string{"expected", "mask", "master"}
	for n, p := range parts {
		b = append(b, '<')
		b = append(b, names[n]...)
		b = append(b, "><src>"...)
		b = p.src.AppendTo(b)
		b = append(b, "</src><dst>"...)
		b = p.dst.AppendTo(b)
		b = append(b, "</dst></"...)
		b = append(b, names[n]...)
		b = append(b, '>')
	}
	b = append(b, `</layer3><layer4 protonum="`...)
	b = strconv.AppendUint(b, uint64(i.Proto), 10)
	b = append(b, `" protoname="`...)
	b = append(b, ProtoName(i.Proto)...)
	b = append(b, `">`...)
	for n, p := range parts {
		b = append(b, '<')
		b = append(b, names[n]...)
		b = append(b, '>')
		if p.proto == packet.ProtoGRE {
			b = append(b, "<srckey>0x"...)
			b = strconv.AppendUint(b, uint64(p.sport), 16)
			b = append(b, "</srckey><dstkey>0x"...)
			b = strconv.AppendUint(b, uint64(p.dport), 16)
			b = append(b, "</dstkey>"...)
		} else {
			b = appendCount(b, "sport", uint64(p.sport))
			b = appendCount(b, "dport", uint64(p.dport))
		}
		b = append(b, "</"...)
		b = append(b, names[n]...)
		b = append(b, '>')
	}
	b = append(b, "</layer4><meta>"...)
	b = appendElement(b, "helper-name", i.Helper.String())
	b = appendCount(b, "timeout", uint64(i.Left/1000))
	b = appendCount(b, "class", uint64(i.Class))
	if i.Zone != 0 {
		b = appendCount(b, "zone", uint64(i.Zone))
	}
	if i.Flags&ExpectPermanent != 0 {
		b = append(b, "<permanent/>"...)
	}
	if i.Flags&ExpectInactive != 0 {
		b = append(b, "<inactive/>"...)
	}
	return append(b, "</meta></flow>"...)
}

// expectPart is one of the three tuples of an expectation as listings show it.
type expectPart struct {
	src, dst     netip.Addr
	sport, dport uint16
	proto        uint8
}

// parts returns the expected tuple, its mask, and the master's original direction.
func (i *ExpectInfo) parts() [3]expectPart {
	p := expectPart{i.addr(i.Src), i.addr(i.Dst), i.SrcPort, i.DstPort, i.Proto}
	ones := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	zero := netip.IPv4Unspecified()
	if i.Family == 6 {
		ones, zero = i.addr(packet.Addr{Hi: ^uint64(0), Lo: ^uint64(0)}), netip.IPv6Unspecified()
	}
	mask := expectPart{ones, ones, 0xffff, 0xffff, i.Proto}
	if i.AnySrc {
		p.src, mask.src = zero, zero
	}
	if i.AnyPort {
		mask.sport = 0
	}
	m := Info{Key: i.Master, Flipped: i.MasterFlipped}
	t := m.Tuple(Original)
	return [3]expectPart{p, mask, {t.Src, t.Dst, t.SrcPort, t.DstPort, i.Master.Proto}}
}

// AppendLine appends the expectation's line, without a newline, to b and returns it: as `conntrack -L expect` prints it
// (FormatConntrack, FormatExtended), or as /proc/net/nf_conntrack_expect does (FormatProc).
func (i *ExpectInfo) AppendLine(b []byte, f Format) []byte {
	parts := i.parts()
	b = strconv.AppendUint(b, uint64(i.Left/1000), 10)
	if f == FormatProc {
		b = append(b, " l3proto = "...)
		l3 := uint64(2) // AF_INET
		if i.Family == 6 {
			l3 = 10 // AF_INET6
		}
		b = strconv.AppendUint(b, l3, 10)
	}
	b = append(b, ' ')
	b = appendNumber(b, "proto=", uint64(i.Proto))
	b = parts[0].append(b, "", f)
	if f == FormatProc {
		b = i.appendFlags(b)
		if i.Flags != 0 {
			b = append(b, ' ')
		}
		b = append(b, i.Helper.String()...)
		if c := helpers[i.Helper].class[i.Class]; c != "" {
			b = append(b, '/')
			b = append(b, c...)
		}
		return b
	}
	b = parts[1].append(b, "mask-", f)
	b = parts[2].append(b, "master-", f)
	if i.Zone != 0 {
		b = appendNumber(b, "zone=", uint64(i.Zone))
	}
	if i.Flags != 0 {
		b = append(i.appendFlags(b), ' ')
	}
	b = appendNumber(b, "class=", uint64(i.Class))
	b = append(b, "helper="...)
	return append(b, i.Helper.String()...)
}

// addr returns an address of the expectation's family.
func (i *ExpectInfo) addr(a packet.Addr) netip.Addr {
	if i.Family == 6 {
		return a.Netip6()
	}
	return a.Netip()
}

// appendFlags appends the names of the flags.
func (i *ExpectInfo) appendFlags(b []byte) []byte {
	if i.Flags&ExpectPermanent != 0 {
		b = append(b, "PERMANENT"...)
	}
	if i.Flags&ExpectInactive != 0 {
		if i.Flags&ExpectPermanent != 0 {
			b = append(b, ',')
		}
		b = append(b, "INACTIVE"...)
	}
	return b
}

// append appends two addresses and ports, or GRE's keys, with a space behind each field.
func (p *expectPart) append(b []byte, prefix string, f Format) []byte {
	b = append(b, prefix...)
	b = append(b, "src="...)
	b = appendAddr(b, p.src, f)
	b = append(b, ' ')
	b = append(b, prefix...)
	b = append(b, "dst="...)
	b = appendAddr(b, p.dst, f)
	b = append(b, ' ')
	if p.proto == packet.ProtoGRE {
		b = append(b, "srckey=0x"...)
		b = strconv.AppendUint(b, uint64(p.sport), 16)
		b = append(b, " dstkey=0x"...)
		b = strconv.AppendUint(b, uint64(p.dport), 16)
		return append(b, ' ')
	}
	b = appendNumber(b, "sport=", uint64(p.sport))
	return appendNumber(b, "dport=", uint64(p.dport))
}
