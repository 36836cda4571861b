package rules

import (
	"math/bits"
	"math/rand/v2"
	"slices"

	"corewire/internal/packet"
)

// Bounds of the search for rules that several others hide together. They are counted in steps, so that the same rules give
// the same answer everywhere.
const (
	coverTries  = 8         // headers that are looked up first: one that no earlier rule takes settles it
	coverVisits = 1 << 16   // entries and slots looked at for one rule
	coverPieces = 1 << 13   // pieces that one rule is cut into
	coverTotal  = 200 << 20 // entries and slots for all rules of a check
	verbMask    = 1<<verbShift - 1
)

// cover decides whether earlier rules of a chain take together every packet that a rule would match.
type cover struct {
	g      *program
	ch     chain
	rank   uint32 // of the rule
	visits int    // left for the rule
	total  *int   // left for the check
	pieces int    // left for the rule
	near   []wide // final boxes of earlier rules that have something in common with the rule's box, by rank
	used   []uint32
	rng    *rand.Rand
}

// coverage is the answer.
type coverage uint8

const (
	open    coverage = iota // some packet is left
	covered                 // none is
	unsure                  // the search was given up
)

// box answers for one box of the rule.
func (c *cover) box(x *wide) coverage {
	for try := range coverTries {
		p := c.sample(x, try)
		h := p.header(c.g.v6)
		if c.g.holder(c.ch, &h, &p, c.rank) == none {
			return open
		}
	}
	c.near = c.near[:0]
	c.visits, c.pieces = coverVisits, coverPieces
	for _, s := range c.g.trees[c.ch.first : c.ch.first+c.ch.n] {
		c.gather(s, x)
	}
	if c.visits < 0 || *c.total < 0 {
		return unsure
	}
	slices.SortFunc(c.near, func(a, b wide) int { return int(a.rule) - int(b.rule) })
	c.near = slices.CompactFunc(c.near, func(a, b wide) bool { return a == b })
	return c.rest(*x, 0)
}

// sample returns one header of a box as a box of its own: first its corners, then some between.
func (c *cover) sample(x *wide, try int) wide {
	r := [5]uint64{}
	switch try {
	case 0:
	case 1:
		r = [5]uint64{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
	default:
		for i := range r {
			r[i] = c.rng.Uint64()
		}
	}
	p := *x
	p.src.Hi, p.src.Lo = x.src.Hi|r[0]&^x.srcMask.Hi, x.src.Lo|r[1]&^x.srcMask.Lo
	p.dst.Hi, p.dst.Lo = x.dst.Hi|r[2]&^x.dstMask.Hi, x.dst.Lo|r[3]&^x.dstMask.Lo
	if !c.g.v6 {
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
	allow := x.allow & verbMask
	for range int(r[4]>>40) % max(bits.OnesCount16(allow), 1) {
		allow &= allow - 1
	}
	p.allow = allow & -allow
	return p
}

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

// gather collects the final boxes of earlier rules below a slot that have something in common with x.
func (c *cover) gather(s slot, x *wide) {
	c.visits--
	*c.total--
	if c.visits < 0 || *c.total < 0 {
		return
	}
	if s.leaf() {
		at, end := s.run()
		for _, n := range c.g.places[at:end] {
			c.visits--
			*c.total--
			if y := c.g.box(int(n)); c.g.takes(&y, c.rank) && x.shares(&y) {
				y.rule &^= more
				y.allow &= verbMask
				c.near = append(c.near, y)
			}
		}
		return
	}
	by, mask := s.cut(c.g.v6), s.mask()
	for k := range mask + 1 {
		if x.meetsCut(by, mask, k) {
			c.gather(c.g.slots[uint32(s)+k], x)
		}
	}
}

// meetsCut says that a header of x goes to the k-th child of a cut.
func (x *wide) meetsCut(by cut, mask, k uint32) bool {
	var val, fixed uint32
	shift := by.shift
	switch by.word {
	case wordSport, wordDport:
		lo, span := uint32(x.sport), uint32(x.sportSpan)
		if by.word == wordDport {
			lo, span = uint32(x.dport), uint32(x.dportSpan)
		}
		first, last := lo>>shift, (lo+span)>>shift
		if last-first >= mask {
			return true
		}
		for v := first; v <= last; v++ {
			if v&mask == k {
				return true
			}
		}
		return false
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
	return (val>>shift^k)&(fixed>>shift)&mask == 0
}

// takes says that nothing behind an entry's rule, which is before rank, sees a packet that the entry agrees with.
func (g *program) takes(y *wide, rank uint32) bool {
	r := y.rule &^ more
	if y.isDead() || r >= rank || y.rule&more != 0 || g.rules[r].flags&needsHeader != 0 && g.rules[rank].flags&needsHeader == 0 {
		return false
	}
	switch g.rules[r].verb {
	case VerbAccept, VerbDrop, VerbReject, VerbReturn, VerbGoto:
		return true
	}
	return false
}

// shares says that some header agrees with both.
func (x *wide) shares(y *wide) bool {
	s, d, p := x.srcMask, x.dstMask, x.protoMask&y.protoMask
	s.Hi, s.Lo, d.Hi, d.Lo = s.Hi&y.srcMask.Hi, s.Lo&y.srcMask.Lo, d.Hi&y.dstMask.Hi, d.Lo&y.dstMask.Lo
	return (x.src.Hi^y.src.Hi)&s.Hi|(x.src.Lo^y.src.Lo)&s.Lo|(x.dst.Hi^y.dst.Hi)&d.Hi|(x.dst.Lo^y.dst.Lo)&d.Lo|uint64((x.proto^y.proto)&p) == 0 &&
		x.sport <= y.sport+y.sportSpan && y.sport <= x.sport+x.sportSpan && x.dport <= y.dport+y.dportSpan && y.dport <= x.dport+x.dportSpan &&
		x.allow&y.allow&verbMask != 0
}

// rest answers for what is left of the box, by the boxes from the k-th on: the first that has something in common with it
// cuts it into pieces that do not, and what they share is gone.
func (c *cover) rest(x wide, k int) coverage {
	for ; k < len(c.near); k++ {
		if x.shares(&c.near[k]) {
			break
		}
	}
	if k == len(c.near) {
		return open
	}
	if c.pieces--; c.pieces < 0 {
		return unsure
	}
	y := &c.near[k]
	c.used = append(c.used, y.rule)
	answer := covered
	// cut answers for a piece outside of y; false ends the search.
	cut := func(p wide) bool {
		switch c.rest(p, k+1) {
		case open:
			answer = open
			return false
		case unsure:
			answer = unsure
		}
		return true
	}
	if p := x; p.allow&verbMask&^y.allow != 0 {
		p.allow &^= y.allow
		if !cut(p) {
			return answer
		}
		x.allow &= y.allow
	}
	if x.sport < y.sport {
		p := x
		p.sportSpan = y.sport - 1 - x.sport
		if !cut(p) {
			return answer
		}
		x.sportSpan -= y.sport - x.sport
		x.sport = y.sport
	}
	if end := y.sport + y.sportSpan; x.sport+x.sportSpan > end {
		p := x
		p.sport, p.sportSpan = end+1, x.sport+x.sportSpan-end-1
		if !cut(p) {
			return answer
		}
		x.sportSpan = end - x.sport
	}
	if x.dport < y.dport {
		p := x
		p.dportSpan = y.dport - 1 - x.dport
		if !cut(p) {
			return answer
		}
		x.dportSpan -= y.dport - x.dport
		x.dport = y.dport
	}
	if end := y.dport + y.dportSpan; x.dport+x.dportSpan > end {
		p := x
		p.dport, p.dportSpan = end+1, x.dport+x.dportSpan-end-1
		if !cut(p) {
			return answer
		}
		x.dportSpan = end - x.dport
	}
	// Bits that y asks for and x does not: the piece has the other value, what goes on has y's.
	for bit := uint8(0x80); bit != 0; bit >>= 1 {
		if y.protoMask&^x.protoMask&bit == 0 {
			continue
		}
		p := x
		p.protoMask |= bit
		p.proto = x.proto&^bit | ^y.proto&bit
		if !cut(p) {
			return answer
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
			ok := cut(x)
			*w.v = v&^bit | w.want&bit
			if !ok {
				return answer
			}
		}
	}
	return answer
}
