package rules

import (
	"fmt"
	"strings"
)

// Check looks for what is legal and probably not meant: chains that nothing leads to, and rules that no packet can
// reach because earlier ones of their chain take every packet that they would match.
//
// A rule is found if one single rule before it takes all its packets; that several do together is not looked for.
// The result is in the order of the rules.
func (rs *Ruleset) Check() []Warning {
	var out []Warning
	compiled := make([]bool, len(rs.rules))
	shadow := make(map[RuleID]RuleID)
	seen := make(map[RuleID]bool) // judged already, in another program
	for f := range rs.prog {
		g := &rs.prog[f]
		for i := range g.rules {
			compiled[g.rules[i].id] = true
		}
		rs.shadowed(f, shadow, seen)
	}
	// A rule for both IP versions, or below several base chains, is unreachable if it is so for each.
	for id := range rs.rules {
		r := &rs.rules[id]
		if !compiled[id] {
			continue
		}
		if by, ok := shadow[RuleID(id)]; ok {
			out = append(out, Warning{r.Rule.Pos, fmt.Sprintf("rule %s is never reached: %s in line %d takes every packet that it would match", rs.RuleName(RuleID(id)), rs.RuleName(by), rs.rules[by].Rule.Pos.Line)})
		}
	}
	for _, c := range rs.chains {
		if len(c.Rules) == 0 || c.Policy != PolicyNone {
			continue
		}
		used := false
		for _, id := range c.Rules {
			used = used || compiled[id]
		}
		if !used {
			out = append(out, Warning{c.Chain.Pos, "chain " + c.Name + " is not reached from " + baseNames(c.Table)})
		}
	}
	return out
}

// baseNames lists the base chains of a table that packets pass.
func baseNames(table string) string {
	var names []string
	for _, k := range basesOf(table) {
		names = append(names, baseTable[k].chain)
	}
	return strings.Join(names, " or ")
}

// shadowed finds rules of one program that a single earlier rule makes unreachable. A rule that was found in another
// program, of the other version or another base chain, and is reached in this one is taken out again.
//
// An earlier rule that holds a whole box agrees with every header in it: it is among those that a lookup of any one
// header gives.
func (rs *Ruleset) shadowed(place int, found map[RuleID]RuleID, seen map[RuleID]bool) {
	g := &rs.prog[place]
	// The boxes are made again: those of rules that building found unreachable are in no tree.
	c := compiler{rs: &Ruleset{}, opt: rs.opt, place: place}
	c.cur = &program{v6: g.v6}
	for _, ch := range g.chains {
		for rank := ch.firstRank; rank < ch.rank; rank++ {
			id := g.rules[rank].id
			by, held := uint32(0), false
			for _, x := range c.boxes(nil, &rule{}, rs.rules[id].Rule) {
				var h header
				copy(h.w[:], x.val[:])
				h.w[wordSport], h.w[wordDport], h.w[wordProto] = uint32(x.port[0].Lo), uint32(x.port[1].Lo), uint32(x.proto)
				w := x.wide()
				if by = g.holder(ch, &h, &w, rank); by == none {
					held = false
					break
				}
				held = true
			}
			switch {
			case !held:
				delete(found, id)
			case !seen[id]:
				found[id] = g.rules[by].id
			}
			seen[id] = true
		}
	}
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
	x := &g.narrow[n]
	w := wide{sport: x.sport, sportSpan: x.sportSpan, dport: x.dport, dportSpan: x.dportSpan, proto: x.proto, protoMask: x.protoMask, allow: x.allow, rule: x.rule}
	w.src.Lo, w.srcMask.Lo, w.dst.Lo, w.dstMask.Lo = uint64(x.src), uint64(x.srcMask), uint64(x.dst), uint64(x.dstMask)
	return w
}

// holder returns the rank of the first final rule of the chain, before rank, one of whose boxes holds box x whole, or none.
func (g *program) holder(ch chain, h *header, x *wide, rank uint32) uint32 {
	best := none
	for _, s := range g.trees[ch.first : ch.first+ch.n] {
		for !s.leaf() {
			s = g.slots[s.child(h)]
		}
		at, end := s.run()
		for _, n := range g.places[at:end] {
			y := g.box(int(n))
			r := y.rule &^ more
			if y.isDead() || r >= rank || r >= best || y.rule&more != 0 || g.rules[r].flags&needsHeader != 0 && g.rules[rank].flags&needsHeader == 0 {
				continue
			}
			switch g.rules[r].verb {
			case VerbAccept, VerbDrop, VerbReject, VerbReturn, VerbGoto:
			default:
				continue
			}
			if x.in(&y) {
				best = r
			}
		}
	}
	return best
}

// in says that every header that agrees with x agrees with y.
func (x *wide) in(y *wide) bool {
	if y.srcMask.Hi&^x.srcMask.Hi|y.srcMask.Lo&^x.srcMask.Lo|y.dstMask.Hi&^x.dstMask.Hi|y.dstMask.Lo&^x.dstMask.Lo|uint64(y.protoMask&^x.protoMask) != 0 {
		return false
	}
	if (x.src.Hi^y.src.Hi)&y.srcMask.Hi|(x.src.Lo^y.src.Lo)&y.srcMask.Lo|(x.dst.Hi^y.dst.Hi)&y.dstMask.Hi|(x.dst.Lo^y.dst.Lo)&y.dstMask.Lo|uint64((x.proto^y.proto)&y.protoMask) != 0 {
		return false
	}
	const bits = 1<<verbShift - 1
	return y.sport <= x.sport && uint32(x.sport)+uint32(x.sportSpan) <= uint32(y.sport)+uint32(y.sportSpan) &&
		y.dport <= x.dport && uint32(x.dport)+uint32(x.dportSpan) <= uint32(y.dport)+uint32(y.dportSpan) &&
		x.allow&bits&^y.allow == 0
}
