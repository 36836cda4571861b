package conntrack

import (
	"net/netip"
	"strconv"

	"corewire/internal/packet"
)

// Info is one entry as a listing shows it. It is a value of its own: the entry may be gone when it is read.
type Info struct {
	Key     packet.Key
	Flipped bool   // the original direction runs from Key.B to Key.A
	State   uint8  // TCP and SCTP: the protocol's state
	Status  uint32 // Status… bits
	Mark    uint32
	Left    uint32 // ms until the entry expires, at least 1

	ID          uint32 // names the connection in listings; the same for a later one with the same tuple
	Labels      Labels
	HasCounters bool // Packets and Bytes are valid (nf_conntrack_acct was on when the connection began)
	HasAge      bool // Age is valid (nf_conntrack_timestamp was on when the connection began)
	Packets     [2]uint64
	Bytes       [2]uint64 // of IP datagrams
	Age         uint64    // ms since the connection began

	Tags                   [2]uint32 // SCTP: the verification tags that packets of each direction carry; 0: not known
	Timeout, StreamTimeout uint32    // GRE: the connection's own timeouts before and after a reply, in ms

	In packet.Port // the port that its first packet came in on

	Helper        Helper     // HelperNone: none
	Master        packet.Key // StatusExpected: the connection that expected this one; it may be gone
	MasterFlipped bool       // the master's original direction runs from Master.B to Master.A
}

// MasterTuple returns the original direction of the connection that expected this one; false if there was none.
func (i *Info) MasterTuple() (Tuple, bool) {
	if i.Status&StatusExpected == 0 || i.Master.Family == 0 {
		return Tuple{}, false
	}
	m := Info{Key: i.Master, Flipped: i.MasterFlipped}
	return m.Tuple(Original), true
}

// Tuple is one direction of a connection as a listing shows it.
type Tuple struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16 // TCP, UDP, UDPLite, SCTP; GRE: the keys
	ID               uint16 // ICMP, ICMPv6
	Type, Code       uint8  // ICMP, ICMPv6
}

// Tuple returns the connection's tuple in one direction.
func (i *Info) Tuple(d Dir) Tuple {
	k := &i.Key
	a, b := k.A.Netip(), k.B.Netip()
	if k.Family == 6 {
		a, b = k.A.Netip6(), k.B.Netip6()
	}
	t := Tuple{Src: a, Dst: b, SrcPort: k.APort, DstPort: k.BPort}
	if i.Flipped != (d == Reply) {
		t.Src, t.Dst, t.SrcPort, t.DstPort = b, a, k.BPort, k.APort
	}
	if id, typ, code, ok := k.Query(); ok {
		t.SrcPort, t.DstPort = 0, 0
		t.ID, t.Type, t.Code = id, typ, code
		if d == Reply {
			t.Type = replyType(typ)
		}
	}
	return t
}

// replyType returns the ICMP or ICMPv6 type that answers a request (invmap in nf_conntrack_proto_icmp.c and
// nf_conntrack_proto_icmpv6.c).
func replyType(request uint8) uint8 {
	if request == 8 {
		return 0
	}
	return request + 1
}

// Zone returns the connection's zone.
func (i *Info) Zone() uint16 { return i.Key.Zone }

// StateName returns the protocol state as the kernel prints it; "" for protocols without states.
func (i *Info) StateName() string {
	switch i.Key.Proto {
	case packet.ProtoTCP:
		if int(i.State) < len(tcpStateNames) {
			return tcpStateNames[i.State]
		}
	case packet.ProtoSCTP:
		if int(i.State) < len(sctpStateNames) {
			return sctpStateNames[i.State]
		}
	}
	return ""
}

// ProtoName returns the transport protocol's name as conntrack-tools and the kernel print it; "unknown" for those
// without one (l4proto_name, net/netfilter/nf_conntrack_standalone.c). DCCP has one in conntrack-tools only: Linux 6.16
// removed its tracker.
func ProtoName(proto uint8) string {
	switch proto {
	case packet.ProtoICMP:
		return "icmp"
	case packet.ProtoTCP:
		return "tcp"
	case packet.ProtoUDP:
		return "udp"
	case packet.ProtoDCCP:
		return "dccp"
	case packet.ProtoGRE:
		return "gre"
	case packet.ProtoSCTP:
		return "sctp"
	case packet.ProtoUDPLite:
		return "udplite"
	case packet.ProtoICMPv6:
		return "icmpv6"
	}
	return "unknown"
}

// Format is a form of an entry's line.
type Format uint8

const (
	// FormatConntrack is what `conntrack -L` prints.
	FormatConntrack Format = iota
	// FormatExtended is what `conntrack -L -o extended` prints: the network protocol first.
	FormatExtended
	// FormatProc is /proc/net/nf_conntrack: as extended, but IPv6 addresses are not shortened, the zone is always shown,
	// GRE's own timeouts are, and the reference that the reader holds is counted.
	FormatProc
)

// AppendLine appends the entry's line, without a newline, to b and returns it.
func (i *Info) AppendLine(b []byte, f Format) []byte {
	s := Style{Format: f}
	return s.AppendLine(b, i)
}

// appendNumber appends name, n and a space.
func appendNumber(b []byte, name string, n uint64) []byte {
	b = append(b, name...)
	b = strconv.AppendUint(b, n, 10)
	return append(b, ' ')
}

// appendTuple appends one direction and its counters, with a space behind each field.
func (i *Info) appendTuple(b []byte, d Dir, f Format, counts Shown) []byte {
	t := i.Tuple(d)
	b = append(b, "src="...)
	b = appendAddr(b, t.Src, f)
	b = append(b, " dst="...)
	b = appendAddr(b, t.Dst, f)
	b = append(b, ' ')
	switch i.Key.Proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoUDPLite, packet.ProtoSCTP:
		b = appendNumber(b, "sport=", uint64(t.SrcPort))
		b = appendNumber(b, "dport=", uint64(t.DstPort))
	case packet.ProtoDCCP:
		if f != FormatProc {
			b = append(b, "sport=0 dport=0 "...)
		}
	case packet.ProtoICMP, packet.ProtoICMPv6:
		b = appendNumber(b, "type=", uint64(t.Type))
		b = appendNumber(b, "code=", uint64(t.Code))
		b = appendNumber(b, "id=", uint64(t.ID))
	case packet.ProtoGRE:
		b = append(b, "srckey=0x"...)
		b = strconv.AppendUint(b, uint64(t.SrcPort), 16)
		b = append(b, " dstkey=0x"...)
		b = strconv.AppendUint(b, uint64(t.DstPort), 16)
		b = append(b, ' ')
	}
	if i.HasCounters && counts == Visible {
		b = appendNumber(b, "packets=", i.Packets[d])
		b = appendNumber(b, "bytes=", i.Bytes[d])
	}
	return b
}

// appendAddr appends an address in the form's spelling.
func appendAddr(b []byte, a netip.Addr, f Format) []byte {
	if f == FormatProc && a.Is6() {
		return append(b, a.StringExpanded()...)
	}
	return a.AppendTo(b)
}
