package rules

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// FindingKind says what a Finding is about.
type FindingKind string

// Kinds of findings.
const (
	FindingShadowed  FindingKind = "shadowed"  // no packet reaches the rule: earlier ones take all that it would match
	FindingDuplicate FindingKind = "duplicate" // the rule stands in its chain already
	FindingUnused    FindingKind = "unused"    // nothing leads to the chain
	FindingUnsure    FindingKind = "unsure"    // whether other rules hide it together was not found out within bounds
)

// Finding is something in a rule set that is legal and probably not meant.
type Finding struct {
	Pos  Pos
	Kind FindingKind
	Rule RuleID // NoRule for a chain
	Text string
	Hint string
}

// String returns "file:line:column: text (hint)".
func (f Finding) String() string {
	s := f.Pos.String() + ": " + f.Text
	if f.Hint != "" {
		s += " (" + f.Hint + ")"
	}
	return s
}

// Check looks for what is legal and probably not meant: chains that nothing leads to, rules that are there twice, and rules
// that no packet can reach because earlier ones of their chain, one or several together, take every packet that they would
// match. Addresses, ports, protocol, state and port of the wire are compared exactly; a rule that asks anything else is
// taken to let some packet pass. For a rule that thousands of others touch the search may be given up, which is said. The
// result is in the order of the rules; the time is near to proportional to their number.
func (rs *Ruleset) Check() []Finding {
	var out []Finding
	compiled := make([]bool, rs.Counters())
	x := shadows{found: make(map[RuleID][]RuleID), seen: make(map[RuleID]bool), unsure: make(map[RuleID]bool), left: coverTotal, rng: rand.New(rand.NewPCG(1, 2))}
	for f := range rs.prog {
		g := &rs.prog[f]
		for _, index := range g.names {
			for _, r := range g.rules[g.chains[index].firstRank:g.chains[index].rank] {
				compiled[r.id] = true
			}
		}
		rs.shadowed(f, &x)
	}
	// A rule for both IP versions, or below several base chains, is unreachable if it is so for each.
	first := make(map[string]RuleID)
	var key []byte
	for me, r := range rs.Rules() {
		if !compiled[me] {
			continue
		}
		key = r.appendIdentity(key[:0])
		before, twice := first[string(key)]
		if !twice {
			first[string(key)] = me
		}
		switch by := x.found[me]; {
		case twice && len(by) < 2:
			out = append(out, Finding{r.Rule.Pos, FindingDuplicate, me, fmt.Sprintf("rule %s is the same as %s in line %d", rs.RuleName(me), rs.RuleName(before), rs.info(before).Rule.Pos.Line), "one of them can go"})
		case len(by) == 1:
			out = append(out, Finding{r.Rule.Pos, FindingShadowed, me, fmt.Sprintf("rule %s is never reached: %s in line %d takes every packet that it would match", rs.RuleName(me), rs.RuleName(by[0]), rs.info(by[0]).Rule.Pos.Line), "remove it, or put it before that one"})
		case len(by) > 1:
			names := ""
			for k, other := range by {
				if k == 4 {
					names += fmt.Sprintf(" and %d more", len(by)-k)
					break
				}
				if k > 0 {
					names += ", "
				}
				names += fmt.Sprintf("%s in line %d", rs.RuleName(other), rs.info(other).Rule.Pos.Line)
			}
			out = append(out, Finding{r.Rule.Pos, FindingShadowed, me, fmt.Sprintf("rule %s is never reached: together, %s take every packet that it would match", rs.RuleName(me), names), "remove it, or put it before these"})
		case x.unsure[me]:
			out = append(out, Finding{r.Rule.Pos, FindingUnsure, me, fmt.Sprintf("rule %s: whether the rules before it take all its packets together was not found out", rs.RuleName(me)), "the search was given up"})
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
			out = append(out, Finding{c.Chain.Pos, FindingUnused, NoRule, "chain " + c.Name + " is not reached from " + baseNames(c.Table), "no rule that packets come to jumps there"})
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

// shadows is what is found out about the rules of a set, program by program.
type shadows struct {
	found  map[RuleID][]RuleID // the rules that hide it
	seen   map[RuleID]bool     // judged already, in another program
	unsure map[RuleID]bool
	left   int // effort
	rng    *rand.Rand
}

// shadowed finds rules of one program that earlier ones make unreachable. A rule that was found in another program, of the
// other version or another base chain, and is reached in this one is taken out again.
//
// An earlier rule that holds a whole box agrees with every header in it: it is among those that a lookup of any one
// header gives.
func (rs *Ruleset) shadowed(place int, found *shadows) {
	g := &rs.prog[place]
	// The boxes are made again: those of rules that building found unreachable are in no tree.
	c := compiler{rs: &Ruleset{}, opt: rs.opt, place: place}
	c.cur = &program{v6: g.v6}
	union := cover{g: g, total: &found.left, rng: found.rng}
	for _, index := range slices.Sorted(maps.Values(g.names)) {
		ch := g.chains[index]
		union.ch = ch
		for rank := ch.firstRank; rank < ch.rank; rank++ {
			id := g.rules[rank].id
			answer := open
			var by []RuleID
			union.rank = rank
			*c.cur = program{v6: g.v6}
			for _, x := range c.boxes(nil, &rule{}, rs.info(id).Rule) {
				w := x.wide()
				h := w.header(g.v6)
				answer = covered
				if one := g.holder(ch, &h, &w, rank); one != none {
					by = append(by, g.rules[one].id)
					continue
				}
				union.used = union.used[:0]
				if answer = union.box(&w); answer != covered {
					break
				}
				for _, r := range union.used {
					by = append(by, g.rules[r].id)
				}
			}
			slices.Sort(by)
			switch {
			case answer != covered:
				delete(found.found, id)
				if answer == unsure {
					found.unsure[id] = true
				}
			case !found.seen[id]:
				found.found[id] = slices.Compact(by)
			}
			found.seen[id] = true
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
	return g.narrow[n].unpack(g.shapes)
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
			if r >= best || !g.takes(&y, rank) {
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
