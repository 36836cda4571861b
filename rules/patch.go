package rules

import "slices"

// A change of one rule leaves the trees of the rule's chain as they are. The rule that went keeps its entries there, which
// agree with no packet any more. The rule that came goes into one more tree, the overlay, which holds what came since
// the chain was compiled and is made anew by each change. What remains is copying: ranks and RuleIDs behind the change move by
// one, in one pass over flat arrays.
//
// Building left out rules behind final ones that take all their packets. When such a final rule goes, the rules behind it
// that it overlaps go into the overlay as well, for that they are found in another tree too does no harm.
//
// Lookups stay fast because an overlay is small: beyond maxOverlay boxes, or after maxPatches changes, everything is
// compiled anew. So it is when a rule jumps to a chain that was not reached before, when a jump goes, and when a rule has a memory of addresses or
// sets, or says something of connection tracking. What a rule that went remembered (tokens, turns) stays until then.

// Limits of what is patched before everything is compiled anew. More makes a lookup, and each change, dearer; less makes
// compiling more frequent.
const (
	maxOverlay = 128
	maxPatches = 512
)

// overlay is the additional tree of a chain.
type overlay struct {
	chain   uint32
	entries []uint32 // numbers of entries, in order of rank
}

// Patches returns how many changes of one rule were made since the rules were compiled as a whole. Lookups are as fast as
// after compiling, within a few comparisons; memory of rules that went is kept until Recompile.
func (rs *Ruleset) Patches() int { return rs.patches }

// Recompile compiles the same rules anew, with the same RuleIDs, and what limits remember. It takes as long as Compile, and
// is for a quiet time after many changes, before Insert, Delete or Replace do it by themselves.
func (rs *Ruleset) Recompile() (*Ruleset, error) {
	next, err := Compile(rs.files, rs.opt)
	if err != nil {
		return nil, err
	}
	next.Adopt(rs, Renumbering{at: RuleID(rs.Counters())}.mapping(rs))
	return next, nil
}

// mapping returns the renumbering as a Mapping from the old rule set.
func (n Renumbering) mapping(old *Ruleset) Mapping {
	m := make(Mapping, old.Counters())
	for id := range m {
		m[id] = NoRule
		if now, ok := n.New(RuleID(id)); ok {
			m[id] = now
		}
	}
	return m
}

// patch makes the changed rule set without compiling anew, or returns nil where that cannot be done. files and c hold the
// change already.
func (rs *Ruleset) patch(s site, r *Rule, n Renumbering, files []*File, c *Chain) *Ruleset {
	if rs.patches >= maxPatches || len(rs.rules)+int(n.added) > MaxRules {
		return nil
	}
	var gone *Rule
	if n.removed > 0 {
		gone = rs.rules[n.at].Rule
	}
	for _, x := range []*Rule{r, gone} {
		if x == nil {
			continue
		}
		if x == gone && (x.Target.Verb == VerbJump || x.Target.Verb == VerbGoto) {
			return nil // packets may come to its chain no more
		}
		if _, sets := x.Target.Effect.(*SetTarget); sets || x.Target.CT != nil || slices.ContainsFunc(x.Matches, remembers) {
			return nil
		}
	}
	next := new(Ruleset)
	*next = *rs
	next.files = files
	next.patches++
	next.list(rs, s, r, n, c)
	if gone != nil {
		next.warnings = slices.DeleteFunc(slices.Clone(rs.warnings), func(w Warning) bool { return w.Pos == gone.Pos })
	}
	next.warnings = slices.Clip(next.warnings)
	if k := int(n.at); k < len(rs.assign) {
		next.assign = slices.Clone(rs.assign[:k])
		next.assign = append(append(next.assign, make([]uint32, n.added)...), rs.assign[k+int(n.removed):]...)
	}
	cc := compiler{rs: next, opt: rs.opt}
	for f := range next.prog {
		if !next.prog[f].patch(&cc, f, s, r, gone, n) {
			return nil
		}
		next.long = next.long || len(next.prog[f].effects) > 0
	}
	if cc.errs.orNil() != nil {
		return nil // compiling anew says it
	}
	return next
}

// list writes what listings show.
func (rs *Ruleset) list(old *Ruleset, s site, r *Rule, n Renumbering, c *Chain) {
	at, rest := int(n.at), int(n.at+n.removed)
	rs.rules = make([]Info, 0, len(old.rules)+1)
	rs.rules = append(rs.rules, old.rules[:at]...)
	where := &old.chains[s.chain]
	if r != nil {
		rs.rules = append(rs.rules, Info{Table: where.Table, Chain: where.Name, Number: s.number, Family: r.Family, Rule: r, Counter: r.Counter})
	}
	rs.rules = append(rs.rules, old.rules[rest:]...)
	ids := make([]RuleID, len(rs.rules))
	for i := range ids {
		ids[i] = RuleID(i)
	}
	rs.chains = slices.Clone(old.chains)
	for i := range rs.chains {
		x := &rs.chains[i]
		size := len(x.Rules)
		if i == s.chain {
			size += int(n.added) - int(n.removed)
			x.Chain = c
		}
		if size > 0 || x.Rules != nil {
			x.Rules = ids[:size:size]
		}
		if i >= s.chain && n.added != n.removed && x.Table == where.Table && x.Name == where.Name && x.Family == where.Family {
			for _, id := range x.Rules {
				if i > s.chain || id >= n.at+n.added {
					rs.rules[id].Number += int(n.added) - int(n.removed)
				}
			}
		}
		ids = ids[size:]
	}
}

// patch changes one program, a copy of which shares everything with the old one; false when it cannot be done.
func (g *program) patch(c *compiler, f int, s site, r, gone *Rule, n Renumbering) bool {
	if len(g.chains) == 0 {
		return true
	}
	where := &c.rs.chains[s.chain]
	index, mine := uint32(0), false
	if where.Table == baseTable[f/2].table && where.Family&(1<<(f&1)) != 0 {
		index, mine = g.names[where.Name]
	}
	added, removed := uint32(0), uint32(0)
	if mine && r != nil && r.Family&(1<<(f&1)) != 0 {
		added = 1
	}
	if mine && gone != nil && gone.Family&(1<<(f&1)) != 0 {
		removed = 1
	}
	ch := g.chains[index]
	rank := ch.firstRank
	if mine {
		k, _ := slices.BinarySearchFunc(g.rules[ch.firstRank:ch.rank], n.at, func(x rule, id RuleID) int { return int(x.id) - int(id) })
		rank += uint32(k)
	} else {
		rank = uint32(len(g.rules))
	}

	// The rules, renumbered.
	move := func(id RuleID) RuleID {
		if id >= n.at+n.removed && id != NoRule {
			return id + n.added - n.removed
		}
		return id
	}
	old := g.rules
	g.rules = make([]rule, 0, len(old)+1)
	g.rules = append(g.rules, old[:rank]...)
	g.rules = append(g.rules, make([]rule, added)...)
	g.rules = append(g.rules, old[rank+removed:]...)
	if n.added != n.removed {
		for i := range g.rules {
			g.rules[i].id = move(g.rules[i].id)
		}
	}
	for _, owners := range []*[]RuleID{&g.bucketRules, &g.counterRules, &g.quotaRules, &g.connRules} {
		*owners = slices.Clone(*owners)
		for i, id := range *owners {
			if id == n.at && n.removed > 0 {
				(*owners)[i] = NoRule
				continue
			}
			(*owners)[i] = move(id)
		}
	}
	if added+removed == 0 {
		return true
	}
	if n.removed > 0 && removed > 0 && old[rank].id != n.at {
		return false
	}

	// The new rule's conditions and boxes. What is appended to must not be the old program's.
	g.preds, g.addrs, g.ports = slices.Clip(g.preds), slices.Clip(g.addrs), slices.Clip(g.ports)
	g.buckets, g.counters, g.texts = slices.Clip(g.buckets), slices.Clip(g.counters), slices.Clip(g.texts)
	g.spis, g.frags, g.headers, g.options = slices.Clip(g.spis), slices.Clip(g.frags), slices.Clip(g.headers), slices.Clip(g.options)
	g.u32s, g.times, g.bytes, g.helpers = slices.Clip(g.u32s), slices.Clip(g.times), slices.Clip(g.bytes), slices.Clip(g.helpers)
	g.chunks, g.quotas, g.quotaRules = slices.Clip(g.chunks), slices.Clip(g.quotas), slices.Clip(g.quotaRules)
	g.bucketRules, g.counterRules = slices.Clip(g.bucketRules), slices.Clip(g.counterRules)
	g.routes, g.segments, g.bpfs, g.hashMarks = slices.Clip(g.routes), slices.Clip(g.segments), slices.Clip(g.bpfs), slices.Clip(g.hashMarks)
	g.effects, g.strips, g.shapes = slices.Clip(g.effects), slices.Clip(g.strips), slices.Clip(g.shapes)
	var boxes []box
	if added > 0 {
		cr := rule{id: n.at, verb: r.Target.Verb}
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
		g.rules[rank] = cr
		g.ruled(n.at)
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
	if added > 0 && (r.Target.Verb == VerbJump || r.Target.Verb == VerbGoto) {
		var ok bool
		if g.depth, ok = g.nesting(0, make([]int, len(g.chains))); !ok || g.depth > maxDepth {
			return false // compiling anew says what is wrong
		}
	}
	var over []uint32
	g.overlays = slices.Clone(g.overlays)
	at := slices.IndexFunc(g.overlays, func(o overlay) bool { return o.chain == index })
	if at >= 0 {
		over = slices.Clone(g.overlays[at].entries)
	}
	var hidden []uint32
	if g.v6 {
		g.wide, hidden = shift(g.wide, nil, len(boxes), rank, added, removed, removed > 0 && old[rank].flags&hides != 0, ch)
	} else {
		g.narrow, hidden = shift(g.narrow, g.shapes, len(boxes), rank, added, removed, removed > 0 && old[rank].flags&hides != 0, ch)
	}
	for i := range boxes {
		boxes[i].rule = rank
		over = append(over, uint32(g.entries()))
		g.appendEntry(&boxes[i])
	}
	over = append(over, hidden...)

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
		g.trees = append(slices.Clip(g.trees), append(trees, leafSlot(0, 0))...)
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
	g.slots, g.places = slices.Clip(g.slots), slices.Clip(g.places)
	g.trees[me.first+me.n-1] = b.build(list, known{}, 0)
	return true
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
		if r := &g.rules[i]; r.verb == VerbJump || r.verb == VerbGoto {
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

// shift copies entries, with room for more, and moves the ranks behind rank. The entries of the rule there, if it is
// removed, agree with nothing from now on. When it hides others, those of the chain that it overlaps are returned.
func shift[E entry[E]](list []E, shapes []shape, room int, rank, added, removed uint32, hides bool, ch chain) (out []E, hidden []uint32) {
	out = make([]E, len(list), len(list)+room)
	copy(out, list)
	var went []E
	for i := range out {
		x := &out[i]
		r := (*x).ranked()
		switch {
		case r < rank || (*x).isDead():
		case r == rank && removed > 0:
			if hides {
				went = append(went, *x)
			}
			*x = (*x).killed()
		case added != removed:
			*x = (*x).moved(added - removed)
		}
	}
	if len(went) == 0 {
		return out, nil
	}
	for i := range list {
		r := list[i].ranked()
		if r <= rank || r >= ch.rank || list[i].isDead() {
			continue
		}
		for _, w := range went {
			if w.meets(list[i], shapes) {
				hidden = append(hidden, uint32(i))
				break
			}
		}
	}
	return out, hidden
}

// entry is what narrow and wide have in common for shift.
type entry[E any] interface {
	ranked() uint32                     // its rank
	isDead() bool                       // it agrees with nothing: its rule went
	killed() E                          // it with isDead
	moved(d uint32) E                   // it with a rank d higher
	meets(other E, shapes []shape) bool // there are headers that agree with both
}

// deadVerb is in the place of the verb in an entry whose rule went. No state and no port is in its allow, so that it agrees
// with nothing; scanShort, which looks at allow last, asks for it.
const deadVerb = 15

func (x narrow) ranked() uint32 { return uint32(x.meta >> rankShift) }
func (x wide) ranked() uint32   { return x.rule &^ more }

func (x narrow) isDead() bool { return x.shape() == deadShape }
func (x wide) isDead() bool   { return x.allow>>verbShift == deadVerb }

// killed: the rank is 0, the lowest that a run may be said to begin with (walk.enter), whatever comes and goes later.
func (x narrow) killed() narrow {
	x.meta = deadShape << shapeShift
	return x
}

func (x wide) killed() wide {
	x.allow, x.rule = deadVerb<<verbShift, 0
	return x
}

func (x narrow) moved(d uint32) narrow {
	x.meta += uint64(d) << rankShift
	return x
}

func (x wide) moved(d uint32) wide {
	x.rule += d
	return x
}

func (x narrow) meets(y narrow, shapes []shape) bool {
	if (x.addr^y.addr)&shapes[x.shape()].mask&shapes[y.shape()].mask != 0 {
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
	x.final = w.rule&more == 0 && g.rules[x.rule].verb.final()
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
