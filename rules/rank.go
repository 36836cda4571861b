package rules

import (
	"iter"
	"slices"
	"sort"
)

// The rank of a rule says where it stands among the rules of its chain. Compiling leaves ranks free, so that a rule that comes
// later gets one of its own between its neighbours, and nothing else moves:
//
//	rank   index in program.rules | program.gap bits
//	                                11…1   the rule there
//	                                11…0   the mark of that rule once it has gone, see goneVerb
//	                                other  rules that came before it, in program.late
//
// Where many rules come to one place and no rank is left there, room is made: elements of program.rules that are no rules, and
// all that stands behind them gets a higher rank.

// Bounds of ranks. rankBits is how many bits entries have for them; with maxGap more ranks are free between two rules than changes
// may put rules there; roomMade is how many ranks room is made for at least, so that it is seldom made.
const (
	rankBits = 64 - rankShift
	maxGap   = 10
	minGap   = 2 // with fewer bits rules are compiled anew by every change
	roomMade = 1 << maxGap
)

// gapFor returns the gap for so many rules and chains.
func gapFor(n int) uint8 {
	gap := uint8(maxGap)
	for ; gap > 0 && (n+n/64)<<gap > 1<<rankBits; gap-- {
	}
	return gap
}

// low has the bits of a rank that are no index.
func (g *program) low() uint32 { return 1<<g.gap - 1 }

// rankAt returns the rank of the rule with an index in rules.
func (g *program) rankAt(index uint32) uint32 { return index<<g.gap | g.low() }

// markOf returns the rank of the mark of a rule that was compiled.
func markOf(rank uint32) uint32 { return rank - 1 }

// isMark says that a rank is a mark's.
func (g *program) isMark(rank uint32) bool { return g.gap >= minGap && rank&g.low() == g.low()-1 }

// late is a rule that a change put in, or a mark, whose rule is that which went.
type late struct {
	rank uint32
	rule rule
}

// rule returns the rule of a rank.
func (g *program) rule(rank uint32) rule {
	if low := g.low(); rank&low != low {
		return g.late[g.lateAt(rank)].rule
	}
	return g.compiled(rank >> g.gap)
}

// lateAt returns the index in late of a rank, or of the next above it.
func (g *program) lateAt(rank uint32) int {
	return sort.Search(len(g.late), func(k int) bool { return g.late[k].rank >= rank })
}

// hasGone says that the rule of a rank is one that was compiled, and went.
func (g *program) hasGone(rank uint32) bool {
	k := g.lateAt(markOf(rank))
	return rank&g.low() == g.low() && k < len(g.late) && g.late[k].rank == markOf(rank)
}

// isRoom says that an element of rules is no rule: it has the RuleID of the next one.
func (g *program) isRoom(index uint32) bool {
	return index+1 < uint32(len(g.rules)) && g.rules[index].id() == g.rules[index+1].id()
}

// ranks gives the ranks of a chain's rules, in order.
func (g *program) ranks(ch chain) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		if ch.n == 0 { // packets do not come there
			return
		}
		k := g.lateAt(ch.begin << g.gap)
		for i := ch.begin; i <= ch.end; i++ {
			rank, gone := g.rankAt(i), i == ch.end || g.isRoom(i)
			for ; k < len(g.late) && g.late[k].rank < rank; k++ {
				if g.isMark(g.late[k].rank) {
					gone = true
				} else if !yield(g.late[k].rank) {
					return
				}
			}
			if !gone && !yield(rank) {
				return
			}
		}
	}
}

// leading gives what rules of a chain that lead to another one do, in no order.
func (g *program) leading(ch chain) iter.Seq[*deed] {
	return func(yield func(*deed) bool) {
		if ch.n == 0 {
			return
		}
		k, _ := slices.BinarySearch(g.leaders, ch.begin)
		for ; k < len(g.leaders) && g.leaders[k] < ch.end; k++ {
			if rank := g.rankAt(g.leaders[k]); !g.hasGone(rank) && !yield(g.deed(rank)) {
				return
			}
		}
		for k := g.lateAt(ch.begin << g.gap); k < len(g.late) && g.late[k].rank < g.rankAt(ch.end); k++ {
			if d := g.deedOf(g.late[k].rule); d.leads() && !g.isMark(g.late[k].rank) && !yield(d) {
				return
			}
		}
	}
}

// indexFrom returns the index in rules of a chain's first compiled rule from a RuleID on: that of the end if there is none.
func (g *program) indexFrom(ch chain, id RuleID) uint32 {
	n := ch.end - ch.begin
	k := sort.Search(int(n), func(k int) bool { return g.rules[ch.begin+uint32(k)].id() > id })
	if k > 0 && g.rules[ch.begin+uint32(k)-1].id() == id {
		return ch.begin + uint32(k) - 1
	}
	for k < int(n) && g.isRoom(ch.begin+uint32(k)) {
		k++
	}
	return ch.begin + uint32(k)
}

// rankOfRule returns the rank that a rule has in a chain; false if it is not there.
func (g *program) rankOfRule(ch chain, id RuleID) (uint32, bool) {
	if i := g.indexFrom(ch, id); i < ch.end && g.rules[i].id() == id {
		return g.rankAt(i), !g.hasGone(g.rankAt(i))
	}
	for k := range g.late {
		if x := &g.late[k]; x.rule.id == id && !g.isMark(x.rank) {
			return x.rank, true
		}
	}
	return 0, false
}

// rankBetween returns the free rank above low and below high that is nearest to another, none when none is free there.
func (g *program) rankBetween(low, high, near uint32) uint32 {
	free := func(rank uint32) bool { return rank-low-1 < high-low-1 && rank&g.low() < g.low()-1 }
	for d := range high - low {
		if free(near + d) {
			return near + d
		}
		if free(near - d) {
			return near - d
		}
	}
	return none
}

// newRank finds a rank for a rule that is put in at an index of a chain, and makes room for it if there is none; none when no room
// can be made. rs is the rule set before the change, of whose rules there are at most those in late that the program has.
func (g *program) newRank(rs *Ruleset, s step, chain uint32) uint32 {
	ch := g.chains[chain]
	list := *rs.lists[s.chain]
	if s.removes { // where a rule comes in the place of another one it stands where it would without that
		list = list.remove(s.index)
	}
	k, before := list.spot(s.index)
	index := g.indexFrom(ch, before)
	begin := index
	for begin > ch.begin && g.isRoom(begin-1) {
		begin--
	}
	low, high := begin<<g.gap-1, markOf(g.rankAt(index)) // below 0 is 2^32-1, one less than the lowest rank
	// Those that came to the same place stand before it or behind.
	came := g.late[g.lateAt(low+1):g.lateAt(high)]
	n := sort.Search(len(came), func(i int) bool {
		id := came[i].rule.id
		if piece := int(rs.info(id).piece); piece != s.chain {
			return piece > s.chain
		}
		return slices.IndexFunc(list.came, func(x arrival) bool { return x.id == id }) >= k
	})
	if n > 0 {
		low = came[n-1].rank
	}
	if n < len(came) {
		high = came[n].rank
	}
	// Many rules come to one place one before the other, or one behind the other: mostly next to the one that came last. Often
	// that place is the beginning or the end.
	near := func() uint32 {
		switch older, newer := n > 0, n < len(came); {
		case older && newer && came[n-1].rule.id > came[n].rule.id:
			return low + 1 + (high-low)/16
		case older && newer:
			return high - 1 - (high-low)/16
		case older || !newer && index == ch.end:
			return low + 1
		case newer || index == ch.begin:
			return high - 1
		}
		return low + 1 + (high-low)/2
	}
	rank := g.rankBetween(low, high, near())
	if more := uint32(max(1, roomMade>>g.gap)); rank == none && (uint32(len(g.rules))+more)<<g.gap <= 1<<rankBits {
		g.makeRoom(index, high, more)
		high += more << g.gap
		rank = g.rankBetween(low, high, near())
	}
	return rank
}

// makeRoom puts more elements into rules, before that with the index. What has the rank from or a higher one moves.
func (g *program) makeRoom(index, from, more uint32) {
	g.rules = slices.Concat(g.rules[:index], slices.Repeat(g.rules[index:index+1], int(more)), g.rules[index:])
	if g.does != nil {
		g.does = slices.Concat(g.does[:index], slices.Repeat(g.does[index:index+1], int(more)), g.does[index:])
	}
	by := more << g.gap
	for i := range g.late {
		if g.late[i].rank >= from {
			g.late[i].rank += by
		}
	}
	g.narrow, g.wide = slices.Clone(g.narrow), slices.Clone(g.wide)
	for i := range g.narrow {
		if x := &g.narrow[i]; x.ranked() >= from {
			*x = x.moved(by)
		}
	}
	for i := range g.wide {
		if x := &g.wide[i]; x.ranked() >= from {
			*x = x.moved(by)
		}
	}
	g.leaders = slices.Clone(g.leaders)
	for i := range g.leaders {
		if g.leaders[i] >= index {
			g.leaders[i] += more
		}
	}
	for i := range g.chains {
		x := &g.chains[i]
		if x.begin > index {
			x.begin += more
		}
		if x.end >= index && x.n > 0 {
			x.end += more
		}
	}
}
