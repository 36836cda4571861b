package rules

import (
	"fmt"
	"reflect"
	"slices"

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
	c := compiler{rs: &Ruleset{opt: opt, files: files, line: new(line)}, opt: opt}
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
	c.rs.begin()
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
	parts := make(map[string][]int32) // of chains so far, by table, family and name
	c.rs.pieces = make(map[chainKey][]piece)
	for i, file := range files {
		c.rs.warnings = append(c.rs.warnings, file.Warnings...)
		for j, t := range file.Tables {
			for k, ch := range t.Chains {
				at := len(c.rs.chains)
				if ch.Ignored {
					at = -1
				}
				name := chainKey{t.Name, ch.Name}
				c.rs.pieces[name] = append(c.rs.pieces[name], piece{i, j, k, at})
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
				piece := int32(len(c.rs.chains))
				info := ChainInfo{Table: t.Name, Name: ch.Name, Family: file.Family, Policy: ch.Policy, Chain: ch, parts: parts[key]}
				parts[key] = append(slices.Clip(parts[key]), piece)
				list := &RuleList{first: RuleID(len(c.rs.compiled))}
				for _, r := range ch.Rules {
					if len(c.rs.compiled) >= MaxRules {
						c.fail(r.Pos, "", fmt.Sprintf("at most %d rules in a rule set", MaxRules), "")
						return
					}
					id := RuleID(len(c.rs.compiled))
					c.rs.prints = append(c.rs.prints, r.print())
					c.rs.compiled = append(c.rs.compiled, Info{Table: t.Name, Chain: ch.Name, Family: r.Family, piece: piece, Rule: r, Counter: r.Counter})
					c.assign(id, r.Target.CT)
					for _, x := range into {
						if r.Family&(1<<x.version) != 0 {
							x.chain.rules = append(x.chain.rules, ref{r, id})
						}
					}
				}
				list.end = RuleID(len(c.rs.compiled))
				c.rs.chains, c.rs.lists = append(c.rs.chains, info), append(c.rs.lists, list)
			}
		}
	}
	c.rs.count = len(c.rs.compiled)
}

func (c *compiler) getChain(f int, ch *Chain) *merged {
	fc := &c.fam[f]
	m := fc.byName[ch.Name]
	if m == nil {
		m = &merged{name: ch.Name, pos: ch.Pos, index: uint32(len(fc.list))}
		fc.byName[ch.Name] = m
		fc.list = append(fc.list, m)
	}
	if m.files++; m.pos.Line == 0 { // a base chain is there before its file is
		m.pos = ch.Pos
	}
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
	g.names, g.interned, g.done = make(map[string]uint32), make(map[shape]uint32), make(map[deed]uint32)
	g.places = append(g.places, 0)
	n := 0
	for _, m := range fc.list {
		n += len(m.rules) + 1
	}
	g.gap = gapFor(n)
	g.rules = make([]compiledRule, 0, n)
	b := newBuilder(g)
	used := make([]bool, len(fc.list))
	used[0] = true
	todo := []*merged{fc.list[0]}
	for len(todo) > 0 {
		m := todo[0]
		todo = todo[1:]
		b.boxes = slices.Grow(b.boxes[:0], len(m.rules))
		begin := uint32(len(g.rules))
		for _, r := range m.rules {
			cr := deed{verb: r.r.Target.Verb}
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
			if cr.leads() {
				g.leaders = append(g.leaders, uint32(len(g.rules)))
			}
			g.addRule(r.id, g.indexOf(cr))
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
		g.addRule(NoRule, 0)
	}
	// What is left over from growing would stay for as long as the rule set does.
	g.rules, g.slots, g.trees, g.places = trim(g.rules), trim(g.slots), trim(g.trees), trim(g.places)
	if g.does != nil {
		g.does = trim(g.does)
	}
	g.narrow, g.wide = trim(g.narrow), trim(g.wide)
	g.shapes, g.interned = trim(g.shapes), nil
	g.deeds, g.done = trim(g.deeds), nil
}

// trim copies a list to where it has little room behind it: what changes of one rule append.
func trim[T any](list []T) []T { return append(make([]T, 0, len(list)+len(list)/32), list...) }

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
	c.list = c.list[:0]
	if r.Src.Set || r.Src.Not {
		c.ask(pred{op: opSrc, not: r.Src.Not})
	}
	if r.Dst.Set || r.Dst.Not {
		c.ask(pred{op: opDst, not: r.Dst.Not})
	}
	if in := c.ports(r.In, packet.Inside, packet.Outside) & c.ports(r.Out, packet.Outside, packet.Inside); in != 3 {
		c.ask(pred{op: opPorts, lo: in})
	}
	if r.Proto.Num != 0 {
		c.ask(pred{op: opProto, not: r.Proto.Not, lo: uint16(r.Proto.Num)})
	}
	if r.Fragment == FragmentYes {
		c.ask(pred{op: opNever}) // packets are judged after reassembly: there are no fragments
	}
	for _, m := range r.Matches {
		c.capable(r, m)
		m.compile(c)
	}
	if len(c.list) > maxConditions {
		c.fail(r.Pos, "", fmt.Sprintf("at most %d conditions in a rule", maxConditions), "split it into two with a user chain")
		return nil
	}
	return c.list
}

// ask adds a condition to the rule that is being compiled.
func (c *compiler) ask(q pred) { c.list = append(c.list, q) }

// askPort adds a condition for a port, if there is one.
func (c *compiler) askPort(o op, r PortRange) {
	if !r.full() {
		c.ask(pred{op: o, not: r.Not, lo: r.Lo, hi: r.Hi})
	}
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
