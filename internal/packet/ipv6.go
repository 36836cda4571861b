package packet

import "encoding/binary"

// parseIPv6 parses the IPv6 datagram at f[l3:], RFC 8200. Checks and their order are those of br_validate_ipv6,
// nf_ct_frag6_gather and nf_conntrack's ipv6_get_l4proto.
func (p *Packet) parseIPv6(f []byte, l3 int, vlan uint16) {
	h := f[l3:]
	if len(h) < 40 {
		p.malformed(ProblemIPShort, ClassIPv6, 6, l3, vlan)
		return
	}
	w0 := binary.BigEndian.Uint64(h[0:8]) // version, traffic class, flow label, payload length, next header, hop limit
	if w0>>60 != 6 {
		p.malformed(ProblemIPVersion, ClassIPv6, 6, l3, vlan)
		return
	}
	payload := int(w0 >> 16 & 0xffff)
	next := uint8(w0 >> 8)
	if next == ProtoHopByHop {
		n, ok := jumbo(h, payload)
		if !ok {
			p.malformed(ProblemHopByHop, ClassIPv6, 6, l3, vlan)
			return
		}
		payload = n
	}
	if payload > len(h)-40 {
		p.malformed(ProblemIPLength, ClassIPv6, 6, l3, vlan)
		return
	}
	p.begin(ClassIPv6, 6, l3, vlan)
	p.setIPv6(h, w0, payload)
	if isExtHeader(next) {
		p.parseExtHeaders(h[:40+payload], next, w0>>16&0xffff != 0, 0)
		return
	}
	p.L4, p.Proto = uint32(l3+40), next
	p.parseTransport(h[40:40+payload], p.Src, p.Dst, next)
}

// parseGathered parses the datagram at the start of h, whose IPv6 header is followed by an extension header and sound, as
// Linux sees it behind reassembly: it looks for no further fragments, and hop-by-hop options are checked late.
func (p *Packet) parseGathered(h []byte) {
	w0 := binary.BigEndian.Uint64(h[0:8])
	payload, next := int(w0>>16&0xffff), uint8(w0>>8)
	if payload > len(h)-40 {
		return
	}
	flags := Flags(0)
	if next == ProtoHopByHop {
		if _, ok := jumbo(h, payload); !ok {
			flags = LateHopByHop
		}
	}
	p.begin(ClassIPv6, 6, int(p.L3), p.VLAN)
	p.setIPv6(h, w0, payload)
	p.parseExtHeaders(h[:40+payload], next, false, flags)
}

// setIPv6 sets the fields of the header at the start of h, whose first 8 bytes are the big-endian word w0.
func (p *Packet) setIPv6(h []byte, w0 uint64, payload int) {
	p.Src = Addr{binary.BigEndian.Uint64(h[8:16]), binary.BigEndian.Uint64(h[16:24])}
	p.Dst = Addr{binary.BigEndian.Uint64(h[24:32]), binary.BigEndian.Uint64(h[32:40])}
	p.End = p.L3 + uint32(40+payload)
	p.IPID = 0
	p.TTL, p.TOS = uint8(w0), uint8(w0>>52)
}

// isExtHeader reports whether next is the number of an extension header that can be skipped, or that ends the chain
// (ipv6_ext_hdr, net/ipv6/exthdrs_core.c). ESP is none: what follows it cannot be read.
func isExtHeader(next uint8) bool {
	const set = 1<<ProtoHopByHop | 1<<ProtoRouting | 1<<ProtoFragment | 1<<ProtoAH | 1<<ProtoNone | 1<<ProtoDestOpts
	return next < 64 && set>>next&1 != 0
}

// jumbo checks the hop-by-hop header behind the IPv6 header h[:40] and returns the payload length: payload, or the one
// of a jumbo payload option (nf_ip6_check_hbh_len; RFC 2675). len(h) is at least 40.
func jumbo(h []byte, payload int) (int, bool) {
	if len(h) < 48 {
		return 0, false
	}
	end := 40 + (int(h[41])+1)*8
	if end > len(h) {
		return 0, false
	}
	field := payload
	for o := 42; o < end; {
		if h[o] == 0 { // Pad1
			o++
			continue
		}
		if end-o < 2 {
			return 0, false
		}
		n := int(h[o+1]) + 2
		if n > end-o {
			return 0, false
		}
		if h[o] == 0xc2 { // jumbo payload, aligned to 4n+2
			if n != 6 || o&3 != 2 || field != 0 {
				return 0, false
			}
			v := binary.BigEndian.Uint32(h[o+2:])
			if v <= 0xffff || uint64(v) > uint64(len(h)-40) {
				return 0, false
			}
			payload = int(v)
		}
		o += n
	}
	return payload, true
}

// parseExtHeaders parses the datagram h from its extension headers on, next being the first one's number. gather is
// whether the payload length field is not 0, without which Linux does not look for fragments. flags are added to p's.
func (p *Packet) parseExtHeaders(h []byte, next uint8, gather bool, flags Flags) {
	if next == ProtoHopByHop && (len(h) < 48 || len(h)-40 < (int(h[41])+1)*8) {
		flags |= LateHopByHop // br_validate_ipv6 has cut off what lies behind the payload
	}
	if gather {
		if at := findFragment(h, 40, next); at >= 0 && p.gather(h, at, &flags) {
			return
		}
	}
	asked, later, whole := findHeader(h, next)
	l4, proto, off, ok := skipExtHeaders(h, 40, next)
	l4 = min(l4, len(h))
	p.L4, p.Proto = p.L3+uint32(l4), proto
	if ok && off == 0 {
		p.parseTransport(h[l4:], p.Src, p.Dst, proto)
	} else {
		p.fail(ProblemExtHeader)
	}
	switch {
	case !whole:
		flags |= BrokenChain
	case later:
		flags |= LaterFragment
		p.Proto = asked
	}
	p.Flags |= flags
}

// findHeader goes through the extension headers of the datagram h as ip6_tables does to learn its protocol (ipv6_find_hdr,
// net/ipv6/exthdrs_core.c, without a target), next being the first one's number. later is whether what ends the chain is
// a fragment header with an offset; whole is false where the chain cannot be followed. That the last header goes beyond the
// datagram's end is no obstacle: Linux 6.18 does not look.
func findHeader(h []byte, next uint8) (proto uint8, later, whole bool) {
	for at := 40; isExtHeader(next) && next != ProtoNone; {
		least := 2
		if next == ProtoRouting || next == ProtoFragment {
			least = 4
		}
		if at+least > len(h) {
			return 0, false, false
		}
		if next == ProtoFragment && binary.BigEndian.Uint16(h[at+2:])&^7 != 0 {
			inner := h[at]
			return inner, true, !isExtHeader(inner) || inner == ProtoNone
		}
		n := extHeaderLen(h, at, next)
		next = h[at]
		at += n
	}
	return next, false, true
}

// gather looks at the fragment header at h[at:] as nf_ct_frag6_gather and nf_ct_frag6_queue do, and reports whether p is
// complete with it: a fragment to be held, or a problem. It adds to flags what is to be known of a packet that is not.
func (p *Packet) gather(h []byte, at int, flags *Flags) bool {
	truncated := firstTruncated(h, at)
	if at+8 > len(h) {
		if !truncated {
			p.malformed(ProblemFragmentHeader, ClassIPv6, 6, int(p.L3), p.VLAN)
		}
		return !truncated
	}
	off := binary.BigEndian.Uint16(h[at+2:])
	p.FragHdr, p.IPID = p.L3+uint32(at), binary.BigEndian.Uint32(h[at+4:])
	switch {
	case truncated, off&1 != 0 && (len(h)-at)&7 != 0:
		return false
	case off&^6 != 0: // an offset, or M
		p.FragOff = off &^ 7
		p.L4, p.Proto = p.L3+uint32(at+8), h[at]
		p.Flags = p.Key.Set(p.Src, p.Dst, 0, 0, h[at], 6) | Fragment
		if off&1 == 0 {
			p.Flags |= FragLast
		}
		return true
	case at+8 == len(h): // atomic, and empty
		p.malformed(ProblemFragmentHeader, ClassIPv6, 6, int(p.L3), p.VLAN)
		return true
	case at == 40 && h[at] == ProtoHopByHop:
		// Atomic: the fragment header is taken out, and br_validate_ipv6 in the FORWARD hook finds hop-by-hop options
		// behind the IPv6 header.
		if _, ok := jumbo(h[8:], len(h)-48); !ok {
			*flags |= LateHopByHop
		}
	}
	return false
}

// findFragment returns the offset of the first fragment header, or -1 where there is none that starts within f
// (find_prev_fhdr, net/ipv6/netfilter/nf_conntrack_reasm.c). Arguments are as for skipExtHeaders.
func findFragment(f []byte, at int, next uint8) int {
	for next != ProtoFragment {
		if !isExtHeader(next) || next == ProtoNone || at+2 > len(f) {
			return -1
		}
		n := extHeaderLen(f, at, next)
		next = f[at]
		at += n
	}
	if at > len(f) {
		return -1
	}
	return at
}

// firstTruncated reports whether the fragment whose header is at f[at:] is a first one that ends before the headers up
// to the transport's do (ipv6frag_thdr_truncated, include/net/ipv6_frag.h; RFC 8200 section 4.5).
func firstTruncated(f []byte, at int) bool {
	l4, next, off, ok := skipExtHeaders(f, at, ProtoFragment)
	if !ok || off != 0 {
		return false
	}
	switch next {
	case ProtoTCP:
		l4 += 20
	case ProtoUDP, ProtoICMPv6:
		l4 += 8
	default:
		l4++
	}
	return l4 > len(f)
}

// skipExtHeaders goes through the extension headers at f[at:], the first one having the number next, to what is none or
// to a fragment header whose offset, then returned in bytes, is not 0. It fails where a header starts beyond the end of
// f or is No Next Header; the offset that it returns may be beyond len(f) when the last header goes beyond it
// (ipv6_skip_exthdr). Each step advances by at least 8 bytes, so the length of f bounds the loop, as it does in the
// kernel.
func skipExtHeaders(f []byte, at int, next uint8) (l4 int, proto uint8, off uint16, ok bool) {
	for isExtHeader(next) {
		if next == ProtoNone || at+2 > len(f) {
			return at, next, 0, false
		}
		if next == ProtoFragment {
			if at+4 > len(f) {
				return at, next, 0, false
			}
			if off = binary.BigEndian.Uint16(f[at+2:]) &^ 7; off != 0 {
				return at, next, off, true
			}
		}
		n := extHeaderLen(f, at, next)
		next = f[at]
		at += n
	}
	return at, next, 0, true
}

// extHeaderLen returns the length in bytes of the extension header number next at f[at:]: 8-byte units but for AH, which
// has 4-byte ones (RFC 4302 section 2.2), and the fragment header, which has no length. It is at least 8.
func extHeaderLen(f []byte, at int, next uint8) int {
	switch next {
	case ProtoFragment:
		return 8
	case ProtoAH:
		return (int(f[at+1]) + 2) * 4
	}
	return (int(f[at+1]) + 1) * 8
}
