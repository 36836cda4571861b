package packet

import "encoding/binary"

// icmpQuery returns the request's type for an ICMP query or reply type, RFC 792 and RFC 950, and whether typ is a reply
// (invmap in net/netfilter/nf_conntrack_proto_icmp.c).
func icmpQuery(typ uint8) (request uint8, reply, ok bool) {
	switch typ {
	case 8, 13, 15, 17: // echo, timestamp, information, address mask
		return typ, false, true
	case 0:
		return 8, true, true
	case 14, 16, 18:
		return typ - 1, true, true
	}
	return 0, false, false
}

// icmp6Query returns the request's type for an ICMPv6 query or reply type: echo (RFC 4443) and node information
// (RFC 4620), and whether typ is a reply (invmap in net/netfilter/nf_conntrack_proto_icmpv6.c).
func icmp6Query(typ uint8) (request uint8, reply, ok bool) {
	switch typ {
	case 128, 139:
		return typ, false, true
	case 129, 140:
		return typ - 1, true, true
	}
	return 0, false, false
}

// setQuery sets the key of the ICMP or ICMPv6 message at the start of b, at least eight bytes, if its type is that of a
// query or reply.
func (p *Packet) setQuery(b []byte) bool {
	request, reply, ok := icmpQuery(b[0])
	if p.Proto == ProtoICMPv6 {
		request, reply, ok = icmp6Query(b[0])
	}
	if !ok {
		return false
	}
	asks, asked := p.Src, p.Dst
	if reply {
		asks, asked = asked, asks
		p.Flags |= Flipped
	}
	p.Key.SetQuery(asks, asked, binary.BigEndian.Uint16(b[4:]), request, b[1], p.Proto, p.Family)
	return true
}

// parseICMP parses the ICMP message b, RFC 792 (nf_conntrack_icmpv4_error, net/netfilter/nf_conntrack_proto_icmp.c).
func (p *Packet) parseICMP(b []byte) {
	if len(b) < 8 {
		p.fail(ProblemICMPShort)
		return
	}
	p.ICMPType, p.ICMPCode = b[0], b[1]
	if p.setQuery(b) {
		return
	}
	switch b[0] {
	case 3, 4, 5, 11, 12: // icmp_is_err, include/linux/icmp.h
		p.setQuote(8)
	default:
		p.fail(ProblemICMPType)
	}
}

// parseICMPv6 parses the ICMPv6 message b, RFC 4443 (nf_conntrack_icmpv6_error,
// net/netfilter/nf_conntrack_proto_icmpv6.c).
func (p *Packet) parseICMPv6(b []byte) {
	if len(b) < 8 {
		p.fail(ProblemICMPShort)
		return
	}
	p.ICMPType, p.ICMPCode = b[0], b[1]
	if p.setQuery(b) {
		return
	}
	switch t := b[0]; {
	case t < 128:
		p.setQuote(8)
	case t >= 130 && t <= 136, t == 143, t == 151, t == 152:
		// MLD query, report, done; router and neighbour solicitation and advertisement; MLDv2 report; multicast router
		// discovery advertisement and solicitation (noct_valid_new)
		p.Flags |= p.Key.Set(p.Src, p.Dst, 0, 0, p.Proto, p.Family) | NoTrack
	case t == 137:
		p.parseRedirect(b)
	default:
		p.fail(ProblemICMPType)
	}
}

// parseRedirect parses the ICMPv6 redirect b, RFC 4861 section 4.5, at least eight bytes
// (nf_conntrack_icmpv6_redirect). The redirected packet is quoted in its first option or the message is no use.
func (p *Packet) parseRedirect(b []byte) {
	switch {
	case len(b) < 40:
		p.fail(ProblemICMPShort)
	case b[1] != 0, p.TTL != 255, !linkLocal(p.Src), len(b) < 42, b[40] != 4, b[41] == 0:
		p.fail(ProblemICMPRedirect)
	default:
		p.setQuote(48)
	}
}

// linkLocal reports whether a is of link-local scope: fe80::/10, or a group of that scope, which the kernel takes for it
// too (__ipv6_addr_type, net/ipv6/addrconf_core.c).
func linkLocal(a Addr) bool { return a.Hi>>54 == 0xfe80>>6 || a.Hi>>48&0xff0f == 0xff02 }

// setQuote sets the key to that of the packet quoted at skip bytes behind the transport header
// (nf_conntrack_inet_error, net/netfilter/nf_conntrack_proto_icmp.c).
func (p *Packet) setQuote(skip uint32) {
	var q Packet
	if !q.parseQuote(p.Frame, p.L4+skip, p.End, p.Family) {
		p.fail(ProblemICMPQuote)
		return
	}
	if q.Src != p.Dst {
		p.fail(ProblemICMPQuoteAddr)
		return
	}
	p.Key = q.Key
	p.Flags |= q.Flags&Flipped | ICMPError
}

// Quoted parses the packet that the ICMP error p quotes into q, and reports whether p is such an error, with ICMPError
// set. q aliases p's frame and has its In, Class and VLAN. A quote is mostly cut off: q.End is p's, and neither q's lengths nor
// its checksums were verified. PortsValid says that the ports are there, not that the transport header is complete.
func (p *Packet) Quoted(q *Packet) bool {
	if p.Flags&ICMPError == 0 {
		return false
	}
	skip := uint32(8)
	if p.Proto == ProtoICMPv6 && p.ICMPType == 137 {
		skip = 48
	}
	q.Frame, q.In = p.Frame, p.In
	q.reset(p.Class, p.Family, 0, p.VLAN)
	return q.parseQuote(p.Frame, p.L4+skip, p.End, p.Family)
}

// parseQuote parses the packet quoted at f[l3:end] into p, whose fields are zero, and reports whether the kernel would
// find a tuple in it and could invert it (nf_ct_get_tuplepr and nf_ct_invert_tuple, net/netfilter/nf_conntrack_core.c).
// Like the kernel it believes the outer header's family and does not look at the version, nor at lengths or checksums.
func (p *Packet) parseQuote(f []byte, l3, end uint32, family uint8) bool {
	if l3 > end {
		return false
	}
	h := f[l3:end]
	p.L3, p.End, p.Family = l3, end, family
	var l4 int
	if family == 4 {
		if len(h) < 20 {
			return false
		}
		frag := binary.BigEndian.Uint16(h[6:])
		l4 = int(h[0]&15) * 4
		if frag&0x1fff != 0 || l4 > len(h) {
			return false
		}
		p.Proto, p.TTL, p.TOS = h[9], h[8], h[1]
		p.IPID = uint32(binary.BigEndian.Uint16(h[4:]))
		p.Src, p.Dst = addr4(binary.BigEndian.Uint32(h[12:])), addr4(binary.BigEndian.Uint32(h[16:]))
	} else {
		if len(h) < 40 {
			return false
		}
		var off uint16
		var ok bool
		l4, p.Proto, off, ok = skipExtHeaders(h, 40, h[6])
		if !ok || off != 0 {
			return false
		}
		l4 = min(l4, len(h))
		p.TTL, p.TOS = h[7], uint8(binary.BigEndian.Uint16(h)>>4)
		p.Src = Addr{binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint64(h[16:])}
		p.Dst = Addr{binary.BigEndian.Uint64(h[24:]), binary.BigEndian.Uint64(h[32:])}
	}
	p.L4 = l3 + uint32(l4)
	b := h[l4:]
	switch p.Proto {
	case ProtoTCP, ProtoUDP, ProtoUDPLite, ProtoSCTP:
		if len(b) < 4 {
			return false
		}
		p.setPorts(b)
	case ProtoICMP, ProtoICMPv6:
		if len(b) < 8 {
			return false
		}
		p.ICMPType, p.ICMPCode = b[0], b[1]
		return p.setQuery(b)
	case ProtoGRE:
		call, ok := greCall(b)
		if !ok {
			return false
		}
		p.Flags |= p.Key.Set(p.Src, p.Dst, 0, call, p.Proto, family)
	default:
		p.Flags |= p.Key.Set(p.Src, p.Dst, 0, 0, p.Proto, family)
	}
	return true
}
