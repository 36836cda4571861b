package rules

import (
	"math/bits"
	"slices"

	"corewire/internal/packet"
)

// Words of what boxes ask and cuts are sought in. An IPv4 address is the last word of its four.
const (
	wordSrc   = 0  // 0 to 3
	wordDst   = 4  // 4 to 7
	wordSport = 8  // low 16 bits
	wordDport = 9  // low 16 bits
	wordProto = 10 // low 8 bits
	words     = 11
)

// Keys of a header: what cuts take their windows of, and IPv4 entries are compared with.
const (
	keyAddrs = 0 // IPv4: source:32 | destination:32
	keyRest  = 1 // port of the wire:16 | protocol:16 | source port:16 | destination port:16
	keySrc   = 2 // IPv6: 2 and 3
	keyDst   = 4 // IPv6: 4 and 5
	keys     = 8 // so many that a masked index needs no check
)

// header is what the classifier looks at of a packet.
type header struct {
	key   [keys]uint64
	allow uint8 // the bit of an entry's allow for the packet's state and port
	whole bool  // the transport header is there as far as any match reads it: ports and ICMP type are known
	lost  bool  // packet.BrokenChain: there is no protocol to compare with
	later bool  // packet.LaterFragment: nothing that asks for a transport header matches
}

// keyOf returns the key that a word is in, and where in it.
func keyOf(word uint8, v6 bool) (key, shift uint8) {
	switch {
	case word == wordDport:
		return keyRest, 0
	case word == wordSport:
		return keyRest, 16
	case word == wordProto:
		return keyRest, 32
	case v6:
		return keySrc + word/2, 32 - word%2*32
	case word < wordDst:
		return keyAddrs, 32
	}
	return keyAddrs, 0
}

// restOf returns the key of what is no address.
func restOf(sport, dport uint16, proto uint8, in packet.Port) uint64 {
	return uint64(in)<<48 | uint64(proto)<<32 | uint64(sport)<<16 | uint64(dport)
}

// addrs returns the addresses of IPv6.
func (h *header) addrs() (src, dst packet.Addr) {
	return packet.Addr{Hi: h.key[keySrc], Lo: h.key[keySrc+1]}, packet.Addr{Hi: h.key[keyDst], Lo: h.key[keyDst+1]}
}

func (h *header) sport() uint16 { return uint16(h.key[keyRest] >> 16) }
func (h *header) dport() uint16 { return uint16(h.key[keyRest]) }
func (h *header) proto() uint8  { return uint8(h.key[keyRest] >> 32) }

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
		h.key[keySrc], h.key[keySrc+1], h.key[keyDst], h.key[keyDst+1] = p.Src.Hi, p.Src.Lo, p.Dst.Hi, p.Dst.Lo
	} else {
		h.key[keyAddrs] = addrsOf(p)
	}
	h.key[keyRest] = restOf(p.SrcPort, p.DstPort, p.Proto, p.In)
	h.allow = allowBit(c.State, p.In)
	h.whole = p.Flags&packet.PortsValid != 0 || int(p.End)-int(p.L4) >= wholeLength(p.Proto)
	if p.Flags&(packet.BrokenChain|packet.LaterFragment) != 0 {
		h.whole, h.lost, h.later = false, p.Flags&packet.BrokenChain != 0, p.Flags&packet.LaterFragment != 0
	}
}

// addrsOf returns the key of IPv4 addresses.
func addrsOf(p *packet.Packet) uint64 { return uint64(uint32(p.Src.Lo))<<32 | uint64(uint32(p.Dst.Lo)) }

// narrow is what a rule asks of an IPv4 packet, as far as it can be compared with a header: 16 bytes, and a shape that
// it shares with other rules. Of an address it asks for the first bits: a mask that is no prefix is tested beside.
//
//	addr   source:32 | destination:32
//	meta   rank:21 | shape:27 | lowest destination port:16
//
// rank says where the rule stands in its chain, see rank.go. It comes first, so that the lower one of two entries' meta is that of the earlier rule.
type narrow struct{ addr, meta uint64 }

const (
	rankShift  = 43
	shapeShift = 16
	shapeMask  = 1<<(rankShift-shapeShift) - 1
)

// shape is what entries have in common: real rule sets have few of them, which stay in the nearest cache. 16 bytes.
//
//	span   free source bits:8 | 8 | free destination bits:8 | 8 | 16 | 16     between these how far above the lowest: port of the
//	                                                                    wire, protocol, source port, destination port
//	low    lowest port of the wire:16 | protocol:16 | lowest source port:16 | verb:4 | allow:12
//
// Free are the last bits of an address, which the entry does not ask for. A port p agrees when p-lowest, modulo 2^16, is at most
// its span; so does the protocol. allow has a bit for each state and port of the wire, see allowBit; of the ports of the wire low
// and span say which are allowed to packets that begin a connection, as prepared bursts ask.
type shape struct{ span, low uint64 }

// Where the free bits stand in a shape's span.
const (
	freeSrc = 56
	freeDst = 40
)

// moreVerb is in the place of the verb in the shape of an entry whose rule has conditions that the entry does not hold: who tests
// them finds the verb with them.
const moreVerb = 14

// mask returns the bits that are asked of narrow.addr.
func (s *shape) mask() uint64 {
	return uint64(^uint32(0)<<(s.span>>freeSrc))<<32 | uint64(^uint32(0)<<(s.span>>freeDst&0xff))
}

// Lanes of a word that holds two ports: the ports, and the bit above each that a subtraction borrows from.
const (
	portLanes  = 0x0000ffff0000ffff
	portBorrow = 0x0001000000010000
)

// probe is an IPv4 header as narrow is compared with it.
type probe struct {
	addr, ports, proto uint64
}

func (h *header) probe() probe { return newProbe(h.key[keyAddrs], h.key[keyRest]) }

func newProbe(addrs, rest uint64) probe {
	return probe{addr: addrs, ports: rest&0xffff | rest<<16&(0xffff<<32) | portBorrow, proto: rest >> 32}
}

// off is zero when the entry agrees with the header, whose bit of allow is given. There are no branches in it.
func (x *narrow) off(s *shape, h *probe, allow uint8) uint64 {
	lowest := x.meta&0xffff | s.low<<16&(0xffff<<32)
	span := s.span&0xffff | s.span<<16&(0xffff<<32)
	past := (h.ports - lowest) & portLanes
	return (h.addr^x.addr)&s.mask() | ^((span|portBorrow)-past)&portBorrow | (h.proto^s.low>>32)&^(s.span>>32)&0xff | ^(s.low>>(allow&15))&1
}

func (x *narrow) shape() uint32 { return uint32(x.meta>>shapeShift) & shapeMask }

// newNarrow packs an entry; of its addresses only the last word counts.
func (g *program) newNarrow(x *wide) narrow {
	const wire = allowAll & (1<<packet.Ports - 1)
	in, inSpan := uint64(packet.Ports), uint64(0) // none
	if allow := x.allow >> allowBit(New, 0) & wire; allow != 0 {
		in = uint64(bits.TrailingZeros16(allow))
		inSpan = uint64(bits.Len16(allow)-1) - in
	}
	allow := uint64(x.allow)
	if x.rule >= more {
		allow = allow&allowAll | moreVerb<<verbShift
	}
	src, dst := bits.TrailingZeros32(uint32(x.srcMask.Lo)), bits.TrailingZeros32(uint32(x.dstMask.Lo))
	s := shape{
		span: uint64(src)<<freeSrc | inSpan<<48 | uint64(dst)<<freeDst | uint64(^x.protoMask)<<32 | uint64(x.sportSpan)<<16 | uint64(x.dportSpan),
		low:  in<<48 | uint64(x.proto&x.protoMask)<<32 | uint64(x.sport)<<16 | allow,
	}
	return narrow{
		addr: uint64(uint32(x.src.Lo))<<32 | uint64(uint32(x.dst.Lo)),
		meta: uint64(x.rule&^more)<<rankShift | uint64(g.intern(s))<<shapeShift | uint64(x.dport),
	}
}

// intern returns the number of a shape.
func (g *program) intern(s shape) uint32 {
	n, ok := g.interned[s]
	if g.interned == nil {
		if n := slices.Index(g.shapes, s); n >= 0 {
			return uint32(n)
		}
	}
	if ok {
		return n
	}
	n = uint32(len(g.shapes))
	g.shapes = append(g.shapes, s)
	if g.interned != nil {
		g.interned[s] = n
	}
	return n
}

// unpack is the entry as a wide one.
func (x *narrow) unpack(shapes []shape) wide {
	s := &shapes[x.shape()]
	w := wide{
		sport: uint16(s.low >> 16), sportSpan: uint16(s.span >> 16), dport: uint16(x.meta), dportSpan: uint16(s.span),
		proto: uint8(s.low >> 32), protoMask: ^uint8(s.span >> 32), allow: uint16(s.low), rule: x.ranked(),
	}
	if s.verb() == moreVerb {
		w.rule |= more
	}
	mask := s.mask()
	w.src.Lo, w.srcMask.Lo, w.dst.Lo, w.dstMask.Lo = x.addr>>32, mask>>32, x.addr&(1<<32-1), mask&(1<<32-1)
	return w
}

// verb returns what the rules of a shape do, or moreVerb.
func (s *shape) verb() Verb { return Verb(s.low >> verbShift & 15) }

// more is set in wide.rule when the rule has conditions that the entry does not hold.
const more = 1 << 31

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

// scanNarrow moves a cursor to the next entry of its run that agrees with the header and whose rank is at least from. The
// comparisons are put together without branches: only the outcome of the whole entry is one.
func (g *program) scanNarrow(h *header, k *cursor, from uint32) {
	q := h.probe()
	k.ready = true
	for ; k.at != 0; k.at = k.at.behind(g.places) {
		x := &g.narrow[k.at.entry()]
		s := &g.shapes[x.shape()]
		if rank := x.ranked(); x.off(s, &q, h.allow) == 0 && rank >= from {
			k.rank, k.verb, k.more = rank, s.verb(), s.verb() == moreVerb
			return
		}
	}
	k.rank = none
}

// scanWide is scanNarrow for IPv6.
func (g *program) scanWide(h *header, k *cursor, from uint32) {
	src, dst := h.addrs()
	sport, dport, proto, bit := h.sport(), h.dport(), h.proto(), h.allow&15
	k.ready = true
	for ; k.at != 0; k.at = k.at.behind(g.places) {
		x := &g.wide[k.at.entry()]
		off := (src.Hi^x.src.Hi)&x.srcMask.Hi | (src.Lo^x.src.Lo)&x.srcMask.Lo |
			(dst.Hi^x.dst.Hi)&x.dstMask.Hi | (dst.Lo^x.dst.Lo)&x.dstMask.Lo | uint64((proto^x.proto)&x.protoMask)
		low := (uint32(x.sportSpan) - uint32(sport-x.sport)) >> 16
		low |= (uint32(x.dportSpan) - uint32(dport-x.dport)) >> 16
		low |= ^(uint32(x.allow) >> bit) & 1
		if off|uint64(low) == 0 && x.rule&^more >= from {
			k.rank, k.verb, k.more = x.rule&^more, Verb(x.allow>>verbShift), x.rule >= more
			return
		}
	}
	k.rank = none
}

// scanShort moves a cursor to the entry of the lowest rank, not below from, that agrees with a packet whose transport
// header is short. Ports and ICMP types are not known, so that the runs may be those of a whole subtree.
// An entry of a rule that needs the header agrees by addresses, protocol and interfaces alone: what is asked beside
// these is left to walk.matches. For a packet without a protocol that can be found so does one of a rule that asks for any
// protocol, by addresses alone: on a bridge interfaces are asked for by -m physdev, behind -p.
func (g *program) scanShort(h *header, k *cursor, from uint32) {
	k.ready, k.rank = true, none
	if k.at.leaf() {
		g.shortRun(h, k, k.at, from)
		return
	}
	before := slot(0)
	for _, s := range g.below(k.at) {
		if s != before && s.leaf() {
			g.shortRun(h, k, s, from)
		}
		before = s
	}
}

// shortRun is scanShort for one run.
func (g *program) shortRun(h *header, k *cursor, run slot, from uint32) {
	for ; run != 0; run = run.behind(g.places) {
		at := run.entry()
		rank := g.rankOf(at)
		if rank >= k.rank {
			return
		}
		if rank < from {
			continue
		}
		if !g.v6 {
			n := &g.narrow[at]
			if (h.key[keyAddrs]^n.addr)&g.shapes[n.shape()].mask() != 0 {
				continue
			}
		}
		x := g.box(int(at))
		lost := h.lost && g.deed(rank).flags&asksProto != 0
		if (h.proto()^x.proto)&x.protoMask != 0 && !lost {
			continue
		}
		if g.v6 {
			src, dst := h.addrs()
			if (src.Hi^x.src.Hi)&x.srcMask.Hi|(src.Lo^x.src.Lo)&x.srcMask.Lo|(dst.Hi^x.dst.Hi)&x.dstMask.Hi|(dst.Lo^x.dst.Lo)&x.dstMask.Lo != 0 {
				continue
			}
		}
		bit := h.allow
		if g.deed(rank).flags&needsHeader != 0 {
			bit = allowShort(packet.Port(h.allow & 1))
		}
		if x.allow>>bit&1 != 0 || lost {
			k.rank, k.verb, k.more = rank, Verb(x.allow>>verbShift), true
			return
		}
	}
}
