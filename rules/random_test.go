package rules

import (
	"slices"
	"strings"
	"testing"

	"corewire/internal/ipset"
	"corewire/internal/packet"
	"corewire/rules/rulestest"
)

// generator makes rule sets and packets in this package's types.
type generator struct{ rulestest.Generator }

func newGenerator(seed, stream uint64) generator { return generator{rulestest.New(seed, stream)} }

// version returns 4 or 6.
func version(fam Family) int {
	if fam == IPv6 {
		return 6
	}
	return 4
}

// packet makes one packet of a flow, with its connection.
func (g generator) packet(f rulestest.Flow) (*packet.Packet, *Context) {
	p, c := g.Packet(f)
	return p, &Context{State: State(c.State), Dir: Dir(c.Dir), Status: c.Status, Expires: c.Expires, Mark: c.Mark, ConnMark: c.ConnMark,
		Counted: c.Counted, Packets: c.Packets, Bytes: c.Bytes, Helper: c.Helper, Master: c.Master, Labels: c.Labels, Wall: c.Wall}
}

// compare judges a packet by both and fails when they differ in anything.
func compare(t *testing.T, m *Matcher, l *linear, p *packet.Packet, c *Context) Result {
	t.Helper()
	before := make([]Counter, m.rs.Counters())
	m.Counters(before)
	l.memory.pass(c)
	q, d := new(packet.Packet), *c
	*q = *p
	q.Frame = append([]byte(nil), p.Frame...)
	o, e := new(packet.Packet), *c // for Explain
	*o = *q
	o.Frame = slices.Clip(append([]byte(nil), p.Frame...))
	p.Frame = p.Frame[:len(p.Frame):len(p.Frame)] // segments do not grow: counters would have several lengths
	r := m.Match(p, c)
	m.Count(r.Trace, int(p.End)-int(p.L3))
	after := make([]Counter, m.rs.Counters())
	m.Counters(after)
	v := l.judge(q, &d)
	if c.Mark != d.Mark || c.ConnMark != d.ConnMark || c.Labels != d.Labels || string(p.Frame) != string(q.Frame) {
		t.Fatalf("marks %#x, %#x, want %#x, %#x; frame\n%x, want\n%x", c.Mark, c.ConnMark, d.Mark, d.ConnMark, p.Frame, q.Frame)
	}
	want := make([]uint64, m.rs.Counters())
	index := make(map[*Rule]int)
	for id, info := range m.rs.Rules() {
		index[info.Rule] = int(id)
	}
	for _, x := range l.path {
		want[index[x]]++
	}
	policy := func(b string) int {
		table, chain, _ := strings.Cut(b, " ")
		return int(m.rs.ChainPolicyID(table, chain, l.fam))
	}
	for _, b := range l.policies {
		want[policy(b)]++
	}
	last := 0
	switch x := l.decided.(type) {
	case *Rule:
		last = index[x]
	case string:
		last = policy(x)
	default:
		last = int(m.rs.extra(idShort))
		want[last]++
	}
	turns := 0 // are not taken by Explain
	for k := range m.rs.prog {
		for i := range m.rs.prog[k].sets {
			if q := &m.rs.prog[k].sets[i]; q.moved || q.handle.Volatile() {
				turns++
			}
		}
		turns += len(m.rs.prog[k].counters) + len(m.rs.prog[k].setChanges) + len(m.rs.prog[k].hashes) + len(m.rs.prog[k].recents) + len(m.rs.prog[k].quotas)
	}
	for _, x := range c.Taken {
		m.rs.Release(x)
	}
	if turns == 0 {
		steps, x := m.rs.Explain(o, &e)
		if x.Verdict != v || int(x.Rule) != last {
			t.Fatalf("explained as %v by %s, want %v by %s", x.Verdict, m.rs.RuleName(x.Rule), v, m.rs.RuleName(RuleID(last)))
		}
		n := 0
		for _, s := range steps {
			if s.Matched != (s.Why == "") || s.Matched && s.Rule != RuleID(index[l.path[n]]) {
				t.Fatalf("step %+v", s)
			}
			if s.Matched {
				n++
			}
			for _, why := range s.Asked {
				if p.Proto == protoTCP && !slices.Contains(m.rs.Volatile(s.Rule), why) {
					t.Fatalf("rule %s forbids to cache for %s, the listing says %q", m.rs.RuleName(s.Rule), why, m.rs.Volatile(s.Rule))
				}
			}
		}
		if r.Trace != 0 && r.Cacheable() != x.Cacheable() {
			t.Fatalf("cacheable %v, and explained as %v: %+v", r.Cacheable(), x.Cacheable(), steps)
		}
	}
	if r.Verdict != v || int(r.Rule) != last {
		for i := range want {
			if got := after[i].Packets - before[i].Packets; got != want[i] {
				t.Logf("%s: %d, want %d", m.rs.RuleName(RuleID(i)), got, want[i])
			}
		}
		t.Fatalf("verdict %v by %s, want %v by %s", r.Verdict, m.rs.RuleName(r.Rule), v, m.rs.RuleName(RuleID(last)))
	}
	for i := range want {
		if got := after[i].Packets - before[i].Packets; got != want[i] || after[i].Bytes-before[i].Bytes != want[i]*uint64(int(p.End)-int(p.L3)) {
			t.Fatalf("counter of %s: %d packets, want %d", m.rs.RuleName(RuleID(i)), got, want[i])
		}
	}
	if r.Trace != 0 {
		if s := m.TraceResult(r.Trace); s.Verdict != v || int(s.Rule) != last || !TraceValid(r.Trace, p.In, c.State) || m.TraceState(r.Trace) != c.State {
			t.Fatalf("trace %#x gives %+v", r.Trace, s)
		}
	}
	return r
}

// TestRandom compares the compiled form with the linear one: verdict, deciding rule, every counter; and that packets of
// one connection and direction take the same path where that was promised.
func TestRandom(t *testing.T) {
	sets, packets := 250, 60
	if testing.Short() {
		sets = 100 // fewer ask no list of -m recent
	}
	opt := Options{InsideName: "eth0", OutsideName: "eth1", Wall: true, Counts: true, Clock: true}
	cached := 0
	var asked [3]int
	looked, members := 0, 0
	for seed := range sets {
		fam := []Family{IPv4, IPv6}[seed%2]
		g := newGenerator(uint64(seed), 1)
		g.Memory = true
		opt, sets := opt, ""
		if seed%4 > 1 {
			sets = g.MakeSets(version(fam), rulestest.SetKinds())
			reg := ipset.New(ipset.Options{})
			if err := reg.Restore("sets", []byte(sets), true, 0); err != nil {
				t.Fatalf("seed %d: %v\n%s", seed, err, sets)
			}
			opt.Sets = reg
		}
		text := g.RuleSet(version(fam))
		f, err := Parse("random", []byte(text), fam)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		rs, err := Compile([]*File{f}, opt)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		m, l := rs.NewMatcher(), newLinear([]*File{f}, fam, opt)
		l.sets = linearSets(sets)
		if reg, ok := opt.Sets.(*ipset.Registry); ok { // room for what packets add
			if err := reg.Hold(rs.sets, rs.movedSets, 0); err != nil {
				t.Fatal(err)
			}
		}
		if seed%5 == 0 {
			m.nodes = m.nodes[:0:min(2, cap(m.nodes))] // almost no room for paths
		}
		for range packets {
			fl := g.Flow(version(fam))
			p, c := g.packet(fl)
			ok := t.Run("", func(t *testing.T) {
				r := compare(t, m, l, p, c)
				if !r.Cacheable() {
					return
				}
				cached++
				for range 4 {
					p, c := g.packet(fl)
					if s := compare(t, m, l, p, c); s.Rule != r.Rule || s.Trace != r.Trace {
						t.Fatalf("a packet of the same connection took another path: %s, %s", rs.RuleName(r.Rule), rs.RuleName(s.Rule))
					}
				}
			})
			if !ok {
				t.Fatalf("seed %d, packet %+v %+v\n%s%s", seed, *p, *c, sets, text)
			}
		}
		looked, members = looked+l.asked, members+l.members
		asked[0], asked[1], asked[2] = asked[0]+l.memory.hashed, asked[1]+l.memory.listed, asked[2]+l.memory.counts
	}
	if cached == 0 {
		t.Error("nothing was cacheable")
	}
	if asked[0] == 0 || asked[1] == 0 || asked[2] == 0 {
		t.Errorf("rates were asked %d times, lists %d times, counts %d times", asked[0], asked[1], asked[2])
	}
	if members == 0 || members == looked {
		t.Errorf("of %d questions to sets %d said yes", looked, members)
	}
	t.Logf("%d questions to sets, %d yes", looked, members)
	t.Logf("%d of %d packets cacheable", cached, sets*packets)
}
