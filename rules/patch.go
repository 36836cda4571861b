package rules

import (
	"cmp"
	"maps"
	"slices"
	"sync"
)

// A change of one rule leaves nearly everything as it is: RuleIDs, trees, conditions, and what rules remember are the same
// memory in the rule set before and in the one after. The rule that went keeps its entries, which agree with no packet any
// more. The rule that came goes into one more tree of its chain, the overlay, which holds what came since the chain was compiled
// and is made anew by each change.
//
//	copied      the chain's list of RuleIDs; where ranks move, compiled rules and entries, in one pass each
//	appended    the rule's description, conditions, entries; the overlay's nodes and places
//	shared      the rest, and matchers, with all that they have counted (Matcher.Follow)
//
// Lists that are appended to are shared as well: a rule set looks at no more of a list than it had when it was made, and only
// the newest of a line of changes appends behind that. A change of an older one copies, and begins a line of its own.
//
// Building left out rules behind final ones that take all their packets. When such a final rule goes, the rules behind it
// that it overlaps go into the overlay as well, for that they are found in another tree too does no harm.
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
	depth  int // of nested calls that matchers have room for
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
// Compile, and is for a quiet time after many changes (Filled), before Insert, Delete or Replace do it by themselves. The rule set may be in use meanwhile, and
// others be made of it.
func (rs *Ruleset) Recompile() (*Ruleset, Mapping, error) { return rs.compileAnew(nil, rs.opt) }

// patch carries a change out without compiling anew, or returns nil where that cannot be done.
func (rs *Ruleset) patch(s step) *Ruleset {
	if rs.patches >= maxPatches || rs.count >= MaxRules {
		return nil
	}
	gone := NoRule
	changed := []*Rule{s.rule}
	if s.removes {
		gone = rs.chains[s.chain].Rules[s.index]
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
		next.late, next.warnings = slices.Clip(next.late), slices.Clip(next.warnings)
		for f := range next.prog {
			next.prog[f].clip()
		}
	}
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
	rs.chains = slices.Clone(old.chains)
	c := &rs.chains[s.chain]
	rest := c.Rules[s.index:]
	list := make([]RuleID, s.index, len(c.Rules)+1)
	copy(list, c.Rules)
	came = NoRule
	if s.rule != nil {
		came = rs.extra(idExtra + len(rs.late))
		x := late{Info{Table: c.Table, Chain: c.Name, Family: s.rule.Family, piece: int32(s.chain), Rule: s.rule, Counter: s.rule.Counter}, c.end}
		if len(rest) > 0 {
			x.before = RuleID(old.order(rest[0]))
		}
		rs.late = append(rs.late, x)
		rs.count++
		list = append(list, came)
	}
	if s.removes {
		rs.count--
		rest = rest[1:]
	}
	c.Rules = append(list, rest...)
	return came
}

// rank returns the rank that a rule has in a chain of a program; false if it is not there.
func (rs *Ruleset) rank(g *program, ch chain, id RuleID) (uint32, bool) {
	want := rs.order(id)
	for k := rs.lowest(g, ch, want); k < ch.rank && rs.order(g.rules[k].id()) == want; k++ {
		if g.rules[k].id() == id {
			return k, true
		}
	}
	return 0, false
}

// lowest returns the rank of a chain's first rule that does not stand before a place.
func (rs *Ruleset) lowest(g *program, ch chain, want uint64) uint32 {
	k, _ := slices.BinarySearchFunc(g.rules[ch.firstRank:ch.rank], want, func(x rule, want uint64) int { return cmp.Compare(rs.order(x.id()), want) })
	return ch.firstRank + uint32(k)
}

// rankAt returns the rank that a rule gets in a chain of the program for IP versions when it is put in at an index of a chain.
func (rs *Ruleset) rankAt(g *program, ch chain, s step, versions Family) uint32 {
	c := &rs.chains[s.chain]
	want := uint64(s.chain)<<32 | uint64(c.end)
	if s.index < len(c.Rules) {
		want = rs.order(c.Rules[s.index])
	}
	for _, id := range c.Rules[s.index:] {
		if rs.order(id) != want {
			break
		}
		if rs.info(id).Family&versions != 0 {
			k, _ := rs.rank(g, ch, id)
			return k
		}
	}
	return rs.lowest(g, ch, want+1)
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
	index, reached := g.names[where.Name]
	if !reached {
		return true
	}
	added, removed := uint32(0), uint32(0)
	if s.rule != nil && s.rule.Family&versions != 0 {
		added = 1
	}
	if gone != NoRule && old.info(gone).Family&versions != 0 {
		removed = 1
	}
	if added+removed == 0 {
		return true
	}
	ch := g.chains[index]
	var rank uint32
	var was rule
	led := false // by was
	if removed > 0 {
		var ok bool
		if rank, ok = old.rank(g, ch, gone); !ok {
			return false
		}
		was = g.rules[rank]
		led = g.deed(rank).leads()
	} else {
		rank = old.rankAt(g, ch, s, versions)
	}
	moves := added != removed && int(rank+removed) < len(g.rules) // ranks behind it
	if removed > 0 || moves {
		g.rules, g.does = slices.Clone(g.rules), slices.Clone(g.does)
	}
	g.replaceRules(rank, rank+removed, added)

	// The new rule's conditions and boxes.
	var boxes []box
	if added > 0 {
		r := s.rule
		cr := deed{verb: r.Target.Verb}
		c.cur, c.place = g, f
		c.able(r)
		switch cr.verb {
		case VerbJump, VerbGoto:
			to, reached := g.names[r.Target.Chain]
			if !reached {
				return false
			}
			cr.arg = to
		case VerbEffect:
			cr.arg = uint32(len(g.effects))
			g.effects = append(g.effects, r.Target.Effect.compile(c))
		}
		boxes = c.boxes(nil, &cr, r)
		g.setRule(rank, came, cr)
		g.ruled(came)
	}

	// The chains, and the entries with their ranks.
	g.chains = slices.Clone(g.chains)
	for i := range g.chains {
		if x := &g.chains[i]; x.firstRank >= ch.rank && uint32(i) != index {
			x.firstRank += added - removed
			x.rank += added - removed
		}
	}
	me := &g.chains[index]
	me.rank += added - removed
	if added > 0 && g.deed(rank).leads() {
		var ok bool
		if g.depth, ok = g.nesting(0, make([]int, len(g.chains))); !ok || g.depth > min(maxDepth, old.line.depth) {
			return false // compiling anew says what is wrong, or makes room
		}
	}
	if removed > 0 && led {
		g.forsake()
	}
	var over []uint32
	g.overlays = slices.Clone(g.overlays)
	at := slices.IndexFunc(g.overlays, func(o overlay) bool { return o.chain == index })
	if at >= 0 {
		over = slices.Clone(g.overlays[at].entries)
	}
	x := shift{rank, added, removed, ch.rank}
	switch hid := removed > 0 && was&hides != 0; {
	case hid && g.v6:
		over = append(over, uncovered(g.wide, nil, &x)...)
	case hid:
		over = append(over, uncovered(g.narrow, g.shapes, &x)...)
	}
	switch {
	case removed == 0 && !moves:
	case g.v6:
		g.wide = x.wide(g.wide)
	default:
		g.narrow = x.narrow(g.narrow)
	}
	for i := range boxes {
		boxes[i].rule = rank
		over = append(over, uint32(g.entries()))
		g.appendEntry(&boxes[i])
	}

	// The overlay, made anew.
	slices.Sort(over)
	over = slices.Compact(over)
	over = slices.DeleteFunc(over, g.dead)
	if len(over) > maxOverlay {
		return false
	}
	slices.SortStableFunc(over, func(a, b uint32) int { return int(g.rankOf(a)) - int(g.rankOf(b)) })
	if at < 0 {
		if len(over) == 0 {
			return true
		}
		at = len(g.overlays)
		g.overlays = append(g.overlays, overlay{chain: index})
		trees := slices.Clone(g.trees[me.first : me.first+me.n])
		me.first, me.n = uint32(len(g.trees)), me.n+1
		g.trees = append(g.trees, append(trees, 0)...)
	} else {
		g.trees = slices.Clone(g.trees)
	}
	g.overlays[at].entries = over
	b := newBuilder(g)
	b.last, b.patch, b.budget = true, true, 1<<20
	list := make([]uint32, len(over))
	for i, e := range over {
		b.boxes = append(b.boxes, g.boxOf(e))
		list[i] = uint32(i)
	}
	g.trees[me.first+me.n-1] = b.build(list, known{}, 0)
	return true
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
		for i := ch.firstRank; i < ch.rank; i++ {
			if r := g.deed(i); r.leads() && !reached[r.arg] {
				reached[r.arg] = true
				todo = append(todo, r.arg)
			}
		}
	}
	unreached := func(_ string, index uint32) bool { return !reached[index] }
	g.names = maps.Clone(g.names)
	maps.DeleteFunc(g.names, unreached)
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
	x := g.chains[chain]
	for i := x.firstRank; i < x.rank; i++ {
		if r := g.deed(i); r.leads() {
			d, ok := g.nesting(r.arg, known)
			if !ok {
				return 0, false
			}
			depth = max(depth, d+1)
		}
	}
	known[chain] = depth + 1
	return depth, true
}

// shift is a change of ranks: from rank on, added came and removed went, 0 or 1 each, in a chain that ended at end.
type shift struct{ rank, added, removed, end uint32 }

// touches says that an entry with a rank is the rule's that goes, or stands behind; dead ones are left as they are.
func (s *shift) touches(rank uint32, dead bool) bool { return rank >= s.rank && !dead }

// narrow copies entries and moves the ranks behind. The entries of the rule that goes agree with nothing from now on.
func (s *shift) narrow(list []narrow) []narrow {
	out := slices.Clone(list)
	for i := range out {
		if x := &out[i]; s.touches(x.ranked(), x.isDead()) {
			if s.removed > 0 && x.ranked() == s.rank {
				*x = x.killed()
			} else {
				*x = x.moved(s.added - s.removed)
			}
		}
	}
	return out
}

// wide is narrow for IPv6. A type parameter would make each of its steps a call.
func (s *shift) wide(list []wide) []wide {
	out := slices.Clone(list)
	for i := range out {
		if x := &out[i]; s.touches(x.ranked(), x.isDead()) {
			if s.removed > 0 && x.ranked() == s.rank {
				*x = x.killed()
			} else {
				*x = x.moved(s.added - s.removed)
			}
		}
	}
	return out
}

// uncovered returns the entries of the chain that those of the rule that goes overlap, behind it.
func uncovered[E entry[E]](list []E, shapes []shape, s *shift) (out []uint32) {
	var went []E
	for _, x := range list {
		if x.ranked() == s.rank && !x.isDead() {
			went = append(went, x)
		}
	}
	for i, x := range list {
		if r := x.ranked(); r <= s.rank || r >= s.end || x.isDead() {
			continue
		}
		if slices.ContainsFunc(went, func(w E) bool { return w.meets(x, shapes) }) {
			out = append(out, uint32(i))
		}
	}
	return out
}

// entry is what narrow and wide have in common for uncovered.
type entry[E any] interface {
	ranked() uint32                     // its rank
	isDead() bool                       // it agrees with nothing: its rule went
	meets(other E, shapes []shape) bool // there are headers that agree with both
}

// deadVerb is in the place of the verb in an entry whose rule went. No state and no port is in its allow, so that it agrees
// with nothing; scanShort, which looks at allow last, asks for it.
const deadVerb = 15

func (x narrow) ranked() uint32 { return uint32(x.meta >> rankShift) }
func (x wide) ranked() uint32   { return x.rule &^ more }

func (x narrow) isDead() bool { return x.shape() == deadShape }
func (x wide) isDead() bool   { return x.allow>>verbShift == deadVerb }

// killed makes the entry one that agrees with nothing. The rank is 0, the lowest that a run may be said to begin with
// (walk.enter), whatever comes and goes later.
func (x narrow) killed() narrow {
	x.meta = deadShape << shapeShift
	return x
}

func (x wide) killed() wide {
	x.allow, x.rule = deadVerb<<verbShift, 0
	return x
}

// moved returns the entry with a rank d higher.
func (x narrow) moved(d uint32) narrow {
	x.meta += uint64(d) << rankShift
	return x
}

func (x wide) moved(d uint32) wide {
	x.rule += d
	return x
}

func (x narrow) meets(y narrow, shapes []shape) bool {
	if (x.addr^y.addr)&shapes[x.shape()].mask()&shapes[y.shape()].mask() != 0 {
		return false
	}
	return x.unpack(shapes).meets(y.unpack(shapes), shapes)
}

func (x wide) meets(y wide, _ []shape) bool {
	return (x.src.Hi^y.src.Hi)&x.srcMask.Hi&y.srcMask.Hi|(x.src.Lo^y.src.Lo)&x.srcMask.Lo&y.srcMask.Lo|
		(x.dst.Hi^y.dst.Hi)&x.dstMask.Hi&y.dstMask.Hi|(x.dst.Lo^y.dst.Lo)&x.dstMask.Lo&y.dstMask.Lo|
		uint64((x.proto^y.proto)&x.protoMask&y.protoMask) == 0 &&
		spansMeet(x.sport, x.sportSpan, y.sport, y.sportSpan) && spansMeet(x.dport, x.dportSpan, y.dport, y.dportSpan)
}

func spansMeet(a, aSpan, b, bSpan uint16) bool {
	return uint32(a) <= uint32(b)+uint32(bSpan) && uint32(b) <= uint32(a)+uint32(aSpan)
}

// dead says that an entry's rule went.
func (g *program) dead(n uint32) bool {
	if g.v6 {
		return g.wide[n].isDead()
	}
	return g.narrow[n].isDead()
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
	x.final = w.rule&more == 0 && g.deed(x.rule).verb.final()
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
