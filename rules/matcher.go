package rules

import "corewire/internal/packet"

// TraceBits is how many bits a trace takes: the caller may keep it in a word together with a generation number.
const TraceBits = 24

const (
	traceStateBits = 3 // of State
	tracePortBits  = 1
	nodeBits       = TraceBits - traceStateBits - tracePortBits
	maxNodes       = 1 << nodeBits
)

// Matcher judges packets by one rule set for one worker: it owns the counters and the traces. One goroutine uses it.
//
// A trace is the path of a packet through the rules: every rule that counts it, and what decided. It is kept as a
// node of a tree, a rule below the node of the rules before it, so that paths share their beginnings. The node of a
// path of one rule is the rule itself; only longer paths are looked up.
type Matcher struct {
	rs       *Ruleset
	stack    []frame
	counters []Counter // by RuleID
	direct   uint32    // nodes 1..direct are paths of one RuleID
	nodes    []node    // nodes above direct
	slots    []uint32  // hash table over nodes, open addressing: node numbers, 0 free
	logged   [maxLogged]Logged
	nLogged  int
	ahead    *ahead
}

// node is a path: the rule behind the path up.
type node struct {
	up      uint32
	rule    RuleID
	decided RuleID // of a whole path: the rule that decided it, which is not the last where base chains follow that accept
}

// frame is a chain that a packet is in.
type frame struct {
	trees [treeSlots]cursor
	n     uint32 // how many of them
	from  uint32 // ranks below are done
}

// cursor is where a packet stands in the run that a tree has led to.
type cursor struct {
	at    slot   // the run that is left; for a packet whose transport header is short where it has come to in the tree
	rank  uint32 // of the entry that was found, when ready; else no entry that is left is below it
	ready bool   // it agrees with the packet
	more  bool   // its rule has conditions to be tested
	verb  Verb   // what its rule does, unless more
}

// NewMatcher makes a matcher for one worker. All its memory is allocated here.
func (rs *Ruleset) NewMatcher() *Matcher {
	m := &Matcher{
		rs:       rs,
		stack:    make([]frame, rs.line.depth+1),
		counters: make([]Counter, rs.Counters()),
		direct:   uint32(rs.Counters()),
		ahead:    newAhead(),
	}
	// Room for paths: twice the rules, for each may be reached by several ways, but some at least, and within the
	// bits that a trace has.
	room := min(max(4096, 2*rs.count), maxNodes-1-int(m.direct))
	m.nodes = make([]node, 0, room)
	size := 1
	for size < 2*room {
		size *= 2
	}
	m.slots = make([]uint32, size)
	return m
}

// Follow lets the matcher judge by a rule set that changes of one rule made of its own, see Ruleset.Follows. Counters go on,
// paths keep their numbers, and nothing is allocated: it takes no longer with many rules than with few. Traces from before are
// valid for Count and TraceResult, but say nothing about what the rules say now.
func (m *Matcher) Follow(rs *Ruleset, c Mapping) {
	m.rs = rs
	m.nLogged = 0
	m.ahead.forget()
	c.move(m.counters)
}

// Crowded says that so many paths were met, those of rule sets before included, that a new matcher should take this one's place
// at the next change: what finds no room for its path is not cached.
func (m *Matcher) Crowded() bool { return len(m.nodes) > cap(m.nodes)/2 }

// maxLogged is how many LOG rules of one packet are told; rule sets log a packet once or twice.
const maxLogged = 8

// Logged is a LOG or NFLOG rule that a packet passed, with what the packet's mark was there.
type Logged struct {
	Rule RuleID
	Mark uint32
}

func (m *Matcher) log(id RuleID, mark uint32) {
	if m.nLogged < maxLogged {
		m.logged[m.nLogged] = Logged{id, mark}
		m.nLogged++
	}
}

// Logged returns the LOG and NFLOG rules that the packet last matched passed, in order, at most eight. It is valid
// until the next Match or Raw, and always empty without Options.Logs.
func (m *Matcher) Logged() []Logged { return m.logged[:m.nLogged] }

// Ruleset returns the rule set that the matcher judges by.
func (m *Matcher) Ruleset() *Ruleset { return m.rs }

// extend returns the node of path up followed by a rule, 0 when there is no room for it.
func (m *Matcher) extend(up uint32, id RuleID) uint32 {
	if up == 0 {
		return uint32(id) + 1
	}
	mask := uint32(len(m.slots) - 1)
	h := uint32((uint64(up)<<32 | uint64(id)) * 0x9e3779b97f4a7c15 >> 32)
	for i := h & mask; ; i = (i + 1) & mask {
		n := m.slots[i]
		if n == 0 {
			if len(m.nodes) == cap(m.nodes) {
				return 0
			}
			m.nodes = append(m.nodes, node{up, id, id})
			n = m.direct + uint32(len(m.nodes))
			m.slots[i] = n
			return n
		}
		if x := &m.nodes[n-m.direct-1]; x.up == up && x.rule == id {
			return n
		}
	}
}

// oddHeaders are the packets that are not judged as others of their connection and direction are.
const oddHeaders = packet.ICMPError | packet.BrokenChain | packet.LaterFragment

// alike says that a packet is judged as others of its connection, direction and state are, as far as rules do not ask for more.
// Of protocols without ports in their key rules may ask for ports, which differ from packet to packet.
func alike(p *packet.Packet, c *Context) bool {
	return p.Flags&oddHeaders == 0 && c.State != Invalid && c.State != Untracked && (keyed(p.Proto) || wholeLength(p.Proto) == 0)
}

// Match judges one packet. p.Class must be IPv4 or IPv6, p a whole datagram. It does not count: the caller passes
// Result.Trace to Count, also for later packets of the connection when Result.Cacheable(). It allocates nothing.
//
// The packet passes the base chains behind tracking one after the other: accepted in one it goes on to the next.
// Result.Rule is what dropped it, or for an accepted packet what accepted it in filter's FORWARD; the trace has all.
//
// A cacheable result holds as long as the connection's mark stays what it was, for packets that came with the same Mark, and,
// where sets were asked, until somebody changes a set.
func (m *Matcher) Match(p *packet.Packet, c *Context) Result {
	m.nLogged = 0
	if m.rs.long {
		return m.matchLong(p, c)
	}
	place := filterPlace
	if p.Family == 6 {
		place++
	}
	g, policy := &m.rs.prog[place], m.rs.policyID(place)
	var h header
	h.fill(p, c)
	cacheable := alike(p, c)
	if h.whole {
		if v, id, ok := m.decide(g, policy, &h); ok {
			return Result{Verdict: v, Keep: keepOf(cacheable, false), Rule: id, Trace: (uint32(id)+1)<<(traceStateBits+tracePortBits) | uint32(p.In)<<traceStateBits | uint32(c.State)}
		}
	}
	w := walk{h: h, m: m, g: g, policy: policy, bytes: uint32(p.End - p.L3), cacheable: cacheable}
	v, id := w.run(p, c)
	if w.full {
		return Result{Verdict: v, Rule: id}
	}
	return Result{Verdict: v, Keep: keepOf(w.cacheable, w.asked), Rule: id, Trace: w.path<<(traceStateBits+tracePortBits) | uint32(p.In)<<traceStateBits | uint32(c.State)}
}

// Count adds one packet of so many bytes (of the IP datagram) to every rule of the trace. Trace 0 does nothing.
func (m *Matcher) Count(trace uint32, bytes int) {
	for n := trace >> (traceStateBits + tracePortBits); n != 0; {
		id := RuleID(n - 1)
		if n > m.direct {
			x := &m.nodes[n-m.direct-1]
			n, id = x.up, x.rule
		} else {
			n = 0
		}
		k := &m.counters[id]
		k.Packets++
		k.Bytes += uint64(bytes)
	}
}

// TraceState returns the connection state that a cached trace is valid for.
func (m *Matcher) TraceState(trace uint32) State { return State(trace & (1<<traceStateBits - 1)) }

// TraceValid says whether a cached trace is valid for a packet of the same connection and direction that came in on
// the port with the connection in the state.
func TraceValid(trace uint32, in packet.Port, s State) bool {
	return trace&(1<<(traceStateBits+tracePortBits)-1) == uint32(in)<<traceStateBits|uint32(s)
}

// TraceResult returns the result that a trace stands for. trace must come from this matcher's Match and not be 0.
func (m *Matcher) TraceResult(trace uint32) Result {
	n := trace >> (traceStateBits + tracePortBits)
	id := RuleID(n - 1)
	if n > m.direct {
		id = m.nodes[n-m.direct-1].decided
	}
	return Result{Verdict: m.rs.verdict(id), Keep: KeepOn, Rule: id, Trace: trace}
}

// RuleName returns the name of the rule that decided a trace, as Ruleset.RuleName.
func (m *Matcher) RuleName(trace uint32) string {
	if trace == 0 {
		return "?"
	}
	return m.rs.RuleName(m.TraceResult(trace).Rule)
}

// Counters adds the matcher's counters to dst, which has Ruleset.Counters elements.
func (m *Matcher) Counters(dst []Counter) {
	for k := range m.counters {
		dst[k].Packets += m.counters[k].Packets
		dst[k].Bytes += m.counters[k].Bytes
	}
}

// verdict returns what a deciding rule decides.
func (rs *Ruleset) verdict(id RuleID) Verdict {
	if rs.isRule(id) {
		if rs.info(id).Rule.Target.Verb == VerbAccept {
			return Accept
		}
		return Drop
	}
	if k := int(id) - len(rs.compiled); k < programs {
		return rs.prog[k].policy
	}
	return Drop
}

// walk is one packet's way through the rules.
type walk struct {
	h         header
	m         *Matcher
	g         *program
	policy    RuleID
	path      uint32
	bytes     uint32 // of the IP datagram
	assign    uint32 // of the first rule on the path that gives something, as Early.Assign; of a full path only
	full      bool   // there was no room to keep the path: every rule is counted as it matches
	cacheable bool
	asked     bool // a set was asked
}

// run follows iptables' order (net/ipv4/netfilter/ip_tables.c, ipt_do_table).
func (w *walk) run(p *packet.Packet, c *Context) (Verdict, RuleID) {
	g := w.g
	stack := w.m.stack
	sp := 0
	f := &stack[0]
	w.enter(f, 0)
	for {
		k := w.next(f)
		if k == nil {
			if sp == 0 {
				w.note(w.policy)
				return g.policy, w.policy
			}
			sp--
			f = &stack[sp]
			continue
		}
		if k.verb == goneVerb {
			f.from = k.rank + 2
			continue
		}
		x, verb := g.rule(k.rank), k.verb
		id, r := x.id, g.deedOf(x)
		if k.more {
			verb = r.verb
			switch w.matches(r, p, c) {
			case no:
				continue
			case short:
				id := w.m.rs.extra(idShort)
				w.note(id)
				return Drop, id
			case full:
				id := w.m.rs.extra(idFull)
				w.note(id)
				return Drop, id
			case doomed:
				return w.doom(r, id, p, c)
			}
		}
		w.note(id)
		switch verb {
		case VerbAccept:
			return Accept, id
		case VerbDrop, VerbReject:
			return Drop, id
		case VerbLog:
			if w.m.rs.opt.Logs {
				w.cacheable = false
				w.m.log(id, c.Mark)
			}
		case VerbEffect:
			if !w.apply(&g.effects[r.arg], p, c) {
				return Drop, id
			}
		case VerbReturn:
			f.n = 0
		case VerbJump:
			sp++
			f = &stack[sp]
			fallthrough
		case VerbGoto:
			w.enter(f, r.arg)
		}
	}
}

// doom carries out a rule that holds, of a packet that is dropped behind it.
func (w *walk) doom(r *deed, id RuleID, p *packet.Packet, c *Context) (Verdict, RuleID) {
	w.note(id)
	switch r.verb {
	case VerbDrop, VerbReject:
		return Drop, id
	case VerbLog:
		if w.m.rs.opt.Logs {
			w.m.log(id, c.Mark)
		}
	case VerbEffect:
		if !w.apply(&w.g.effects[r.arg], p, c) {
			return Drop, id
		}
	}
	id = w.m.rs.extra(idShort)
	w.note(id)
	return Drop, id
}

// enter leads the packet down the trees of a chain.
func (w *walk) enter(f *frame, id uint32) {
	g := w.g
	ch := g.chains[id]
	f.n, f.from = ch.n, 0
	if !w.h.whole {
		w.enterShort(f, ch)
		return
	}
	// All trees first, then what their runs begin with, then the runs: the memory accesses of each step do not wait
	// for one another.
	for t, s := range g.trees[ch.first : ch.first+ch.n] {
		for !s.leaf() {
			s = g.slots[s.child(&w.h)]
		}
		f.trees[t&(treeSlots-1)].at = s
	}
	for t := range f.n {
		k := &f.trees[t&(treeSlots-1)]
		k.ready, k.rank = false, none
		if k.at != 0 {
			k.rank = g.rankOf(k.at.entry())
		}
	}
	best := none
	for t := range f.n {
		// A run that begins behind what was found is looked at only if that is passed over.
		if k := &f.trees[t&(treeSlots-1)]; k.rank < best {
			w.scan(k, 0)
			best = min(best, k.rank)
		}
	}
}

// enterShort is enter for a packet whose transport header is short: where a tree cuts by port, or by a protocol that
// cannot be found, it stays at the node, and all runs below are looked at.
func (w *walk) enterShort(f *frame, ch chain) {
	g := w.g
	for t, s := range g.trees[ch.first : ch.first+ch.n] {
		for !s.leaf() && !s.transport(w.h.lost) {
			s = g.slots[s.child(&w.h)]
		}
		k := &f.trees[t&(treeSlots-1)]
		k.at, k.ready, k.rank = s, false, none
		if s != 0 {
			k.rank = 0
		}
	}
}

// next returns the cursor that stands at the first rule of the chain, not yet taken, whose entry agrees with the packet,
// or nil. The cursor is moved on by the next call.
func (w *walk) next(f *frame) *cursor {
	if f.n == 0 {
		return nil
	}
	for {
		k := &f.trees[0]
		for t := uint32(1); t < f.n; t++ {
			if x := &f.trees[t&(treeSlots-1)]; x.rank < k.rank {
				k = x
			}
		}
		if k.rank == none {
			return nil
		}
		if k.ready && k.rank >= f.from {
			f.from = k.rank + 1
			return k
		}
		w.scan(k, f.from)
	}
}

// scan moves a cursor to the next entry that agrees with the packet and is not below from.
func (w *walk) scan(k *cursor, from uint32) {
	switch {
	case !w.h.whole:
		w.g.scanShort(&w.h, k, from)
	case w.g.v6:
		w.g.scanWide(&w.h, k, from)
	default:
		w.g.scanNarrow(&w.h, k, from)
	}
}

// note adds a rule to the path.
func (w *walk) note(id RuleID) {
	m := w.m
	if !w.full {
		up := w.path
		if w.path = m.extend(up, id); w.path != 0 {
			return
		}
		m.Count(up<<(traceStateBits+tracePortBits), int(w.bytes))
		w.full = true
	}
	if w.assign == 0 && int(id) < len(m.rs.assign) {
		w.assign = m.rs.assign[id]
	}
	k := &m.counters[id]
	k.Packets++
	k.Bytes += uint64(w.bytes)
}

// matches tests the conditions of a rule that its entry does not hold.
func (w *walk) matches(r *deed, p *packet.Packet, c *Context) outcome {
	first, n := r.pred+uint32(r.all), r.rest
	if w.h.lost && r.flags&asksProto != 0 {
		return w.addressed(r, p, c)
	}
	if !w.h.whole && r.flags&needsHeader != 0 {
		if w.h.later {
			return no
		}
		if r.flags&early == 0 {
			return short
		}
		first, n = r.pred, r.all
	}
	list := w.g.preds[first : first+uint32(n)]
	all := yes
	for k := range list {
		q := &list[k]
		if q.op == opSet {
			w.asked = true
			if w.g.sets[q.a].volatile() {
				w.cacheable = false
			}
		} else if q.op.volatile(p.Proto) {
			w.cacheable = false
		}
		if q.n == 1 && q.op >= opDir && (c.State == Invalid || c.State == Untracked) {
			continue
		}
		switch o := w.g.test(q, p, c); {
		case o == yes:
		case o == doomed:
			all = doomed
		case all == doomed:
			return short
		default:
			return o
		}
	}
	return all
}

// addressed says whether a rule that asks for a protocol, and whose entry agrees, drops a packet that has none that can be
// found: it does once the addresses agree (ip6_packet_match, net/ipv6/netfilter/ip6_tables.c).
func (w *walk) addressed(r *deed, p *packet.Packet, c *Context) outcome {
	first := r.pred
	if r.flags&early != 0 {
		first += uint32(r.all)
	}
	for k := range w.g.preds[first : first+uint32(r.rest)] {
		q := &w.g.preds[first+uint32(k)]
		if (q.op == opSrc || q.op == opDst) && w.g.test(q, p, c) == no {
			return no
		}
	}
	return short
}
