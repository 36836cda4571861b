package packet_test

import (
	"fmt"
	"net/netip"
	"testing"

	"corewire/internal/packet"
)

// This file is the slow, obvious twin of Parse. It follows the kernel's functions one by one, with the kernel's way of
// looking at a packet: header returns the bytes at an offset if all of them are there, as skb_header_pointer does.

// skb is an IP datagram, trimmed to its length once that is known.
type skb []byte

// header returns n bytes at off, or nil if the datagram ends before.
func (s skb) header(off, n int) []byte {
	if off < 0 || off+n > len(s) {
		return nil
	}
	return s[off : off+n]
}

func be(b []byte) (v int) {
	for _, x := range b {
		v = v<<8 | int(x)
	}
	return v
}

// tuple is struct nf_conntrack_tuple: for ICMP sport is the identifier, dport type and code.
type tuple struct {
	src, dst     netip.Addr
	sport, dport int
	proto        int
	query        bool // ICMP or ICMPv6 query or reply
}

// view is what the twin says of a frame.
type view struct {
	class, problem  string
	l3, l4, end     int
	vlan            int
	family, proto   int
	src, dst        netip.Addr
	ttl, tos        int
	tuple           tuple // the packet's, or for an ICMP error that of the quoted packet
	icmp            int   // type and code, or -1
	tcpFlags        int
	sport, dport    int // -1 where there is no complete header
	fragment, last  bool
	fragOff, fragID int
	fragHdr         int
	noTrack, err    bool
	late            bool // hop-by-hop options found wrong in the FORWARD hook
	broken, later   bool // what ip6_tables finds behind the extension headers: nothing, a fragment header with an offset
}

// twinParse parses an Ethernet frame.
func twinParse(frame []byte) (v view) {
	v.icmp, v.sport, v.dport = -1, -1, -1
	v.class = "other"
	if len(frame) < 14 {
		return v
	}
	at := 12
	for tags := 0; tags < 8 && (be(frame[at:at+2]) == 0x8100 || be(frame[at:at+2]) == 0x88a8) && at+6 <= len(frame); tags++ {
		if tags == 0 {
			v.vlan = be(frame[at+2:at+4]) % 4096
		}
		at += 4
	}
	typ, rest := be(frame[at:at+2]), skb(frame[at+2:])
	behind := skb(frame[12:])
	if first := be(behind[:2]); first == 0x8100 || first == 0x88a8 {
		behind = behind[min(4, len(behind)):]
		if len(behind) < 4 {
			behind = nil // skb_vlan_untag
		}
	}
	short := behind == nil
	if !short {
		short = map[int]bool{0x8100: len(behind) < 6, 0x8864: len(behind) < 10}[be(behind[:2])] // nf_bridge_encap_header_len
	}
	switch {
	case typ == 0x0800:
		v.class, v.family, v.l3 = "ipv4", 4, at+2
		v.ipv4(rest)
	case typ == 0x86dd:
		v.class, v.family, v.l3 = "ipv6", 6, at+2
		v.ipv6(rest)
	case short:
		v.problem = "link-short"
	case typ == 0x0806:
		v.class = "arp"
	case typ == 0x88cc:
		v.class = "lldp"
	case typ == 0x8809:
		v.class = "lacp"
	case typ == 0x888e:
		v.class = "eapol"
	case typ < 1536 && rest.header(0, 2) != nil && be(rest[:2]) == 0x4242,
		typ < 1536 && rest.header(0, 8) != nil && be(rest[:3]) == 0xaaaa03 && be(rest[3:8]) == 0x00000c010b,
		be(frame[:6]) == 0x0180c2000000:
		v.class = "stp"
	}
	return v
}

// ipv4 is br_validate_ipv4, then nf_defrag_ipv4 and nf_conntrack_in.
func (v *view) ipv4(s skb) {
	if s.header(0, 20) == nil {
		v.problem = "ip-short"
		return
	}
	if s[0]>>4 != 4 {
		v.problem = "ip-version"
		return
	}
	hl := int(s[0]%16) * 4
	if hl < 20 || s.header(0, hl) == nil {
		v.problem = "ip-header-length"
		return
	}
	sum := 0
	for i := 0; i < hl; i += 2 {
		sum += be(s[i : i+2])
	}
	if sum%0xffff != 0 {
		v.problem = "ip-checksum"
		return
	}
	total := be(s[2:4])
	if total > len(s) || total < hl {
		v.problem = "ip-length"
		return
	}
	s = s[:total]
	v.src, v.dst = netip.AddrFrom4([4]byte(s[12:16])), netip.AddrFrom4([4]byte(s[16:20]))
	v.l4, v.end = v.l3+hl, v.l3+total
	v.tos, v.ttl, v.proto = int(s[1]), int(s[8]), int(s[9])
	v.fragID = be(s[4:6])
	if off := be(s[6:8]); off&0x3fff != 0 {
		v.fragment, v.last, v.fragOff = true, off&0x2000 == 0, off%0x2000*8
		v.tuple = tuple{src: v.src, dst: v.dst, proto: v.proto}
		return
	}
	v.conntrack(s, hl)
}

// ipv6 is br_validate_ipv6, then nf_ct_frag6_gather and nf_conntrack_in.
func (v *view) ipv6(s skb) {
	if s.header(0, 40) == nil {
		v.problem = "ip-short"
		return
	}
	if s[0]>>4 != 6 {
		v.problem = "ip-version"
		return
	}
	payload := be(s[4:6])
	if s[6] == 0 {
		length := twinHopByHop(s, payload)
		if length < 0 {
			v.problem = "ipv6-hop-by-hop"
			return
		}
		payload = length
	}
	if payload+40 > len(s) {
		v.problem = "ip-length"
		return
	}
	s = s[:payload+40]
	late := s[6] == 0 && twinHopByHop(s, be(s[4:6])) < 0 // br_validate_ipv6 again
	v.src, v.dst = netip.AddrFrom16([16]byte(s[8:24])), netip.AddrFrom16([16]byte(s[24:40]))
	v.end = v.l3 + len(s)
	v.tos, v.ttl = be(s[0:2])>>4&255, int(s[7])

	// find_prev_fhdr
	if be(s[4:6]) != 0 {
		at, next := 40, int(s[6])
		for twinExt(next) && next != 44 && next != 59 && s.header(at, 2) != nil {
			next, at = int(s[at]), at+twinExtLen(next, s[at+1])
		}
		if next == 44 && at <= len(s) {
			h := s.header(at, 8)
			if h == nil && !twinTruncated(s, at) {
				v.problem = "ipv6-fragment-header" // -ENOMEM
				return
			}
			if h != nil {
				v.fragHdr, v.fragID = v.l3+at, be(h[4:8])
			}
			if h != nil && !twinTruncated(s, at) {
				off, more := be(h[2:4])/8*8, be(h[2:4])%2 == 1
				switch {
				case more && (len(s)-at)%8 != 0:
					// -EPROTO, and handed on
				case off != 0 || more:
					v.fragment, v.fragOff, v.last = true, off, !more
					v.l4, v.proto = v.l3+at+8, int(h[0])
					v.tuple = tuple{src: v.src, dst: v.dst, proto: v.proto}
					return
				case at+8 == len(s):
					v.problem = "ipv6-fragment-header" // -EINVAL
					return
				case at == 40 && h[0] == 0: // nf_ct_frag6_reasm takes the header out, and br_validate_ipv6 looks again
					if whole := append(append(skb(nil), s[:40]...), s[48:]...); twinHopByHop(whole, len(whole)-40) < 0 {
						late = true
					}
				}
			}
		}
	}
	v.late = late
	asked, later := twinFind(s)
	v.broken, v.later = asked < 0, later
	l4, next, off := twinSkip(s, 40, int(s[6]))
	if l4 < 0 || off != 0 {
		if later && asked >= 0 {
			v.proto = asked
		}
		v.problem = "ipv6-ext-header"
		return
	}
	v.proto, v.l4 = next, min(v.l3+l4, v.end)
	v.conntrack(s, l4)
}

// twinFind is ipv6_find_hdr without a target: the protocol, or -1, and whether a fragment header with an offset names it.
func twinFind(s skb) (proto int, later bool) {
	start, next := 40, int(s[6])
	for twinExt(next) && next != 59 {
		h := s.header(start, 2)
		if h == nil || next == 43 && s.header(start, 4) == nil {
			return -1, false
		}
		size := twinExtLen(next, h[1])
		if next == 44 {
			f := s.header(start+2, 2)
			switch {
			case f == nil:
				return -1, false
			case be(f)/8 != 0 && (!twinExt(int(h[0])) || h[0] == 59):
				return int(h[0]), true
			case be(f)/8 != 0:
				return -1, false
			}
		}
		next, start = int(h[0]), start+size
	}
	return next, false
}

func twinExt(next int) bool {
	switch next {
	case 0, 43, 44, 51, 59, 60:
		return true
	}
	return false
}

func twinExtLen(next int, n byte) int {
	switch next {
	case 44:
		return 8
	case 51:
		return (int(n) + 2) * 4
	}
	return (int(n) + 1) * 8
}

// twinSkip is ipv6_skip_exthdr.
func twinSkip(s skb, at, next int) (l4, proto, off int) {
	for twinExt(next) {
		h := s.header(at, 2)
		if next == 59 || h == nil {
			return -1, 0, 0
		}
		if next == 44 {
			o := s.header(at+2, 2)
			if o == nil {
				return -1, 0, 0
			}
			if be(o)/8 != 0 {
				return at, next, be(o) / 8 * 8
			}
		}
		next, at = int(h[0]), at+twinExtLen(next, h[1])
	}
	return at, next, 0
}

// twinTruncated is ipv6frag_thdr_truncated.
func twinTruncated(s skb, at int) bool {
	l4, next, off := twinSkip(s, at, 44)
	if l4 < 0 || off != 0 {
		return false
	}
	need := map[int]int{6: 20, 17: 8, 58: 8}[next]
	return l4+max(need, 1) > len(s)
}

// twinHopByHop is nf_ip6_check_hbh_len: the payload length, or -1.
func twinHopByHop(s skb, payload int) int {
	h := s.header(40, 8)
	if h == nil {
		return -1
	}
	h = s.header(40, int(h[1])*8+8)
	if h == nil {
		return -1
	}
	given := payload
	for at := 2; at < len(h); {
		switch {
		case h[at] == 0:
			at++
		case at+2 > len(h) || at+2+int(h[at+1]) > len(h):
			return -1
		case h[at] == 0xc2 && (h[at+1] != 4 || at%4 != 2 || given != 0):
			return -1
		case h[at] == 0xc2:
			payload = be(h[at+2 : at+6])
			if payload <= 65535 || payload > len(s)-40 {
				return -1
			}
			at += 6
		default:
			at += 2 + int(h[at+1])
		}
	}
	return payload
}

// conntrack is nf_conntrack_in as far as it concerns the packet alone; l4 may be beyond the end of s for IPv6.
func (v *view) conntrack(s skb, l4 int) {
	v.tuple = tuple{src: v.src, dst: v.dst, proto: v.proto}
	length := len(s) - l4
	switch v.proto {
	case 6:
		h := s.header(l4, 20)
		if h == nil {
			v.problem = "tcp-short"
			return
		}
		v.sport, v.dport, v.tcpFlags = be(h[0:2]), be(h[2:4]), int(h[13])
		if doff := int(h[12]>>4) * 4; doff < 20 || length < doff {
			v.problem = "tcp-offset"
		}
	case 17:
		h := s.header(l4, 8)
		if h == nil {
			v.problem = "udp-short"
			return
		}
		v.sport, v.dport = be(h[0:2]), be(h[2:4])
		if n := be(h[4:6]); n > length || n < 8 {
			v.problem = "udp-length"
		}
	case 136:
		h := s.header(l4, 8)
		if h == nil {
			v.problem = "udp-short"
			return
		}
		v.sport, v.dport = be(h[0:2]), be(h[2:4])
		if n := be(h[4:6]); n != 0 && (n < 8 || n > length) {
			v.problem = "udplite-coverage"
		} else if be(h[6:8]) == 0 {
			v.problem = "udplite-no-checksum"
		}
	case 132:
		h := s.header(l4, 12)
		if h == nil {
			v.problem = "sctp-short"
			return
		}
		v.sport, v.dport = be(h[0:2]), be(h[2:4])
	case 33:
		if h := s.header(l4, 12); h != nil {
			v.sport, v.dport = be(h[0:2]), be(h[2:4])
		}
		return // no tracker since 6.16
	case 1, 58:
		v.conntrackICMP(s, l4)
		return
	}
	t, reason := twinTuple(s, l4, v.src, v.dst, v.proto)
	if v.problem == "" {
		v.tuple, v.problem = t, reason
	}
}

// twinTuple is nf_ct_get_tuple.
func twinTuple(s skb, l4 int, src, dst netip.Addr, proto int) (t tuple, problem string) {
	t = tuple{src: src, dst: dst, proto: proto}
	switch proto {
	case 6, 17, 132, 136:
		h := s.header(l4, 4)
		if h == nil {
			return t, "short"
		}
		t.sport, t.dport = be(h[0:2]), be(h[2:4])
	case 1, 58:
		h := s.header(l4, 8)
		if h == nil {
			return t, "short"
		}
		t.sport, t.dport, t.query = be(h[4:6]), be(h[0:2]), true
	case 47:
		h := s.header(l4, 4)
		if h == nil || h[1]%8 != 1 {
			return t, ""
		}
		if h = s.header(l4, 8); h == nil {
			return t, ""
		}
		if be(h[2:4]) != 0x880b {
			return t, "gre-protocol"
		}
		t.dport = be(h[6:8])
	}
	return t, ""
}

// twinInvert is the type of the reply to, or of the request for, an ICMP or ICMPv6 type; -1 where there is none.
func twinInvert(proto, typ int) int {
	pairs := [][2]int{{8, 0}, {13, 14}, {15, 16}, {17, 18}}
	if proto == 58 {
		pairs = [][2]int{{128, 129}, {139, 140}}
	}
	for _, p := range pairs {
		if typ == p[0] {
			return p[1]
		}
		if typ == p[1] {
			return p[0]
		}
	}
	return -1
}

// conntrackICMP is nf_conntrack_icmpv4_error and nf_conntrack_icmpv6_error, and then what resolve_normal_ct does with
// types that it cannot invert.
func (v *view) conntrackICMP(s skb, l4 int) {
	if v.family == 4 && v.proto == 58 || v.family == 6 && v.proto == 1 {
		v.problem = "icmp-family"
		return
	}
	h := s.header(l4, 8)
	if h == nil {
		v.problem = "icmp-short"
		return
	}
	typ, code := int(h[0]), int(h[1])
	v.icmp = typ<<8 | code
	quote := -1
	if v.family == 4 {
		switch typ {
		case 3, 4, 5, 11, 12:
			quote = l4 + 8
		}
	} else {
		switch {
		case typ < 128:
			quote = l4 + 8
		case typ == 130 || typ == 131 || typ == 132 || typ == 133 || typ == 134 || typ == 135 || typ == 136 ||
			typ == 143 || typ == 151 || typ == 152:
			v.noTrack = true
			return
		case typ == 137:
			if s.header(l4, 40) == nil {
				v.problem = "icmp-short"
				return
			}
			option := s.header(l4+40, 2)
			linkLocal := netip.MustParsePrefix("fe80::/10").Contains(v.src) || v.src.IsLinkLocalMulticast() || v.src.As16()[0] == 0xff && v.src.As16()[1]&15 == 2
			if code != 0 || v.ttl != 255 || !linkLocal || option == nil || option[1] == 0 || option[0] != 4 {
				v.problem = "icmp-redirect"
				return
			}
			quote = l4 + 48
		}
	}
	if quote < 0 {
		if twinInvert(v.proto, typ) < 0 {
			v.problem = "icmp-type"
			return
		}
		v.tuple.sport, v.tuple.dport, v.tuple.query = be(h[4:6]), v.icmp, true
		return
	}
	t, ok := twinQuote(s, quote, v.family)
	switch {
	case !ok:
		v.problem = "icmp-quote"
	case t.src != v.dst:
		v.problem = "icmp-quote-address"
	default:
		v.tuple, v.err = t, true
	}
}

// twinQuote is nf_ct_get_tuplepr and nf_ct_invert_tuple's refusals.
func twinQuote(s skb, at, family int) (t tuple, ok bool) {
	var l4, proto int
	var src, dst netip.Addr
	if family == 4 {
		h := s.header(at, 20)
		if h == nil || be(h[6:8])%0x2000 != 0 {
			return t, false
		}
		l4, proto = at+int(h[0]%16)*4, int(h[9])
		if l4 > len(s) {
			return t, false
		}
		src, dst = netip.AddrFrom4([4]byte(h[12:16])), netip.AddrFrom4([4]byte(h[16:20]))
	} else {
		h := s.header(at, 40)
		if h == nil {
			return t, false
		}
		var off int
		l4, proto, off = twinSkip(s, at+40, int(h[6]))
		if l4 < 0 || off != 0 {
			return t, false
		}
		src, dst = netip.AddrFrom16([16]byte(h[8:24])), netip.AddrFrom16([16]byte(h[24:40]))
	}
	t, problem := twinTuple(s, l4, src, dst, proto)
	if problem != "" {
		return t, false
	}
	if (proto == 1 || proto == 58) && twinInvert(proto, t.dport>>8) < 0 {
		return t, false
	}
	return t, true
}

// key returns the canonical key of a tuple, and whether the packet is flipped.
func (t tuple) key(family int) (k packet.Key, flipped bool) {
	typ := t.dport >> 8
	switch {
	case t.query:
		request := typ
		for _, r := range []int{8, 13, 15, 17, 128, 139} {
			if twinInvert(t.proto, typ) == r {
				request, flipped = r, true
			}
		}
		if flipped {
			t.src, t.dst = t.dst, t.src
		}
		t.dport = request<<8 | t.dport&255
	default:
		if c := t.src.Compare(t.dst); c > 0 || c == 0 && t.sport > t.dport {
			flipped = true
			t.src, t.dst, t.sport, t.dport = t.dst, t.src, t.dport, t.sport
		}
	}
	return packet.Key{A: packet.AddrFrom(t.src), B: packet.AddrFrom(t.dst), APort: uint16(t.sport), BPort: uint16(t.dport),
		Proto: uint8(t.proto), Family: uint8(family)}, flipped
}

// checkTwin parses frame with both and fails where they differ.
func checkTwin(t *testing.T, frame []byte) packet.Packet {
	t.Helper()
	v := twinParse(frame)
	// Old contents that Parse has to clear.
	p := packet.Packet{Key: packet.Key{APort: 9, Zone: 9}, Hash: 9, Src: packet.Addr{Hi: 9}, L3: 9, L4: 9, End: 9, IPID: 9, FragHdr: 9,
		SrcPort: 9, DstPort: 9, FragOff: 9, VLAN: 9, Flags: 0xffff, Class: 9, Family: 9, Proto: 9, TCPFlags: 9, ICMPType: 9,
		ICMPCode: 9, TTL: 9, TOS: 9, Problem: 9, In: packet.Outside, Frame: frame[:len(frame):len(frame)]}
	packet.Parse(&p)
	fail := func(what string, got, want any) {
		t.Helper()
		t.Fatalf("%s is %v, want %v\nframe %x\npacket %+v\ntwin %+v", what, got, want, frame, p, v)
	}
	same := func(what string, got, want any) {
		t.Helper()
		if got != want {
			fail(what, got, want)
		}
	}
	same("In", p.In, packet.Outside)
	same("Hash", p.Hash, uint64(0))
	same("Class", p.Class.String(), v.class)
	same("Family", int(p.Family), v.family)
	same("VLAN", int(p.VLAN), v.vlan)
	same("L3", int(p.L3), v.l3)
	same("Problem", p.Problem.String(), v.problem)
	if p.Class != packet.ClassIPv4 && p.Class != packet.ClassIPv6 || p.Problem.Header() {
		same("Flags", p.Flags, packet.Flags(0))
		same("Key", p.Key, packet.Key{})
		return p
	}
	netipOf := packet.Addr.Netip
	if v.family == 6 {
		netipOf = packet.Addr.Netip6
	}
	same("Src", netipOf(p.Src), v.src)
	same("Dst", netipOf(p.Dst), v.dst)
	same("TTL", int(p.TTL), v.ttl)
	same("TOS", int(p.TOS), v.tos)
	same("End", int(p.End), v.end)
	if p.L4 < p.L3 || p.L4 > p.End || int(p.End) > len(frame) {
		fail("order of offsets", fmt.Sprint(p.L3, p.L4, p.End), "L3 <= L4 <= End <= len(Frame)")
	}
	same("IPID", int(p.IPID), v.fragID)
	same("FragHdr", int(p.FragHdr), v.fragHdr)
	same("FragOff", int(p.FragOff), v.fragOff)
	same("Fragment", p.Is(packet.Fragment), v.fragment)
	same("FragLast", p.Is(packet.FragLast), v.last)
	same("ICMPError", p.Is(packet.ICMPError), v.err)
	same("NoTrack", p.Is(packet.NoTrack), v.noTrack)
	same("LateHopByHop", p.Is(packet.LateHopByHop), v.late)
	same("BrokenChain", p.Is(packet.BrokenChain), v.broken)
	same("LaterFragment", p.Is(packet.LaterFragment), v.later && !v.broken)
	same("PortsValid", p.Is(packet.PortsValid), v.sport >= 0)
	same("SrcPort", int(p.SrcPort), max(v.sport, 0))
	same("DstPort", int(p.DstPort), max(v.dport, 0))
	same("TCPFlags", int(p.TCPFlags), v.tcpFlags)
	same("ICMPType and ICMPCode", int(p.ICMPType)<<8|int(p.ICMPCode), max(v.icmp, 0))
	if v.problem == "ipv6-ext-header" {
		if v.later && !v.broken {
			same("Proto", int(p.Proto), v.proto)
		}
		same("Key.A, Key.B", p.Src != p.Key.A, p.Dst != p.Key.B)
		return p
	}
	same("L4", int(p.L4), v.l4)
	same("Proto", int(p.Proto), v.proto)
	if v.problem != "" {
		v.tuple = tuple{src: v.src, dst: v.dst, proto: v.proto}
		if v.sport >= 0 {
			v.tuple.sport, v.tuple.dport = v.sport, v.dport
		}
	}
	key, flipped := v.tuple.key(v.family)
	same("Key", p.Key, key)
	same("Flipped", p.Is(packet.Flipped), flipped)
	var q packet.Packet
	same("Quoted", p.Quoted(&q), v.err)
	if v.err {
		same("quoted Key", q.Key, p.Key)
		same("quoted Flipped", q.Is(packet.Flipped), flipped)
		same("quoted Src", netipOf(q.Src), v.tuple.src)
		same("quoted Dst", netipOf(q.Dst), v.tuple.dst)
		same("quoted Proto", int(q.Proto), v.tuple.proto)
		if q.L3 < p.L4 || q.L4 < q.L3 || q.L4 > q.End || q.End != p.End {
			fail("order of quoted offsets", fmt.Sprint(p.L4, q.L3, q.L4, q.End), "L4 <= L3 <= L4 <= End")
		}
	}
	return p
}
