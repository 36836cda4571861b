package rules

import (
	"math/bits"

	"corewire/internal/packet"
)

// Words of a header, as cuts name them. An IPv4 address is the last word of its four.
const (
	wordSrc   = 0  // 0 to 3
	wordDst   = 4  // 4 to 7
	wordSport = 8  // low 16 bits
	wordDport = 9  // low 16 bits
	wordProto = 10 // low 8 bits
	words     = 11
)

// header is what the classifier looks at of a packet.
type header struct {
	w     [16]uint32 // by word; 16 so that a masked index needs no check
	allow uint8      // the bit of entry.allow for the packet's state and port
	whole bool       // the transport header is there as far as any match reads it: ports and ICMP type are known
	lost  bool       // packet.BrokenChain: there is no protocol to compare with
	later bool       // packet.LaterFragment: nothing that asks for a transport header matches
}

// allowBit returns which bit of an entry's allow stands for a state and the port a packet came in on.
func allowBit(s State, in packet.Port) uint8 { return uint8(s)*packet.Ports + uint8(in) }

// allowShort returns the bit that stands for a port alone, for packets whose state is not asked for.
func allowShort(in packet.Port) uint8 { return uint8(States)*packet.Ports + uint8(in) }

// allowAll has every bit.
const allowAll = 1<<((uint(States)+1)*packet.Ports) - 1

// wholeLength is the longest transport header that any match module reads, by protocol.
func wholeLength(proto uint8) int {
	switch proto {
	case protoTCP:
		return 20
	case protoUDP, protoUDPLite, protoICMP, protoICMPv6:
		return 8
	case protoSCTP, protoDCCP:
		return 12
	}
	return 0
}

// fill writes the header of a packet.
func (h *header) fill(p *packet.Packet, c *Context) {
	if p.Family == 6 {
		h.w[0], h.w[1], h.w[2], h.w[3] = uint32(p.Src.Hi>>32), uint32(p.Src.Hi), uint32(p.Src.Lo>>32), uint32(p.Src.Lo)
		h.w[4], h.w[5], h.w[6], h.w[7] = uint32(p.Dst.Hi>>32), uint32(p.Dst.Hi), uint32(p.Dst.Lo>>32), uint32(p.Dst.Lo)
	} else {
		h.w[3], h.w[7] = uint32(p.Src.Lo), uint32(p.Dst.Lo)
	}
	h.w[wordSport], h.w[wordDport], h.w[wordProto] = uint32(p.SrcPort), uint32(p.DstPort), uint32(p.Proto)
	h.allow = allowBit(c.State, p.In)
	h.whole = p.Flags&packet.PortsValid != 0 || int(p.End)-int(p.L4) >= wholeLength(p.Proto)
	if p.Flags&(packet.BrokenChain|packet.LaterFragment) != 0 {
		h.whole, h.lost, h.later = false, p.Flags&packet.BrokenChain != 0, p.Flags&packet.LaterFragment != 0
	}
}

// more is set in an entry's rule when the rule has conditions that the entry does not hold.
const more = 1 << 31

// moreMeta is more in narrow.meta, rankShift is where the rank is there.
const (
	moreMeta  = 1 << 32
	rankShift = 33
)

// narrow is what a rule asks of an IPv4 packet, as far as it can be compared with a header: 32 bytes, in four words that are
// compared whole.
//
//	addr, mask   source:32 | destination:32
//	ports        span:16 | lowest:16 of the destination port | the same of the source port:32
//	meta         rank:31 | more:1 | allow:16 | protoMask:8 | proto:8
//
// A port p agrees when p-lowest, modulo 2^16, is at most span. rank is the index in program.rules; more is as in
// wide.rule. allow has a bit for each state and port, see allowBit, and the verb.
type narrow struct{ addr, mask, ports, meta uint64 }

// Lanes of a word that holds two ports: the ports, and the bit above each that a subtraction borrows from.
const (
	portLanes  = 0x0000ffff0000ffff
	portBorrow = 0x0001000000010000
)

// probe is an IPv4 header as narrow is compared with it.
type probe struct {
	addr, ports, proto uint64
	bit                uint8 // of narrow.meta
}

func (h *header) probe() probe {
	return probe{
		addr:  uint64(h.w[wordSrc+3])<<32 | uint64(h.w[wordDst+3]),
		ports: uint64(h.w[wordDport])<<32 | uint64(h.w[wordSport]) | portBorrow,
		proto: uint64(h.w[wordProto]),
		bit:   16 + h.allow&15,
	}
}

// off is zero when the entry agrees with the header. There are no branches in it.
func (x *narrow) off(h *probe) uint64 {
	lowest, span := x.ports&portLanes, x.ports>>16&portLanes
	past := (h.ports - lowest) & portLanes
	m := x.meta
	return (h.addr^x.addr)&x.mask | ^((span|portBorrow)-past)&portBorrow | (h.proto^m)&(m>>8)&0xff | ^(m>>(h.bit&63))&1
}

// newNarrow packs an entry; of its addresses only the last word counts.
func newNarrow(x *wide) narrow {
	return narrow{
		addr:  uint64(uint32(x.src.Lo))<<32 | uint64(uint32(x.dst.Lo)),
		mask:  uint64(uint32(x.srcMask.Lo))<<32 | uint64(uint32(x.dstMask.Lo)),
		ports: uint64(x.dportSpan)<<48 | uint64(x.dport)<<32 | uint64(x.sportSpan)<<16 | uint64(x.sport),
		meta:  uint64(bits.RotateLeft32(x.rule, 1))<<32 | uint64(x.allow)<<16 | uint64(x.protoMask)<<8 | uint64(x.proto),
	}
}

// wide unpacks it.
func (x *narrow) wide() wide {
	w := wide{
		sport: uint16(x.ports), sportSpan: uint16(x.ports >> 16), dport: uint16(x.ports >> 32), dportSpan: uint16(x.ports >> 48),
		proto: uint8(x.meta), protoMask: uint8(x.meta >> 8), allow: x.allow(), rule: x.rule(),
	}
	w.src.Lo, w.srcMask.Lo, w.dst.Lo, w.dstMask.Lo = x.addr>>32, x.mask>>32, x.addr&(1<<32-1), x.mask&(1<<32-1)
	return w
}

// rule is as wide.rule.
func (x *narrow) rule() uint32  { return bits.RotateLeft32(uint32(x.meta>>32), -1) }
func (x *narrow) allow() uint16 { return uint16(x.meta >> 16) }

// wide is what a rule asks of an IPv6 packet: 80 bytes.
type wide struct {
	src, srcMask     packet.Addr
	dst, dstMask     packet.Addr
	sport, sportSpan uint16
	dport, dportSpan uint16
	proto, protoMask uint8
	allow            uint16
	rule             uint32
}

// none is the rank of no rule.
const none = ^uint32(0)

// verbShift is where an entry's allow holds the rule's verb.
const verbShift = 12

// scanNarrow moves a cursor to the next place whose entry agrees with the header and whose rank is at least from. The
// comparisons are put together without branches: only the outcome of the whole entry is one.
func (g *program) scanNarrow(h *header, k *cursor, from uint32) {
	q := h.probe()
	k.ready = true
	for i, n := range g.places[k.at:k.end] {
		x := &g.narrow[n]
		if rule := x.rule(); x.off(&q) == 0 && rule&^more >= from {
			k.at += uint32(i)
			k.rank, k.verb, k.more = rule&^more, Verb(x.allow()>>verbShift), rule >= more
			return
		}
	}
	k.at, k.rank = k.end, none
}

// scanWide is scanNarrow for IPv6.
func (g *program) scanWide(h *header, k *cursor, from uint32) {
	src, dst := addrOf(h.w[0:4]), addrOf(h.w[4:8])
	sport, dport := uint16(h.w[wordSport]), uint16(h.w[wordDport])
	proto, bit := uint8(h.w[wordProto]), h.allow&15
	k.ready = true
	for i, n := range g.places[k.at:k.end] {
		x := &g.wide[n]
		off := (src.Hi^x.src.Hi)&x.srcMask.Hi | (src.Lo^x.src.Lo)&x.srcMask.Lo |
			(dst.Hi^x.dst.Hi)&x.dstMask.Hi | (dst.Lo^x.dst.Lo)&x.dstMask.Lo | uint64((proto^x.proto)&x.protoMask)
		low := (uint32(x.sportSpan) - uint32(sport-x.sport)) >> 16
		low |= (uint32(x.dportSpan) - uint32(dport-x.dport)) >> 16
		low |= ^(uint32(x.allow) >> bit) & 1
		if off|uint64(low) == 0 && x.rule&^more >= from {
			k.at += uint32(i)
			k.rank, k.verb, k.more = x.rule&^more, Verb(x.allow>>verbShift), x.rule >= more
			return
		}
	}
	k.at, k.rank = k.end, none
}

// scanShort moves a cursor to the entry of the lowest rank, not below from, that agrees with a packet whose transport
// header is short. Ports and ICMP types are not known, so that the run may be that of a whole subtree, in no order.
// An entry of a rule that needs the header agrees by addresses, protocol and interfaces alone: what is asked beside
// these is left to walk.matches. For a packet without a protocol that can be found so does one of a rule that asks for any
// protocol, by addresses alone: on a bridge interfaces are asked for by -m physdev, behind -p.
func (g *program) scanShort(h *header, k *cursor, from uint32) {
	k.ready, k.rank = true, none
	for _, at := range g.places[k.at:k.end] {
		var x wide
		if g.v6 {
			x = g.wide[at]
		} else {
			n := &g.narrow[at]
			if q := h.probe(); (q.addr^n.addr)&n.mask != 0 {
				continue
			}
			x = n.wide()
		}
		if x.isDead() {
			continue
		}
		rank := x.rule &^ more
		lost := h.lost && g.rules[rank].flags&asksProto != 0
		if rank < from || rank >= k.rank || (uint8(h.w[wordProto])^x.proto)&x.protoMask != 0 && !lost {
			continue
		}
		if g.v6 {
			src, dst := addrOf(h.w[0:4]), addrOf(h.w[4:8])
			if (src.Hi^x.src.Hi)&x.srcMask.Hi|(src.Lo^x.src.Lo)&x.srcMask.Lo|(dst.Hi^x.dst.Hi)&x.dstMask.Hi|(dst.Lo^x.dst.Lo)&x.dstMask.Lo != 0 {
				continue
			}
		}
		bit := h.allow
		if g.rules[rank].flags&needsHeader != 0 {
			bit = allowShort(packet.Port(h.allow & 1))
		}
		if x.allow>>bit&1 != 0 || lost {
			k.rank, k.verb, k.more = rank, Verb(x.allow>>verbShift), true
		}
	}
}
