package packet

// Class says what the link layer carries, as far as the wire treats it differently.
type Class uint8

const (
	ClassIPv4  Class = iota // tracked and judged by the rules
	ClassIPv6               // tracked and judged by the rules
	ClassARP                // EtherType 0x0806, RFC 826
	ClassLLDP               // 0x88cc, IEEE 802.1AB
	ClassSTP                // LLC 0x42 or a bridge group address, IEEE 802.1D
	ClassLACP               // slow protocols, 0x8809, IEEE 802.3
	ClassEAPOL              // 0x888e, IEEE 802.1X
	ClassOther              // any other frame that is not IP
	Classes                 // number of classes
)

// Flags are facts about a packet found while parsing.
type Flags uint16

const (
	// Flipped: the packet runs from Key.B to Key.A. For an ICMP error it tells how the quoted packet ran.
	Flipped Flags = 1 << iota
	// Fragment: an IPv4 or IPv6 fragment (not an IPv6 atomic fragment, RFC 6946, which is a whole datagram... but
	// the kernel tracks it as one too). Key holds addresses and protocol only; IPID, FragOff, FragLast are valid.
	Fragment
	// FragLast: no more fragments follow (MF clear).
	FragLast
	// ICMPError: an ICMP or ICMPv6 error that quotes a packet. Key is the quoted packet's flow.
	ICMPError
	// NoTrack: neighbour discovery, router discovery and MLD (nf_conntrack_proto_icmpv6.c): UNTRACKED.
	NoTrack
	// PortsValid: SrcPort and DstPort were read from a complete transport header.
	PortsValid
)

// Packet is the parse of one frame, made once by Parse and reused for the next frame.
//
// Offsets are into Frame. All numbers are in host byte order.
type Packet struct {
	Key  Key    // canonical flow key; see Key. Zone is 0 unless set by the caller after Parse
	Hash uint64 // keyed hash of Key; written by the flow table's owner, not by Parse

	Src, Dst Addr // addresses of the (outermost) IP header as on the wire

	Frame []byte // the whole frame, aliasing pool memory

	L3   uint16 // offset of the IP header
	L4   uint16 // offset of the transport header, behind IPv6 extension headers
	End  uint16 // offset one past the IP datagram: link-layer padding lies behind it
	VLAN uint16 // outermost VLAN id (12 bits); 0 when untagged

	SrcPort, DstPort uint16 // TCP, UDP, UDPLite, SCTP, DCCP; 0 for others
	FragOff          uint16 // fragment offset in bytes
	FragHdr          uint16 // IPv6: offset of the fragment header; 0 for IPv4
	IPID             uint32 // IPv4 identification (16 bits) or IPv6 fragment identification

	Flags    Flags
	Class    Class
	Family   uint8 // 4 or 6; 0 when not IP
	Proto    uint8 // transport protocol number behind extension headers
	TCPFlags uint8 // the TCP flag byte (CWR ECE URG ACK PSH RST SYN FIN); 0 otherwise
	ICMPType uint8 // ICMP and ICMPv6 type
	ICMPCode uint8 // ICMP and ICMPv6 code
	TTL      uint8 // TTL or hop limit
	TOS      uint8 // TOS or traffic class
	Problem  Problem
	In       Port // port the frame arrived on; written by the worker before Parse, kept by Parse
}
