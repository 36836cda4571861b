package rules

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"corewire/internal/ipset"
	"corewire/internal/packet"
)

// Sets finds the sets that rules name, while they are compiled.
type Sets interface {
	Lookup(name string) *ipset.Handle // nil for none
	Names() []string
}

// SetName is a set as a rule names it, with the directions of its dimensions.
type SetName struct {
	Name string
	Src  []bool // by dimension: source, else destination
	pos  Pos
}

func (s *SetName) append(b []byte, opt string) []byte {
	b = append(append(b, " --"...), opt...)
	b = append(append(b, ' '), s.Name...)
	for i, src := range s.Src {
		sep := byte(',')
		if i == 0 {
			sep = ' '
		}
		b = append(b, sep)
		if src {
			b = append(b, "src"...)
		} else {
			b = append(b, "dst"...)
		}
	}
	return b
}

// query returns what is asked of the set for a packet.
func (s *SetName) query(c *compiler) ipset.Query {
	q := ipset.Query{Dims: uint8(len(s.Src))}
	for i, src := range s.Src {
		if src {
			q.Src |= 1 << i
		}
	}
	// As for -i and -o: before routing there is no way out, and behind it none in (par->state of hash_netiface4_kadt).
	if none := &baseTable[c.place/2]; len(s.Src) > 1 && (s.Src[1] && none.noIn || !s.Src[1] && none.noOut) {
		return q
	}
	q.Ports[packet.Inside] = ipset.Names{ipset.NameOf("inside"), ipset.NameOf(c.opt.InsideName)}
	q.Ports[packet.Outside] = ipset.Names{ipset.NameOf("outside"), ipset.NameOf(c.opt.OutsideName)}
	return q
}

// SetMatch is -m set (net/netfilter/xt_set.c, set_match_v4).
type SetMatch struct {
	SetName
	Not           bool
	ReturnNoMatch bool // --return-nomatch: the set's exceptions match
	Keep          bool // ! --update-counters
	KeepSub       bool // ! --update-subcounters
	Packets       SetCounter
	Bytes         SetCounter
}

// SetCounter is how a counter of the set's element is compared.
type SetCounter struct {
	Is    ipset.Compare
	Value uint64
}

func (n SetCounter) append(b []byte, what string) []byte {
	opt := ""
	switch n.Is {
	case ipset.Any:
		return b
	case ipset.NotEqual:
		b = append(b, " !"...)
		fallthrough
	case ipset.Equal:
		opt = "eq"
	case ipset.LessThan:
		opt = "lt"
	case ipset.MoreThan:
		opt = "gt"
	}
	return fmt.Appendf(b, " --%s-%s %d", what, opt, n.Value)
}

// Name returns "set".
func (m *SetMatch) Name() string { return "set" }

// AppendSave implements Extension.
func (m *SetMatch) AppendSave(b []byte) []byte {
	b = m.SetName.append(appendNot(b, m.Not), "match-set")
	if m.ReturnNoMatch {
		b = append(b, " --return-nomatch"...)
	}
	if m.Keep {
		b = append(b, " ! --update-counters"...)
	}
	if m.KeepSub {
		b = append(b, " ! --update-subcounters"...)
	}
	return m.Bytes.append(m.Packets.append(b, "packets"), "bytes")
}

// setName reads a set's name and the directions of its dimensions.
func (rp *ruleParser) setName(s *SetName, a []token) {
	s.Name, s.pos = a[0].text, rp.p.pos(a[0].col)
	if len(a[0].text) > 31 || a[0].text == "" { // IPSET_MAXNAMELEN - 1
		rp.fail(a[0].col, a[0].text, "a set's name of at most 31 bytes", "")
	}
	col := a[1].col
	for _, d := range strings.Split(a[1].text, ",") {
		switch {
		case d != "src" && d != "dst":
			rp.fail(col, d, "src or dst for each dimension of the set", "such as src,dst")
			return
		case len(s.Src) == ipset.MaxDimensions:
			rp.fail(col, d, fmt.Sprintf("at most %d directions", ipset.MaxDimensions), "")
			return
		}
		s.Src = append(s.Src, d == "src")
		col += len(d) + 1
	}
}

func setCounter(what, op string, is ipset.Compare, id uint8) option {
	return option{what + "-" + op, id, 1, op == "eq", func(rp *ruleParser, m Extension, not bool, a []token) {
		c := SetCounter{Is: is, Value: rp.number(a[0], math.MaxUint64)}
		if not {
			c.Is = ipset.NotEqual
		}
		if what == "packets" {
			m.(*SetMatch).Packets = c
		} else {
			m.(*SetMatch).Bytes = c
		}
	}}
}

var setModule = module{name: "set", family: Both, make: func() Extension { return &SetMatch{} }, options: []option{
	{"match-set", 1, 2, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		m.(*SetMatch).Not = not
		rp.setName(&m.(*SetMatch).SetName, a)
	}},
	{"return-nomatch", 2, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*SetMatch).ReturnNoMatch = true }},
	{"update-counters", 3, 0, true, func(_ *ruleParser, m Extension, not bool, _ []token) { m.(*SetMatch).Keep = not }},
	{"update-subcounters", 4, 0, true, func(_ *ruleParser, m Extension, not bool, _ []token) { m.(*SetMatch).KeepSub = not }},
	setCounter("packets", "eq", ipset.Equal, 5), setCounter("packets", "lt", ipset.LessThan, 5), setCounter("packets", "gt", ipset.MoreThan, 5),
	setCounter("bytes", "eq", ipset.Equal, 6), setCounter("bytes", "lt", ipset.LessThan, 6), setCounter("bytes", "gt", ipset.MoreThan, 6),
}, finish: needOption("match-set")}

// SetTarget is -j SET (set_target_v3). A nil name is not asked for.
type SetTarget struct {
	Add, Del, Map *SetName
	Exist         bool   // --exist: an element that is there gets a new timeout
	Timeout       uint32 // --timeout, seconds; ipset.Default: the set's
	Mark          bool   // --map-mark: the packet's mark becomes what the set has for it
	Priority      bool   // --map-prio: means nothing on a wire
	Queue         bool   // --map-queue: likewise
}

// Name returns "SET".
func (t *SetTarget) Name() string { return "SET" }

// AppendSave implements Extension.
func (t *SetTarget) AppendSave(b []byte) []byte {
	flag := func(on bool, s string) {
		if on {
			b = append(b, s...)
		}
	}
	if t.Add != nil {
		b = t.Add.append(b, "add-set")
		flag(t.Exist, " --exist")
		if t.Timeout != ipset.Default {
			b = strconv.AppendUint(append(b, " --timeout "...), uint64(t.Timeout), 10)
		}
	}
	if t.Del != nil {
		b = t.Del.append(b, "del-set")
	}
	if t.Map != nil {
		b = t.Map.append(b, "map-set")
		flag(t.Mark, " --map-mark")
		flag(t.Priority, " --map-prio")
		flag(t.Queue, " --map-queue")
	}
	return b
}

var setTarget = module{name: "SET", family: Both, make: func() Extension { return &SetTarget{Timeout: ipset.Default} }, options: []option{
	{"add-set", 1, 2, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*SetTarget).Add = new(SetName)
		rp.setName(m.(*SetTarget).Add, a)
	}},
	{"del-set", 2, 2, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*SetTarget).Del = new(SetName)
		rp.setName(m.(*SetTarget).Del, a)
	}},
	{"map-set", 3, 2, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*SetTarget).Map = new(SetName)
		rp.setName(m.(*SetTarget).Map, a)
	}},
	{"exist", 4, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*SetTarget).Exist = true }},
	{"timeout", 5, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		// iptables takes more; the kernel then makes it IPSET_MAX_TIMEOUT.
		m.(*SetTarget).Timeout = uint32(min(rp.number(a[0], math.MaxUint32-1), math.MaxUint32>>1/1000))
	}},
	{"map-mark", 6, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*SetTarget).Mark = true }},
	{"map-prio", 7, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*SetTarget).Priority = true }},
	{"map-queue", 8, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*SetTarget).Queue = true }},
}, finish: func(rp *ruleParser, l *loaded) {
	t := l.m.(*SetTarget)
	switch {
	case t.Add == nil && t.Del == nil && t.Map == nil:
		rp.fail(l.col, "-j SET", "--add-set, --del-set or --map-set after -j SET", "")
	case t.Add == nil && (t.Exist || t.Timeout != ipset.Default):
		rp.fail(l.col, "-j SET", "--exist and --timeout with --add-set only", "")
	case t.Map == nil && (t.Mark || t.Priority || t.Queue):
		rp.fail(l.col, "-j SET", "--map-mark, --map-prio and --map-queue with --map-set only", "")
	case t.Map != nil && !t.Mark && !t.Priority && !t.Queue:
		rp.fail(l.col, "-j SET", "--map-mark, --map-prio or --map-queue with --map-set", "")
	case t.Map != nil && rp.p.table.Name != "mangle":
		rp.fail(l.col, "--map-set", "it in table mangle", "")
	}
}}

// setQuery is a set match, compiled.
type setQuery struct {
	handle *ipset.Handle
	query  ipset.Query
	look   ipset.Query // the same without counting
	// moved: rules add to the set or delete from it, so that it may answer differently for the next packet.
	moved bool
}

// volatile says that the set may answer differently for the next packet of a connection though nobody has changed it.
func (s *setQuery) volatile() bool { return s.moved || s.handle.Volatile() }

// setChange is a SET target, compiled.
type setChange struct {
	add, del, mapped *ipset.Handle
	queries          [3]ipset.Query // of these
	timeout          uint32
	exist            bool
}

// tickOf is the time as sets count it.
func tickOf(now int64) ipset.Tick { return ipset.Tick(uint64(now) / 1e6) }

// carry carries a SET target out.
func (s *setChange) carry(p *packet.Packet, c *Context) {
	now := tickOf(c.Now)
	if s.add != nil {
		s.add.Add(&s.queries[0], p, now, c.Mark, s.timeout, s.exist)
	}
	if s.del != nil {
		s.del.Remove(&s.queries[1], p, now, c.Mark)
	}
	if s.mapped != nil {
		if info, ok := s.mapped.Map(&s.queries[2], p, now, c.Mark); ok {
			c.Mark = c.Mark&^info.Mask ^ info.Mark
		}
	}
}

// set finds the set that a rule names; nil after an error.
func (c *compiler) set(s *SetName, opt string) *ipset.Handle {
	if c.opt.Sets == nil {
		c.fail(s.pos, s.Name, "a set that exists", "the caller of the compiler has none")
		return nil
	}
	h := c.opt.Sets.Lookup(s.Name)
	if h == nil {
		names := c.opt.Sets.Names()
		hint := "sets are defined by the setting sets, or by corewire set create"
		if near := nearestSorted(s.Name, names); near != "" {
			hint = "did you mean " + near + "?"
		}
		c.fail(s.pos, s.Name, "a set that exists", hint)
		return nil
	}
	version := uint8(4)
	if c.cur.v6 {
		version = 6
	}
	switch {
	case h.Kind().Dimensions() > len(s.Src):
		c.warn(s.pos, fmt.Sprintf("set %s is a %s: with fewer than %d directions --%s never matches", s.Name, h.Kind(), h.Kind().Dimensions(), opt))
	case h.Family() != 0 && h.Family() != version && !c.mixed(s):
		c.warn(s.pos, fmt.Sprintf("set %s is for IPv%d: no packet of the rule's is in it", s.Name, h.Family()))
	}
	c.rs.needs |= NeedNow | NeedMark
	if !slices.Contains(c.rs.sets, h) {
		c.rs.sets = append(c.rs.sets, h)
	}
	return h
}

// mixed says that a rule may be for both IP versions, so that a set of one is no mistake.
func (c *compiler) mixed(s *SetName) bool {
	for _, f := range c.rs.files {
		if f.Name == s.pos.File {
			return f.Family == Both
		}
	}
	return true
}

func (m *SetMatch) compile(c *compiler) {
	h := c.set(&m.SetName, "match-set")
	if h == nil {
		return
	}
	q := m.query(c)
	q.ReturnNoMatch, q.KeepCounters, q.KeepSubCounters = m.ReturnNoMatch, m.Keep, m.KeepSub
	q.Packets, q.PacketsIs, q.Bytes, q.ByteIs = m.Packets.Value, m.Packets.Is, m.Bytes.Value, m.Bytes.Is
	look := q
	look.KeepCounters, look.KeepSubCounters, look.Look = true, true, true
	c.ask(pred{op: opSet, not: m.Not, a: uint32(len(c.cur.sets))})
	c.cur.sets = append(slices.Clip(c.cur.sets), setQuery{handle: h, query: q, look: look})
}

func (t *SetTarget) compile(c *compiler) effect {
	s := setChange{timeout: t.Timeout, exist: t.Exist}
	for i, x := range []struct {
		name *SetName
		to   **ipset.Handle
		opt  string
	}{{t.Add, &s.add, "add-set"}, {t.Del, &s.del, "del-set"}, {t.Map, &s.mapped, "map-set"}} {
		if x.name == nil {
			continue
		}
		h := c.set(x.name, x.opt)
		if h == nil {
			return effect{}
		}
		*x.to, s.queries[i] = h, x.name.query(c)
		if i < 2 && !slices.Contains(c.rs.movedSets, h) {
			c.rs.movedSets = append(c.rs.movedSets, h)
		}
		if i == 2 && (t.Priority || t.Queue) {
			c.warn(x.name.pos, "--map-prio and --map-queue mean nothing on a wire: there are no queues to choose")
		}
	}
	c.cur.setChanges = append(c.cur.setChanges, s)
	return effect{kind: effectSets, value: uint32(len(c.cur.setChanges) - 1)}
}

// moveSets notes which of a program's set matches ask sets that rules change. A list passes changes on to its members, which
// are not known for good: then all are.
func (rs *Ruleset) moveSets(g *program) {
	lists := slices.ContainsFunc(rs.movedSets, func(h *ipset.Handle) bool { return h.Kind() == ipset.ListSet })
	for i := range g.sets {
		q := &g.sets[i]
		q.moved = lists || slices.Contains(rs.movedSets, q.handle) || q.handle.Kind() == ipset.ListSet && len(rs.movedSets) > 0
	}
}

// Sets returns the sets that the rules name, and those of them that rules add to or delete from. The caller must not
// change them.
func (rs *Ruleset) Sets() (all, moved []*ipset.Handle) { return rs.sets, rs.movedSets }
