package rules

import (
	"maps"
	"slices"
	"sync"
)

// A change of one rule leaves nearly everything as it is: RuleIDs, ranks, trees, entries, conditions, and what rules remember are
// the same memory in the rule set before and in the one after. The rule that comes goes into one more tree of its chain, the
// overlay, which holds what changed since the chain was compiled and is made anew by each change. A compiled rule that goes keeps
// its entries in the trees. The overlay has a mark of it, which agrees with the same packets, one rank before: a packet that comes
// to the mark goes on behind the rule.
//
//	copied      what changes have made so far: the overlay's list, late, RuleList's parts; and an element for each chain
//	appended    the rule's description, conditions, entries; the overlay's root, nodes and places
//	shared      the rest, and matchers, with all that they have counted (Matcher.Follow)
//
// What is done for a change, and grows with the rules:
//
//	no rank is free for a rule                                 rules and entries are copied, and moved: see makeRoom
//	a final rule goes that others behind it were left out for  all entries are looked at, see below
//	a list that is appended to has no more room                it is copied whole, and has room for many changes then
//	the rule set is not the newest of its line                 what is appended to is copied whole
//	a rule of IPv4 comes, or a mark                            its shape is sought among all: of these there are few
//	a rule comes or goes that leads to a chain                 all rules that do are looked at
//	a rule goes for one IP version and stays for the other     all tokens and turns are looked at (Adopt)
//	a rule goes that warnings are about                        the warnings are copied
//	Edit deletes a rule by its words                           the prints of its chain are looked through, see Rule.print
//
// Lists that are appended to are shared as well: a rule set looks at no more of a list than it had when it was made, and only
// the newest of a line of changes appends behind that. A change of an older one copies, and begins a line of its own.
//
// Building left out rules behind final ones that take all their packets. When such a final rule goes, the rules behind it
// that it overlaps go into the overlay as well, for that they are found in another tree too does no harm. Looking for them
// goes through all entries.
//
// Lookups stay fast because an overlay is small: beyond maxOverlay boxes, or after maxPatches changes, everything is
// compiled anew. So it is when a rule jumps to a chain that was not reached before, when it would nest calls much deeper,
// and when a rule has a memory of addresses or sets, or says something of connection tracking. What a rule that went remembered
// (tokens, turns) stays until then.

// Limits of what is patched before everything is compiled anew. More makes a lookup, and each change, dearer; less makes
// compiling more frequent. deeper is by how much changes may nest calls deeper than when the rules were compiled: matchers
// have room for it.
const (
	maxOverlay = 128
	maxPatches = 512
	deeper     = 8
)

// line is what a compiled rule set has in common with those that changes of one rule made of it, each of the one before.
type line struct {
	mu     sync.Mutex
	newest *Ruleset
	depth  int      // of nested calls that matchers have room for
	b      *builder // of overlays
}

// builderOf returns a builder for a program.
func (l *line) builderOf(g *program) *builder {
	if l.b == nil {
		l.b = new(builder)
	}
	l.b.use(g)
	return l.b
}

// begin makes a compiled rule set the first of its line.
func (rs *Ruleset) begin() {
	for k := range rs.prog {
		rs.line.depth = max(rs.line.depth, rs.prog[k].depth)
	}
	rs.line.depth += deeper
	rs.line.newest = rs
}

// Follows says that changes of one rule made the rule set of from, one after the other, so that matchers of from can go on with it
// (Matcher.Follow) and it has all that rules of from remember.
func (rs *Ruleset) Follows(from *Ruleset) bool {
	return rs.line == from.line && rs.patches > from.patches
}

// overlay is the additional tree of a chain.
type overlay struct {
	chain   uint32
	entries []uint32 // numbers of entries, in order of rank
}

// Patches returns how many changes of one rule were made since the rules were compiled as a whole. Lookups are as fast as
// after compiling, within a few comparisons; memory of rules that went is kept until Recompile.
func (rs *Ruleset) Patches() int { return rs.patches }

// Filled returns how much is taken, in percent, of what changes of one rule may take before everything is compiled anew: of
// their number, or of an overlay, whichever is fuller.
func (rs *Ruleset) Filled() int {
	filled := 100 * rs.patches / maxPatches
	for f := range rs.prog {
		for _, o := range rs.prog[f].overlays {
			filled = max(filled, 100*len(o.entries)/maxOverlay)
		}
	}
	return filled
}

// Recompile compiles the same rules anew, with what they remember, and says which RuleIDs they have now. It takes as long as
// Compile, and is for a quiet time after many changes (Filled), before Insert, Delete or Replace do it by themselves. The rule set
// may be in use meanwhile, and others be made of it: see Replay.
func (rs *Ruleset) Recompile() (*Ruleset, Mapping, error) { return rs.compileAnew(nil, rs.opt) }

// Replay carries the changes of one rule that made rs of an earlier rule set out on that one compiled anew, with what Recompile
// said of it: so changes may go on while it works. Beside what these changes took, it copies the Mapping, and searches it for each
// rule that went. It fails when one of them cannot be made without compiling, or when rs does not follow the earlier one. The Mapping
// is from rs.
func (rs *Ruleset) Replay(from, compiled *Ruleset, m Mapping) (*Ruleset, Mapping, bool) {
	if rs == from {
		return compiled, m, true
	}
	if !rs.Follows(from) {
		return nil, Mapping{}, false
	}
	list, to := slices.Clone(m.list), compiled
	was := from.extra(idExtra + len(from.late)) // the RuleID of the next rule that came
	for _, s := range rs.steps[from.patches:] {
		next := to.patch(s)
		if next == nil {
			return nil, Mapping{}, false
		}
		if s.removes {
			gone := to.lists[s.chain].At(s.index)
			if k := slices.Index(list, gone); k >= 0 {
				list[k] = NoRule
			}
		}
		if s.rule != nil {
			list[was] = next.extra(idExtra + len(next.late) - 1)
			was++
		}
		to = next
	}
	return to, Mapping{list: list}, true
}

// patch carries a change out without compiling anew, or returns nil where that cannot be done.
func (rs *Ruleset) patch(s step) *Ruleset {
	if rs.patches >= maxPatches || s.rule != nil && !s.removes && rs.count >= MaxRules {
		return nil
	}
	gone := NoRule
	changed := []*Rule{s.rule}
	if s.removes {
		gone = rs.lists[s.chain].At(s.index)
		changed = append(changed, rs.info(gone).Rule)
	}
	if s.rule != nil && (s.rule.Target.Verb == VerbJump || s.rule.Target.Verb == VerbGoto) && !rs.reached(&rs.chains[s.chain]) {
		return nil // where it leads is looked at by compiling alone: whether that is there, and whether it comes back
	}
	for _, x := range changed {
		if x == nil {
			continue
		}
		if _, sets := x.Target.Effect.(*SetTarget); sets || x.Target.CT != nil || slices.ContainsFunc(x.Matches, remembers) {
			return nil
		}
	}
	rs.line.mu.Lock()
	defer rs.line.mu.Unlock()
	next := new(Ruleset)
	*next = *rs
	next.patches++
	if rs.line.newest != rs {
		next.line = &line{depth: rs.line.depth}
		next.late, next.warnings, next.steps = slices.Clip(next.late), slices.Clip(next.warnings), slices.Clip(next.steps)
		for f := range next.prog {
			next.prog[f].clip()
		}
	}
	next.steps = append(next.steps, s)
	came := next.list(rs, s)
	if gone != NoRule {
		pos := rs.info(gone).Rule.Pos
		if lost := func(w Warning) bool { return w.Pos == pos }; slices.ContainsFunc(rs.warnings, lost) {
			next.warnings = slices.DeleteFunc(slices.Clone(rs.warnings), lost)
		}
	}
	c := compiler{rs: next, opt: rs.opt}
	for f := range next.prog {
		if !next.prog[f].patch(&c, f, rs, s, came, gone) {
			return nil
		}
		next.long = next.long || len(next.prog[f].effects) > 0
	}
	if c.errs.orNil() != nil {
		return nil // compiling anew says it
	}
	if s.keeps {
		next.Adopt(rs, Mapping{but: map[RuleID]RuleID{gone: came}})
	}
	next.line.newest = next
	return next
}

// reached says that packets come to a chain: it is compiled.
func (rs *Ruleset) reached(c *ChainInfo) bool {
	for f := range rs.prog {
		if c.Table == baseTable[f/2].table && c.Family&(1<<(f&1)) != 0 {
			if _, ok := rs.prog[f].names[c.Name]; ok {
				return true
			}
		}
	}
	return false
}

// list writes what listings show, and returns the RuleID of the rule that comes.
func (rs *Ruleset) list(old *Ruleset, s step) (came RuleID) {
	c, list := &old.chains[s.chain], *old.lists[s.chain]
	came = NoRule
	if s.removes {
		rs.count--
		list = list.remove(s.index)
	}
	if s.rule != nil {
		came = rs.extra(idExtra + len(rs.late))
		rs.late = append(rs.late, Info{Table: c.Table, Chain: c.Name, Family: s.rule.Family, piece: int32(s.chain), Rule: s.rule, Counter: s.rule.Counter})
		rs.count++
		list = list.insert(s.index, came)
	}
	rs.lists = slices.Clone(old.lists)
	rs.lists[s.chain] = &list
	return came
}

// clip makes a program copy what it appends to.
func (g *program) clip() {
	g.does = slices.Clip(g.does)
	g.rules, g.trees, g.slots, g.places = slices.Clip(g.rules), slices.Clip(g.trees), slices.Clip(g.slots), slices.Clip(g.places)
	g.narrow, g.wide = slices.Clip(g.narrow), slices.Clip(g.wide)
	g.preds, g.addrs, g.ports = slices.Clip(g.preds), slices.Clip(g.addrs), slices.Clip(g.ports)
	g.buckets, g.counters, g.texts = slices.Clip(g.buckets), slices.Clip(g.counters), slices.Clip(g.texts)
	g.spis, g.frags, g.headers, g.options = slices.Clip(g.spis), slices.Clip(g.frags), slices.Clip(g.headers), slices.Clip(g.options)
	g.u32s, g.times, g.bytes, g.helpers = slices.Clip(g.u32s), slices.Clip(g.times), slices.Clip(g.bytes), slices.Clip(g.helpers)
	g.chunks, g.quotas, g.quotaRules = slices.Clip(g.chunks), slices.Clip(g.quotas), slices.Clip(g.quotaRules)
	g.bucketRules, g.counterRules = slices.Clip(g.bucketRules), slices.Clip(g.counterRules)
	g.routes, g.segments, g.bpfs, g.hashMarks = slices.Clip(g.routes), slices.Clip(g.segments), slices.Clip(g.bpfs), slices.Clip(g.hashMarks)
	g.effects, g.strips, g.shapes, g.deeds = slices.Clip(g.effects), slices.Clip(g.strips), slices.Clip(g.shapes), slices.Clip(g.deeds)
}

// patch changes one program, a copy of which shares everything with the old one; false when it cannot be done.
func (g *program) patch(c *compiler, f int, old *Ruleset, s step, came, gone RuleID) bool {
	where := &old.chains[s.chain]
	versions := Family(1 << (f & 1))
	if len(g.chains) == 0 || where.Table != baseTable[f/2].table || where.Family&versions == 0 {
		return true
	}
	chain, reached := g.names[where.Name]
	if !reached {
		return true
	}
	removes := gone != NoRule && old.info(gone).Family&versions != 0
	adds := s.rule != nil && s.rule.Family&versions != 0
	if !adds && !removes {
		return true
	}
	if g.gap < minGap {
		return false
	}
	g.chains, g.late, g.overlays = slices.Clone(g.chains), slices.Clone(g.late), slices.Clone(g.overlays)
	at := slices.IndexFunc(g.overlays, func(o overlay) bool { return o.chain == chain })
	var over []uint32
	if at >= 0 {
		over = slices.Clone(g.overlays[at].entries)
	}
	led := false
	if removes {
		var ok bool
		if over, led, ok = g.remove(old, f, chain, gone, over); !ok {
			return false
		}
	}
	if adds {
		var ok bool
		if over, ok = g.add(c, f, old, s, chain, came, over); !ok {
			return false
		}
	}
	if led {
		g.forsake() // not before: the rule that came may lead where the one that went did
	}
	if len(over) > maxOverlay {
		return false
	}
	slices.SortStableFunc(over, func(a, b uint32) int { return int(g.rankOf(a)) - int(g.rankOf(b)) })

	// The overlay, made anew: the last of the chain's trees.
	if at < 0 && len(over) == 0 {
		return true
	}
	me := &g.chains[chain]
	trees := g.trees[me.first : me.first+me.n]
	if at < 0 {
		at = len(g.overlays)
		g.overlays = append(g.overlays, overlay{chain: chain})
		trees = append(slices.Clip(trees), 0)
	}
	me.first, me.n = uint32(len(g.trees)), uint32(len(trees))
	g.trees = append(g.trees, trees...)
	g.overlays[at].entries = over
	b := old.line.builderOf(g)
	b.last, b.patch, b.budget = true, true, 1<<20
	list := make([]uint32, len(over))
	for i, e := range over {
		b.boxes = append(b.boxes, g.boxOf(e))
		list[i] = uint32(i)
	}
	g.trees[me.first+me.n-1] = b.build(list, known{}, 0)
	b.g = nil
	return true
}

// remove takes a rule out of a chain of the program in place f, and returns what the chain's overlay, over until now, is to hold, and
// whether the rule led to another chain; ok is false when it cannot be done.
func (g *program) remove(old *Ruleset, f int, chain uint32, gone RuleID, over []uint32) (left []uint32, led, ok bool) {
	ch := g.chains[chain]
	rank, ok := g.rankOfRule(ch, gone)
	if !ok {
		return nil, false, false
	}
	was := g.rule(rank)
	over = slices.DeleteFunc(over, func(e uint32) bool { return g.rankOf(e) == rank })
	k := g.lateAt(rank)
	if rank&g.low() != g.low() {
		g.late = slices.Delete(g.late, k, k+1)
	} else {
		// Its boxes are made again, for its entries may be anywhere; in the same place, for not every one knows both ways.
		c := compiler{rs: &Ruleset{}, opt: old.opt, place: f, cur: &program{v6: g.v6}}
		boxes := c.boxes(nil, &deed{}, old.info(gone).Rule)
		if was.hides {
			over = append(over, g.uncovered(boxes, rank, g.rankAt(ch.end))...)
			slices.Sort(over)
			over = slices.Compact(over)
		}
		g.late = slices.Insert(g.late, k, late{markOf(rank), was})
		for i := range boxes {
			boxes[i].rule = markOf(rank)
			over = append(over, uint32(g.entries()))
			g.writeEntry(&boxes[i], goneVerb, 0)
		}
	}
	return over, g.deedOf(was).leads(), true
}

// add puts the rule that comes into a chain, and returns what the chain's overlay, over until now, is to hold; false when it cannot
// be done.
func (g *program) add(c *compiler, f int, old *Ruleset, s step, chain uint32, came RuleID, over []uint32) ([]uint32, bool) {
	r := s.rule
	d := deed{verb: r.Target.Verb}
	c.cur, c.place = g, f
	c.able(r)
	switch d.verb {
	case VerbJump, VerbGoto:
		to, reached := g.names[r.Target.Chain]
		if !reached {
			return nil, false
		}
		d.arg = to
	case VerbEffect:
		d.arg = uint32(len(g.effects))
		g.effects = append(g.effects, r.Target.Effect.compile(c))
	}
	boxes := c.boxes(nil, &d, r)
	rank := g.newRank(old, s, chain)
	if rank == none {
		return nil, false
	}
	g.late = slices.Insert(g.late, g.lateAt(rank), late{rank, rule{came, g.indexOf(d), false}})
	g.ruled(came)
	for i := range boxes {
		boxes[i].rule = rank
		over = append(over, uint32(g.entries()))
		g.appendEntry(&boxes[i])
	}
	if d.leads() {
		var ok bool
		if g.depth, ok = g.nesting(0, make([]int, len(g.chains))); !ok || g.depth > min(maxDepth, old.line.depth) {
			return nil, false // compiling anew says what is wrong, or makes room
		}
	}
	return over, true
}

// leads says that a rule leads to another chain.
func (r *deed) leads() bool { return r.verb == VerbJump || r.verb == VerbGoto }

// forsake takes out of names the chains that nothing leads to any more. What is compiled of them stays, and is looked at by
// nobody; a jump there compiles them anew.
func (g *program) forsake() {
	reached := make([]bool, len(g.chains))
	reached[0] = true
	for todo := []uint32{0}; len(todo) > 0; {
		ch := g.chains[todo[0]]
		todo = todo[1:]
		for r := range g.leading(ch) {
			if !reached[r.arg] {
				reached[r.arg] = true
				todo = append(todo, r.arg)
			}
		}
	}
	for _, index := range g.names {
		if !reached[index] {
			g.names = maps.Clone(g.names)
			maps.DeleteFunc(g.names, func(_ string, index uint32) bool { return !reached[index] })
			return
		}
	}
}

// nesting returns how deep calls from a chain are nested at most; false when there is a loop, or more than can be meant. known has
// by chain the depth plus 1, or being for one that is looked at; it begins with zeros.
func (g *program) nesting(chain uint32, known []int) (int, bool) {
	const being = -1
	switch k := known[chain]; {
	case k == being:
		return 0, false
	case k > 0:
		return k - 1, true
	}
	known[chain] = being
	depth := 0
	for r := range g.leading(g.chains[chain]) {
		d, ok := g.nesting(r.arg, known)
		if !ok {
			return 0, false
		}
		depth = max(depth, d+1)
	}
	known[chain] = depth + 1
	return depth, true
}

// uncovered returns the entries of compiled rules that boxes of a rule overlap, behind its rank and before the end of its chain.
func (g *program) uncovered(boxes []box, rank, end uint32) (out []uint32) {
	went := make([]wide, len(boxes))
	for i := range boxes {
		went[i] = boxes[i].wide()
	}
	for n := range uint32(g.entries()) {
		r := g.rankOf(n)
		if r <= rank || r >= end || r&g.low() != g.low() {
			continue
		}
		y := g.box(int(n))
		if slices.ContainsFunc(went, func(x wide) bool { return x.meets(&y) }) && !g.hasGone(r) {
			out = append(out, n)
		}
	}
	return out
}

// goneVerb is in the place of the verb in the entries of a mark, which agree with the same packets as those of the rule that went:
// that rule, whose rank is one above, is passed over. Its own entries stay in trees that change no more.
const goneVerb Verb = 15

func (x narrow) ranked() uint32 { return uint32(x.meta >> rankShift) }
func (x wide) ranked() uint32   { return x.rule &^ more }

// moved returns the entry with a rank d higher.
func (x narrow) moved(d uint32) narrow {
	x.meta += uint64(d) << rankShift
	return x
}

func (x wide) moved(d uint32) wide {
	x.rule += d
	return x
}

// meets says that there are headers that agree with both, whatever the state.
func (x *wide) meets(y *wide) bool {
	return (x.src.Hi^y.src.Hi)&x.srcMask.Hi&y.srcMask.Hi|(x.src.Lo^y.src.Lo)&x.srcMask.Lo&y.srcMask.Lo|
		(x.dst.Hi^y.dst.Hi)&x.dstMask.Hi&y.dstMask.Hi|(x.dst.Lo^y.dst.Lo)&x.dstMask.Lo&y.dstMask.Lo|
		uint64((x.proto^y.proto)&x.protoMask&y.protoMask) == 0 &&
		spansMeet(x.sport, x.sportSpan, y.sport, y.sportSpan) && spansMeet(x.dport, x.dportSpan, y.dport, y.dportSpan)
}

func spansMeet(a, aSpan, b, bSpan uint16) bool {
	return uint32(a) <= uint32(b)+uint32(bSpan) && uint32(b) <= uint32(a)+uint32(aSpan)
}

// rankOf returns the rank of an entry.
func (g *program) rankOf(n uint32) uint32 {
	if g.v6 {
		return g.wide[n].ranked()
	}
	return g.narrow[n].ranked()
}

// boxOf makes a box of an entry.
func (g *program) boxOf(n uint32) box {
	w := g.box(int(n))
	x := box{proto: w.proto, protoMask: w.protoMask, allow: w.allow & allowAll, rule: w.rule &^ more, entry: n + 1}
	x.port = [2]PortRange{{Lo: w.sport, Hi: w.sport + w.sportSpan}, {Lo: w.dport, Hi: w.dport + w.dportSpan}}
	for k, a := range [...]uint64{w.src.Hi, w.src.Lo, w.dst.Hi, w.dst.Lo} {
		x.val[2*k], x.val[2*k+1] = uint32(a>>32), uint32(a)
	}
	for k, a := range [...]uint64{w.srcMask.Hi, w.srcMask.Lo, w.dstMask.Hi, w.dstMask.Lo} {
		x.mask[2*k], x.mask[2*k+1] = uint32(a>>32), uint32(a)
	}
	x.final = w.rule&more == 0 && Verb(w.allow>>verbShift).final()
	return x
}

// final says that no rule behind one with this verb is reached by a packet that it matches.
func (v Verb) final() bool {
	switch v {
	case VerbAccept, VerbDrop, VerbReject, VerbReturn, VerbGoto:
		return true
	}
	return false
}

// ruled notes that the buckets and counters that are new are a rule's.
func (g *program) ruled(id RuleID) {
	for len(g.bucketRules) < len(g.buckets) {
		g.bucketRules = append(g.bucketRules, id)
	}
	for len(g.counterRules) < len(g.counters) {
		g.counterRules = append(g.counterRules, id)
	}
	for len(g.quotaRules) < len(g.quotas) {
		g.quotaRules = append(g.quotaRules, id)
	}
	for len(g.connRules) < len(g.conns) {
		g.connRules = append(g.connRules, id)
	}
}
