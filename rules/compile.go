package rules

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"corewire/internal/packet"
)

// maxDepth bounds the nesting of calls from chain to chain. iptables has no bound but memory; nobody's rules come
// near this one.
const maxDepth = 256

// maxConditions bounds the conditions of one rule: a byte counts them.
const maxConditions = 255

// Compile makes one rule set of one or more files. Chains of several files are one after the other: a base chain may
// stand in several files for one IP version, a user chain in one. The error is *Errors.
func Compile(files []*File, opt Options) (*Ruleset, error) {
	c := compiler{rs: &Ruleset{opt: opt, files: files}, opt: opt}
	c.collect(files)
	for f := range c.fam {
		c.resolve(f)
	}
	if err := c.errs.orNil(); err != nil {
		return nil, err
	}
	for f := range c.fam {
		c.program(f)
	}
	if err := c.errs.orNil(); err != nil {
		return nil, err
	}
	c.rs.ways()
	for f := range c.rs.prog {
		c.rs.moveSets(&c.rs.prog[f])
	}
	if err := c.rs.CheckTimeouts(opt.Timeouts); err != nil {
		return nil, err
	}
	return c.rs, nil
}

type compiler struct {
	asked []string // see Step.Asked
	rs    *Ruleset
	opt   Options
	errs  Errors
	fam   [programs]familyChains // by place
	cur   *program
	// live is the program that Explain explains, whose rules' counts are looked at; liveRule is the rule and liveConns how many
	// of its counts have been.
	live      *program
	liveRule  RuleID
	liveConns int
	// liveMatches are the matches of liveRule.
	liveMatches []Match
	// remembered is how many bytes the rules' memory may take, so far.
	remembered int
	counted    int // for how many connections connlimit rules have room
	place      int // of cur
	failed     map[Error]bool
	shared     map[sharedKey]any // state of matches, which is a rule's in all programs of one IP version
	warned     [3]bool           // of REJECT, of LOG, of clamping
	list       []pred            // reused
	rest       []pred            // reused
	// ifWarned holds the interface names already warned about.
	ifWarned map[string]bool
}

// familyChains are the chains of one IP version while compiling.
type familyChains struct {
	list   []*merged
	byName map[string]*merged
}

// merged is a chain with the rules of all files.
type merged struct {
	name   string
	pos    Pos
	policy Policy
	files  int
	rules  []ref
	index  uint32 // in program.chains
	mark   uint8  // of the search for loops
	depth  int
}

// ref is a rule and its identity.
type ref struct {
	r  *Rule
	id RuleID
}

// target is a chain that rules of a file go into, and the IP version: 0 for IPv4, 1 for IPv6.
type target struct {
	chain   *merged
	version int
}

func families(f Family) []int {
	switch f {
	case IPv4:
		return []int{0}
	case IPv6:
		return []int{1}
	}
	return []int{0, 1}
}

// fail reports an error, once however many programs the rule is in.
func (c *compiler) fail(pos Pos, found, expected, hint string) {
	e := Error{Pos: pos, Found: found, Expected: expected}
	if c.failed[e] {
		return
	}
	if c.failed == nil {
		c.failed = make(map[Error]bool)
	}
	if c.errs.More == 0 {
		c.failed[e] = true
	}
	e.Hint = hint
	c.errs.add(&e)
}

// sharedKey names the state of a match.
type sharedKey struct {
	m  Match
	v6 bool
}

// share returns the state of a match, which fresh makes the first time that a program of the IP version has it: a user
// chain that several base chains lead to is one in iptables.
func share[T any](c *compiler, m Match, fresh func() T) T {
	k := sharedKey{m, c.cur.v6}
	if x, ok := c.shared[k]; ok {
		return x.(T)
	}
	if c.shared == nil {
		c.shared = make(map[sharedKey]any)
	}
	x := fresh()
	c.shared[k] = x
	return x
}

// liveOf returns what the rule that Explain looks at remembers for a match of its own, nil when nothing is explained.
func liveOf[T any](c *compiler, m Match, of func(*program) ([]*T, []RuleID)) *T {
	if c.live == nil {
		return nil
	}
	list, owners := of(c.live)
	at := slices.Index(owners, c.liveRule)
	for _, x := range c.liveMatches { // those before it, of the same kind
		if x == m {
			break
		}
		if reflect.TypeOf(x) == reflect.TypeOf(m) && stateful(x) {
			at++
		}
	}
	return list[at]
}

// stateful says that a match has a bucket or a counter.
func stateful(m Match) bool {
	x, ok := m.(*StatisticMatch)
	return !ok || !x.Random
}

// collect gives every rule its identity and place, and puts it into the chains of its IP versions.
func (c *compiler) collect(files []*File) {
	for f := range c.fam {
		c.fam[f].byName = make(map[string]*merged)
		c.getChain(f, &Chain{Name: baseTable[f/2].chain, Policy: PolicyAccept})
		c.fam[f].list[0].files = 0
	}
	numbers := make(map[string]int) // rules so far, by family and chain: numbering goes on over files
	for _, file := range files {
		c.rs.warnings = append(c.rs.warnings, file.Warnings...)
		for _, t := range file.Tables {
			for _, ch := range t.Chains {
				if ch.Ignored {
					continue
				}
				var into []target
				for _, k := range basesOf(t.Name) {
					for _, f := range families(file.Family) {
						c.rs.has[2*k+f] = c.rs.has[2*k+f] || ch.Policy != PolicyNone
						if ch.Policy != PolicyNone && ch.Name != baseTable[k].chain {
							continue
						}
						m := c.getChain(2*k+f, ch)
						into = append(into, target{m, f})
						if ch.Policy == PolicyNone && m.files > 1 {
							c.fail(ch.Pos, ch.Name, "each user chain in one file", "it is in "+m.pos.String()+" already")
						}
					}
				}
				key := t.Name + " " + file.Family.String() + " " + ch.Name
				info := ChainInfo{Table: t.Name, Name: ch.Name, Family: file.Family, Policy: ch.Policy, Chain: ch}
				for _, r := range ch.Rules {
					if len(c.rs.rules) >= MaxRules {
						c.fail(r.Pos, "", fmt.Sprintf("at most %d rules in a rule set", MaxRules), "")
						return
					}
					id := RuleID(len(c.rs.rules))
					numbers[key]++
					c.rs.rules = append(c.rs.rules, Info{Table: t.Name, Chain: ch.Name, Number: numbers[key], Family: r.Family, Rule: r, Counter: r.Counter})
					info.Rules = append(info.Rules, id)
					c.assign(id, r.Target.CT)
					for _, x := range into {
						if r.Family&(1<<x.version) != 0 {
							x.chain.rules = append(x.chain.rules, ref{r, id})
						}
					}
				}
				c.rs.chains = append(c.rs.chains, info)
			}
		}
	}
}

func (c *compiler) getChain(f int, ch *Chain) *merged {
	fc := &c.fam[f]
	m := fc.byName[ch.Name]
	if m == nil {
		m = &merged{name: ch.Name, pos: ch.Pos, index: uint32(len(fc.list))}
		fc.byName[ch.Name] = m
		fc.list = append(fc.list, m)
	}
	m.files++
	m.policy = ch.Policy
	return m
}

// resolve checks jumps and looks for loops.
func (c *compiler) resolve(f int) {
	fc := &c.fam[f]
	var names []string
	for _, m := range fc.list {
		if len(names) < 200 {
			names = append(names, m.name)
		}
	}
	for _, m := range fc.list {
		for _, r := range m.rules {
			t := &r.r.Target
			if (t.Verb == VerbJump || t.Verb == VerbGoto) && fc.byName[t.Chain] == nil {
				if f&1 == 1 && r.r.Family == Both && c.fam[f-1].byName[t.Chain] == nil {
					continue // reported for IPv4
				}
				hint := ""
				if c.errs.More == 0 {
					hint = didYouMean(t.Chain, names)
				}
				c.fail(t.Pos, t.Chain, "a target or a chain of this table", hint)
			}
		}
	}
	for _, m := range fc.list {
		c.visit(fc, m)
	}
}

// visit walks the calls below a chain depth first, without recursion: a hostile file may nest its chains deeply.
func (c *compiler) visit(fc *familyChains, root *merged) {
	const open, done = 1, 2
	type step struct {
		m *merged
		i int
	}
	if root.mark != 0 {
		return
	}
	root.mark = open
	stack := []step{{root, 0}}
	for len(stack) > 0 {
		s := &stack[len(stack)-1]
		if s.i == len(s.m.rules) {
			s.m.mark = done
			d := s.m.depth
			stack = stack[:len(stack)-1]
			if len(stack) > 0 {
				up := stack[len(stack)-1]
				if up.m.depth < d+1 {
					up.m.depth = d + 1
				}
			}
			continue
		}
		t := &s.m.rules[s.i].r.Target
		s.i++
		if t.Verb != VerbJump && t.Verb != VerbGoto {
			continue
		}
		next := fc.byName[t.Chain]
		switch {
		case next == nil:
		case next.mark == open:
			names := next.name
			for k := len(stack) - 1; k >= 0 && stack[k].m != next; k-- {
				names = stack[k].m.name + " → " + names
			}
			c.fail(t.Pos, t.Chain, "chains without a loop", clip(next.name+" → "+names))
		case next.mark == done:
			if s.m.depth < next.depth+1 {
				s.m.depth = next.depth + 1
			}
		default:
			next.mark = open
			stack = append(stack, step{next, 0})
		}
	}
	if root.depth > maxDepth {
		c.fail(root.pos, root.name, fmt.Sprintf("calls nested at most %d deep", maxDepth), "")
	}
}

// program compiles the chains of one IP version that FORWARD leads to.
func (c *compiler) program(f int) {
	fc := &c.fam[f]
	g := &c.rs.prog[f]
	c.cur, c.place = g, f
	g.v6 = f&1 == 1
	g.chains = make([]chain, len(fc.list))
	g.depth = fc.list[0].depth
	g.policy = Accept
	if fc.list[0].policy == PolicyDrop {
		g.policy = Drop
	}
	g.names = make(map[string]uint32)
	b := newBuilder(g)
	used := make([]bool, len(fc.list))
	used[0] = true
	todo := []*merged{fc.list[0]}
	for len(todo) > 0 {
		m := todo[0]
		todo = todo[1:]
		b.boxes = b.boxes[:0]
		begin := uint32(len(g.rules))
		for _, r := range m.rules {
			cr := rule{id: r.id, verb: r.r.Target.Verb}
			if cr.verb == VerbJump || cr.verb == VerbGoto {
				next := fc.byName[r.r.Target.Chain]
				cr.arg = next.index
				if !used[next.index] {
					used[next.index] = true
					todo = append(todo, next)
				}
			}
			if cr.verb == VerbEffect {
				cr.arg = uint32(len(g.effects))
				g.effects = append(g.effects, r.r.Target.Effect.compile(c))
			}
			c.able(r.r)
			b.boxes = c.boxes(b.boxes, &cr, r.r)
			g.rules = append(g.rules, cr)
			g.ruled(r.id)
		}
		first, n := b.trees()
		for i := range b.boxes { // what building found unreachable has an entry for the day when it is not, see patch.go
			if b.boxes[i].entry == 0 {
				g.appendEntry(&b.boxes[i])
			}
		}
		g.names[m.name] = m.index
		g.chains[m.index] = chain{uint32(first), uint32(n), begin, uint32(len(g.rules))}
	}
	// What is left over from growing would stay for as long as the rule set does.
	g.rules, g.slots, g.trees = slices.Clip(slices.Clone(g.rules)), slices.Clip(slices.Clone(g.slots)), slices.Clip(slices.Clone(g.trees))
	g.places = slices.Clip(slices.Clone(g.places))
	g.narrow, g.wide = slices.Clip(slices.Clone(g.narrow)), slices.Clip(slices.Clone(g.wide))
}

// able warns of targets that the caller does not carry out in full.
func (c *compiler) able(r *Rule) {
	switch {
	case r.Target.Verb == VerbReject && !c.opt.Rejects && !c.warned[0]:
		c.warned[0] = true
		c.rs.warnings = append(c.rs.warnings, Warning{r.Pos, "REJECT drops without an answer"})
	case r.Target.Verb == VerbEffect && !c.opt.Clamps && !c.warned[2]:
		if t, ok := r.Target.Effect.(*MSSTarget); ok && t.Clamp {
			c.warned[2] = true
			c.rs.warnings = append(c.rs.warnings, Warning{r.Pos, "--clamp-mss-to-pmtu only counts: the ports' MTU is not known"})
		}
	case r.Target.Verb == VerbLog && !c.opt.Logs && !c.warned[1]:
		c.warned[1] = true
		c.rs.warnings = append(c.rs.warnings, Warning{r.Pos, r.Target.Log.Name() + " counts, and logs nothing"})
	}
}

// conditions returns what a rule asks, in the order in which xtables asks it: a match that finds a header missing
// drops the packet on the spot, so that the order of the matches shows.
func (c *compiler) conditions(r *Rule) []pred {
	list := c.list[:0]
	add := func(q pred) { list = append(list, q) }
	if r.Src.Set || r.Src.Not {
		add(pred{op: opSrc, not: r.Src.Not})
	}
	if r.Dst.Set || r.Dst.Not {
		add(pred{op: opDst, not: r.Dst.Not})
	}
	if in := c.ports(r.In, packet.Inside, packet.Outside) & c.ports(r.Out, packet.Outside, packet.Inside); in != 3 {
		add(pred{op: opPorts, lo: in})
	}
	if r.Proto.Num != 0 {
		add(pred{op: opProto, not: r.Proto.Not, lo: uint16(r.Proto.Num)})
	}
	if r.Fragment == FragmentYes {
		add(pred{op: opNever}) // packets are judged after reassembly: there are no fragments
	}
	for _, m := range r.Matches {
		c.capable(r, m)
		c.match(m, add)
	}
	c.list = list
	if len(list) > maxConditions {
		c.fail(r.Pos, "", fmt.Sprintf("at most %d conditions in a rule", maxConditions), "split it into two with a user chain")
		return nil
	}
	return list
}

// capable checks that the caller can do what a match needs.
func (c *compiler) capable(r *Rule, m Match) {
	switch m.(type) {
	case *LimitMatch, *HashlimitMatch, *RecentMatch:
		if !c.opt.Clock {
			c.fail(r.Pos, "-m "+m.Name(), "a match that needs no clock", "the caller of the compiler has none")
		}
	case *TimeMatch:
		if !c.opt.Wall {
			c.fail(r.Pos, "-m time", "a match that needs no clock", "the caller of the compiler has none")
		}
	case *ByteMatch:
		if !c.opt.Counts {
			c.fail(r.Pos, "-m connbytes", "a match that needs no counters of connections", "set nf_conntrack_acct to 1: connections are not counted")
		}
	}
}

// maxBoxes bounds into how many boxes a rule with lists of ports is taken apart; beyond, the lists are looked at when
// the rest agrees.
const maxBoxes = 64

// boxes appends the boxes of a rule to dst and completes the rule: the conditions that a box cannot hold are stored
// with it. A rule that can match nothing has no box.
func (c *compiler) boxes(dst []box, cr *rule, r *Rule) []box {
	g := c.cur
	list := c.conditions(r)
	if g.v6 && r.Proto.Num != 0 {
		cr.flags |= asksProto
	}
	x := box{allow: allowAll, rule: uint32(len(g.rules))}
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
			if !q.not {
				split(x.val[wordSrc:], x.mask[wordSrc:], r.Src, g.v6)
				continue
			}
			q.a = c.addr(r.Src)
			before = true
		case opDst:
			if !q.not {
				split(x.val[wordDst:], x.mask[wordDst:], r.Dst, g.v6)
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
	cr.pred = uint32(len(g.preds))
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

// split writes an address and its mask into a box's words. Of an IPv4 address only the last word is looked at.
func split(val, mask []uint32, a AddrMatch, v6 bool) {
	val[3], mask[3] = uint32(a.Addr.Lo), uint32(a.Mask.Lo)
	if v6 {
		val[0], val[1], val[2] = uint32(a.Addr.Hi>>32), uint32(a.Addr.Hi), uint32(a.Addr.Lo>>32)
		mask[0], mask[1], mask[2] = uint32(a.Mask.Hi>>32), uint32(a.Mask.Hi), uint32(a.Mask.Lo>>32)
	}
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

// appendEntry writes the entry of a box.
func (g *program) appendEntry(x *box) {
	rule := x.rule
	if r := &g.rules[rule]; r.rest > 0 {
		rule |= more
	}
	w := x.wide()
	w.rule = rule
	w.allow |= uint16(g.rules[x.rule].verb) << verbShift
	if g.v6 {
		g.wide = append(g.wide, w)
		return
	}
	g.narrow = append(g.narrow, newNarrow(&w))
}

func addrOf(w []uint32) packet.Addr {
	return packet.Addr{Hi: uint64(w[0])<<32 | uint64(w[1]), Lo: uint64(w[2])<<32 | uint64(w[3])}
}

func (c *compiler) match(m Match, add func(pred)) {
	ports := func(o op, r PortRange) {
		if !r.full() {
			add(pred{op: o, not: r.Not, lo: r.Lo, hi: r.Hi})
		}
	}
	switch m := m.(type) {
	case *CommentMatch:
	case *TCPMatch:
		add(pred{op: opHeader, lo: 20})
		ports(opSport, m.Src)
		ports(opDport, m.Dst)
		if m.Flags.Mask != 0 || m.Flags.Want != 0 || m.Flags.Not {
			add(pred{op: opFlags, not: m.Flags.Not, lo: uint16(m.Flags.Mask), hi: uint16(m.Flags.Want)})
		}
		if m.Option.Kind != 0 {
			add(pred{op: opOption, not: m.Option.Not, lo: uint16(m.Option.Kind)})
		}
	case *UDPMatch:
		add(pred{op: opHeader, lo: 8})
		ports(opSport, m.Src)
		ports(opDport, m.Dst)
	case *ICMPMatch:
		add(pred{op: opHeader, lo: 8})
		switch {
		case m.module == "icmp" && m.Type == 255 && m.Not:
			add(pred{op: opNever})
		case m.module == "icmp" && m.Type == 255:
		default:
			add(pred{op: opICMP, not: m.Not, lo: uint16(m.Type), hi: uint16(m.MinCode)<<8 | uint16(m.MaxCode)})
		}
	case *MultiportMatch:
		add(pred{op: opHeader, lo: 4})
		add(pred{op: opMulti, not: m.Not, lo: uint16(m.Side), a: uint32(len(c.cur.ports)), n: uint16(len(m.Ports))})
		c.cur.ports = append(c.cur.ports, m.Ports...)
	case *ConntrackMatch:
		c.conntrack(m, add)
	case *PortsMatch:
		add(pred{op: opHeader, lo: 12})
		ports(opSport, m.Src)
		ports(opDport, m.Dst)
		if m.Chunks != nil {
			add(pred{op: opChunks, a: keep(&c.cur.chunks, *m.Chunks)})
		}
	case *IPRangeMatch:
		for k, r := range []AddrRange{m.Src, m.Dst} {
			if r.Set {
				c.cur.addrs = append(c.cur.addrs, prefix{r.Lo, r.Hi})
				add(pred{op: opRange, not: r.Not, lo: uint16(k), a: uint32(len(c.cur.addrs) - 1)})
			}
		}
	case *AddrTypeMatch:
		limited := uint32(0)
		if m.LimitIn || m.LimitOut {
			limited = 1
		}
		if m.srcAsked {
			add(pred{op: opType, not: m.SrcNot, lo: 0, hi: uint16(m.Src), a: limited})
		}
		if m.dstAsked {
			add(pred{op: opType, not: m.DstNot, lo: 1, hi: uint16(m.Dst), a: limited})
		}
	case *LengthMatch:
		add(pred{op: opLength, not: m.Not, lo: m.Lo, hi: m.Hi})
	case *TTLMatch:
		v := uint16(m.Value)
		switch m.Compare {
		case Less:
			if v == 0 {
				add(pred{op: opNever})
				return
			}
			add(pred{op: opTTL, lo: 0, hi: v - 1})
		case Greater:
			add(pred{op: opTTL, lo: v + 1, hi: 256})
		default:
			add(pred{op: opTTL, not: m.Compare == NotEqual, lo: v, hi: v})
		}
	case *TOSMatch:
		add(pred{op: opTOS, not: m.Not, lo: uint16(m.Value), hi: uint16(m.Mask)})
	case *ECNMatch:
		if m.ECT {
			add(pred{op: opTOS, not: m.NotECT, lo: uint16(m.Codepoint), hi: 3})
		}
		if m.ECE {
			add(pred{op: opCWR, not: m.NotECE, lo: tcpECE})
		}
		if m.CWR {
			add(pred{op: opCWR, not: m.NotCWR, lo: tcpCWR})
		}
	case *MarkMatch:
		o := opMark
		c.rs.needs |= NeedMark
		if m.module == "connmark" {
			o = opConnMark
			c.rs.needs |= NeedConnMark
		}
		add(pred{op: o, not: m.Not, a: m.Value, b: m.Mask})
	case *MACMatch:
		a := m.Addr
		add(pred{op: opMAC, not: m.Not, b: uint32(a[0])<<8 | uint32(a[1]), a: uint32(a[2])<<24 | uint32(a[3])<<16 | uint32(a[4])<<8 | uint32(a[5])})
	case *PacketTypeMatch:
		add(pred{op: opLink, not: m.Not, lo: uint16(m.Type)})
	case *PhysdevMatch:
		noOut := baseTable[c.place/2].noOut
		in := c.devices(m.In, packet.Inside, packet.Outside)
		if !noOut {
			in &= c.devices(m.Out, packet.Outside, packet.Inside)
		}
		if m.never(noOut) {
			in = 0
		}
		if in != 3 {
			add(pred{op: opPorts, lo: in})
		}
	case *RoutingMatch:
		add(pred{op: opRtSegs, not: m.SegsNot, a: m.SegsLo, b: m.SegsHi})
		if m.HasLen {
			add(pred{op: opRtLen, not: m.LenNot, a: m.Len})
		}
		if m.HasType {
			add(pred{op: opRtType, not: m.TypeNot, lo: uint16(m.Type)})
		}
		if m.Reserved {
			add(pred{op: opRtReserved})
		}
	case *LimitMatch:
		c.rs.needs |= NeedNow
		add(pred{op: opLimit, a: uint32(len(c.cur.buckets))})
		b := liveOf(c, m, func(g *program) ([]*bucket, []RuleID) { return g.buckets, g.bucketRules })
		if b == nil {
			b = share(c, m, func() *bucket { return newBucket(m) })
		}
		c.cur.buckets = append(c.cur.buckets, b)
	case *HashlimitMatch:
		c.rs.needs |= NeedNow
		add(pred{op: opHashlimit, not: m.Above, a: uint32(len(c.cur.hashes))})
		c.cur.hashes = append(c.cur.hashes, c.table(m))
	case *RecentMatch:
		c.rs.needs |= NeedNow
		add(pred{op: opRecent, a: uint32(len(c.cur.recents))})
		c.cur.recents = append(c.cur.recents, recentRule{c.recent(m), m, !baseTable[c.place/2].noOut})
	case *ConnlimitMatch:
		c.rs.needs |= NeedTickets | NeedStatus
		add(pred{op: opConnlimit, not: !m.Above, a: uint32(len(c.cur.conns)), b: m.Limit})
		c.cur.conns = append(c.cur.conns, c.conns(m))
	case *SetMatch:
		c.setMatch(m, add)
	case *StringMatch:
		add(pred{op: opText, not: m.Not, lo: m.From, hi: m.To, a: uint32(len(c.cur.texts))})
		c.cur.texts = append(c.cur.texts, newText(m))
	case *MSSMatch:
		add(pred{op: opHeader, lo: 20})
		add(pred{op: opMSS, not: m.Not, lo: m.Lo, hi: m.Hi})
	case *VLANMatch:
		if m.ID {
			add(pred{op: opVLAN, not: m.IDNot, lo: m.IDLo, hi: m.IDHi})
		}
		if m.PCP {
			add(pred{op: opPCP, not: m.PCPNot, lo: m.PCPLo, hi: m.PCPHi})
		}
	case *SPIMatch:
		switch {
		case m.module == "esp":
			add(pred{op: opSPI, not: m.Not, lo: 8, hi: 0, a: m.Lo, b: m.Hi})
		case !c.cur.v6:
			add(pred{op: opSPI, not: m.Not, lo: 12, hi: 4, a: m.Lo, b: m.Hi})
		default:
			add(pred{op: opAuth, a: keep(&c.cur.spis, *m)})
		}
	case *FragMatch:
		add(pred{op: opFrag, a: keep(&c.cur.frags, *m)})
	case *HeadersMatch:
		add(pred{op: opHeaders, a: keep(&c.cur.headers, *m)})
	case *OptionsMatch:
		add(pred{op: opOptions, a: keep(&c.cur.options, *m)})
	case *MobilityMatch:
		add(pred{op: opMobility, not: m.Not, lo: uint16(m.Lo), hi: uint16(m.Hi)})
	case *U32Match:
		add(pred{op: opU32, a: keep(&c.cur.u32s, *m)})
	case *TimeMatch:
		c.rs.needs |= NeedWall
		add(pred{op: opTime, a: keep(&c.cur.times, *m)})
	case *QuotaMatch:
		q := share(c, m, func() *quota {
			q := new(quota)
			q.left.Store(m.Bytes)
			return q
		})
		add(pred{op: opQuota, not: m.Not, a: keep(&c.cur.quotas, q)})
	case *ByteMatch:
		c.rs.needs |= NeedCounts
		add(pred{op: opBytes, a: keep(&c.cur.bytes, *m)})
	case *HelperMatch:
		c.rs.needs |= NeedHelper
		add(pred{op: opHelper, a: keep(&c.cur.helpers, *m)})
	case *LabelMatch:
		c.rs.needs |= NeedLabels
		q := pred{op: opLabel, not: m.Not, lo: uint16(m.Label)}
		if m.Set {
			q.hi = 1
			c.rs.needs |= WritesLabels
		}
		add(q)
	case *StatisticMatch:
		if m.Random {
			add(pred{op: opRandom, not: m.Not, a: m.Probability})
			return
		}
		k := liveOf(c, m, func(g *program) ([]*counter, []RuleID) { return g.counters, g.counterRules })
		if k == nil {
			k = share(c, m, func() *counter {
				k := &counter{every: m.Every}
				k.n.Store(m.Every - 1 - m.Packet)
				return k
			})
		}
		add(pred{op: opNth, not: m.Not, a: uint32(len(c.cur.counters))})
		c.cur.counters = append(c.cur.counters, k)
	}
}

// keep stores x and returns its index.
func keep[T any](list *[]T, x T) uint32 {
	*list = append(*list, x)
	return uint32(len(*list) - 1)
}

// addr stores an address with its mask and returns its index.
func (c *compiler) addr(a AddrMatch) uint32 {
	c.cur.addrs = append(c.cur.addrs, prefix{a.Addr, a.Mask})
	return uint32(len(c.cur.addrs) - 1)
}

// ports returns the ports that a packet may come from so that the interface matches, as bits by packet.Port: first is
// the port to arrive on when the name is that of the inside, second when it is that of the outside.
func (c *compiler) ports(m InterfaceMatch, first, second packet.Port) uint16 {
	if m.Pos.Line == 0 {
		return 3
	}
	// Without an interface there the kernel compares with an empty name, which agrees with "+" alone (ip_packet_match).
	if none := &baseTable[c.place/2]; none.noIn && first == packet.Inside || none.noOut && first == packet.Outside {
		if (m.Name == "+") != m.Not {
			return 3
		}
		return 0
	}
	return c.devices(m, first, second)
}

// devices is ports for an interface that there is.
func (c *compiler) devices(m InterfaceMatch, first, second packet.Port) uint16 {
	if m.Pos.Line == 0 {
		return 3
	}
	var bits uint16
	if c.named(m.Name, "inside", c.opt.InsideName) {
		bits |= 1 << first
	}
	if c.named(m.Name, "outside", c.opt.OutsideName) {
		bits |= 1 << second
	}
	if bits == 0 && !c.ifWarned[m.Name] {
		if c.ifWarned == nil {
			c.ifWarned = make(map[string]bool)
		}
		c.ifWarned[m.Name] = true
		c.rs.warnings = append(c.rs.warnings, Warning{m.Pos, fmt.Sprintf("interface %s is neither port of the wire: no packet comes or goes there", m.Name)})
	}
	if m.Not {
		bits ^= 3
	}
	return bits
}

// named says whether a rule's interface name, perhaps with a "+" at its end, names the port.
func (c *compiler) named(pattern, port, device string) bool {
	if p, ok := strings.CutSuffix(pattern, "+"); ok {
		return strings.HasPrefix(port, p) || device != "" && strings.HasPrefix(device, p)
	}
	return pattern == port || device != "" && pattern == device
}

// conntrack writes the conditions of -m conntrack. A packet without a connection matches when the state does, and
// never without --ctstate: what is asked behind the state is asked of packets with a connection only.
func (c *compiler) conntrack(m *ConntrackMatch, add func(pred)) {
	var list []pred
	if m.HasDir {
		list = append(list, pred{op: opDir, lo: uint16(m.Dir)})
		c.rs.needs |= NeedDir
	}
	for k, a := range []AddrMatch{m.OrigSrc, m.OrigDst, m.ReplSrc, m.ReplDst} {
		if a.Pos.Line != 0 {
			list = append(list, pred{op: opCtAddr, not: a.Not, lo: uint16(k), a: c.addr(a)})
			c.rs.needs |= NeedDir
		}
	}
	if m.HasProto {
		list = append(list, pred{op: opCtProto, not: m.ProtoNot, lo: uint16(m.Proto)})
	}
	for k, r := range []PortRange{m.OrigSrcPort, m.OrigDstPort, m.ReplSrcPort, m.ReplDstPort} {
		if m.portSet&(1<<k) != 0 {
			list = append(list, pred{op: opCtPort, not: r.Not, lo: r.Lo, hi: r.Hi, a: uint32(k)})
			c.rs.needs |= NeedDir
		}
	}
	if m.HasStatus {
		list = append(list, pred{op: opCtStatus, not: m.StatusNot, a: m.Status})
		c.rs.needs |= NeedStatus
	}
	if m.HasExpire {
		list = append(list, pred{op: opCtExpire, not: m.ExpireNot, a: m.ExpireLo, b: m.ExpireHi})
		c.rs.needs |= NeedExpires
	}
	if !m.HasState {
		add(pred{op: opTracked})
		for _, q := range list {
			add(q)
		}
		return
	}
	add(pred{op: opState, not: m.StatesNot, lo: uint16(m.States)})
	for _, q := range list {
		q.n = 1 // holds for packets without a connection
		add(q)
	}
}
