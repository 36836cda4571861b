// Package packet parses a frame once into a Packet: what the link layer carries, where the IP and transport headers are,
// which flow the packet belongs to, and what is wrong with it.
//
// # What decides
//
// The rules must see the states that they would see on a Linux bridge with net.bridge.bridge-nf-call-iptables=1. So the
// parser follows the kernel where the RFCs leave room: br_validate_ipv4 and br_validate_ipv6 for packets that are dropped
// before any rule (Problem.Header), nf_ct_frag6_gather for what counts as a fragment, ipv6_skip_exthdr for the way to
// the transport header, and the trackers of nf_conntrack for INVALID packets, UNTRACKED ones and ICMP errors. Each rule
// names its source. The kernel read is 6.12, the one compared with 6.18.
//
// Unlike the kernel's bridge, which by default filters untagged frames only (bridge-nf-filter-vlan-tagged), VLAN and QinQ
// tags are looked through.
//
// # A frame
//
//	|dst|src|type|   IP header   |extension headers|transport header|payload         |padding|
//	0        [VLAN tags]         L3                 L4                                End     len(Frame)
//
//	p.Frame = f.Data; p.In = packet.Inside
//	packet.Parse(&p)
//	switch {
//	case p.Family == 0:          // p.Class says what it is
//	case p.Problem.Header():     // dropped
//	case p.Is(packet.Fragment):  // held until its datagram is whole; that one goes through ParseIP
//	default:                     // tracked by p.Key, unless p.Is(packet.NoTrack) or p.Problem says INVALID
//	}
//
// # A flow
//
// A Key names a connection, whichever way a packet of it runs; Flipped says which way this one runs:
//
//	   TCP, UDP, UDPLite, SCTP                  ICMP and ICMPv6 queries
//
//	A: the lower (Addr, Port)                   A: the end that asks; APort: identifier
//	┌───┐ ──────── Flags 0 ───────▶ ┌───┐       ┌───┐ ────── request, Flags 0 ─────▶ ┌───┐
//	│ A │                           │ B │       │ A │                                │ B │
//	└───┘ ◀─────── Flipped ──────── └───┘       └───┘ ◀────── reply, Flipped ─────── └───┘
//	                                            BPort: the request's type<<8 | code
//
//	An ICMP error quotes a packet of some flow. Its Key is the quoted packet's, and so is Flipped; the error itself
//	runs the other way, towards the quoted packet's source:
//
//	┌───┐ ── quoted packet, Flags 0 ─▶ ┌────────┐ ─ ─ ▶ ┌───┐
//	│ A │                              │ router │       │ B │     Src is the router, Dst is A,
//	└───┘ ◀── error: Key A B, Flags 0 ─└────────┘       └───┘     Flags has ICMPError without Flipped
//
// The order within a Key is arbitrary and says nothing of who opened the connection; that is the flow table's knowledge.
//
// # Hashes
//
// SymmetricHash is the RSS hash that brings both directions of a flow to one worker; it is public and has 16 bits.
// Hasher is keyed and for tables.
//
// # Ownership and concurrency
//
// Nothing here keeps, allocates or copies frame memory: a Packet aliases the frame that its owner holds, and is valid as
// long as the frame is. Functions touch only their arguments; different goroutines may use different Packets, and share
// a Hasher.
//
// # References
//
// RFC 791, 768, 792, 826, 1071, 1624, 2637, 2675, 2784, 3828, 4302, 4340, 4443, 4620, 4861, 6946, 8200, 9260, 9293; Linux
// 6.12 net/bridge, net/netfilter, net/ipv6; Microsoft "Verifying the RSS hash calculation"; Woo and Park 2012; Lemire
// and Kaser 2014.
package packet
