package packet

import (
	"math/bits"
	"net/netip"
	"strconv"
)

// Key is the canonical key of a flow: both directions of a connection have the same Key, and Packet.Flipped says
// whether a packet ran from B to A. Key and direction together are one to one with the tuple of nf_conntrack
// (include/net/netfilter/nf_conntrack_tuple.h).
//
//   - TCP, UDP, UDPLite, SCTP: A is the end with the lower (Addr, Port).
//   - ICMP and ICMPv6 queries: A is the end that asks, APort the identifier, BPort the *request's* type<<8 | code;
//     a reply is Flipped. The code is the packet's own: the kernel's tuple has it, so that a reply with another code
//     than its request belongs to no connection (nf_conntrack_proto_icmp.c).
//   - GRE version 1 (PPTP, RFC 2637): the destination's port is the call id, the source's is 0; A is the lower
//     (Addr, Port). Only the PPTP helper knows the source's call id (gre_keymap_lookup in
//     nf_conntrack_proto_gre.c); it makes the two directions one connection by Set with both.
//   - Everything else, DCCP since Linux 6.16 too, every fragment and every packet without a complete transport
//     header: A is the lower Addr, the ports are 0.
//
// 40 bytes without padding, so that == compares memory and five words hash it.
type Key struct {
	A, B         Addr
	APort, BPort uint16
	Zone         uint16 // conntrack zone; 0 unless the caller sets it
	Proto        uint8  // transport protocol number
	Family       uint8  // 4 or 6
}

// Set makes k the key of a packet from (src, sport) to (dst, dport) with the lower end as A, Zone 0, and reports
// Flipped, or 0, for it. It is for protocols whose ends are symmetric: not for ICMP queries, see SetQuery.
//
// It has no branches on its operands: which end is lower is as good as random, and a mispredicted branch costs more
// than the rest of the function.
func (k *Key) Set(src, dst Addr, sport, dport uint16, proto, family uint8) Flags {
	c := below(dst, src, dport, sport)
	k.put(src, dst, sport, dport, c)
	k.Zone, k.Proto, k.Family = 0, proto, family
	return Flags(c) * Flipped
}

// below returns 1 if (a, aport) is below (b, bport), else 0: the borrow of a - b, each taken as the 144-bit number
// Hi:Lo:port.
func below(a, b Addr, aport, bport uint16) uint64 {
	_, c := bits.Sub64(uint64(aport), uint64(bport), 0)
	_, c = bits.Sub64(a.Lo, b.Lo, c)
	_, c = bits.Sub64(a.Hi, b.Hi, c)
	return c
}

// put sets k's ends: A is the source if flip is 0, the destination if it is 1.
func (k *Key) put(src, dst Addr, sport, dport uint16, flip uint64) {
	m := -flip
	hi, lo, port := (src.Hi^dst.Hi)&m, (src.Lo^dst.Lo)&m, (sport^dport)&uint16(m)
	k.A.Hi, k.A.Lo, k.B.Hi, k.B.Lo = src.Hi^hi, src.Lo^lo, dst.Hi^hi, dst.Lo^lo
	k.APort, k.BPort = sport^port, dport^port
}

// SetQuery makes k the key of an ICMP or ICMPv6 query that asks sent to asked, or of the reply to it: request is the
// request's type in both cases. Zone is 0.
func (k *Key) SetQuery(asks, asked Addr, id uint16, request, code, proto, family uint8) {
	k.A, k.B = asks, asked
	k.APort, k.BPort, k.Zone, k.Proto, k.Family = id, uint16(request)<<8|uint16(code), 0, proto, family
}

// Query reports whether k is the key of an ICMP or ICMPv6 query, and if so the identifier and the request's type and
// code.
func (k *Key) Query() (id uint16, typ, code uint8, ok bool) {
	if k.Proto != ProtoICMP && k.Proto != ProtoICMPv6 {
		return 0, 0, 0, false
	}
	return k.APort, uint8(k.BPort >> 8), uint8(k.BPort), true
}

// String returns the key for a person to read: "4/6 10.0.0.1:80 10.0.0.2:1234" is family, protocol, A and B.
func (k Key) String() string {
	end := func(a Addr, port uint16) string {
		if k.Family == 4 {
			return netip.AddrPortFrom(a.Netip(), port).String()
		}
		return netip.AddrPortFrom(a.Netip6(), port).String()
	}
	return strconv.Itoa(int(k.Family)) + "/" + strconv.Itoa(int(k.Proto)) + " " + end(k.A, k.APort) + " " + end(k.B, k.BPort)
}
