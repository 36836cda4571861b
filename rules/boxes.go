package rules

import (
	"math/bits"
	"slices"

	"corewire/internal/packet"
)

// maxBoxes bounds into how many boxes a rule with lists of ports is taken apart; beyond, the lists are looked at when
// the rest agrees.
const maxBoxes = 64

// boxes appends the boxes of a rule to dst and completes the rule: the conditions that a box cannot hold are stored
// with it. A rule that can match nothing has no box.
func (c *compiler) boxes(dst []box, cr *deed, r *Rule) []box {
	g := c.cur
	list := c.conditions(r)
	if g.v6 && r.Proto.Num != 0 {
		cr.flags |= asksProto
	}
	x := box{allow: allowAll, rule: g.rankAt(uint32(len(g.rules)))}
	ports := [2][]PortRange{{anyPort}, {anyPort}}
	rest := c.rest[:0]
	before := false // something is asked that the slow look at short packets does not know
	effect := false // something is asked that must not be asked in vain, or that may drop the packet: what stands behind it stays there
	for _, q := range list {
		if effect = effect || q.op.effect() || q.op.hot(); effect {
			if q.op == opHeader {
				cr.flags |= needsHeader | early
			}
			before = true
			rest = append(rest, q)
			continue
		}
		switch q.op {
		case opSrc:
			if !q.not && split(x.val[wordSrc:], x.mask[wordSrc:], r.Src, g.v6) {
				continue
			}
			q.a = c.addr(r.Src)
			before = true
		case opDst:
			if !q.not && split(x.val[wordDst:], x.mask[wordDst:], r.Dst, g.v6) {
				continue
			}
			q.a = c.addr(r.Dst)
			before = true
		case opPorts:
			if q.lo == 0 && !before && cr.flags&(needsHeader|asksProto) == 0 {
				return dst
			}
			if cr.flags&needsHeader != 0 {
				break // behind the header, not before: a short packet is dropped from any port
			}
			for s := range States + 1 { // allowShort follows the states
				x.allow &^= (3 &^ q.lo) << allowBit(s, 0)
			}
			continue
		case opProto:
			if !q.not {
				x.proto, x.protoMask = uint8(q.lo), 0xff
				continue
			}
			before = true
		case opState, opTracked:
			for s := range States {
				if g.test(&q, &packet.Packet{}, &Context{State: s}) == no {
					x.allow &^= 3 << allowBit(s, 0)
				}
			}
			before = true
			continue
		case opHeader:
			if before || int(q.lo) != wholeLength(x.proto) {
				cr.flags |= early
			}
			cr.flags |= needsHeader
			continue
		case opSport, opDport, opMulti:
			before = true
			side := 0
			if q.op == opDport || q.op == opMulti && PortSide(q.lo) == PortDestination {
				side = 1
			}
			if m, ok := g.ranges(&q); ok {
				if m = intersect(ports[side], m); len(m) > 0 && len(m)*len(ports[1-side]) <= maxBoxes {
					ports[side] = m
					continue
				}
			}
		case opNever:
			if cr.flags&(needsHeader|asksProto) == 0 {
				return dst
			}
		default:
			before = true
		}
		rest = append(rest, q)
	}
	c.rest = rest
	if cr.flags&early != 0 || len(rest) > 0 {
		cr.pred = uint32(len(g.preds))
	}
	if cr.flags&early != 0 {
		cr.all = uint8(len(list))
		for _, q := range list {
			switch q.op {
			case opSrc:
				q.a = c.addr(r.Src)
			case opDst:
				q.a = c.addr(r.Dst)
			}
			g.preds = append(g.preds, q)
		}
	}
	cr.rest = uint8(len(rest))
	g.preds = append(g.preds, rest...)
	x.final = len(rest) == 0 && cr.verb.final()
	for _, s := range ports[0] {
		for _, d := range ports[1] {
			x.port = [2]PortRange{s, d}
			dst = append(dst, x)
		}
	}
	return dst
}

// split writes an address and its mask into a box's words. Of an IPv4 address only the last word is looked at, and of a mask of IPv4
// that is no prefix the ones that it begins with are written, for entries hold no more of it: then it is false.
func split(val, mask []uint32, a AddrMatch, v6 bool) bool {
	val[3], mask[3] = uint32(a.Addr.Lo), uint32(a.Mask.Lo)
	if v6 {
		val[0], val[1], val[2] = uint32(a.Addr.Hi>>32), uint32(a.Addr.Hi), uint32(a.Addr.Lo>>32)
		mask[0], mask[1], mask[2] = uint32(a.Mask.Hi>>32), uint32(a.Mask.Hi), uint32(a.Mask.Lo>>32)
		return true
	}
	prefix := ^(^uint32(0) >> bits.LeadingZeros32(^mask[3]))
	whole := mask[3] == prefix
	val[3], mask[3] = val[3]&prefix, prefix
	return whole
}

// ranges returns the ports that a condition accepts, as rising ranges that do not touch; false when the condition is
// about both ports at once.
func (g *program) ranges(q *pred) ([]PortRange, bool) {
	var in []PortRange
	if q.op != opMulti {
		in = []PortRange{{Lo: q.lo, Hi: q.hi}}
	} else {
		if PortSide(q.lo) == PortEither {
			return nil, false
		}
		in = slices.Clone(g.ports[q.a : q.a+uint32(q.n)])
		slices.SortFunc(in, func(a, b PortRange) int { return int(a.Lo) - int(b.Lo) })
		n := 1
		for _, r := range in[1:] {
			if last := &in[n-1]; int(r.Lo) <= int(last.Hi)+1 {
				last.Hi = max(last.Hi, r.Hi)
				continue
			}
			in[n] = r
			n++
		}
		in = in[:n]
	}
	if !q.not {
		return in, true
	}
	var out []PortRange
	next := 0
	for _, r := range in {
		if int(r.Lo) > next {
			out = append(out, PortRange{Lo: uint16(next), Hi: r.Lo - 1})
		}
		next = int(r.Hi) + 1
	}
	if next <= 65535 {
		out = append(out, PortRange{Lo: uint16(next), Hi: 65535})
	}
	return out, true
}

// intersect returns what two lists of ranges have in common.
func intersect(a, b []PortRange) (out []PortRange) {
	for _, x := range a {
		for _, y := range b {
			if lo, hi := max(x.Lo, y.Lo), min(x.Hi, y.Hi); lo <= hi {
				out = append(out, PortRange{Lo: lo, Hi: hi})
			}
		}
	}
	return out
}

// appendEntry writes the entry of a box of a rule.
func (g *program) appendEntry(x *box) {
	d := g.deed(x.rule)
	asks := uint32(0)
	if d.rest > 0 {
		asks = more
	}
	g.writeEntry(x, d.verb, asks)
}

// writeEntry writes the entry of a box, with more or 0 for what it does not hold.
func (g *program) writeEntry(x *box, verb Verb, asks uint32) {
	w := x.wide()
	w.rule = x.rule | asks
	w.allow |= uint16(verb) << verbShift
	if g.v6 {
		g.wide = append(g.wide, w)
		return
	}
	g.narrow = append(g.narrow, g.newNarrow(&w))
}

func addrOf(w []uint32) packet.Addr {
	return packet.Addr{Hi: uint64(w[0])<<32 | uint64(w[1]), Lo: uint64(w[2])<<32 | uint64(w[3])}
}
