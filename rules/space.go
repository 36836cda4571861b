package rules

import (
	"math/bits"
	"math/rand/v2"

	"corewire/internal/packet"
)

// A wide entry is also a set of headers: a box.

// stateMask are the bits of an entry's allow that stand for a state and a port. What an entry says of packets whose state is
// not asked for, because their transport header is short, decides no match.
const stateMask = 1<<(uint(States)*packet.Ports) - 1

// header returns the first header of a box, as the cuts of an IP version look at it.
func (x *wide) header(v6 bool) (h header) {
	if v6 {
		h.key[keySrc], h.key[keySrc+1], h.key[keyDst], h.key[keyDst+1] = x.src.Hi, x.src.Lo, x.dst.Hi, x.dst.Lo
	} else {
		h.key[keyAddrs] = x.src.Lo<<32 | x.dst.Lo&(1<<32-1)
	}
	h.key[keyRest] = restOf(x.sport, x.dport, x.proto, 0)
	return h
}

// window returns the bits that a cut asks of a box's headers: their value, and which of them the box fixes. Of ports they are
// those of the range's beginning, all or none of them fixed.
func (x *wide) window(by cut, mask uint32) (val, fixed uint32) {
	switch by.word {
	case wordSport, wordDport:
		lo, hi := x.ports(by.word)
		if lo>>by.shift == hi>>by.shift {
			fixed = mask
		}
		return lo >> by.shift & mask, fixed
	case wordProto:
		val, fixed = uint32(x.proto), uint32(x.protoMask)
	default:
		a, m := x.src, x.srcMask
		if by.word >= wordDst {
			a, m = x.dst, x.dstMask
		}
		switch by.word & 3 {
		case 0:
			val, fixed = uint32(a.Hi>>32), uint32(m.Hi>>32)
		case 1:
			val, fixed = uint32(a.Hi), uint32(m.Hi)
		case 2:
			val, fixed = uint32(a.Lo>>32), uint32(m.Lo>>32)
		default:
			val, fixed = uint32(a.Lo), uint32(m.Lo)
		}
	}
	return val >> by.shift & mask, fixed >> by.shift & mask
}

// ports returns the first and the last port of a word.
func (x *wide) ports(word uint8) (lo, hi uint32) {
	if word == wordDport {
		return uint32(x.dport), uint32(x.dport) + uint32(x.dportSpan)
	}
	return uint32(x.sport), uint32(x.sport) + uint32(x.sportSpan)
}

// meetsCut says that a header of x goes to the k-th child of a cut.
func (x *wide) meetsCut(by cut, mask, k uint32) bool {
	val, fixed := x.window(by, mask)
	if by.word != wordSport && by.word != wordDport || fixed != 0 {
		return (val^k)&fixed == 0
	}
	lo, hi := x.ports(by.word)
	// The children from the first port's on, around the end.
	return (k-val)&mask <= min(hi>>by.shift-lo>>by.shift, mask)
}

// shares says that some header agrees with both.
func (x *wide) shares(y *wide) bool {
	s, d, p := x.srcMask, x.dstMask, x.protoMask&y.protoMask
	s.Hi, s.Lo, d.Hi, d.Lo = s.Hi&y.srcMask.Hi, s.Lo&y.srcMask.Lo, d.Hi&y.dstMask.Hi, d.Lo&y.dstMask.Lo
	return (x.src.Hi^y.src.Hi)&s.Hi|(x.src.Lo^y.src.Lo)&s.Lo|(x.dst.Hi^y.dst.Hi)&d.Hi|(x.dst.Lo^y.dst.Lo)&d.Lo|uint64((x.proto^y.proto)&p) == 0 &&
		x.sport <= y.sport+y.sportSpan && y.sport <= x.sport+x.sportSpan && x.dport <= y.dport+y.dportSpan && y.dport <= x.dport+x.dportSpan &&
		x.allow&y.allow&stateMask != 0
}

// size is how many headers agree with the box, as a power of two, about.
func (x *wide) size() int {
	n := bits.OnesCount64(^x.srcMask.Hi) + bits.OnesCount64(^x.srcMask.Lo) + bits.OnesCount64(^x.dstMask.Hi) + bits.OnesCount64(^x.dstMask.Lo)
	return n + bits.OnesCount8(^x.protoMask) + bits.Len16(x.sportSpan) + bits.Len16(x.dportSpan) + bits.OnesCount16(x.allow&stateMask)
}

// sample returns one header of a box as a box of its own: first its corners, then some between.
func (x *wide) sample(try int, v6 bool, rng *rand.Rand) wide {
	r := [5]uint64{}
	switch try {
	case 0:
	case 1:
		r = [5]uint64{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
	default:
		for i := range r {
			r[i] = rng.Uint64()
		}
	}
	p := *x
	p.src.Hi, p.src.Lo = x.src.Hi|r[0]&^x.srcMask.Hi, x.src.Lo|r[1]&^x.srcMask.Lo
	p.dst.Hi, p.dst.Lo = x.dst.Hi|r[2]&^x.dstMask.Hi, x.dst.Lo|r[3]&^x.dstMask.Lo
	if !v6 {
		const v4 = 1<<32 - 1 // the rest of the address is the same for all
		p.src.Hi, p.dst.Hi = x.src.Hi, x.dst.Hi
		p.src.Lo, p.dst.Lo = x.src.Lo&^v4|p.src.Lo&v4, x.dst.Lo&^v4|p.dst.Lo&v4
	}
	all := ^uint64(0)
	p.srcMask, p.dstMask = packet.Addr{Hi: all, Lo: all}, packet.Addr{Hi: all, Lo: all}
	p.proto, p.protoMask = x.proto|uint8(r[4])&^x.protoMask, 0xff
	p.sport += uint16(r[4] >> 8 % (uint64(x.sportSpan) + 1))
	p.dport += uint16(r[4] >> 24 % (uint64(x.dportSpan) + 1))
	if try == 1 {
		p.sport, p.dport = x.sport+x.sportSpan, x.dport+x.dportSpan
	}
	p.sportSpan, p.dportSpan = 0, 0
	// One state on one port.
	allow := x.allow & stateMask
	for range int(r[4]>>40) % max(bits.OnesCount16(allow), 1) {
		allow &= allow - 1
	}
	p.allow = allow & -allow
	return p
}

// cut calls visit with what is left of x outside of y, in pieces that have nothing in common, until it returns false. Then x
// is what both have.
func (x *wide) cut(y *wide, visit func(wide) bool) bool {
	if p := *x; p.allow&stateMask&^y.allow != 0 {
		p.allow &^= y.allow
		if !visit(p) {
			return false
		}
		x.allow &= y.allow
	}
	if x.sport < y.sport {
		p := *x
		p.sportSpan = y.sport - 1 - x.sport
		if !visit(p) {
			return false
		}
		x.sportSpan -= y.sport - x.sport
		x.sport = y.sport
	}
	if end := y.sport + y.sportSpan; x.sport+x.sportSpan > end {
		p := *x
		p.sport, p.sportSpan = end+1, x.sport+x.sportSpan-end-1
		if !visit(p) {
			return false
		}
		x.sportSpan = end - x.sport
	}
	if x.dport < y.dport {
		p := *x
		p.dportSpan = y.dport - 1 - x.dport
		if !visit(p) {
			return false
		}
		x.dportSpan -= y.dport - x.dport
		x.dport = y.dport
	}
	if end := y.dport + y.dportSpan; x.dport+x.dportSpan > end {
		p := *x
		p.dport, p.dportSpan = end+1, x.dport+x.dportSpan-end-1
		if !visit(p) {
			return false
		}
		x.dportSpan = end - x.dport
	}
	// Bits that y asks for and x does not: the piece has the other value, what goes on has y's.
	for bit := uint8(0x80); bit != 0; bit >>= 1 {
		if y.protoMask&^x.protoMask&bit == 0 {
			continue
		}
		p := *x
		p.protoMask |= bit
		p.proto = x.proto&^bit | ^y.proto&bit
		if !visit(p) {
			return false
		}
		x.protoMask, x.proto = x.protoMask|bit, x.proto&^bit|y.proto&bit
	}
	for _, w := range []struct {
		v, m *uint64
		want uint64
		ask  uint64
	}{{&x.src.Hi, &x.srcMask.Hi, y.src.Hi, y.srcMask.Hi}, {&x.src.Lo, &x.srcMask.Lo, y.src.Lo, y.srcMask.Lo},
		{&x.dst.Hi, &x.dstMask.Hi, y.dst.Hi, y.dstMask.Hi}, {&x.dst.Lo, &x.dstMask.Lo, y.dst.Lo, y.dstMask.Lo}} {
		for bit := uint64(1) << 63; bit != 0; bit >>= 1 {
			if w.ask&^*w.m&bit == 0 {
				continue
			}
			v, m := *w.v, *w.m
			*w.m, *w.v = m|bit, v&^bit|^w.want&bit
			ok := visit(*x)
			*w.v = v&^bit | w.want&bit
			if !ok {
				return false
			}
		}
	}
	return true
}

// wide returns the box as an entry.
func (x *box) wide() wide {
	return wide{
		src: addrOf(x.val[0:4]), srcMask: addrOf(x.mask[0:4]), dst: addrOf(x.val[4:8]), dstMask: addrOf(x.mask[4:8]),
		sport: x.port[0].Lo, sportSpan: x.port[0].Hi - x.port[0].Lo, dport: x.port[1].Lo, dportSpan: x.port[1].Hi - x.port[1].Lo,
		proto: x.proto, protoMask: x.protoMask, allow: x.allow, rule: x.rule,
	}
}

// box returns an entry as a wide one; of IPv4 addresses only the last word counts.
func (g *program) box(n int) wide {
	if g.v6 {
		return g.wide[n]
	}
	return g.narrow[n].unpack(g.shapes)
}

// in says that every header that agrees with x agrees with y.
func (x *wide) in(y *wide) bool {
	if y.srcMask.Hi&^x.srcMask.Hi|y.srcMask.Lo&^x.srcMask.Lo|y.dstMask.Hi&^x.dstMask.Hi|y.dstMask.Lo&^x.dstMask.Lo|uint64(y.protoMask&^x.protoMask) != 0 {
		return false
	}
	if (x.src.Hi^y.src.Hi)&y.srcMask.Hi|(x.src.Lo^y.src.Lo)&y.srcMask.Lo|(x.dst.Hi^y.dst.Hi)&y.dstMask.Hi|(x.dst.Lo^y.dst.Lo)&y.dstMask.Lo|uint64((x.proto^y.proto)&y.protoMask) != 0 {
		return false
	}
	return y.sport <= x.sport && uint32(x.sport)+uint32(x.sportSpan) <= uint32(y.sport)+uint32(y.sportSpan) &&
		y.dport <= x.dport && uint32(x.dport)+uint32(x.dportSpan) <= uint32(y.dport)+uint32(y.dportSpan) &&
		x.allow&stateMask&^y.allow == 0
}
