package packet

import "encoding/binary"

const (
	// EthernetHeader is the length of an Ethernet header without tags.
	EthernetHeader = 14

	// MaxTags bounds the VLAN tags that Parse looks through, as VLAN_MAX_DEPTH does in the kernel
	// (include/linux/if_vlan.h). A frame with more is ClassOther: no stack would find an IP packet behind them.
	MaxTags = 8

	tagLength = 4 // of a VLAN tag with the EtherType behind it, IEEE 802.1Q
)

// Parse parses the frame p.Frame, which arrived on p.In, and writes every other field of p.
//
// It allocates nothing, reads no byte outside p.Frame and accepts any content. It does not verify transport checksums,
// see VerifyChecksum.
func Parse(p *Packet) {
	f := p.Frame
	if len(f) < EthernetHeader {
		p.reset(ClassOther, 0, 0, 0)
		return
	}
	typ := binary.BigEndian.Uint16(f[12:14])
	if typ == EtherTypeIPv4 {
		p.parseIPv4(f, EthernetHeader, 0)
		return
	}
	l3, vlan := EthernetHeader, uint16(0)
	if typ != EtherTypeIPv6 {
		typ, l3, vlan = skipTags(f, typ)
	}
	switch typ {
	case EtherTypeIPv4:
		p.parseIPv4(f, l3, vlan)
	case EtherTypeIPv6:
		p.parseIPv6(f, l3, vlan)
	default:
		if cutOff(f) {
			p.malformed(ProblemLinkShort, ClassOther, 0, 0, vlan)
			return
		}
		p.reset(classify(f, typ, l3), 0, 0, vlan)
	}
}

// ParseGathered is Parse for a frame that was put together from fragments: Linux does that once, so that a further
// fragment header is an extension header like others. It has checked the fragments' own hop-by-hop options already and
// finds those that reassembly uncovered too late: LateHopByHop instead of ProblemHopByHop.
func ParseGathered(p *Packet) {
	Parse(p)
	if p.Class != ClassIPv6 || p.Problem.Header() && p.Problem != ProblemHopByHop && p.Problem != ProblemFragmentHeader {
		return
	}
	if h := p.Frame[p.L3:]; isExtHeader(h[6]) {
		p.parseGathered(h)
	}
}

// ParseIP parses the bare IP datagram that starts at p.Frame[l3], such as one put together from fragments. The family
// is that of the version field; a datagram of neither version is ClassIPv4 with ProblemIPVersion. l3 must not be
// beyond len(p.Frame). What Parse promises holds here as well.
func ParseIP(p *Packet, l3 int) {
	f := p.Frame
	if len(f) > l3 && f[l3]>>4 == 6 {
		p.parseIPv6(f, l3, 0)
		return
	}
	p.parseIPv4(f, l3, 0)
}

// reset clears every field but Frame and In, and sets these.
func (p *Packet) reset(class Class, family uint8, l3 int, vlan uint16) {
	p.Key = Key{}
	p.Src, p.Dst = Addr{}, Addr{}
	p.L4, p.End, p.IPID, p.Proto, p.TTL, p.TOS = 0, 0, 0, 0, 0, 0
	p.begin(class, family, l3, vlan)
}

// begin clears the fields that only some IP packets have, and sets these. It leaves Key, Src, Dst, L4, End, IPID, Proto,
// TTL and TOS to be written.
func (p *Packet) begin(class Class, family uint8, l3 int, vlan uint16) {
	p.Hash, p.Hint = 0, 0
	p.L3 = uint32(l3)
	p.FragHdr = 0
	p.SrcPort, p.DstPort, p.FragOff = 0, 0, 0
	p.VLAN = vlan
	p.Flags = 0
	p.Class, p.Family = class, family
	p.TCPFlags, p.ICMPType, p.ICMPCode, p.Problem = 0, 0, 0, ProblemNone
}

// malformed makes p a packet with a header problem.
func (p *Packet) malformed(problem Problem, class Class, family uint8, l3 int, vlan uint16) {
	p.reset(class, family, l3, vlan)
	p.Problem = problem
}

// skipTags skips VLAN tags, typ being the EtherType at f[12], and returns the EtherType behind them, the offset of what
// it describes, and the outermost id. A tag that is cut off, or one too many, is returned as the type.
func skipTags(f []byte, typ uint16) (uint16, int, uint16) {
	l3, vlan := EthernetHeader, uint16(0)
	for n := 0; isTag(typ) && n < MaxTags && len(f) >= l3+tagLength; n++ {
		w := binary.BigEndian.Uint32(f[l3:])
		if n == 0 {
			vlan = uint16(w>>16) & 0xfff
		}
		typ = uint16(w)
		l3 += tagLength
	}
	return typ, l3, vlan
}

// cutOff reports whether a Linux bridge drops the frame because it ends within what stands before its payload: within the
// outermost tag or the two bytes behind it (skb_vlan_untag, net/core/skbuff.c), or, without a tag or behind that one, within
// an 802.1Q tag or a PPPoE session header (br_nf_pre_routing, net/bridge/br_netfilter_hooks.c).
func cutOff(f []byte) bool {
	at := EthernetHeader
	if isTag(binary.BigEndian.Uint16(f[12:])) {
		if at += tagLength; len(f) < at+2 {
			return true
		}
	}
	switch binary.BigEndian.Uint16(f[at-2:]) {
	case EtherTypeVLAN:
		return len(f) < at+tagLength
	case EtherTypePPPoE:
		return len(f) < at+8 // RFC 2516 section 4, and the protocol of PPP
	}
	return false
}

// isTag reports whether an EtherType announces a VLAN tag.
func isTag(typ uint16) bool { return typ == EtherTypeVLAN || typ == EtherTypeQinQ }

// Behind returns where the IP header of a frame with that many VLAN tags begins: Packet.L3.
func Behind(tags int) uint32 { return EthernetHeader + uint32(tags)*tagLength }

// Hide makes p, after Parse, a frame of ClassOther of which nothing is known but its VLAN: as one is treated whose tags are
// not to be looked behind.
func (p *Packet) Hide() { p.reset(ClassOther, 0, 0, p.VLAN) }

// classify returns the class of a frame that is not IP: typ is the EtherType, or the length of an 802.3 frame, and l3
// the offset of what follows it.
func classify(f []byte, typ uint16, l3 int) Class {
	switch typ {
	case EtherTypeARP:
		return ClassARP
	case EtherTypeLLDP:
		return ClassLLDP
	case EtherTypeSlow:
		return ClassLACP
	case EtherTypeEAPOL:
		return ClassEAPOL
	}
	// Below 0x600 (ETH_P_802_3_MIN) it is a length, and LLC follows. 0x42 is the SAP of the spanning tree protocol; PVST+
	// uses SNAP with Cisco's 00-00-0c and 0x010b.
	if typ < 0x600 {
		llc := f[l3:]
		if len(llc) >= 2 && llc[0] == 0x42 && llc[1] == 0x42 {
			return ClassSTP
		}
		if len(llc) >= 8 && binary.BigEndian.Uint64(llc) == 0xaaaa03_00000c_010b {
			return ClassSTP
		}
	}
	// 01-80-c2-00-00-00, the bridge group address.
	if binary.BigEndian.Uint64(f[:8])>>16 == 0x0180c2000000 {
		return ClassSTP
	}
	return ClassOther
}
