package packet

// Class says what the link layer carries, as far as the wire treats it differently.
type Class uint8

const (
	ClassIPv4  Class = iota // tracked and judged by the rules
	ClassIPv6               // tracked and judged by the rules
	ClassARP                // EtherType 0x0806, RFC 826
	ClassLLDP               // 0x88cc, IEEE 802.1AB
	ClassSTP                // LLC 0x42 or a bridge group address, IEEE 802.1D; Cisco's PVST+ too
	ClassLACP               // slow protocols, 0x8809, IEEE 802.3
	ClassEAPOL              // 0x888e, IEEE 802.1X
	ClassOther              // any other frame that is not IP, PPPoE and MPLS too; frames shorter than a header
	Classes                 // number of classes
)

// classNames are the spellings of the classes in settings and metrics.
var classNames = [Classes]string{"ipv4", "ipv6", "arp", "lldp", "stp", "lacp", "eapol", "other"}

// String returns the class's spelling in settings and metrics.
func (c Class) String() string {
	if c < Classes {
		return classNames[c]
	}
	return "unknown"
}

// Flags are facts about a packet found while parsing.
type Flags uint16

const (
	// Flipped: the packet runs from Key.B to Key.A. For an ICMP error it tells how the quoted packet ran.
	Flipped Flags = 1 << iota
	// Fragment: an IPv4 or IPv6 fragment that has to wait for the others of its datagram. Key holds addresses and
	// protocol only, no port is read; IPID, FragOff, FragLast, and FragHdr for IPv6, are valid, and L4 is where the
	// fragment's payload starts. For IPv6 Proto is the fragment header's next header, which may be a further
	// extension header.
	//
	// Not a Fragment is what nf_ct_frag6_gather does not hold either. An IPv6 atomic fragment (offset 0, no more
	// fragments; RFC 6946) it completes at once and tracks as the datagram that it is. A first IPv6 fragment that ends
	// before its transport header does (RFC 8200 section 4.5), and any but the last whose payload is no multiple of 8
	// bytes, it hands on as they are: they are parsed as if they were whole, which for TCP, UDP and ICMPv6 headers cut
	// off, and for an offset, ends in a Problem. All of them have FragHdr and IPID set, if the fragment header is whole.
	Fragment
	// FragLast: no more fragments follow (MF clear). Only with Fragment.
	FragLast
	// ICMPError: an ICMP or ICMPv6 error that quotes a packet. Key is the quoted packet's flow.
	ICMPError
	// NoTrack: neighbour discovery, router discovery and MLD (nf_conntrack_proto_icmpv6.c): UNTRACKED.
	NoTrack
	// PortsValid: SrcPort and DstPort were read from a complete transport header.
	PortsValid
	// Untracked: the raw table asked for no tracking. Set by the worker after Parse.
	Untracked
	// LateHopByHop: hop-by-hop options that are wrong, but in a place that Linux looks at only in the FORWARD hook, where
	// br_nf_forward_ip (net/bridge/br_netfilter_hooks.c) calls br_validate_ipv6 once more: options beyond the payload that
	// the first call cut off, or behind a fragment header that reassembly took out. The packet goes through the raw table
	// and changes its connection, and is then dropped before any rule of the filter table.
	LateHopByHop
	// BrokenChain: IPv6 extension headers that cannot be followed to their end (ipv6_find_hdr, net/ipv6/exthdrs_core.c,
	// which looks closer than ipv6_skip_exthdr of connection tracking): any rule that asks for a protocol drops the packet
	// (ip6_packet_match, net/ipv6/netfilter/ip6_tables.c). Proto is what connection tracking found.
	BrokenChain
	// LaterFragment: an IPv6 packet whose chain of headers leads to a fragment header with an offset, though it is not a
	// Fragment to be held. Proto is what that header names; no match finds a transport header in it.
	LaterFragment
	// Marked: the raw table gave the packet a mark, so that no cached verdict is for it. Set by the worker after Parse.
	Marked
)

// Packet is the parse of one frame, made once by Parse and reused for the next frame.
//
// Offsets are into Frame. All numbers are in host byte order. The caller sets Frame and In before Parse, which writes
// every other field. A Packet aliases its frame and is valid as long as the frame is.
//
// The order is by use: the flow table reads the first 56 bytes, the rules what follows.
type Packet struct {
	Key  Key    // canonical flow key; see Key. Zone is 0 unless set by the caller after Parse
	Hash uint64 // keyed hash of Key; written by the flow table's owner; 0 after Parse
	Hint uint64 // where the flow table looks first; written by it alone; 0 after Parse, and for a packet that it probably does not know

	Src, Dst Addr // addresses of the (outermost) IP header as on the wire

	Frame []byte // the whole frame, aliasing pool memory

	L3  uint32 // offset of the IP header
	L4  uint32 // offset of the transport header, behind IPv6 extension headers; L3 <= L4 <= End
	End uint32 // offset one past the IP datagram: link-layer padding lies behind it; End <= len(Frame)

	IPID    uint32 // IPv4 identification (16 bits) or IPv6 fragment identification
	FragHdr uint32 // IPv6: offset of the first fragment header, 0 without one; 0 for IPv4

	SrcPort, DstPort uint16 // TCP, UDP, UDPLite, SCTP, DCCP where PortsValid; 0 otherwise
	FragOff          uint16 // fragment offset in bytes, a multiple of 8
	VLAN             uint16 // outermost VLAN id (12 bits); 0 when untagged

	Flags    Flags
	Class    Class
	Family   uint8 // 4 or 6; 0 when not IP
	ICMPType uint8 // ICMP and ICMPv6 type
	ICMPCode uint8 // ICMP and ICMPv6 code
	TCPFlags uint8 // the TCP flag byte (CWR ECE URG ACK PSH RST SYN FIN); 0 otherwise
	Problem  Problem
	Proto    uint8 // transport protocol number behind extension headers
	TTL      uint8 // TTL or hop limit
	TOS      uint8 // TOS or traffic class
	In       Port  // port the frame arrived on; written by the worker before Parse, kept by Parse
}

// Is reports whether every flag of f is set.
func (p *Packet) Is(f Flags) bool { return p.Flags&f == f }

// Transport returns the bytes of the datagram from the transport header on, without link-layer padding.
func (p *Packet) Transport() []byte { return p.Frame[p.L4:p.End] }
