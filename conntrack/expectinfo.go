package conntrack

import (
	"net/netip"
	"strconv"

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
	Left             uint32 // ms until it expires, at least 1

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
		t := s.tuple()
		out[n] = ExpectInfo{
			Src: t.src, Dst: t.dst, SrcPort: t.sport(), DstPort: t.dport(), AnySrc: f&expectAnySrc != 0, AnyPort: f&expectAnyPt != 0,
			Zone: t.zone(), Proto: t.proto(), Family: t.family(), Flags: f & (ExpectPermanent | ExpectInactive),
			Class: s.class, Helper: s.helper, Left: uint32(when) - uint32(now),
			Master: s.master, MasterFlipped: s.masterFlipped != 0,
		}
		n++
	}
	return n, 0
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

// AppendLine appends the expectation's line, without a newline, to b and returns it: as `conntrack -L expect` prints it
// (FormatConntrack, FormatExtended), or as /proc/net/nf_conntrack_expect does (FormatProc).
func (i *ExpectInfo) AppendLine(b []byte, f Format) []byte {
	src, dst := i.addr(i.Src), i.addr(i.Dst)
	if i.AnySrc {
		src = netip.IPv4Unspecified()
		if i.Family == 6 {
			src = netip.IPv6Unspecified()
		}
	}
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
	b = i.appendPair(b, "", src, dst, i.SrcPort, i.DstPort, i.Proto, f)
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
	ones := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if i.Family == 6 {
		ones = i.addr(packet.Addr{Hi: ^uint64(0), Lo: ^uint64(0)})
	}
	maskSrc, maskPort := ones, uint16(0xffff)
	if i.AnySrc {
		maskSrc = src // all zero
	}
	if i.AnyPort {
		maskPort = 0
	}
	b = i.appendPair(b, "mask-", maskSrc, ones, maskPort, 0xffff, i.Proto, f)
	m := Info{Key: i.Master, Flipped: i.MasterFlipped}
	t := m.Tuple(Original)
	b = i.appendPair(b, "master-", t.Src, t.Dst, t.SrcPort, t.DstPort, i.Master.Proto, f)
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

// appendPair appends two addresses and ports, or GRE's keys, with a space behind each field.
func (i *ExpectInfo) appendPair(b []byte, prefix string, src, dst netip.Addr, sport, dport uint16, proto uint8, f Format) []byte {
	b = append(b, prefix...)
	b = append(b, "src="...)
	b = appendAddr(b, src, f)
	b = append(b, ' ')
	b = append(b, prefix...)
	b = append(b, "dst="...)
	b = appendAddr(b, dst, f)
	b = append(b, ' ')
	if proto == packet.ProtoGRE {
		b = append(b, "srckey=0x"...)
		b = strconv.AppendUint(b, uint64(sport), 16)
		b = append(b, " dstkey=0x"...)
		b = strconv.AppendUint(b, uint64(dport), 16)
		return append(b, ' ')
	}
	b = appendNumber(b, "sport=", uint64(sport))
	return appendNumber(b, "dport=", uint64(dport))
}
