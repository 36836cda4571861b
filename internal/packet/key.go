package packet

// Addr is an IPv6 address, or an IPv4 one in the form ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2), as two
// big-endian-read words: comparison and hashing need no loops, and one form serves both families.
type Addr struct{ Hi, Lo uint64 }

// Key is the canonical key of a flow: both directions of a connection have the same Key.
//
// TCP, UDP, UDPLite, SCTP, DCCP: A is the end with the lower (Addr, Port). ICMP and ICMPv6 queries: A is the
// end that asks, APort the identifier, BPort the *request's* type<<8 | code; a reply is Flipped.
// GRE version 1 (PPTP): A is the lower Addr, the ports are 0 for version 0; call ids are the tracker's business.
// Others and fragments: A is the lower Addr, ports 0. Packet.Flipped says whether the packet ran from B to A.
//
// 40 bytes without padding, so that == compares memory and five words hash it.
type Key struct {
	A, B         Addr
	APort, BPort uint16
	Zone         uint16
	Proto        uint8
	Family       uint8 // 4 or 6
}
