package rules

import (
	"math/rand/v2"
	"slices"
)

// Bounds of the search for a packet that comes to a rule. They are counted in steps, so that the same rules give the same
// answer everywhere.
const (
	reachTries  = 8         // headers that are tried first: one that comes through settles it
	reachSteps  = 1 << 21   // entries and slots looked at for one rule
	reachPieces = 1 << 14   // pieces that one rule is cut into
	reachTotal  = 400 << 20 // entries and slots for all rules of a check
)

// coverage is the answer.
type coverage uint8

const (
	open    coverage = iota // some packet may come to the rule
	covered                 // none does
	unsure                  // the search was given up
)

// reach decides whether a packet comes to a rule that it would match: through the chains that lead to the rule's, past the
// rules before it in each.
//
// It takes the headers that the rule agrees with, as boxes, through the program from the base chain on. A rule that is
// all said by its boxes parts them: what is inside goes where the rule leads, what is outside goes on. A rule that asks more
// may hold or not: what is inside goes both ways, and a verdict that depends on it takes nothing away. So a rule for which
// no box comes through is reached by no packet, whatever else the rules ask.
type reach struct {
	g       *program
	callers [][]call // by chain: the rules that lead to it
	stops   []bool   // by chain: some packets that enter it may not come back, or only later

	// The rule.
	chain  uint32
	rank   uint32
	toward []uint32 // by chain: one more than the rank of the last rule that leads to the rule's chain, 0 for none

	steps, pieces int  // left for the rule
	total         *int // left for the check
	used          []uint32
	arena         []wide
	rng           *rand.Rand
}

// call is a rule that leads to a chain.
type call struct{ chain, rank uint32 }

// place is where packets go on that come back from a chain.
type place struct {
	list  []wide // what is left of the chain's boxes
	chain uint32
	up    *place
	hope  bool // from there or further up something leads to the rule
}

// newReach makes a search over a program.
func newReach(g *program, total *int, rng *rand.Rand) *reach {
	r := &reach{g: g, callers: make([][]call, len(g.chains)), stops: make([]bool, len(g.chains)), total: total, rng: rng}
	for c, ch := range g.chains {
		for rank := range g.ranks(ch) {
			if x := g.deed(rank); x.verb == VerbJump || x.verb == VerbGoto {
				r.callers[x.arg] = append(r.callers[x.arg], call{uint32(c), rank})
			}
		}
	}
	var todo []uint32
	for c, ch := range g.chains {
		for rank := range g.ranks(ch) {
			if v := g.deed(rank).verb; v == VerbGoto || v.final() && v != VerbReturn {
				r.stops[c] = true
			}
		}
		if r.stops[c] {
			todo = append(todo, uint32(c))
		}
	}
	for len(todo) > 0 {
		c := todo[0]
		todo = todo[1:]
		for _, k := range r.callers[c] {
			if !r.stops[k.chain] {
				r.stops[k.chain] = true
				todo = append(todo, k.chain)
			}
		}
	}
	return r
}

// enter has the searches that follow be about rules of a chain.
func (r *reach) enter(chain uint32) {
	r.chain = chain
	r.toward = make([]uint32, len(r.g.chains))
	seen := make([]bool, len(r.g.chains))
	seen[chain] = true
	for todo := []uint32{chain}; len(todo) > 0; todo = todo[1:] {
		for _, k := range r.callers[todo[0]] {
			r.toward[k.chain] = max(r.toward[k.chain], k.rank+1)
			if !seen[k.chain] {
				seen[k.chain] = true
				todo = append(todo, k.chain)
			}
		}
	}
}

// box answers for one box of the rule of that rank; the rules that take its packets away are in used.
func (r *reach) box(rank uint32, x *wide) coverage {
	r.rank = rank
	for try := range reachTries {
		p := x.sample(try, r.g.v6, r.rng)
		if r.search(&p) == open {
			return open
		}
	}
	return r.search(x)
}

// search takes a box through the program.
func (r *reach) search(x *wide) coverage {
	r.used, r.arena = r.used[:0], r.arena[:0]
	r.steps, r.pieces = reachSteps, reachPieces
	return r.into(*x, 0, nil)
}

// into takes a box into a chain.
func (r *reach) into(x wide, chain uint32, up *place) coverage {
	at := len(r.arena)
	ch := r.g.chains[chain]
	for _, s := range r.g.trees[ch.first : ch.first+ch.n] {
		if !r.gather(s, &x, chain) {
			return unsure
		}
	}
	list := r.arena[at:len(r.arena):len(r.arena)]
	rank := func(x *wide) uint32 { return x.rule &^ more }
	slices.SortFunc(list, func(a, b wide) int { return int(rank(&a)) - int(rank(&b)) })
	list = slices.CompactFunc(list, func(a, b wide) bool { return a == b })
	// Of verdicts with nothing else between them the order says nothing: those that take most come first.
	for i := 0; i < len(list); {
		j := i
		for j < len(list) && r.takes(&list[j]) {
			j++
		}
		slices.SortStableFunc(list[i:j], func(a, b wide) int { return b.size() - a.size() })
		i = j + 1
	}
	answer := r.walk(x, list, chain, up)
	r.arena = r.arena[:at]
	return answer
}

// gather collects the boxes below a slot that say where headers of x go, before the rule where the chain is its; false when
// the search is to be given up.
func (r *reach) gather(s slot, x *wide, chain uint32) bool {
	if !r.step(1) {
		return false
	}
	if !s.leaf() {
		by, mask := s.cut(r.g.v6), s.mask()
		if k, fixed := x.window(by, mask); fixed == mask { // most boxes that are looked for are one header
			return r.gather(r.g.slots[uint32(s)+k], x, chain)
		}
		for k := range mask + 1 {
			if x.meetsCut(by, mask, k) && !r.gather(r.g.slots[uint32(s)+k], x, chain) {
				return false
			}
		}
		return true
	}
	for ; s != 0; s = s.behind(r.g.places) {
		if !r.step(1) {
			return false
		}
		y := r.g.box(int(s.entry()))
		rank := y.rule &^ more
		if g := r.g; g.isMark(rank) || g.hasGone(rank) || chain == r.chain && rank >= r.rank || !x.shares(&y) {
			continue
		}
		switch to := r.g.deed(rank); to.verb {
		case VerbAccept, VerbDrop, VerbReject:
			if !r.takes(&y) {
				continue
			}
		case VerbReturn, VerbGoto:
		case VerbJump:
			// Who comes back whatever happens need not go there.
			if !r.leads(to.arg) && !(r.stops[to.arg] && r.exact(&y)) {
				continue
			}
		default:
			continue
		}
		y.allow &= stateMask
		r.arena = append(r.arena, y)
	}
	return true
}

// step counts steps; false when there are too many.
func (r *reach) step(n int) bool {
	r.steps -= n
	*r.total -= n
	return r.steps >= 0 && *r.total >= 0
}

// leads says that a chain is the rule's or leads there.
func (r *reach) leads(chain uint32) bool { return chain == r.chain || r.toward[chain] > 0 }

// exact says that a box's rule holds for all packets whose headers agree with it. A rule that needs the transport header
// drops packets without; that is no matter unless the rule that is looked at matches such.
func (r *reach) exact(y *wide) bool {
	return y.rule&more == 0 && (r.g.deed(y.rule).flags&needsHeader == 0 || r.g.deed(r.rank).flags&needsHeader != 0)
}

// takes says that the packets of a box get a verdict.
func (r *reach) takes(y *wide) bool {
	switch r.g.deed(y.rule &^ more).verb {
	case VerbAccept, VerbDrop, VerbReject:
		return r.exact(y)
	}
	return false
}

// walk takes a box past what is left of a chain's boxes.
func (r *reach) walk(x wide, list []wide, chain uint32, up *place) coverage {
	if r.pieces--; r.pieces < 0 || !r.step(len(list)) {
		return unsure
	}
	// What has nothing to do with this piece is left out once for all.
	if len(list) > 8 {
		at := len(r.arena)
		for i := range list {
			if x.shares(&list[i]) {
				r.arena = append(r.arena, list[i])
			}
		}
		list = r.arena[at:len(r.arena):len(r.arena)]
		defer func() { r.arena = r.arena[:at] }()
	}
	answer := covered
	// also takes one more answer; false ends the search.
	also := func(c coverage) bool {
		switch c {
		case open:
			answer = open
			return false
		case unsure:
			answer = unsure
		}
		return true
	}
	for i := range list {
		y := &list[i]
		if !x.shares(y) {
			continue
		}
		rank := y.rule &^ more
		if chain != r.chain && rank >= r.toward[chain] && (up == nil || !up.hope) {
			return answer // nothing leads to the rule any more
		}
		rest := list[i+1:]
		to := r.g.deed(rank)
		goes := func(in wide) coverage {
			switch to.verb {
			case VerbReturn:
				return r.back(in, up)
			case VerbJump:
				hope := chain == r.chain || r.toward[chain] > rank+1 || up != nil && up.hope
				return r.into(in, to.arg, &place{rest, chain, up, hope})
			case VerbGoto:
				return r.into(in, to.arg, up)
			}
			r.used = append(r.used, rank)
			return covered
		}
		if !r.exact(y) {
			in := x
			in.cut(y, func(wide) bool { return true })
			if !also(goes(in)) {
				return answer
			}
			continue
		}
		if !x.cut(y, func(out wide) bool { return also(r.walk(out, rest, chain, up)) }) {
			return answer
		}
		also(goes(x))
		return answer
	}
	if chain == r.chain {
		return open
	}
	also(r.back(x, up))
	return answer
}

// back takes a box back to where its chain was called, or to the base chain's policy.
func (r *reach) back(x wide, up *place) coverage {
	if up == nil || !up.hope {
		return covered
	}
	return r.walk(x, up.list, up.chain, up.up)
}

// holder returns the rank of the first rule of the rule's chain, before it, that takes the whole box away, or none.
func (r *reach) holder(x *wide, rank uint32) uint32 {
	r.rank = rank
	best := none
	p := x.sample(0, r.g.v6, r.rng)
	h := p.header(r.g.v6)
	ch := r.g.chains[r.chain]
	for _, s := range r.g.trees[ch.first : ch.first+ch.n] {
		for !s.leaf() {
			s = r.g.slots[s.child(&h)]
		}
		for ; s != 0; s = s.behind(r.g.places) {
			y := r.g.box(int(s.entry()))
			if at := y.rule &^ more; at < min(best, rank) && !r.g.isMark(at) && !r.g.hasGone(at) && r.ends(&y) && x.in(&y) {
				best = at
			}
		}
	}
	return best
}

// ends says that packets of a box do not go on in its chain.
func (r *reach) ends(y *wide) bool {
	v := r.g.deed(y.rule &^ more).verb
	return v.final() && r.exact(y)
}
